"""Few-shot accuracy: a linear classifier of features, fitted to a few images a class.

The paper's fast measure of a model (section 4.1; Figures 4, 8, 9 and Table 8), with
the conventions of the authors' evaluator (big_vision's fewshot_lsr.py): features are
the head's input, images are resized to a square and cropped
(`config.EvalCrop.SQUARE_CENTRAL`), shots are nested, and `ridge_regression` solves. One
pass over a set's test split and one over its drawn images serve all shots, draws, l2.
"""

import contextlib
import dataclasses
from collections.abc import Callable, Mapping

import numpy as np
import tensorflow as tf

from vit_tf import config, errors
from vit_tf.data import catalog, data_source, subsets
from vit_tf.evaluation import evaluators, inference, ridge_regression
from vit_tf.models import build, network, npz_weights
from vit_tf.runtime import devices

# (name of a pass, its number of images) -> a context that gives a function to call
# with the number of images done, or None.
Watching = Callable[
    [str, int], contextlib.AbstractContextManager[Callable[[int], None] | None]
]


@dataclasses.dataclass(frozen=True, eq=False)
class Task:
    """A data set, and the images that classifiers are fitted to.

    Attributes:
        source: the opened set.
        train: its split to draw shots from.
        test: its split to report.
        labels: int32, those of `train`.
        draws: (shots, seed) -> rows of `train`, class after class. Draws of a seed are
            nested: fewer shots are a part of more.
    """

    source: data_source.Source
    train: str
    test: str
    labels: np.ndarray
    draws: dict[tuple[int, int], np.ndarray]

    @property
    def rows(self) -> np.ndarray:
        """Returns all rows of `train` that any classifier is fitted to, sorted."""
        return np.unique(np.concatenate(list(self.draws.values())))


@dataclasses.dataclass(frozen=True)
class Score:
    """The accuracy of classifiers of one number of shots on one data set.

    Attributes:
        dataset: its name.
        split: the images that are classified.
        shots: images of each class that each classifier was fitted to.
        l2: weight of the ridge penalty.
        values: accuracy in [0, 1] of each seed's draw.
        count: number of images in the split.
    """

    dataset: str
    split: str
    shots: int
    l2: float
    values: tuple[float, ...]
    count: int

    @property
    def mean(self) -> float:
        """Returns the mean accuracy over the draws."""
        return float(np.mean(self.values))

    @property
    def std(self) -> float:
        """Returns the sample standard deviation over the draws; 0 for a single one."""
        return float(np.std(self.values, ddof=1)) if len(self.values) > 1 else 0.0

    @property
    def metric(self) -> evaluators.Metric:
        """Returns the mean as a metric such as 'cifar100/test 10shot'."""
        split = f"{self.dataset}/{self.split}"
        return evaluators.Metric(split, f"{self.shots}shot", self.mean, self.count)


