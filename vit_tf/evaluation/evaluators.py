"""Evaluations: each example exactly once, each number with its count."""

import dataclasses
import math
from collections.abc import Callable, Iterable
from typing import Protocol

import keras
import numpy as np
import tensorflow as tf

from vit_tf import config, errors
from vit_tf.data import data_source
from vit_tf.evaluation import inference
from vit_tf.objectives import classification, masked_patches
from vit_tf.runs import loading, stored_weights
from vit_tf.runtime import devices, multihost

_BINS = 15  # of confidence, for the calibration error (Guo et al. 2017)


@dataclasses.dataclass(frozen=True)
class Metric:
    """One number of an evaluation.

    Attributes:
        split: the TFDS split expression that was evaluated.
        name: a `config.Measure`, or another evaluation's own, such as '10shot'.
        value: the number; shares are in [0, 1].
        count: how many examples (or patches) it is the mean over.
    """

    split: str
    name: str
    value: float
    count: int

    def __str__(self) -> str:
        return f"{self.split} {self.name} {self.value:.4f} (n={self.count})"


@dataclasses.dataclass(frozen=True)
class Predictions:
    """A model's answers to each example of a split, in file order.

    Attributes:
        label: int32 (n,); -1 in sets whose images have several.
        predicted: int32 (n,), the class of the highest logit.
        hit: bool (n,), whether that is the label, or one of several.
        top5: bool (n,), whether a label is among the five highest logits.
        labelled: bool (n,), whether the example has any label.
        confidence: float32 (n,), softmax probability of `predicted`.
        nll: float32 (n,), -log of the labels' softmax probability [nats]; without a
            label 0.
        loss: float32 (n,), the objective that training minimises.
    """

    label: np.ndarray
    predicted: np.ndarray
    hit: np.ndarray
    top5: np.ndarray
    labelled: np.ndarray
    confidence: np.ndarray
    nll: np.ndarray
    loss: np.ndarray


class Evaluator(Protocol):
    """Computes the measures of a split, which the training loop logs.

    Made with the model, its objective, the strategy whose replicas share the work, and
    the processes that run it together.
    """

    def evaluate(
        self,
        source: data_source.Source,
        view: config.View,
        split: str,
        *,
        measures: Iterable[config.Measure],
        batch_size: int,
    ) -> list[Metric]:
        """Returns one metric for each measure, in their order.

        Args:
            source: an opened data set.
            view: size and crop of the images.
            split: a TFDS split expression.
            measures: those that the objective offers.
            batch_size: global; changes no number.

        Raises:
            errors.UserError: a damaged record; a loss that is not finite.
        """
        ...


