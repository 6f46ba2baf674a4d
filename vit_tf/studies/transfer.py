"""Transfer to one data set: try, choose on held-out data, train on all, repeat.

The protocol of Table 4 and section B.1.1: every candidate is trained on a part of the
training split and compared on the rest, the best is trained on the whole of it with
several seeds and reported on the test split. Each run is a job of study.py, so the
whole is resumed by the same call, and may be shared by several processes.
"""

import dataclasses
import json
import os
import statistics
import sys
from collections.abc import Mapping

import numpy as np

from vit_tf import config, errors
from vit_tf.data import data_source, images, record_store
from vit_tf.evaluation import evaluators
from vit_tf.objectives import classification
from vit_tf.recipes import fine_tuning
from vit_tf.runs import loading, run_directory, stored_weights
from vit_tf.runtime import devices, filesystem
from vit_tf.studies import runner
from vit_tf.training import failures

_SMALL = 96 * 96  # pixels; BiT-HyperRule's border
_LOOKED_AT = 64  # images, to see how large they are
_HELD_OUT = "90%"  # of the training images stay, where nothing is held out


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What a finished transfer found.

    Attributes:
        tried: candidate -> accuracy on the held-out split; None where it diverged.
            Empty where there was nothing to choose.
        chosen: the best candidate; of equals the first.
        folders: the final runs, a seed each.
        accuracies: theirs on the test split, in [0, 1].
        count: examples of that split.
    """

    tried: dict[str, float | None]
    chosen: str
    folders: list[str]
    accuracies: list[float]
    count: int

    @property
    def mean(self) -> float:
        return statistics.mean(self.accuracies)

    @property
    def std(self) -> float | None:
        """Over seeds, with n - 1; None of a single one."""
        if len(self.accuracies) < 2:
            return None
        return statistics.stdev(self.accuracies)


def describe(source: data_source.Source) -> fine_tuning.Target:
    """What the recipes have to know of a prepared data set.

    Splits are those of its spec (B.1.1), or follow from what there is: `test`
    is reported, or else `validation`, or else a tenth of `train`; one chooses on
    `validation`, or else on a tenth of `train`.

    Raises:
        errors.UserError: it has no training split.
    """
    spec = source.spec
    development, final = spec.development, spec.final
    if development is None or final is None:
        development, final = _splits(source)
    protocol = spec.protocol
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
    """Refuses splits that are not there before anything is trained.

    Raises:
        errors.UserError: nothing to report on, or nothing to choose by.
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
    **machine,
) -> Outcome | None:
    """Tries the candidates, chooses, and trains the best with every seed.

    Args:
        target: the data set.
        candidates: from `transfer_recipes.candidates`.
        workdir: holds `sweep/NAME`, `final/seedN` and `transfer.json`.
        seeds: how many final runs there are; 3 in the paper.
        data_dir: where prepared data sets lie; None: the TFDS default.
        wait: stay until runs that other processes do are finished.
        **machine: strategy, num_devices and tpu of `runtime.start`.

    Returns:
        None where a signal stopped it, or other processes are still busy: the same
        call goes on.

    Raises:
        errors.UserError: see `study.run_all`; all candidates diverged.
    """
    how = {"data_dir": data_dir, "wait": wait, **machine}
    tried: dict[str, float | None] = {}
    chosen = next(iter(candidates))
    if len(candidates) > 1:
        found = _sweep(target, candidates, workdir, how)
        if found is None:
            return None
        tried = found
        chosen = _best(tried, workdir)
        _say(f"{chosen} is best on {target.development[1]!r}: {tried[chosen]:.4f}")
    jobs = [
        runner.Job(
            name=f"final seed={seed}",
            config=fine_tuning.final(candidates[chosen], target, seed=seed),
            folder=os.path.join(workdir, "final", f"seed{seed}"),
        )
        for seed in range(seeds)
    ]
    results = runner.run_all(jobs, **how)
    if any(result is None for result in results):
        return None
    metrics = [run_directory.metric(result, "accuracy") for result in results]
    outcome = Outcome(
        tried=tried,
        chosen=chosen,
        folders=[job.folder for job in jobs],
        accuracies=[metric["value"] for metric in metrics],
        count=metrics[0]["count"],
    )
    _write(target, outcome, results, workdir)
    return outcome


