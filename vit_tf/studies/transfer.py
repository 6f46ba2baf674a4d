"""Transfer to one data set: try, choose on held-out data, train on all, repeat.

The protocol of Table 4 and section B.1.1: every candidate is trained on a part of the
training split and compared on the rest, the best is trained on the whole of it with
several seeds and reported on the test split. Each run is a job of `runner`, so the same
call resumes the whole, and several processes may share it.
"""

import dataclasses
import json
import os
import statistics
import sys
from collections.abc import Mapping
from typing import Any

import numpy as np

from vit_tf import config, errors
from vit_tf.data import (
    data_source,
    images,
    record_files,
)
from vit_tf.evaluation import evaluators
from vit_tf.recipes import fine_tuning
from vit_tf.runs import loading, run_directory, stored_weights
from vit_tf.runtime import devices, filesystem
from vit_tf.studies import runner
from vit_tf.training import failures

_SMALL = 96 * 96  # pixels; below it BiT-HyperRule calls images small
_MEASURED = 64  # images whose size is measured
_TRAINED_ON = "90%"  # of the training images, where no split to choose on is given


@dataclasses.dataclass(frozen=True)
class Outcome:
    """The result of a finished transfer.

    Attributes:
        tried: candidate -> accuracy on the held-out split; None where it diverged.
            Empty where there was nothing to choose.
        chosen: the best candidate; of equals the first.
        folders: the final runs, a seed each.
        accuracies: theirs on the test split, in [0, 1].
        count: number of examples of that split.
        held_out: number of examples that candidates were compared on; 0 without a
            choice.
    """

    tried: dict[str, float | None]
    chosen: str
    folders: list[str]
    accuracies: list[float]
    count: int
    held_out: int = 0

    @property
    def mean(self) -> float:
        """Returns the mean accuracy over seeds."""
        return statistics.mean(self.accuracies)

    @property
    def std(self) -> float | None:
        """Returns the sample standard deviation over seeds; None of a single one."""
        if len(self.accuracies) < 2:
            return None
        return statistics.stdev(self.accuracies)


def describe(source: data_source.Source) -> fine_tuning.Target:
    """Returns what the recipes have to know of a prepared data set.

    Splits are those of its catalogue entry (section B.1.1), or follow from those that
    exist: `test` is reported, or else `validation`, or else a tenth of `train`; one
    chooses on `validation`, or else on a tenth of `train`.

    Raises:
        errors.UserError: it has no training split.
    """
    development, final = splits(source)
    protocol = source.spec.protocol
    return fine_tuning.Target(
        name=source.name,
        examples=source.num_examples(final[0]),
        development=development,
        final=final,
        small=_median_pixels(source, final[0]) < _SMALL,
        flip=protocol is None or protocol.flip,
        crop=protocol is None or protocol.crop,
        multi_label=source.multi_label,
    )


def check(
    source: data_source.Source,
    target: fine_tuning.Target,
    candidates: Mapping[str, config.Config],
) -> None:
    """Refuses missing or empty splits before anything is trained.

    Raises:
        errors.UserError: no images to report on, or none to choose by.
    """
    for split in target.final:
        source.num_examples(split)
    if len(candidates) == 1:
        return
    for split in target.development:
        try:
            source.num_examples(split)
        except errors.UserError as refusal:
            raise errors.UserError(
                f"{refusal}; {len(candidates)} candidates need it to be chosen by: add "
                "images, or give one learning rate, such as --lrs=0.01"
            ) from None


