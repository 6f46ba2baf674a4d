"""Recorded results: experiments/results/EXPERIMENT/CELL.SCALE.seedK.json, in git.

A run's result.json without the paths of its machine, with a thinned curve, and with
the place in the experiment that it fills.
"""

import dataclasses
import json
import os
import pathlib
import statistics
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from vit_tf import config, config_values, errors
from vit_tf.studies import experiment_spec

ROOT = "experiments/results"

# Of each curve; what a page can show.
MAX_POINTS = 200

# What a recorded result takes over from result.json.
_KEPT = (
    "commit",
    "dataset",
    "device",
    "versions",
    "parameters",
    "steps",
    "examples_seen",
    "train_seconds",
    "metrics",
)


@dataclasses.dataclass(frozen=True)
class Place:
    """A run's place in its experiment, and what is recorded there.

    Attributes:
        run: the run as the experiment gives it now.
        path: of the recorded result, below the results' folder.
        entry: what is recorded; None: nothing.
        stale: what tells it from the run; empty: nothing does.
    """

    run: experiment_spec.Run
    path: pathlib.Path
    entry: dict[str, Any] | None
    stale: str

    @property
    def filled(self) -> bool:
        return self.entry is not None and not self.stale


def entry(
    experiment: str,
    run: experiment_spec.Run,
    scale: experiment_spec.Scale,
    result: Mapping[str, Any],
    rows: Sequence[Mapping[str, Any]],
    *,
    start: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Collects what to record of a finished run.

    Args:
        experiment: the name of the experiment.
        run: which of its runs it is.
        scale: at which scale.
        result: its result.json.
        rows: its metrics.jsonl.
        start: what is known of its start: the result.json of that run, or what
            `job_state.note_start` noted of any start.
    """
    cfg = _parsed(result["config"])
    begun = None
    if cfg.start_from is not None:
        begun = {
            "name": run.starts_from
            or os.path.basename(os.path.normpath(cfg.start_from))
        }
        known = start or {}
        if "config" in known:
            begun["config"] = dataclasses.asdict(_apart(_parsed(known["config"])))
        begun |= {name: known[name] for name in ("size", "sha256") if name in known}
    cfg = _apart(cfg)
    return {
        "experiment": experiment,
        "cell": run.cell.name,
        "scale": str(scale),
        "seed": run.seed,
        "start": begun,
        "fingerprint": config_values.fingerprint(cfg),
        **{name: result[name] for name in _KEPT},
        "config": dataclasses.asdict(cfg),
        "curves": collect_curves(rows),
    }


def write(
    root: str, recorded: Mapping[str, Any], *, start_given: bool = False
) -> pathlib.Path:
    """Writes an entry to its place; a line for each field, so that git shows which.

    Args:
        root: the folder of recorded results.
        recorded: from `entry`.
        start_given: whether its start is the user's choice and not the experiment's:
            results that hold are then kept from those of another start.

    Raises:
        errors.UserError: a path of this machine is in it, or what is recorded there
            still holds but was started from other weights.
    """
    for name, text in _texts(recorded):
        if os.path.isabs(text) or text.startswith("~") or "://" in text:
            raise errors.UserError(
                f"--record: {name} is {text!r}, a path of this machine; prepare the "
                "data under a name of its own and train again"
            )
    path = pathlib.Path(root) / _name(
        recorded["experiment"], recorded["cell"], recorded["scale"], recorded["seed"]
    )
    if start_given:
        _check_start(path, recorded)
    lines = [f"{json.dumps(k)}: {json.dumps(v)}" for k, v in recorded.items()]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("{\n" + ",\n".join(lines) + "\n}\n")
    return path


def start_label(recorded: Mapping[str, Any]) -> str:
    """Names the start of a recorded run: 'ViT-B_16.npz (sha256 0123abcd)'; empty: none."""
    start = recorded["start"]
    if start is None:
        return ""
    if "config" in start:
        return f"{start['name']} (config {config_values.fingerprint(_parsed(start['config']))})"
    more = f" (sha256 {start['sha256'][:8]})" if "sha256" in start else ""
    return f"{start['name']}{more}"


def places(
    experiment: experiment_spec.Experiment,
    scale: experiment_spec.Scale,
    root: str = ROOT,
) -> list[Place]:
    """Lists every run of an experiment at a scale, with what is recorded of it."""
    runs = experiment_spec.runs(experiment.cells, scale)
    by_name = {run.name: run for run in runs}
    listed = []
    for run in runs:
        path = pathlib.Path(root) / _name(
            experiment.name, run.cell.name, scale, run.seed
        )
        recorded = json.loads(path.read_text()) if path.exists() else None
        stale = ""
        if recorded is not None:
            stale = _staleness(recorded, run, by_name.get(run.starts_from))
        listed.append(Place(run, path, recorded, stale))
    return listed


def value(recorded: Mapping[str, Any], metric: str) -> tuple[float, int] | None:
    """Returns a metric's value and its count; 'accuracy' is that of the only split.

    'test/accuracy@100' is what was evaluated after 100 steps.
    """
    metric, _, step = metric.partition("@")
    split, _, name = metric.rpartition("/")
    for of in recorded["metrics"]:
        if of["name"] == name and split in ("", of["split"]):
            if not step:
                return of["value"], of["count"]
            curve = dict(recorded["curves"].get(f"{of['split']}/{name}", ()))
            return (curve[int(step)], of["count"]) if int(step) in curve else None
    return None


def mean_and_deviation(values: Sequence[float]) -> tuple[float, float | None]:
    """Computes mean and sample standard deviation; None for a single value."""
    deviation = statistics.stdev(values) if len(values) > 1 else None
    return statistics.fmean(values), deviation


def _name(experiment: str, cell: str, scale: str, seed: int) -> str:
    return f"{experiment}/{cell}.{scale}.seed{seed}.json"


def _parsed(cfg: Mapping[str, Any]) -> config.Config:
    return config_values.from_json(json.dumps(cfg))


def _apart(cfg: config.Config) -> config.Config:
    """Returns a config without the place where its start lies; which
    it is stands beside it.
    """
    return dataclasses.replace(cfg, start_from=None)


def _check_start(path: pathlib.Path, earlier: Mapping[str, Any]) -> None:
    """Refuses to put results from one start in the place of those from another."""
    if not path.exists():
        return
    recorded = json.loads(path.read_text())
    try:
        theirs = _parsed(recorded["config"])
    except errors.UserError:  # of another form, so stale
        return
    if config_values.differences(theirs, _parsed(earlier["config"])):
        return  # stale
    if not _other_start(recorded["start"], earlier["start"]):
        return
    raise errors.UserError(
        f"--record: {path} holds the result from {start_label(recorded) or 'no start'}, "
        f"this one is from {start_label(earlier) or 'no start'}; remove that file to "
        "replace it, or record elsewhere with --results=PATH"
    )


def _other_start(
    ours: Mapping[str, Any] | None, theirs: Mapping[str, Any] | None
) -> bool:
    """Returns whether two starts differ in what is known of both."""
    if ours is None or theirs is None:
        return ours is not theirs
    if "config" in ours and "config" in theirs:
        pair = _parsed(ours["config"]), _parsed(theirs["config"])
        if config_values.differences(*pair):
            return True
    names = ("name", "size", "sha256")
    return any(n in ours and n in theirs and ours[n] != theirs[n] for n in names)


def _staleness(
    recorded: Mapping[str, Any],
    run: experiment_spec.Run,
    start: experiment_spec.Run | None,
) -> str:
    """Says in what a recorded result differs from what the cell gives now."""
    try:
        theirs = _parsed(recorded["config"])
    except errors.UserError as error:
        return f"recorded under another form of {error}"
    differing = config_values.differences(_apart(theirs), _apart(run.config))
    if differing:
        return "; ".join(differing[:3])
    if start is None:
        return ""
    began = (recorded["start"] or {}).get("config")
    if began is None:
        return f"it does not say which {start.name} it started from"
    differing = config_values.differences(_parsed(began), _apart(start.config))
    if differing:
        return f"its start {start.name} had {'; '.join(differing[:3])}"
    return ""


def collect_curves(rows: Sequence[Mapping[str, Any]]) -> dict[str, list[list[float]]]:
    """Collects name -> [step, value] pairs: the loss, and what
    was evaluated on the way.
    """
    curves: dict[str, list[list[float]]] = {}
    for row in rows:
        if "split" in row:
            name = f"{row['split']}/{row['name']}"
            curves.setdefault(name, []).append([row["step"], row["value"]])
        elif "loss" in row:
            curves.setdefault("loss", []).append([row["step"], row["loss"]])
    return {name: _thinned(points) for name, points in curves.items()}


def _thinned(points: Sequence[Sequence[float]]) -> list[list[float]]:
    """Computes at most `MAX_POINTS` means of neighbours, each at the last one's step."""
    size = -(-len(points) // MAX_POINTS)
    groups = [points[i : i + size] for i in range(0, len(points), size)]
    return [
        [group[-1][0], float(f"{statistics.fmean(v for _, v in group):.5g}")]
        for group in groups
    ]


def _texts(content: Any, name: str = "") -> Iterator[tuple[str, str]]:
    """Yields every text in nested lists and dicts, with its dotted name."""
    if isinstance(content, str):
        yield name, content
    elif isinstance(content, Mapping):
        for key, of in content.items():
            yield from _texts(of, f"{name}.{key}".lstrip("."))
    elif isinstance(content, (list, tuple)):
        for of in content:
            yield from _texts(of, name)