def predictions(
    folder: str, source: data_source.Source, machine: devices.Runtime
) -> evaluators.Predictions:
    """What the model of a finished run says of each example of its test split."""
    cfg, _ = stored_weights.read_run(folder)
    with machine.strategy.scope():
        opened = loading.open_model(folder, dtype=str(cfg.train.precision))
    objective = classification.Classification(
        cfg.objective, num_classes=source.num_classes
    )
    evaluator = evaluators.Classification(
        model=opened.network,
        objective=objective,
        strategy=machine.strategy,
        processes=machine.processes,
    )
    return evaluator.predict(
        source, cfg.data.view, cfg.evals.splits[0], batch_size=cfg.evals.batch_size
    )


def worst_mistakes(found: evaluators.Predictions, number: int) -> np.ndarray:
    """Places in the split of the examples whose labels were held for least likely.

    Returns:
        int (at most `number`,), the worst first.
    """
    wrong = np.flatnonzero(~found.hit & found.labelled)
    return wrong[np.argsort(-found.nll[wrong], kind="stable")][:number]


def confusion(found: evaluators.Predictions, num_classes: int) -> np.ndarray:
    """int (num_classes, num_classes): examples of a class (row) told as (column)."""
    matrix = np.zeros((num_classes, num_classes), int)
    np.add.at(matrix, (found.label, found.predicted), 1)
    return matrix


def pictures(
    source: data_source.Source, view: config.View, split: str, places: np.ndarray
) -> np.ndarray:
    """Some examples of a split as evaluation shows them, in the order of `places`.

    Returns:
        float32 (places, image_size, image_size, 3) in [0, 1].
    """
    rows = record_store.in_order(source, split, keep=np.sort(places))
    shown = {
        int(row["index"]): images.evaluation_view(
            source.parse(row["record"])["image"], view
        ).numpy()
        for row in rows
    }
    return np.stack([shown[place] for place in places.tolist()]) / 2 + 0.5


def _splits(source: data_source.Source):
    """Development and final splits of a set that has none in its row."""
    there = source.builder.info.splits
    if "train" not in there:
        raise errors.UserError(
            f"{source.name}: no split 'train' to fine-tune on; there are: "
            f"{data_source.count_splits(source.builder)}"
        )
    if "test" in there and "validation" in there:
        return ("train", "validation"), ("train+validation", "test")
    most, rest = f"train[:{_HELD_OUT}]", f"train[{_HELD_OUT}:]"
    for name in ("test", "validation"):
        if name in there:
            return (most, rest), ("train", name)
    return ("train[:80%]", f"train[80%:{_HELD_OUT}]"), (most, rest)


def _median_pixels(source: data_source.Source, split: str) -> float:
    rows = record_store.in_order(source, split).take(_LOOKED_AT)
    shapes = [images.decode(source.parse(row["record"])["image"]).shape for row in rows]
    return float(np.median([shape[0] * shape[1] for shape in shapes]))


def _sweep(target, candidates, workdir, how) -> dict[str, float | None] | None:
    """Accuracy of each candidate on the held-out split; None where not all ended."""
    jobs = {
        name: runner.Job(
            name=f"sweep {name}",
            config=cfg,
            folder=os.path.join(workdir, "sweep", name),
        )
        for name, cfg in candidates.items()
    }
    # One that diverged would do so again.
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
    return {
        n: r and run_directory.metric(r, "accuracy")["value"]
        for n, r in results.items()
    }


def _diverged(job: runner.Job) -> bool:
    status = runner.look(job)
    failed = status.state == runner.State.FAILED
    return failed and failures.Diverged.__name__ in status.why


def _best(tried: Mapping[str, float | None], workdir: str) -> str:
    ended = {name: value for name, value in tried.items() if value is not None}
    if not ended:
        raise errors.UserError(
            f"--workdir={workdir}: every candidate diverged ({', '.join(tried)}); try "
            "lower rates, such as --lrs=0.0003,0.001"
        )
    return max(ended, key=ended.__getitem__)  # of equals the first


def _write(target, outcome: Outcome, results, workdir: str) -> None:
    """transfer.json: what was chosen, and what it gave."""
    summary = {
        "dataset": results[0]["dataset"],
        "start_from": results[0]["config"]["start_from"],
        "development": target.development,
        "final": target.final,
        "tried": outcome.tried,
        "chosen": outcome.chosen,
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