def run(
    target: fine_tuning.Target,
    candidates: Mapping[str, config.Config],
    workdir: str,
    *,
    seeds: int = 3,
    data_dir: str | None = None,
    wait: bool = False,
    **machine: Any,
) -> Outcome | None:
    """Tries the candidates, chooses, and trains the best with every seed.

    Args:
        target: the data set.
        candidates: from `fine_tuning.candidates`.
        workdir: holds `sweep/NAME`, `final/seedN` and `transfer.json`.
        seeds: how many final runs there are; 3 in the paper.
        data_dir: where prepared data sets lie; None: the TFDS default.
        wait: stay until the runs of other processes are finished.
        **machine: strategy, num_devices and tpu of `devices.start`.

    Returns:
        None where a signal stopped it, or other processes are still busy: the same
        call resumes it.

    Raises:
        errors.UserError: see `runner.run_all`; all candidates diverged.
    """
    how = {"data_dir": data_dir, "wait": wait, **machine}
    tried: dict[str, float | None] = {}
    held_out, chosen = 0, next(iter(candidates))
    if len(candidates) > 1:
        finished = _sweep(candidates, workdir, how | {"followed_by": seeds})
        if finished is None:
            return None
        tried, held_out = finished
        chosen = best(tried, workdir)
        _say(f"{chosen} is best on {target.development[1]!r}: {tried[chosen]:.4f}")
    jobs = [
        runner.Job(
            name=f"final seed={seed}",
            config=fine_tuning.final(candidates[chosen], target, seed=seed),
            folder=os.path.join(workdir, "final", f"seed{seed}"),
        )
        for seed in range(seeds)
    ]
    results = [r for r in runner.run_all(jobs, **how) if r is not None]
    if len(results) < len(jobs):
        return None
    metrics = [run_directory.metric(result, "accuracy") for result in results]
    outcome = Outcome(
        tried=tried,
        chosen=chosen,
        folders=[job.folder for job in jobs],
        accuracies=[metric["value"] for metric in metrics],
        count=metrics[0]["count"],
        held_out=held_out,
    )
    _write(target, outcome, results, workdir)
    return outcome


def predictions(
    folder: str, source: data_source.Source, machine: devices.Runtime
) -> evaluators.Predictions:
    """Returns a finished run's predictions for each example of its test split."""
    cfg, _ = stored_weights.read_run(folder)
    with machine.strategy.scope():
        loaded = loading.open_model(folder, dtype=str(cfg.train.precision))
    evaluator = evaluators.of(loaded, machine)
    return evaluator.predict(
        source, cfg.data.view, cfg.evals.splits[0], batch_size=cfg.evals.batch_size
    )


def worst_mistakes(predictions: evaluators.Predictions, number: int) -> np.ndarray:
    """Returns the rows of wrong predictions, the least likely true label first.

    Returns:
        int (at most `number`,), rows of the split.
    """
    wrong = np.flatnonzero(~predictions.hit & predictions.labelled)
    return wrong[np.argsort(-predictions.nll[wrong], kind="stable")][:number]


def confusion(predictions: evaluators.Predictions, num_classes: int) -> np.ndarray:
    """Counts examples by true class (row) and predicted class (column).

    Returns:
        int (num_classes, num_classes).
    """
    matrix = np.zeros((num_classes, num_classes), int)
    np.add.at(matrix, (predictions.label, predictions.predicted), 1)
    return matrix


def pictures(
    source: data_source.Source, view: config.View, split: str, places: np.ndarray
) -> np.ndarray:
    """Reads examples of a split as evaluation shows them, in the order of `places`.

    Args:
        source: an opened data set.
        view: size and crop.
        split: a TFDS split expression.
        places: rows of the split.

    Returns:
        float32 (places, image_size, image_size, 3) in [0, 1].
    """
    rows = record_files.in_order(source, split, keep=np.sort(places))
    views = {
        int(row["index"]): images.evaluation_view(
            source.parse(row["record"])["image"], view
        ).numpy()
        for row in rows
    }
    return np.stack([views[place] for place in places.tolist()]) / 2 + 0.5


