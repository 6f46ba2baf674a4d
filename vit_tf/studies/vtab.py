"""VTAB-1k of one model: a resumable run for each task, and the table of results.

Fine-tuning is the paper's (Table 4, section B.1.1). `Linear` is a quick look that
trains nothing: ridge regression on the features of the same 1,000 examples.
"""

import dataclasses
import hashlib
import json
import os
import statistics
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from vit_tf import config, errors
from vit_tf.data import catalog, vtab_splits
from vit_tf.evaluation import fewshot, inference, ridge_regression
from vit_tf.models import build
from vit_tf.recipes import fine_tuning
from vit_tf.runs import loading, run_directory, stored_weights
from vit_tf.runtime import devices, filesystem
from vit_tf.studies import runner

# Penalties that the ridge of a quick look chooses among, on the 200 examples.
_L2S = tuple(10.0**power for power in range(-2, 7))


@dataclasses.dataclass(frozen=True)
class Score:
    """A task's result.

    Attributes:
        task: a key of `vtab_splits.TASKS`.
        accuracies: top-1 on the test split, of each seed, in [0, 1].
        count: number of images of that split.
    """

    task: str
    accuracies: tuple[float, ...]
    count: int

    @property
    def mean(self) -> float:
        """Returns the mean over seeds."""
        return statistics.mean(self.accuracies)


def choose_tasks(names: Iterable[str]) -> list[str]:
    """Returns tasks by their names or their groups', in the order of Table 9.

    Raises:
        errors.UserError: no such task or group.
    """
    known = {**vtab_splits.GROUPS, "all": tuple(vtab_splits.TASKS)}
    known |= {task: (task,) for task in vtab_splits.TASKS}
    chosen: set[str] = set()
    for name in names:
        if name not in known:
            raise errors.UserError(
                f"--tasks={name}: no such task or group{errors.nearest(name, known)}"
            )
        chosen |= set(known[name])
    return [task for task in vtab_splits.TASKS if task in chosen]


def prepared_tasks(
    tasks: Sequence[str], data_dir: str | None, *, skip_missing: bool
) -> list[str]:
    """Returns the tasks whose data set is prepared.

    Raises:
        errors.UserError: one is missing and skipping is not asked for; or all are.
    """
    there, missing = [], []
    for task in tasks:
        try:
            catalog.open_source(f"vtab/{task}", data_dir)
            there.append(task)
        except errors.UserError as refusal:
            missing.append((task, str(refusal)))
    if missing and (not skip_missing or not there):
        (_, first), more = missing[0], [task for task, _ in missing[1:]]
        also = f"; missing too: {', '.join(more)}" if more else ""
        remedy = "" if skip_missing else "; --skip_missing goes on without them"
        raise errors.UserError(f"{first}{also}{remedy}")
    return there


def jobs(
    model: config.Model,
    tasks: Sequence[str],
    workdir: str,
    *,
    start_from: str | None,
    seeds: int,
    change: Callable[[config.Config], object] = lambda cfg: None,  # edits it in place
) -> list[runner.Job]:
    """Makes a job for each task and seed, in `workdir`/TASK/seedN, task after task.

    Raises:
        errors.UserError: the model cannot be built at that size.
    """
    made = []
    for task in tasks:
        for seed in range(seeds):
            cfg = fine_tuning.vtab_task(model, task, start_from=start_from, seed=seed)
            change(cfg)
            build.outline(cfg.model, num_classes=2, image_size=cfg.data.image_size)
            folder = os.path.join(workdir, task, f"seed{seed}")
            made.append(runner.Job(f"{task} seed={seed}", cfg, folder))
    return made


def scores(of_jobs: Iterable[runner.Job]) -> list[Score]:
    """Reads the scores of tasks with at least one finished seed, of those seeds."""
    by_task: dict[str, list[dict[str, Any]]] = {}
    for job in of_jobs:
        finished = runner.result(job.folder)
        # A result of another config, which `look` calls stale, is none of this job.
        if finished is not None and runner.look(job).state.finished:
            metric = run_directory.metric(finished, "accuracy")
            by_task.setdefault(job.name.split()[0], []).append(metric)
    return [
        Score(task, tuple(m["value"] for m in metrics), metrics[0]["count"])
        for task, metrics in by_task.items()
    ]


