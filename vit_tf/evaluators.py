"""Evaluations: each example exactly once, each number with its count."""

import dataclasses
import math
from collections.abc import Callable, Iterator

import tensorflow as tf

from vit_tf import config, hosts
from vit_tf.data import datasets, pipeline

NAMES = ("accuracy", "loss")  # what an evaluation gives


@dataclasses.dataclass(frozen=True)
class Metric:
    """One number of an evaluation.

    Attributes:
        split: the TFDS split expression that was evaluated.
        name: 'accuracy' (share of examples) or 'loss' (nats per example).
        value: the number.
        count: how many examples it is the mean of.
    """

    split: str
    name: str
    value: float
    count: int


class Classification:
    """Top-1 accuracy and mean loss over a split, for any batch and replicas.

    Compiled once; the same object evaluates every split of a run.
    """

    def __init__(
        self,
        *,
        model,
        objective,
        strategy: tf.distribute.Strategy,
        among: hosts.Hosts,
    ):
        self.strategy, self.among = strategy, among
        self._sums = tf.function(_sums_of(model, objective, strategy))

    def evaluate(
        self,
        source: datasets.Source,
        data: config.Data,
        split: str,
        *,
        batch_size: int,
    ) -> list[Metric]:
        """Evaluates every example of `split` once.

        Raises:
            RuntimeError: if the data gave another number of examples than the
                split has; a wrong count is never reported.
        """
        correct, loss, count, labelled = 0, 0.0, 0, 0
        try:
            for batch in self._batches(source, data, split, batch_size):
                hits, nats, number, known = (
                    float(s.numpy()) for s in self._sums(batch)
                )
                correct, loss = correct + int(hits), loss + nats
                count, labelled = count + int(number), labelled + int(known)
        except tf.errors.OpError as error:
            if self.among.is_loss(error):  # not the data's fault
                raise
            culprit = pipeline.find_corrupt_eval(source, data, split)
            if culprit is None:
                raise
            raise config.Refused(
                f"evaluating {split!r}: {culprit}; mend or remove it and prepare the "
                "data again"
            ) from error
        expected = source.num_examples(split)
        if count != expected:
            raise RuntimeError(
                f"split {split!r} of {source.name}: saw {count} examples, it has "
                f"{expected}"
            )
        if not math.isfinite(loss):
            raise config.Refused(
                f"evaluating {split!r}: the loss is {loss / count}; the weights have "
                "grown too large, train with a lower optim.lr"
            )
        return [
            # ReaL's rule: an image without any label can be neither right nor wrong.
            Metric(split, "accuracy", correct / max(labelled, 1), labelled),
            Metric(split, "loss", loss / count, count),
        ]

    def _batches(self, source, data, split, batch_size) -> Iterator:
        replicas = self.strategy.num_replicas_in_sync
        stream = self.strategy.distribute_datasets_from_function(
            lambda context: pipeline.eval_stream(
                source,
                data,
                split,
                # Rounded up, as any batch size gives the same numbers.
                batch_size=-(-batch_size // replicas) * replicas,
                num_hosts=context.num_input_pipelines,
                host_index=context.input_pipeline_id,
                num_replicas=replicas,
            )
        )
        return iter(stream)


def _sums_of(model, objective, strategy) -> Callable:
    """batch -> (correct, summed loss, examples, labelled ones) over all replicas."""

    def replica_sums(batch):
        losses, logits = objective(model, batch, training=False)
        mask = batch["mask"]
        hits = is_hit(logits, batch["label"])
        return (
            tf.reduce_sum(tf.cast(hits & mask, tf.float32)),
            tf.reduce_sum(tf.where(mask, losses, 0.0)),
            tf.reduce_sum(tf.cast(mask, tf.float32)),
            tf.reduce_sum(tf.cast(mask & has_label(batch["label"]), tf.float32)),
        )

    def sums(batch):
        results = strategy.run(replica_sums, args=(batch,))
        return [strategy.reduce("SUM", r, axis=None) for r in results]

    return sums


def is_hit(logits: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
    """Whether the likeliest class is the label, or one of several: bool (batch,).

    Args:
        logits: (batch, classes).
        labels: int32 (batch,), or multi-hot float32 (batch, classes).
    """
    best = tf.argmax(logits, axis=-1, output_type=tf.int32)
    if labels.dtype == tf.int32:
        return tf.equal(best, labels)
    return tf.gather(labels, best, batch_dims=1) > 0


def has_label(labels: tf.Tensor) -> tf.Tensor:
    """Whether an image has any label: bool (batch,); see `is_hit`."""
    if labels.dtype == tf.int32:
        return tf.ones_like(labels, tf.bool)
    return tf.reduce_max(labels, axis=1) > 0