def splits(source: data_source.Source) -> tuple[tuple[str, str], tuple[str, str]]:
    """Returns the splits to train and choose on, and those to train and report on.

    Raises:
        errors.UserError: there is no training split.
    """
    development, final = source.spec.development, source.spec.final
    if development is not None and final is not None:
        (train, choose), (whole, report) = development, final
        if train is not None and whole is not None:
            return (train, choose), (whole, report)
    there = source.builder.info.splits
    if "train" not in there:
        raise errors.UserError(
            f"{source.name}: no split 'train' to fine-tune on; there are: "
            f"{data_source.count_splits(source.builder)}"
        )
    if "test" in there and "validation" in there:
        return ("train", "validation"), ("train+validation", "test")
    most, rest = f"train[:{_TRAINED_ON}]", f"train[{_TRAINED_ON}:]"
    for name in ("test", "validation"):
        if name in there:
            return (most, rest), ("train", name)
    return ("train[:80%]", f"train[80%:{_TRAINED_ON}]"), (most, rest)


def _median_pixels(source: data_source.Source, split: str) -> float:
    rows = record_files.in_order(source, split).take(_MEASURED)
    decoded = [images.decode(source.parse(row["record"])["image"]) for row in rows]
    return float(np.median([np.prod(image.numpy().shape[:2]) for image in decoded]))


def _sweep(
    candidates: Mapping[str, config.Config], workdir: str, how: dict[str, Any]
) -> tuple[dict[str, float | None], int] | None:
    """Trains every candidate.

    Returns:
        Their accuracies on the held-out split, and its number of examples; None where
        not all have ended.
    """
    jobs = {
        name: runner.Job(
            name=f"sweep {name}",
            config=cfg,
            folder=os.path.join(workdir, "sweep", name),
        )
        for name, cfg in candidates.items()
    }
    # One that diverged is not tried again: the same steps give the same numbers.
    left = [job for job in jobs.values() if not _diverged(job)]
    try:
        runner.run_all(left, **how)
    except errors.UserError:
        if any(runner.look(j).state == runner.State.FAILED for j in left) and all(
            _diverged(j) or runner.look(j).state.finished for j in left
        ):
            _say("went on without what diverged")
        else:
            raise
    results = {name: runner.result(job.folder) for name, job in jobs.items()}
    if any(r is None and not _diverged(jobs[n]) for n, r in results.items()):
        return None
    metrics = {
        name: None if r is None else run_directory.metric(r, "accuracy")
        for name, r in results.items()
    }
    tried = {name: None if m is None else m["value"] for name, m in metrics.items()}
    return tried, max((m["count"] for m in metrics.values() if m), default=0)


def _diverged(job: runner.Job) -> bool:
    status = runner.look(job)
    failed = status.state == runner.State.FAILED
    return failed and failures.Diverged.__name__ in status.why


def best(tried: Mapping[str, float | None], workdir: str) -> str:
    """Returns the candidate of the highest accuracy, of equals the first.

    Raises:
        errors.UserError: all of them diverged.
    """
    ended = {name: value for name, value in tried.items() if value is not None}
    if not ended:
        raise errors.UserError(
            f"--workdir={workdir}: every candidate diverged ({', '.join(tried)}); try "
            "lower rates, such as --lrs=0.0003,0.001"
        )
    return max(ended, key=ended.__getitem__)  # of equals the first


def _write(
    target: fine_tuning.Target,
    outcome: Outcome,
    results: list[dict[str, Any]],
    workdir: str,
) -> None:
    """Writes transfer.json: the choice and the result."""
    summary = {
        "dataset": results[0]["dataset"],
        "start_from": results[0]["config"]["start_from"],
        "development": target.development,
        "final": target.final,
        "tried": outcome.tried,
        "chosen": outcome.chosen,
        "held_out": outcome.held_out,
        "accuracies": outcome.accuracies,
        "mean": outcome.mean,
        "std": outcome.std,
        "count": outcome.count,
        "commits": sorted({result["commit"] for result in results}),
        "devices": sorted({result["device"] for result in results}),
    }
    path = os.path.join(workdir, "transfer.json")
    filesystem.write_whole(path, json.dumps(summary, indent=2) + "\n")


def _say(line: str) -> None:
    print(f"transfer: {line}", file=sys.stderr, flush=True)