class Classification:
    """Classification measures, the same for any batch size and number of replicas.

    Compiled once; the same object evaluates every split of a run.
    """

    def __init__(
        self,
        *,
        model: keras.Model,
        objective: classification.Classification,
        strategy: tf.distribute.Strategy,
        processes: multihost.Processes,
    ):
        def compute(model, batch):
            losses, logits = objective(model, batch, training=False)
            return {"loss": losses, **judge(logits, batch["label"])}

        self.inference_pass = inference.InferencePass(
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
        """Returns the predictions for every example of `split`.

        Arguments are those of `inference.InferencePass.over`.

        Raises:
            errors.UserError: a damaged record; a loss that is not finite.
        """
        rows = self.inference_pass.over(
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
        """Returns the measures over every example of `split`; see `Evaluator`."""
        predictions = self.predict(source, view, split, batch_size=batch_size)
        return [measure(predictions, name, split) for name in measures]


class MaskedPatches:
    """Measures of masked patch prediction, over the corrupted patches of a split.

    Which patches are corrupted, and how, is fixed for each image. Compiled once.
    """

    def __init__(
        self,
        *,
        model: keras.Model,
        objective: masked_patches.MaskedPatches,
        strategy: tf.distribute.Strategy,
        processes: multihost.Processes,
    ):
        self._objective = objective
        self.inference_pass = inference.InferencePass(
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
        """Returns the measures of `split`, each a mean over its corrupted patches.

        'accuracy' is the share of colours that are predicted right; 'pixel_error' the
        root of the mean squared error of pixels in [0, 1]; the count is that of the
        patches. Arguments are those of `Evaluator.evaluate`.

        Raises:
            errors.UserError: a damaged record; a loss that is not finite.
        """
        rows = self.inference_pass.over(source, view, split, batch_size=batch_size)
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
        """Returns `masked_patches.MaskedPatches.show` of the split's first images.

        Returns:
            uint8 (number, size, size, 3) each, by what they show.
        """
        first = np.arange(min(number, source.num_examples(split)))
        return self._shown.over(source, view, split, batch_size=len(first), keep=first)


KINDS = {
    config.Task.CLASSIFICATION: Classification,
    config.Task.MASKED_PATCH: MaskedPatches,
}


def of(
    loaded: loading.LoadedModel, runtime: devices.Runtime, *, num_classes: int = 0
) -> Classification:
    """Returns the evaluator of a stored classifier, with the loss of its training.

    An .npz does not say its loss; softmax cross-entropy is computed then.

    Args:
        loaded: a pooled model with a last layer.
        runtime: devices and processes that share the passes.
        num_classes: of the labels; 0: as many as the model has.

    Raises:
        errors.UserError: the model is not pooled.
    """
    loaded.require_pooled("evaluation")
    return Classification(
        model=loaded.network,
        objective=classification.Classification(
            loaded.objective or config.Objective(),
            num_classes=num_classes or loaded.num_classes,
        ),
        strategy=runtime.strategy,
        processes=runtime.processes,
    )


def of_masked_patches(
    loaded: loading.LoadedModel, runtime: devices.Runtime
) -> MaskedPatches:
    """Returns the evaluator of a finished run of masked patch prediction.

    Raises:
        errors.UserError: a run with another objective, or an .npz, which does not hold
            the objective's own variables.
    """
    settings = loaded.objective
    if settings is None or settings.task is not config.Task.MASKED_PATCH:
        raise errors.UserError(
            f"{loaded.path}: was not trained with objective.task="
            f"{config.Task.MASKED_PATCH}; name a run that was"
        )
    with runtime.strategy.scope():  # the objective has variables of its own
        objective = masked_patches.MaskedPatches(settings, model=loaded.network)
    stored_weights.load_objective(objective.variables, loaded.path)
    return MaskedPatches(
        model=loaded.network,
        objective=objective,
        strategy=runtime.strategy,
        processes=runtime.processes,
    )


def judge(logits: tf.Tensor, labels: tf.Tensor) -> dict[str, tf.Tensor]:
    """Compares one batch with its labels: `Predictions` without the loss.

    Bools come as int32, because hosts gather numbers only.

    Args:
        logits: float32 (batch, classes).
        labels: int32 (batch,), or multi-hot float32 (batch, classes).
    """
    classes = int(logits.shape[-1] or 0)  # static, as every model's are
    best = tf.math.top_k(logits, min(5, classes)).indices
    log_shares = tf.nn.log_softmax(logits)
    if labels.dtype == tf.int32:
        right = best == labels[:, None]
        labelled = tf.ones_like(labels, tf.bool)
        of_labels = tf.gather(log_shares, labels, batch_dims=1)
    else:
        right = tf.gather(labels, best, batch_dims=1) > 0
        labelled = tf.reduce_max(labels, axis=1) > 0
        # The probability of several labels is the sum of theirs; the others are left
        # out of the sum as the smallest number, whose exponential is 0.
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


def measure(predictions: Predictions, name: config.Measure, split: str) -> Metric:
    """Computes one measure of a split's predictions.

    An image without any label can be neither right nor wrong: only the loss counts
    it (the rule for ReaL labels in big_vision's evaluators/classification.py).

    Raises:
        errors.UserError: the accuracy of classes where an image has several.
    """
    name, known = config.Measure(name), predictions.labelled
    if name is config.Measure.LOSS:
        return Metric(split, "loss", _mean(predictions.loss), len(predictions.loss))
    value = {
        config.Measure.ACCURACY: lambda: _mean(predictions.hit[known]),
        config.Measure.TOP5_ACCURACY: lambda: _mean(predictions.top5[known]),
        config.Measure.CLASS_ACCURACY: lambda: _mean(
            list(class_accuracies(predictions).values())
        ),
        config.Measure.NLL: lambda: _mean(predictions.nll[known]),
        config.Measure.ECE: lambda: calibration_error(
            predictions.confidence[known], predictions.hit[known]
        ),
    }[name]()
    return Metric(split, name.value, value, int(known.sum()))


def class_accuracies(predictions: Predictions) -> dict[int, float]:
    """Returns label -> accuracy on its examples, for labels that have examples.

    Raises:
        errors.UserError: an image has several labels.
    """
    if (predictions.label < 0).any():
        raise errors.UserError(
            "class_accuracy: an image of this data set has several labels; leave it out"
        )
    label, hit = predictions.label, predictions.hit
    return {int(c): _mean(hit[label == c]) for c in np.unique(label)}


def calibration_error(confidence: np.ndarray, hit: np.ndarray) -> float:
    """Returns the mean gap between confidence and accuracy, over bins of confidence.

    The expected calibration error of Guo et al. 2017 (arXiv 1706.04599, equation 5)
    with 15 bins of equal width.

    Args:
        confidence: (n,) in [0, 1].
        hit: bool (n,).
    """
    if not len(hit):
        return 0.0
    # A confidence of exactly 1 belongs to the last bin.
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


def _mean(values: np.ndarray | list[float]) -> float:
    return float(np.mean(values, dtype=np.float64)) if len(values) else 0.0
