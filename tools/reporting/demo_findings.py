"""What the demo's three runs came to, as numbers and as honest sentences."""

import dataclasses
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from experiments import quickstart
from tools.reporting import results
from vit_tf import config
from vit_tf.data import (
    data_source,
    evaluation_stream,
)
from vit_tf.evaluation import raw_pixels
from vit_tf.inspection import run_plots
from vit_tf.runs import run_directory
from vit_tf.studies import experiment_spec

RUNS = {
    "pretrain": "pre-trained on shapes",
    "finetune": "fine-tuned on digits",
    "scratch": "digits from scratch",
}

_RECORDED = pathlib.Path(quickstart.__file__).parent / "results"

_Results = Mapping[str, Mapping[str, Any]]
_Rows = Sequence[Mapping[str, Any]]


@dataclasses.dataclass(frozen=True)
class Score:
    """How many held-out images were classified correctly.

    Attributes:
        accuracy: the share, in [0, 1].
        count: of how many images.
    """

    accuracy: float
    count: int

    @property
    def right(self) -> int:
        return round(self.accuracy * self.count)

    @property
    def interval(self) -> tuple[float, float]:
        """The 95 % Wilson score interval of the share."""
        return run_plots.wilson_interval(self.accuracy, self.count)

    def overlaps(self, other: "Score") -> bool:
        (low, high), (other_low, other_high) = self.interval, other.interval
        return low <= other_high and other_low <= high


def score(result: Mapping[str, Any]) -> Score:
    """Returns the accuracy of a run's result.json."""
    metric = run_directory.metric(result, "accuracy")
    return Score(metric["value"], metric["count"])


def baselines(source: data_source.Source, split: str = "train") -> dict[str, Score]:
    """Fits scikit-learn's classifiers to raw pixels and scores them on split `test`.

    Args:
        source: images that all have one size.
        split: what they learn from; what the runs trained on.
    """
    right = raw_pixels.count_right(_raw(source, split), _raw(source, "test"))
    count = source.num_examples("test")
    return {name: Score(number / count, count) for name, number in right.items()}


def _raw(source: data_source.Source, split: str) -> tuple[np.ndarray, np.ndarray]:
    """Reads grey images as stored, uint8 (examples, height, width), and their labels."""
    size = source.builder.info.features["image"].shape[0]
    view = config.View(size)  # so nothing is resized
    batches = list(evaluation_stream.stream(source, view, split, batch_size=256))
    real = np.concatenate([batch["mask"] for batch in batches])
    images = np.concatenate([batch["image"] for batch in batches])[real]
    labels = np.concatenate([batch["label"] for batch in batches])[real]
    # The pipeline gives grey images in three equal channels, in [-1, 1].
    return np.rint((images[..., 0] + 1) * 127.5).astype(np.uint8), labels


def verdict(results_of: _Results) -> str:
    """Says in one sentence whether pre-training helped.

    The two runs see the same test images, so intervals that overlap are said to
    decide nothing.
    """
    ours, theirs = score(results_of["finetune"]), score(results_of["scratch"])
    gap = f"{100 * abs(ours.accuracy - theirs.accuracy):.1f} points"
    steps = results_of["finetune"]["steps"]
    after = f"after {steps} steps on the same {ours.count} test images, one seed each"
    doubt = (
        "; the 95 % intervals overlap, so this run alone does not decide it"
        if ours.overlaps(theirs)
        else "; the 95 % intervals do not overlap"
    )
    if ours.accuracy > theirs.accuracy:
        return f"Pre-training on shapes helped: {gap} better {after}{doubt}."
    if ours.accuracy < theirs.accuracy:
        return f"Pre-training on shapes did not help: {gap} worse {after}{doubt}."
    return f"Pre-training on shapes made no difference: the same accuracy {after}."


def head_start(rows: Mapping[str, _Rows]) -> str:
    """Says how many steps pre-training saved; empty without evaluations on the way."""
    ours, theirs = (dict(accuracies(rows[name])) for name in ("finetune", "scratch"))
    shared = [step for step in ours if step in theirs]
    if len(shared) < 2:
        return ""
    last = shared[-1]
    passed = [step for step in shared if ours[step] >= theirs[last]]
    widest = max(shared, key=lambda step: ours[step] - theirs[step])
    sentence = (
        f"The fine-tuned model reached the last accuracy of the one from scratch "
        f"({percent(theirs[last])}) after {passed[0]} of {last} steps."
        if passed
        else "The fine-tuned model did not reach the last accuracy of the one from "
        f"scratch ({percent(theirs[last])})."
    )
    if ours[widest] <= theirs[widest]:
        return sentence + " It was ahead at none of the evaluations."
    return (
        f"{sentence} It was ahead by most at step {widest}: {percent(ours[widest])} against "
        f"{percent(theirs[widest])}."
    )


def best(scores: Mapping[str, Score]) -> str:
    """Says which method reads most images, and which ones it may not really beat."""
    most = max(score_of.right for score_of in scores.values())
    first = [name for name, score_of in scores.items() if score_of.right == most]
    top = scores[first[0]]
    sentence = f"Most digits of all were read by {_all(first)} ({most} of {top.count})"
    others = [name for name in scores if name not in first]
    if not others:
        return f"{sentence}."
    alike = [name for name in others if top.overlaps(scores[name])]
    if not alike:
        return f"{sentence}, and its 95 % interval overlaps with no other."
    return f"{sentence}, but its 95 % interval overlaps with that of {_all(alike)}."


def _all(names: Sequence[str]) -> str:
    return " and ".join(filter(None, [", ".join(names[:-1]), names[-1]]))


def accuracies(rows: _Rows) -> list[tuple[int, float]]:
    """Lists (step, test accuracy) of every evaluation in metrics.jsonl rows."""
    return [
        (row["step"], row["value"])
        for row in rows
        if row.get("split") == "test" and row["name"] == "accuracy"
    ]


def recorded(
    steps: int,
    cells: Mapping[str, experiment_spec.Cell] = quickstart.CELLS,
    root: pathlib.Path = _RECORDED,
) -> dict[str, str]:
    """Returns mean and deviation over seeds of each run, as recorded in the project.

    Args:
        steps: of fine-tuning; what is recorded of another length is left out.
        cells: the three runs.
        root: the folder of recorded results.

    Returns:
        run -> '96.3 ± 0.4 %, 3 seeds'; empty where a run is missing or stale.
    """
    experiment = experiment_spec.Experiment("quickstart", "", cells, quickstart.TABLE)
    places = results.places(experiment, experiment_spec.Scale.SMALL, str(root))
    if not all(place.filled for place in places):
        return {}
    of = {name: [p.entry for p in places if p.run.cell.name == name] for name in RUNS}
    if len(of["finetune"]) < 2 or of["finetune"][0]["steps"] != steps:
        return {}
    sentences = {}
    for name, entries in of.items():
        values = [score(entry).accuracy for entry in entries]
        mean, deviation = results.mean_and_deviation(values)
        spread = "" if deviation is None else f" ± {100 * deviation:.1f}"
        number = f"{len(values)} seeds" if len(values) > 1 else "one seed"
        sentences[name] = f"{100 * mean:.1f}{spread} %, {number}"
    return sentences


def percent(share: float) -> str:
    return f"{100 * share:.1f} %"
