"""What an experiment costs, before anyone spends money on it.

python -m tools.plan --experiment=table8_positions --device=v3-8
python -m tools.plan --experiment=experiments/vtab.py --scale=paper --device=h100x8
python -m tools.plan --config=experiments/pretrain.py:ViT-L/16,imagenet21k --json

Nothing is trained, no array is made, no image is read. The last lines are the commands
that do it.
"""

import json
import pathlib
import typing
from collections.abc import Sequence
from typing import Any

from absl import flags

from tools import command
from tools.flags import data_flags, number_flags, path_flags
from vit_tf import errors
from vit_tf.costs import accelerators
from vit_tf.studies import experiment_files, experiment_spec

if typing.TYPE_CHECKING:
    from vit_tf.costs import plan as planning

_EXPERIMENT = path_flags.define_path(
    "experiment", None, "FILE.py of an experiment, or its name alone."
)
_CONFIG = command.define_config()
_SCALE = flags.DEFINE_enum(
    "scale",
    "paper",
    [str(scale) for scale in experiment_spec.Scale],
    "Of --experiment.",
)
_DEVICE = flags.DEFINE_string(
    "device", "v3-8", f"What it is to run on: {', '.join(accelerators.EXAMPLES)}, ..."
)
_UTILISATION = number_flags.define_float(
    "utilisation",
    None,
    "Share of the device's peak that training uses, up to 1; by default what the paper "
    "reached.",
    lower=0.0,
)
_NUM_EXAMPLES = number_flags.define_integer(
    "num_examples", None, "Of training data that are not known here.", upper=10**12
)
_NUM_CLASSES = number_flags.define_integer(
    "num_classes", None, "Of data that are not known here.", upper=10_000_000
)
_DATA_DIR = data_flags.define_data_dir()
_JSON = flags.DEFINE_bool("json", False, "Prints JSON instead.")

# What tools.tpu_check compiles for, by the name of the device.
_TOPOLOGIES = {
    "v2-8": "v2:2x2",
    "v3-8": "v3:2x2",
    "v4-8": "v4:2x2x1",
    "v5e-8": "v5e:2x4",
    "v6e-8": "v6e:2x4",
    "v5p-8": "v5p:2x2x1",
}


def main() -> None:
    device = accelerators.find(_DEVICE.value)
    chosen = _chosen()
    command.load_tensorflow()  # Keras needs it for the outlines of the models
    from vit_tf.costs import plan as planning

    plan = planning.make(
        [planning.Item(**item) for item in chosen],
        device,
        utilisation=_UTILISATION.value,
        data_dir=_DATA_DIR.value,
        num_examples=_NUM_EXAMPLES.value,
        num_classes=_NUM_CLASSES.value,
    )
    commands = [*_preparations(plan.items), *_training(plan)]
    if _JSON.value:
        name = None
        if _EXPERIMENT.value is not None:
            name = pathlib.Path(_EXPERIMENT.value).stem
        scale = None if name is None else _SCALE.value
        about = {"experiment": name, "scale": scale}
        print(json.dumps(about | plan.as_json() | {"commands": commands}, indent=2))
        return
    _print_table(plan.rows())
    print()
    for line in (
        *plan.explanation(),
        _memory(plan),
        *plan.sharing(),
        *plan.recipes(),
    ):
        print(line)
    print("\nCommands, in this order:")
    for line in commands:
        print(f"  {line}")


def _chosen() -> list[dict[str, Any]]:
    """Returns what is planned, as arguments of `plan.Item`: cells, or one config."""
    one = flags.FLAGS["config"].value
    if (one is None) == (_EXPERIMENT.value is None):
        raise errors.UserError(
            "need --experiment=NAME, such as --experiment=vtab, or "
            "--config=FILE.py:CELL, one of them"
        )
    if one is not None:
        return [{"name": one, "runs": 1, "config": _CONFIG()}]
    experiment = experiment_files.load_experiment(_EXPERIMENT.value)
    if _SCALE.value not in experiment.table.scales:
        raise errors.UserError(
            f"--scale={_SCALE.value}: {experiment.name} offers "
            f"{', '.join(experiment.table.scales)}"
        )
    scale, items = experiment_spec.Scale(_SCALE.value), {}
    for run in experiment_spec.runs(experiment.cells, scale):
        command.overridden(run.config)
        cell = run.cell
        items.setdefault(
            cell.name,
            {
                "name": cell.name,
                "runs": cell.num_seeds(scale),
                "config": run.config,
                "start_given": cell.start_given,
                "shared": run.shared[0] if run.shared else None,
                "recipe": cell.recipe,
            },
        )
    return list(items.values())


