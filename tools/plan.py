"""What an experiment costs, before anyone spends money on it.

python -m tools.plan --experiment=table8_positions --device=v3-8
python -m tools.plan --experiment=experiments/vtab.py --scale=paper --device=h100x8
python -m tools.plan --config=experiments/pretrain.py:ViT-L/16,imagenet21k --json

Nothing is trained, no array is made, no image is read. The last lines are the commands
that do it.
"""

import dataclasses
import json
import pathlib

from absl import flags

from tools import command
from vit_tf import config
from vit_tf.costs import accelerators
from vit_tf.studies import experiment_spec

_EXPERIMENT = flags.DEFINE_string(
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
_UTILISATION = flags.DEFINE_float(
    "utilisation",
    None,
    "Share of the device's peak that training uses; by default what the paper reached.",
)
_NUM_EXAMPLES = flags.DEFINE_integer(
    "num_examples", None, "Of training data that are not known here.", lower_bound=1
)
_NUM_CLASSES = flags.DEFINE_integer(
    "num_classes", None, "Of data that are not known here.", lower_bound=1
)
_DATA_DIR = flags.DEFINE_string(
    "data_dir", None, "Where prepared data sets lie; as for tools.train."
)
_JSON = flags.DEFINE_bool("json", False, "Prints JSON instead.")

_GB = 1e9


@dataclasses.dataclass(frozen=True)
class Item:
    """One cell at its scale, or the one run of --config.

    Attributes:
        name: the cell's, or what --config says.
        runs: how many there are of it.
        config: of each, but for the seed.
        start_given: whether it starts from what --start_from names.
        shared: the other experiment whose runs these are, if they are.
        recipe: what the config follows; '' of a config that is no experiment's.
    """

    name: str
    runs: int
    config: config.Config
    start_given: bool = False
    shared: str | None = None
    recipe: str = ""


def main() -> None:
    device = accelerators.find(_DEVICE.value)
    utilisation = _UTILISATION.value
    if utilisation is not None and not 0 < utilisation <= 1:
        raise config.Refused(f"--utilisation={utilisation}: need a share up to 1")
    items = _items()
    command.load_tensorflow()  # Keras needs it for the outlines of the models
    from vit_tf.costs import budget

    share = budget.UTILISATION if utilisation is None else utilisation
    budgets = {item.name: _budget(item) for item in items}
    if _JSON.value:
        print(json.dumps(_as_json(items, budgets, device, share), indent=2))
        return
    _print_table(items, budgets, device, share)
    print()
    for line in _explained(items, budgets, device, share):
        print(line)
    print("\nCommands, in this order:")
    for line in [*_preparations(items), *_training(items, device)]:
        print(f"  {line}")


def _items() -> list[Item]:
    """What is to be planned: the cells of an experiment, or one config."""
    one = flags.FLAGS["config"].value
    if (one is None) == (_EXPERIMENT.value is None):
        raise config.Refused(
            "need --experiment=NAME, such as --experiment=vtab, or "
            "--config=FILE.py:CELL, one of them"
        )
    if one is not None:
        return [Item(one, 1, _CONFIG())]
    experiment = command.load_experiment(command.experiment_file(_EXPERIMENT.value))
    if _SCALE.value not in experiment.table.scales:
        raise config.Refused(
            f"--scale={_SCALE.value}: {experiment.name} offers "
            f"{', '.join(experiment.table.scales)}"
        )
    scale, items = experiment_spec.Scale(_SCALE.value), {}
    for run in experiment_spec.runs(experiment.cells, scale):
        command.overridden(run.config)
        cell, number = run.cell, run.cell.num_seeds(scale)
        shared = run.shared and run.shared[0]
        items.setdefault(
            cell.name,
            Item(cell.name, number, run.config, cell.start_given, shared, cell.recipe),
        )
    return list(items.values())


def _budget(item: Item):
    from vit_tf.costs import budget

    try:
        return budget.of(
            item.config,
            data_dir=_DATA_DIR.value,
            num_examples=_NUM_EXAMPLES.value,
            num_classes=_NUM_CLASSES.value,
        )
    except config.Refused as refusal:
        raise config.Refused(f"{item.name}: {refusal}") from None


def _totals(items, budgets, device, share) -> dict:
    """Sums over all runs; bytes read are None where one set's are not known."""
    pairs = [(item.runs, budgets[item.name]) for item in items]
    read = [b.read_bytes for _, b in pairs]
    return {
        "runs": sum(n for n, _ in pairs),
        "steps": sum(n * b.steps for n, b in pairs),
        "exaflops": sum(n * b.exaflops for n, b in pairs),
        "days": sum(n * b.days(device, share) for n, b in pairs),
        "tpu_v3_core_days": sum(n * b.core_days(share) for n, b in pairs),
        "kept_bytes": sum(n * b.kept_bytes for n, b in pairs),
        "read_bytes": None if None in read else sum(n * b.read_bytes for n, b in pairs),
    }


def _as_json(items, budgets, device, share) -> dict:
    return {
        "experiment": _EXPERIMENT.value and pathlib.Path(_EXPERIMENT.value).stem,
        "scale": _EXPERIMENT.value and _SCALE.value,
        "device": device.name,
        "peak_tflops": device.tflops,
        "utilisation": share,
        "runs": [
            {
                "name": item.name,
                "runs": item.runs,
                "variant": item.config.model.variant,
                "recipe": item.recipe,
                **dataclasses.asdict(budgets[item.name]),
                "days": budgets[item.name].days(device, share),
                "tpu_v3_core_days": budgets[item.name].core_days(share),
            }
            for item in items
        ],
        "total": _totals(items, budgets, device, share),
        "commands": [*_preparations(items), *_training(items, device)],
    }


def _print_table(items, budgets, device, share) -> None:
    """A row for each cell, of one of its runs; the last of all runs together."""
    rows = [
        ("run", "runs", "model", "data set", "steps", "exaFLOPs", "days")
        + ("checkpoint GB",)
    ]
    for item in items:
        found = budgets[item.name]
        rows.append(
            (item.name, f"{item.runs}", item.config.model.variant, found.dataset)
            + (f"{found.steps:,}", _short(found.exaflops))
            + (_short(found.days(device, share)), _short(found.checkpoint_bytes / _GB))
        )
    total = _totals(items, budgets, device, share)
    rows.append(
        ("all", f"{total['runs']}", "", "", f"{total['steps']:,}")
        + (_short(total["exaflops"]), _short(total["days"]), "")
    )
    widths = [max(map(len, column)) for column in zip(*rows)]
    for row in rows:
        cells = [
            f"{text:<{w}}" if place in (0, 2, 3) else f"{text:>{w}}"
            for place, (text, w) in enumerate(zip(row, widths))
        ]
        print("  ".join(cells).rstrip())


def _explained(items, budgets, device, share) -> list[str]:
    """The totals, and in a line each how they were obtained."""
    from vit_tf.costs import budget

    total = _totals(items, budgets, device, share)
    sources: dict[str, dict[str, None]] = {}
    for b in budgets.values():
        sources.setdefault(b.source, {})[f"{b.dataset} {b.examples:,}"] = None
    examples = "; ".join(f"{', '.join(sets)} ({who})" for who, sets in sources.items())
    reached = ", ".join(f"{v:.3f} {k}" for k, v in budget.PAPER_UTILISATION.items())
    why = (
        f"as given (the paper's: {reached})"
        if _UTILISATION.value is not None
        else f"the middle of what the paper reached: {reached}"
    )
    slow = [i for i in items if i.config.train.precision == config.Precision.FLOAT32]
    if slow:
        why += f"; {len(slow)} of {len(items)} in float32, which GPUs do more slowly"
    return [
        (
            f"{_short(total['exaflops'])} exaFLOPs, {_short(total['days'])} days on "
            f"{device.name}, one run after the other; "
            f"{_short(total['tpu_v3_core_days'])} TPUv3-core-days."
        ),
        f"  Examples of an epoch: {examples}.",
        (
            "  exaFLOPs: 6 x multiply-accumulates of a forward pass x images seen, as "
            "Table 6 counts; evaluations are not in it."
        ),
        (
            f"  Days: at {share:.3f} of {device.chips} x {device.chip_tflops:g} TFLOP/s, "
            f"{why}."
        ),
        "  Core-days: at the same share of 61.5 TFLOP/s, a TPU v3 core.",
        (
            f"Checkpoints: {_volume(total['kept_bytes'])} when all runs are done: weights, "
            "moments and average of those that stay, and the final weights."
        ),
        f"Data: {_reading(items, budgets)}.",
        _memory(items, device),
        *_sharing(items, budgets),
        *_recipes(items),
    ]


def _recipes(items) -> list[str]:
    """What each run follows: a line for each recipe, with the runs that follow it."""
    found: dict[str, list[str]] = {}
    for item in items:
        if item.recipe:
            found.setdefault(item.recipe, []).append(item.name)
    lines = []
    for recipe, names in found.items():
        more = f", ... ({len(names)} in all)" if len(names) > 3 else ""
        lines.append(f"  {', '.join(names[:3])}{more}: {recipe}")
    return [*(["Recipes:"] if lines else []), *lines]


def _sharing(items, budgets) -> list[str]:
    """What other experiments may have done already."""
    found: dict[str, list[Item]] = {}
    for item in items:
        if item.shared:
            found.setdefault(item.shared, []).append(item)
    return [
        f"Shared: {sum(item.runs for item in of)} of these runs, "
        f"{_short(sum(item.runs * budgets[item.name].exaflops for item in of))} exaFLOPs, "
        f"are those of {other}: what is done there is not done again."
        for other, of in found.items()
    ]


def _reading(items, budgets) -> str:
    """What all runs together read from disk, as far as it is known."""
    pairs = [(item.runs, budgets[item.name]) for item in items]
    known = sum(n * b.read_bytes for n, b in pairs if b.read_bytes is not None)
    missing = sorted({b.dataset for _, b in pairs if b.read_bytes is None})
    most = "at least " * bool(missing)
    said = [f"{most}{_volume(known)} read by all runs together"] if known else []
    if missing:
        listed = ", ".join(missing[:4]) + ", ..." * (len(missing) > 4)
        said.append(f"the size of {listed} is not known until it is prepared")
    return "; ".join(said)


def _memory(items, device) -> str:
    """That the device's memory was not checked, and what checks it."""
    largest = max(items, key=lambda item: item.config.data.batch_size)
    batch = largest.config.data.batch_size
    shares = largest.config.train.accumulation * device.replicas
    line = (
        f"Memory: NOT checked. A batch of {batch:,} is {batch / shares:g} images for "
        f"each of {device.replicas} replicas at a time"
    )
    if batch % shares:
        line += ", NOT a whole number: training refuses that"
    topologies = {"v2-8": "v2:2x2", "v3-8": "v3:2x2", "v4-8": "v4:2x2x1"}
    topologies |= {"v5e-8": "v5e:2x4", "v6e-8": "v6e:2x4", "v5p-8": "v5p:2x2x1"}
    if not device.is_tpu:
        return f"{line}; train.accumulation and model.remat save memory."
    topology = topologies.get(device.name)
    if topology is None:
        return f"{line}; docs/scale.md has a table of what fits a core."
    return (
        f"{line}; docs/scale.md has a table of what fits, and this compiles the step: "
        f"python -m tools.tpu_check --config={_cell(largest)} --topology={topology} "
        f"--replicas={device.replicas}"
    )


def _cell(item: Item) -> str:
    """What --config calls a run."""
    if _EXPERIMENT.value is None:
        return item.name
    return f"{command.experiment_file(_EXPERIMENT.value)}:{item.name},{_SCALE.value}"


def _preparations(items) -> list[str]:
    """Commands that make the data sets ready, and what they need."""
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


def _training(items, device) -> list[str]:
    """The command that trains, on such a device."""
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
            f"python -m tools.run_experiment --experiment={command.experiment_file(_EXPERIMENT.value)} "
            f"--scale={_SCALE.value}{folder}{where}"
        )
    ]


def _short(number: float) -> str:
    """Three digits, without an exponent."""
    if number >= 100:
        return f"{number:,.0f}"
    return f"{number:.3g}" if number >= 1e-3 else f"{number:.1g}"


def _volume(number: float) -> str:
    for name, size in (("PB", 1e15), ("TB", 1e12), ("GB", 1e9)):
        if number >= size:
            return f"{_short(number / size)} {name}"
    return f"{_short(number / 1e6)} MB"


if __name__ == "__main__":
    command.run(main, overridable=True)
