"""VTAB-1k of one model: its tasks as runs that go on where they were, and the table.

Fine-tuning is the paper's (Table 4, section B.1.1). `Linear` is a quick look that
trains nothing: a ridge regression on the features of the same 1,000 examples.
"""

import dataclasses
import hashlib
import json
import os
import statistics
from collections.abc import Callable, Iterable, Sequence

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

# Weights that the ridge of a quick look chooses among, on the 200 examples.
_L2S = tuple(10.0**power for power in range(-2, 7))


@dataclasses.dataclass(frozen=True)
class Score:
    """A task's result.

    Attributes:
        task: a key of `vtab_protocol.TASKS`.
        accuracies: top-1 on the test split, of each seed, in [0, 1].
        count: images of that split.
    """

    task: str
    accuracies: tuple[float, ...]
    count: int

    @property
    def mean(self) -> float:
        return statistics.mean(self.accuracies)


def choose_tasks(names: Iterable[str]) -> list[str]:
    """Tasks by their names or their groups', in the order of Table 9.

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
    """Those of the tasks whose data set is prepared.

    Raises:
        errors.UserError: one is not, and none shall be skipped; or none is there.
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
    change: Callable[[config.Config], object] = lambda cfg: None,
) -> list[runner.Job]:
    """A job for each task and seed, `workdir`/TASK/seedN; all of a task together.

    Raises:
        errors.UserError: the model cannot be built at that size.
    """
    found = []
    for task in tasks:
        for seed in range(seeds):
            cfg = fine_tuning.vtab_task(model, task, start_from=start_from, seed=seed)
            change(cfg)
            build.outline(cfg.model, num_classes=2, image_size=cfg.data.image_size)
            folder = os.path.join(workdir, task, f"seed{seed}")
            found.append(runner.Job(f"{task} seed={seed}", cfg, folder))
    return found


def scores(found: Iterable[runner.Job]) -> list[Score]:
    """Of the tasks of which some seed is finished, those seeds."""
    by_task: dict[str, list[dict]] = {}
    for job in found:
        if runner.look(job).state.finished:  # not what another job left there
            metric = run_directory.metric(runner.result(job.folder), "accuracy")
            by_task.setdefault(job.name.split()[0], []).append(metric)
    return [
        Score(task, tuple(m["value"] for m in metrics), metrics[0]["count"])
        for task, metrics in by_task.items()
    ]


class Linear:
    """A quick look: ridge regression on frozen features, task by task.

    Trained on the 800 examples, l2 chosen on the 200, then trained on all 1,000.
    Images are resized to a square, the model's own size or another.

    Args:
        path: a finished run's folder or an .npz.
        machine: devices that share the passes.
        image_size: pixels; None: as the model was trained.
        variant: for an .npz whose arrays do not tell it.
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
        """The accuracy of a task on its whole test split."""
        source = catalog.open_source(f"vtab/{task}", data_dir)
        protocol = vtab_splits.TASKS[task]
        view = config.View(self.size)
        known, held, asked = (
            self._pass.over(source, view, split, batch_size=batch_size)
            for split in (protocol.train800, protocol.val200, protocol.test)
        )
        classes = source.num_classes
        few = ridge_regression.Ridge(
            known["features"], known["label"], num_classes=classes
        )
        told = few.predict(held["features"], _L2S) == held["label"]
        # Of equals the strongest.
        best = max(range(len(_L2S)), key=lambda i: (told[i].mean(), _L2S[i]))
        both = {k: np.concatenate([known[k], held[k]]) for k in known}
        whole = ridge_regression.Ridge(
            both["features"], both["label"], num_classes=classes
        )
        (right,) = whole.predict(asked["features"], [_L2S[best]]) == asked["label"]
        return Score(task, (float(right.mean()),), len(right))

    def score_once(
        self, task: str, workdir: str, *, data_dir: str | None, batch_size: int
    ) -> Score:
        """`score`, or what it gave before, kept in `workdir`/linear.

        Raises:
            errors.UserError: the folder has the number of another model or size.
        """
        path = os.path.join(workdir, "linear", f"{task}.json")
        ours = {"model": self.path, "size": self.size, "weights": self._weights}
        if tf.io.gfile.exists(path):
            kept = json.loads(filesystem.read(path))
            if any(kept[name] != ours[name] for name in ("weights", "size")):
                raise errors.UserError(
                    f"{path}: holds the number of {kept['model']} with the weights of "
                    f"then, at {kept['size']} pixels; choose another --workdir"
                )
            return Score(task, tuple(kept["accuracies"]), kept["count"])
        score = self.score(task, data_dir=data_dir, batch_size=batch_size)
        text = json.dumps({**ours, **dataclasses.asdict(score)}, indent=2)
        with filesystem.refusing(path):
            tf.io.gfile.makedirs(os.path.dirname(path))
        filesystem.write_whole(path, text + "\n")
        return score


def _digest(path: str) -> str:
    """Twelve hex digits of what a file holds."""
    found = hashlib.sha256()
    with tf.io.gfile.GFile(path, "rb") as file:
        while part := file.read(2**24):
            found.update(part)
    return found.hexdigest()[:12]


def table(found: Sequence[Score]) -> str:
    """Markdown: a row for each task, then the means of whole groups and of all 19."""
    lines = [
        "| group | task | accuracy [%] | seeds | test images |",
        "|---|---|---|---|---|",
    ]
    by_task = {score.task: score for score in found}
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
