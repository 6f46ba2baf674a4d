"""Evaluations: each example exactly once, each number with its count."""

import dataclasses
import math
from collections.abc import Callable, Iterable

import numpy as np
import tensorflow as tf

from vit_tf import config, errors
from vit_tf.data import data_source
from vit_tf.evaluation import inference
from vit_tf.runtime import multihost

_BINS = 15  # of confidence, for the calibration error (Guo et al. 2017)


@dataclasses.dataclass(frozen=True)
class Metric:
    """One number of an evaluation.

    Attributes:
        split: the TFDS split expression that was evaluated.
        name: a `config.Measure`, or what another evaluation calls its number.
        value: the number; shares are in [0, 1].
        count: how many examples it is the mean of.
    """

    split: str
    name: str
    value: float
    count: int

    def __str__(self) -> str:
        return f"{self.split} {self.name} {self.value:.4f} (n={self.count})"


@dataclasses.dataclass(frozen=True)
class Predictions:
    """What a model says of each example of a split, in file order.

    Attributes:
        label: int32 (n,); -1 in sets whose images have several.
        predicted: int32 (n,), the likeliest class.
        hit: bool (n,), whether that is the label, or one of them.
        top5: bool (n,), whether a label is among the five likeliest.
        labelled: bool (n,), whether there is any label.
        confidence: float32 (n,), soft-max probability of the likeliest class.
        nll: float32 (n,), -log of the labels' soft-max probability; without a
            label 0.
        loss: float32 (n,), what training minimises.
    """

    label: np.ndarray
    predicted: np.ndarray
    hit: np.ndarray
    top5: np.ndarray
    labelled: np.ndarray
    confidence: np.ndarray
    nll: np.ndarray
    loss: np.ndarray


class Classification:
    """How well the classes of a split are told, for any batch and replicas.

    Compiled once; the same object evaluates every split of a run.
    """

    def __init__(
        self,
        *,
        model,
        objective,
        strategy: tf.distribute.Strategy,
        processes: multihost.Processes,
    ):
        def compute(model, batch):
            losses, logits = objective(model, batch, training=False)
            return {"loss": losses, **judge(logits, batch["label"])}

        self._pass = inference.InferencePass(
            model, compute, strategy=strategy, processes=processes
        )

    def predict(
        self,
        source: data_source.Source,
        view: config.View,
        split: str,
        *,
        batch_size: int,
        on_progress: Callable[[int], None] | None = None,
    ) -> Predictions:
        """The predictions for every example of `split`; see `passes.Pass.over`.

        Raises:
            errors.UserError: a damaged record; a loss that is not finite.
        """
        rows = self._pass.over(
            source, view, split, batch_size=batch_size, on_progress=on_progress
        )
        _check_finite(rows["loss"], split)
        for name in ("hit", "top5", "labelled"):
            rows[name] = rows[name].astype(bool)
        return Predictions(**rows)

    def evaluate(
        self,
        source: data_source.Source,
        view: config.View,
        split: str,
        *,
        measures: Iterable[config.Measure],
        batch_size: int,
    ) -> list[Metric]:
        """The measures of every example of `split`; see `predict` and `measure`."""
        found = self.predict(source, view, split, batch_size=batch_size)
        return [measure(found, name, split) for name in measures]


class MaskedPatches:
    """How well the corrupted patches of a split's images are predicted.

    Which are corrupted, and how, is fixed for each image. Compiled once.
    """

    def __init__(
        self,
        *,
        model,
        objective,
        strategy: tf.distribute.Strategy,
        processes: multihost.Processes,
    ):
        self._objective = objective
        self._pass = inference.InferencePass(
            model, objective.judge, strategy=strategy, processes=processes
        )
        self._shown = inference.InferencePass(
            model, objective.show, strategy=strategy, processes=processes
        )

    def evaluate(
        self,
        source: data_source.Source,
        view: config.View,
        split: str,
        *,
        measures: Iterable[config.Measure],
        batch_size: int,
    ) -> list[Metric]:
        """The measures of `split`, each a mean over its corrupted patches.

        'accuracy' is the share of colours that are told right; 'pixel_error' the root
        of the mean squared error of pixels in [0, 1]; their count is that of the
        patches.

        Raises:
            errors.UserError: a damaged record; a loss that is not finite.
        """
        rows = self._pass.over(source, view, split, batch_size=batch_size)
        _check_finite(rows["loss"], split)
        count = self._objective.count * len(rows["loss"])
        values = {
            config.Measure.LOSS: _mean(rows["loss"]),
            config.Measure.ACCURACY: _mean(rows["score"]),
            config.Measure.PIXEL_ERROR: math.sqrt(_mean(rows["score"])),
        }
        return [Metric(split, str(name), values[name], count) for name in measures]

    def pictures(
        self, source: data_source.Source, view: config.View, split: str, *, number: int
    ) -> dict[str, np.ndarray]:
        """What `masked_patches.MaskedPatches.show` gives of the split's first images."""
        first = np.arange(min(number, source.num_examples(split)))
        return self._shown.over(source, view, split, batch_size=len(first), keep=first)


