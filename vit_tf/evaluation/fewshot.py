"""Few-shot accuracy: a linear classifier of the features, of a few images per class.

The paper's fast measure of a model (section 4.1; Figures 4, 8, 9 and Table 8), with
the conventions of the authors' evaluator (fewshot_lsr.py): features are what enters the
head, images are resized to a square and cropped (`config.EvalCrop.SQUARE_CENTRAL`),
shots are nested, and `ridge.py` solves. One pass over a set's test split and one over
its chosen images serve all shots, draws and l2.
"""

import contextlib
import dataclasses
from collections.abc import Callable

import numpy as np
import tensorflow as tf

from vit_tf import config, errors
from vit_tf.data import catalog, data_source, subsets
from vit_tf.evaluation import evaluators, inference, ridge_regression
from vit_tf.models import build, npz_weights
from vit_tf.runtime import devices

# (what is read, how many images) -> a context that is told how many are done.
Watching = Callable[[str, int], contextlib.AbstractContextManager]


@dataclasses.dataclass(frozen=True, eq=False)
class Task:
    """A data set, and which of its images classifiers learn from.

    Attributes:
        source: the opened set.
        train: its split to draw shots from.
        test: its split to report.
        labels: int32, those of `train`.
        draws: (shots, seed) -> rows of `train`, class after class; the fewer shots of
            a seed are among its more.
    """

    source: data_source.Source
    train: str
    test: str
    labels: np.ndarray
    draws: dict[tuple[int, int], np.ndarray]

    @property
    def rows(self) -> np.ndarray:
        """All rows of `train` that any classifier learns from, sorted."""
        return np.unique(np.concatenate(list(self.draws.values())))


@dataclasses.dataclass(frozen=True)
class Score:
    """What classifiers of so many shots reach on one data set.

    Attributes:
        dataset: its name.
        split: of which they classify the images.
        shots: images of each class that each learned from.
        l2: weight of the ridge.
        values: accuracy in [0, 1] of each seed's draw.
        count: images of the split.
    """

    dataset: str
    split: str
    shots: int
    l2: float
    values: tuple[float, ...]
    count: int

    @property
    def mean(self) -> float:
        return float(np.mean(self.values))

    @property
    def std(self) -> float:
        """Standard deviation over the draws, of a sample; 0 where there is one."""
        return float(np.std(self.values, ddof=1)) if len(self.values) > 1 else 0.0

    @property
    def metric(self) -> evaluators.Metric:
        """Such as cifar100/test 10shot; over seeds, the mean."""
        split = f"{self.dataset}/{self.split}"
        return evaluators.Metric(split, f"{self.shots}shot", self.mean, self.count)


def open_tasks(settings: config.FewShot, data_dir: str | None = None) -> list[Task]:
    """Opens every set and draws its shots; reads labels, decodes no image.

    Raises:
        errors.UserError: a set that is not there, has several labels for an image, no
            split to learn from or to test on, or too few images of a class; several
            l2 that nothing could choose from.
    """
    names = list(dict.fromkeys(settings.datasets))
    if len(names) == 1 and len(set(settings.l2)) > 1 and min(settings.shots) < 2:
        raise errors.UserError(
            f"few_shot.l2: {names[0]} alone chooses among several by leaving one image "
            "out, which leaves none of a class with 1 shot; give one l2, shots of 2 or "
            "more, or more data sets"
        )
    return [_open_task(name, settings, data_dir) for name in names]


def _open_task(name: str, settings: config.FewShot, data_dir: str | None) -> Task:
    source = catalog.open_source(name, data_dir)
    if source.multi_label:
        raise errors.UserError(
            f"{name}: an image has several labels, few-shot evaluation needs one"
        )
    train, test = _splits(source)
    source.num_examples(test)  # refuses a split that was not prepared
    labels = subsets.read_labels(source, train)
    counts = np.bincount(labels, minlength=source.num_classes)
    if counts.min() < max(settings.shots):
        poorest = int(counts.argmin())
        raise errors.UserError(
            f"{name}: class {source.class_names[poorest]!r} (label {poorest}) has only "
            f"{counts[poorest]} examples in {train!r}, need {max(settings.shots)} shots; "
            "lower few_shot.shots"
        )
    draws = {
        (shots, seed): subsets.choose_shots(
            labels, shots, num_classes=source.num_classes, seed=seed
        )
        for shots in sorted(set(settings.shots))
        for seed in range(settings.num_seeds)
    }
    return Task(source, train, test, labels, draws)


def _splits(source: data_source.Source) -> tuple[str, str]:
    """Where shots are drawn and where they are tested."""
    spec = source.spec
    if spec.few_shot is not None:
        return spec.few_shot
    if spec.final is not None and spec.final[0] is not None:
        return spec.final
    stored = source.builder.info.splits
    tests = [name for name in ("test", "validation") if name in stored]
    if "train" not in stored or not tests:
        raise errors.UserError(
            f"{source.name}: few-shot evaluation needs the splits train and test, or "
            f"validation; there are: {data_source.count_splits(source.builder)}"
        )
    return "train", tests[0]