def _print_table(rows: list[tuple[str, ...]]) -> None:
    """Prints columns of text to the left, of numbers to the right."""
    widths = [max(map(len, column)) for column in zip(*rows)]
    for row in rows:
        cells = [
            f"{text:<{w}}" if place in (0, 2, 3) else f"{text:>{w}}"
            for place, (text, w) in enumerate(zip(row, widths))
        ]
        print("  ".join(cells).rstrip())


def _memory(plan: "planning.Plan") -> str:
    """Returns that memory was not checked, and what checks it."""
    line, largest = plan.memory()
    if not plan.device.is_tpu:
        return f"{line}; train.accumulation and model.remat save memory."
    topology = _TOPOLOGIES.get(plan.device.name)
    if topology is None:
        return f"{line}; docs/scale.md has a table of what fits a core."
    return (
        f"{line}; docs/scale.md has a table of what fits, and this compiles the step: "
        f"python -m tools.tpu_check --config={_cell(largest)} --topology={topology} "
        f"--replicas={plan.device.replicas}"
    )


def _cell(item: "planning.Item") -> str:
    """Returns what --config calls a run."""
    if _EXPERIMENT.value is None:
        return item.name
    return f"{experiment_files.find(_EXPERIMENT.value)}:{item.name},{_SCALE.value}"


def _preparations(items: "Sequence[planning.Item]") -> list[str]:
    """Returns commands that make the data sets ready, and what they need."""
    from vit_tf.data import catalog, mixture
    from vit_tf.data.builders import imagenet21k

    names: dict[str, None] = {}
    for item in items:
        cfg = item.config
        for name in [*mixture.weights_of(cfg.data.name), *cfg.evals.few_shot.datasets]:
            names[name] = None
    lines = []
    for name in names:
        row = catalog.DATASETS.get(name)
        more = ""
        if name in imagenet21k.RELEASES:
            more = " --source=PATH --num_processes=16"
        elif row is not None and row.manual_files:
            more = f"  # needs {', '.join(row.manual_files)}: {row.manual_page}"
        what = f"--dataset={name}{more}"
        if row is None:
            what = f"--folder=PATH --name={name}"
            if name == "jft300m":
                what += "  # not public: any images of your own, under this name"
        lines.append(f"python -m tools.prepare_data {what}")
    return lines


def _training(plan: "planning.Plan") -> list[str]:
    """Returns the command that trains, on such a device."""
    items, device = plan.items, plan.device
    if device.is_tpu:
        alone = device.chips <= (8 if device.name.startswith(("v5e", "v6e")) else 4)
        where = " --tpu=local" if alone else " --tpu=NAME"
        where += " --data_dir=gs://BUCKET/data"
    else:
        where = " --strategy=mirrored" if device.chips > 1 else ""
    if _EXPERIMENT.value is None:
        folder = "gs://BUCKET/runs/NAME" if device.is_tpu else "runs/NAME"
        return [
            f"python -m tools.train --config={_cell(items[0])} --workdir={folder}{where}"
        ]
    folder = " --runs=gs://BUCKET/runs" if device.is_tpu else ""
    if any(item.start_given for item in items):
        folder += " --start_from=PATH"
    return [
        (
            f"python -m tools.run_experiment --experiment={experiment_files.find(_EXPERIMENT.value)} "
            f"--scale={_SCALE.value}{folder}{where}"
        )
    ]


if __name__ == "__main__":
    command.run(main, overridable=True)