KINDS = {
    config.Task.CLASSIFICATION: Classification,
    config.Task.MASKED_PATCH: MaskedPatches,
}


def judge(logits: tf.Tensor, labels: tf.Tensor) -> dict[str, tf.Tensor]:
    """What `Predictions` holds besides the loss, of one batch; bools are int32.

    Args:
        logits: float32 (batch, classes).
        labels: int32 (batch,), or multi-hot float32 (batch, classes).
    """
    best = tf.math.top_k(logits, min(5, logits.shape[-1])).indices
    log_shares = tf.nn.log_softmax(logits)
    if labels.dtype == tf.int32:
        right = best == labels[:, None]
        labelled = tf.ones_like(labels, tf.bool)
        of_labels = tf.gather(log_shares, labels, batch_dims=1)
    else:
        right = tf.gather(labels, best, batch_dims=1) > 0
        labelled = tf.reduce_max(labels, axis=1) > 0
        none = log_shares.dtype.min
        of_labels = tf.reduce_logsumexp(tf.where(labels > 0, log_shares, none), axis=1)
    return {
        "label": labels if labels.dtype == tf.int32 else -tf.ones_like(best[:, 0]),
        "predicted": best[:, 0],
        "hit": tf.cast(right[:, 0], tf.int32),
        "top5": tf.cast(tf.reduce_any(right, axis=1), tf.int32),
        "labelled": tf.cast(labelled, tf.int32),
        "confidence": tf.exp(tf.reduce_max(log_shares, axis=1)),
        "nll": tf.where(labelled, -of_labels, 0.0),
    }


def measure(found: Predictions, name: config.Measure, split: str) -> Metric:
    """One number of a split's predictions.

    An image without any label can be neither right nor wrong: only the loss counts
    it (ReaL's rule in big_vision's evaluators/classification.py).

    Raises:
        errors.UserError: the accuracy of classes where an image has several.
    """
    name, known = config.Measure(name), found.labelled
    if name is config.Measure.LOSS:
        return Metric(split, "loss", _mean(found.loss), len(found.loss))
    value = {
        config.Measure.ACCURACY: lambda: _mean(found.hit[known]),
        config.Measure.TOP5_ACCURACY: lambda: _mean(found.top5[known]),
        config.Measure.CLASS_ACCURACY: lambda: _mean(
            list(class_accuracies(found).values())
        ),
        config.Measure.NLL: lambda: _mean(found.nll[known]),
        config.Measure.ECE: lambda: calibration_error(
            found.confidence[known], found.hit[known]
        ),
    }[name]()
    return Metric(split, name.value, value, int(known.sum()))


def class_accuracies(found: Predictions) -> dict[int, float]:
    """Class -> share of its examples that are told right; absent ones are left out.

    Raises:
        errors.UserError: an image has several labels.
    """
    if (found.label < 0).any():
        raise errors.UserError(
            "class_accuracy: an image of this data set has several labels; leave it out"
        )
    return {int(c): _mean(found.hit[found.label == c]) for c in np.unique(found.label)}


def calibration_error(confidence: np.ndarray, hit: np.ndarray) -> float:
    """Mean gap of confidence and accuracy, over bins of confidence.

    The expected calibration error of Guo et al. 2017 (arXiv 1706.04599, equation 5)
    with 15 bins of equal width.

    Args:
        confidence: (n,) in [0, 1].
        hit: bool (n,).
    """
    if not len(hit):
        return 0.0
    bins = np.minimum((confidence * _BINS).astype(int), _BINS - 1)
    gap = hit.astype(np.float64) - confidence
    return float(np.abs(np.bincount(bins, gap, _BINS)).sum() / len(hit))


def _check_finite(losses: np.ndarray, split: str) -> None:
    loss = float(np.mean(losses, dtype=np.float64))
    if not math.isfinite(loss):
        raise errors.UserError(
            f"evaluating {split!r}: the loss is {loss}; the weights have "
            "grown too large, train with a lower optim.lr"
        )


def _mean(values) -> float:
    return float(np.mean(values, dtype=np.float64)) if len(values) else 0.0