class FewShot:
    """Evaluates the features of one model on several sets; compiled once for all.

    Args:
        settings: shots, seeds, l2 and pixels.
        tasks: from `open_tasks`.
        model: its weights are read at every evaluation, as training changes them.
        described: what `model` is, to build it at another size.
        machine: devices and processes that share the passes.
    """

    def __init__(
        self,
        settings: config.FewShot,
        tasks: list[Task],
        *,
        model,
        described: config.Model,
        machine: devices.Runtime,
    ):
        self.tasks, self.model = tasks, model
        # The strongest first, which wins among equals.
        self.l2s = sorted(set(settings.l2), reverse=True)
        self.size = settings.image_size or model.image_size
        self._features_of = model
        if tasks and self.size != model.image_size:
            with machine.strategy.scope():
                self._features_of = build.build(
                    described,
                    num_classes=0,
                    image_size=self.size,
                    dtype=model.dtype_policy.name,
                )
            self._copy_weights()  # refuses what cannot be resized
        self._pass = inference.InferencePass(
            self._features_of,
            features,
            strategy=machine.strategy,
            processes=machine.processes,
        )

    @property
    def names(self) -> list[str]:
        """Of all numbers, such as cifar100/test/10shot."""
        return [
            f"{task.source.name}/{task.test}/{shots}shot"
            for task in self.tasks
            for shots in dict.fromkeys(shots for shots, _ in task.draws)
        ]

    def metrics(self, *, batch_size: int) -> list[evaluators.Metric]:
        """The numbers that a run keeps."""
        return [score.metric for score in self.evaluate(batch_size=batch_size)]

    def evaluate(
        self, *, batch_size: int, watching: Watching | None = None
    ) -> list[Score]:
        """All shots of all sets.

        Of several l2 each set takes the one with the highest accuracy averaged over
        the other sets, at the same shots, as the authors chose it; the strongest of
        equals. A set that is alone takes the one that best tells the shots themselves,
        each by a classifier of the others (`ridge.Ridge.leave_one_out`).
        """
        if self._features_of is not self.model:
            self._copy_weights()
        watching = watching or _unwatched
        found = [self._accuracies(task, batch_size, watching) for task in self.tasks]
        scores = []
        for task, own in zip(self.tasks, found):
            for shots, accuracies in own.items():
                others = [of[shots][:, 0] for of in found if of is not own]
                judges = others or [accuracies[:, 1]]
                best = int(np.mean(judges, axis=(0, 1)).argmax())
                scores.append(
                    Score(
                        dataset=task.source.name,
                        split=task.test,
                        shots=shots,
                        l2=self.l2s[best],
                        values=tuple(accuracies[:, 0, best].tolist()),
                        count=task.source.num_examples(task.test),
                    )
                )
        return scores

    def _accuracies(
        self, task: Task, batch_size: int, watching: Watching
    ) -> dict[int, np.ndarray]:
        """{shots: (seeds, 2, l2s)}: on the test split, and on the shots left out.

        The latter are zeros where nothing asks for them.
        """
        rows = task.rows
        known = self._compute(task, task.train, batch_size, watching, keep=rows)
        asked = self._compute(task, task.test, batch_size, watching)
        asks_for_left_out = len(self.tasks) == 1 and len(self.l2s) > 1
        found: dict[int, list] = {}
        for (shots, _), draw in task.draws.items():
            solved = ridge_regression.Ridge(
                known["features"][np.searchsorted(rows, draw)],
                task.labels[draw],
                num_classes=task.source.num_classes,
            )
            predicted = solved.predict(asked["features"], self.l2s)
            tested = (predicted == asked["label"]).mean(axis=1)
            left_out = np.zeros_like(tested)
            if asks_for_left_out:
                told = [solved.leave_one_out(l2).argmax(axis=1) for l2 in self.l2s]
                left_out = (np.array(told) == task.labels[draw]).mean(axis=1)
            found.setdefault(shots, []).append((tested, left_out))
        return {shots: np.array(values) for shots, values in found.items()}

    def _compute(self, task: Task, split: str, batch_size, watching, keep=None):
        """Features and labels of a split, or of some of its rows."""
        view = config.View(self.size, config.EvalCrop.SQUARE_CENTRAL)
        count = task.source.num_examples(split) if keep is None else len(keep)
        with watching(f"{task.source.name}/{split}", count) as on_progress:
            return self._pass.over(
                task.source,
                view,
                split,
                batch_size=batch_size,
                keep=keep,
                on_progress=on_progress,
            )

    def _copy_weights(self) -> None:
        npz_weights.assign(
            self._features_of,
            npz_weights.released(self.model),
            name=f"few_shot.image_size={self.size}",
            head=npz_weights.Head.RESET,
        )


def prepare(
    cfg: config.Config, model, machine: devices.Runtime, *, data_dir: str | None = None
) -> FewShot:
    """The few-shot evaluation of a run, which may be of no set at all.

    Raises:
        errors.UserError: see `open_tasks`; a size that the model cannot take.
    """
    settings = cfg.evals.few_shot
    return FewShot(
        settings,
        open_tasks(settings, data_dir) if settings.datasets else [],
        model=model,
        described=cfg.model,
        machine=machine,
    )


def features(model, batch: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
    """What enters the head, float32 (batch, width), and the labels."""
    images = tf.cast(batch["image"], model.compute_dtype)
    return {"features": model.forward(images)[0], "label": batch["label"]}


@contextlib.contextmanager
def _unwatched(name: str, total: int):
    del name, total
    yield None