def open_tasks(settings: config.FewShot, data_dir: str | None = None) -> list[Task]:
    """Opens every set and draws its shots; reads labels, decodes no image.

    Raises:
        errors.UserError: a set that is not there, has several labels for an image, no
            split to fit to or to test on, or too few images of a class; several l2
            among which nothing can choose.
    """
    names = list(dict.fromkeys(settings.datasets))
    if len(names) == 1 and len(set(settings.l2)) > 1 and min(settings.shots) < 2:
        raise errors.UserError(
            f"evals.few_shot.l2: {names[0]} alone chooses among several by leaving one "
            "image out, which leaves none of a class with 1 shot; give one l2, shots of "
            "2 or more, or more data sets"
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
            "lower them: --fewshot_shots of tools.evaluate, "
            "--config.evals.few_shot.shots of a run"
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
    """Returns the split to draw shots from and the one to test on."""
    spec = source.spec
    for train, test in filter(None, (spec.few_shot, spec.final)):
        if train is not None:
            return train, test
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
        settings: shots, seeds, l2 and image size.
        tasks: from `open_tasks`.
        model: read at every evaluation, because training changes its weights.
        model_config: its description, to build it at another image size.
        machine: devices and processes that share the passes.
    """

    def __init__(
        self,
        settings: config.FewShot,
        tasks: list[Task],
        *,
        model: network.Network,
        model_config: config.Model,
        machine: devices.Runtime,
    ):
        self.tasks, self.model = tasks, model
        # The strongest first, because argmax takes the first of equals.
        self.l2s = sorted(set(settings.l2), reverse=True)
        self.size = settings.image_size or model.image_size
        self.feature_model = model
        if tasks and self.size != model.image_size:
            with machine.strategy.scope():
                self.feature_model = build.build(
                    model_config,
                    num_classes=0,
                    image_size=self.size,
                    dtype=model.dtype_policy.name,
                )
            self._copy_weights()  # refuses what cannot be resized
        self.inference_pass = inference.InferencePass(
            self.feature_model,
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
        """Returns the numbers that a run keeps."""
        return [score.metric for score in self.evaluate(batch_size=batch_size)]

    def evaluate(
        self, *, batch_size: int, watching: Watching | None = None
    ) -> list[Score]:
        """Computes the score of every set and number of shots.

        Of several l2 each set takes the one with the highest accuracy averaged over
        the other sets, at the same shots, as the authors chose it; the strongest of
        equals. A set that is alone takes the one that best classifies the shots
        themselves, each left out (`ridge_regression.Ridge.leave_one_out`).

        Args:
            batch_size: images at a time; changes no number.
            watching: shows how far each pass is; None: nothing is shown.
        """
        if self.feature_model is not self.model:
            self._copy_weights()
        tables = [self.accuracies(t, batch_size, watching) for t in self.tasks]
        scores = []
        for task, own in zip(self.tasks, tables):
            for shots, accuracies in own.items():
                others = [of[shots][:, 0] for of in tables if of is not own]
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

    def accuracies(
        self, task: Task, batch_size: int, watching: Watching | None = None
    ) -> dict[int, np.ndarray]:
        """Computes the accuracies of every draw and l2 of one set.

        Returns:
            shots -> (seeds, 2, len(self.l2s)): accuracy on the test split, and on the
            shots themselves, each left out; the latter is 0 where nothing is chosen
            by it.
        """
        rows = task.rows
        fitted = self.features(task, task.train, batch_size, watching, keep=rows)
        tested = self.features(task, task.test, batch_size, watching)
        chooses_alone = len(self.tasks) == 1 and len(self.l2s) > 1
        tables: dict[int, list[tuple[np.ndarray, np.ndarray]]] = {}
        for (shots, _), draw in task.draws.items():
            solved = ridge_regression.Ridge(
                fitted["features"][np.searchsorted(rows, draw)],
                task.labels[draw],
                num_classes=task.source.num_classes,
            )
            predicted = solved.predict(tested["features"], self.l2s)
            accuracy = (predicted == tested["label"]).mean(axis=1)
            left_out = np.zeros_like(accuracy)
            if chooses_alone:
                classes = [solved.leave_one_out(l2).argmax(axis=1) for l2 in self.l2s]
                left_out = (np.array(classes) == task.labels[draw]).mean(axis=1)
            tables.setdefault(shots, []).append((accuracy, left_out))
        return {shots: np.array(values) for shots, values in tables.items()}

    def features(
        self,
        task: Task,
        split: str,
        batch_size: int,
        watching: Watching | None = None,
        keep: np.ndarray | None = None,
    ) -> dict[str, np.ndarray]:
        """Computes the head's inputs of a split, or of some of its rows.

        Args:
            task: the data set.
            split: a TFDS split expression.
            batch_size: images at a time.
            watching: shows how far the pass is.
            keep: rows of the split, sorted; None: all.

        Returns:
            'features' float32 (rows, width) and 'label' int32 (rows,).
        """
        watching = watching or _unwatched
        view = config.View(self.size, config.EvalCrop.SQUARE_CENTRAL)
        count = task.source.num_examples(split) if keep is None else len(keep)
        with watching(f"{task.source.name}/{split}", count) as on_progress:
            return self.inference_pass.over(
                task.source,
                view,
                split,
                batch_size=batch_size,
                keep=keep,
                on_progress=on_progress,
            )

    def _copy_weights(self) -> None:
        npz_weights.assign(
            self.feature_model,
            npz_weights.released(self.model),
            name=f"few_shot.image_size={self.size}",
            head=npz_weights.Head.RESET,
        )


def prepare(
    cfg: config.Config,
    model: network.Network,
    machine: devices.Runtime,
    *,
    data_dir: str | None = None,
) -> FewShot:
    """Prepares the few-shot evaluation of a run, which may be of no set at all.

    Raises:
        errors.UserError: see `open_tasks`; a size that the model cannot take.
    """
    settings = cfg.evals.few_shot
    return FewShot(
        settings,
        open_tasks(settings, data_dir) if settings.datasets else [],
        model=model,
        model_config=cfg.model,
        machine=machine,
    )


def features(
    model: network.Network, batch: Mapping[str, tf.Tensor]
) -> dict[str, tf.Tensor]:
    """Returns the head's inputs, float32 (batch, width), and the labels.

    With a pre-logits layer that is its output, as in the authors' evaluator.
    """
    images = tf.cast(batch["image"], model.compute_dtype)
    return {"features": model.forward(images)[0], "label": batch["label"]}


@contextlib.contextmanager
def _unwatched(name: str, total: int):
    del name, total
    yield None