class Linear:
    """A quick look: ridge regression on frozen features, task by task.

    Fitted to the 800 examples, l2 chosen on the 200, then fitted to all 1,000. Images
    are resized to a square, of the model's own size or another.

    Args:
        path: a finished run's folder or an .npz.
        machine: devices that share the passes.
        image_size: pixels; None: as the model was trained.
        variant: for an .npz whose arrays fit several models.
    """

    def __init__(
        self,
        path: str,
        *,
        machine: devices.Runtime,
        image_size: int | None = None,
        variant: str | None = None,
    ):
        with machine.strategy.scope():
            opened = loading.open_model(path, image_size=image_size, variant=variant)
        self.path, self.size = path, opened.image_size
        self._weights = _digest(stored_weights.weights_file(path))
        self._pass = inference.InferencePass(
            opened.network,
            fewshot.features,
            strategy=machine.strategy,
            processes=machine.processes,
        )

    def score(self, task: str, *, data_dir: str | None, batch_size: int) -> Score:
        """Computes the accuracy of a task on its whole test split."""
        source = catalog.open_source(f"vtab/{task}", data_dir)
        protocol = vtab_splits.TASKS[task]
        view = config.View(self.size)
        fitted, held_out, tested = (
            self._pass.over(source, view, split, batch_size=batch_size)
            for split in (protocol.train800, protocol.val200, protocol.test)
        )
        classes = source.num_classes
        few = ridge_regression.Ridge(
            fitted["features"], fitted["label"], num_classes=classes
        )
        right = few.predict(held_out["features"], _L2S) == held_out["label"]
        # Of equals the strongest penalty: the simplest classifier that is as good.
        best = max(range(len(_L2S)), key=lambda i: (right[i].mean(), _L2S[i]))
        both = {k: np.concatenate([fitted[k], held_out[k]]) for k in fitted}
        whole = ridge_regression.Ridge(
            both["features"], both["label"], num_classes=classes
        )
        (hits,) = whole.predict(tested["features"], [_L2S[best]]) == tested["label"]
        return Score(task, (float(hits.mean()),), len(hits))

    def score_once(
        self, task: str, workdir: str, *, data_dir: str | None, batch_size: int
    ) -> Score:
        """Returns the kept score of `workdir`/linear, or computes and keeps it.

        Raises:
            errors.UserError: the kept score is of other weights, size or data.
        """
        path = os.path.join(workdir, "linear", f"{task}.json")
        # The only version that is read; a kept score needs no data.
        data = catalog.DATASETS[f"vtab/{task}"].version
        ours = {"model": self.path, "size": self.size, "weights": self._weights}
        ours |= {"data": data}
        if tf.io.gfile.exists(path):
            kept = json.loads(filesystem.read(path))
            # Files of before the data's version was kept have no such key.
            if any(
                kept.get(name, ours[name]) != ours[name]
                for name in ("weights", "size", "data")
            ):
                raise errors.UserError(
                    f"{path}: holds the number of {kept['model']} with the weights of "
                    f"then, at {kept['size']} pixels, on version "
                    f"{kept.get('data', '?')} of the data; choose another --workdir"
                )
            return Score(task, tuple(kept["accuracies"]), kept["count"])
        score = self.score(task, data_dir=data_dir, batch_size=batch_size)
        text = json.dumps({**ours, **dataclasses.asdict(score)}, indent=2)
        with filesystem.refusing(path):
            tf.io.gfile.makedirs(os.path.dirname(path))
        filesystem.write_whole(path, text + "\n")
        return score


def _digest(path: str) -> str:
    """Returns twelve hex digits of a file's SHA-256."""
    digest = hashlib.sha256()
    with tf.io.gfile.GFile(path, "rb") as file:
        while part := file.read(2**24):
            digest.update(part)
    return digest.hexdigest()[:12]


def table(of_scores: Sequence[Score]) -> str:
    """Returns Markdown: a row for each task, then means of whole groups and of all."""
    lines = [
        "| group | task | accuracy [%] | seeds | test images |",
        "|---|---|---|---|---|",
    ]
    by_task = {score.task: score for score in of_scores}
    by_name = tuple(vtab_splits.TASKS)
    for group, tasks in vtab_splits.GROUPS.items():
        for task in tasks:
            if (score := by_task.get(task)) is None:
                continue
            spread = ""
            if len(score.accuracies) > 1:
                spread = f" ± {100 * statistics.stdev(score.accuracies):.2f}"
            lines.append(
                f"| {group} | {task} | {100 * score.mean:.2f}{spread} | "
                f"{len(score.accuracies)} | {score.count:,} |"
            )
    means = vtab_splits.means({task: s.mean for task, s in by_task.items()})
    for name, tasks in {**vtab_splits.GROUPS, "all": by_name}.items():
        done = sum(task in by_task for task in tasks)
        value = f"{100 * means[name]:.2f}" if name in means else "-"
        lines.append(
            f"| **mean** | {name}, {done} of {len(tasks)} tasks | {value} | | |"
        )
    return "\n".join(lines) + "\n"
