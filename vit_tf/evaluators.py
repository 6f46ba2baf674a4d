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

    def __init__(self, *, model, objective, strategy: tf.distribute.Strategy):
        self.strategy = strategy
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
        correct, loss, count = 0, 0.0, 0
        try:
            for batch in self._batches(source, data, split, batch_size):
                hits, nats, number = (float(s.numpy()) for s in self._sums(batch))
                correct, loss, count = (
                    correct + int(hits),
                    loss + nats,
                    count + int(number),
                )
        except hosts.LOST:  # not the data's fault
            raise
        except tf.errors.OpError as error:
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
            Metric(split, "accuracy", correct / count, count),
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
    """batch -> (correct, summed loss, examples) over all replicas."""

    def replica_sums(batch):
        losses, logits = objective(model, batch, training=False)
        mask = batch["mask"]
        hits = tf.equal(
            tf.argmax(logits, axis=-1, output_type=tf.int32), batch["label"]
        )
        return (
            tf.reduce_sum(tf.cast(hits & mask, tf.float32)),
            tf.reduce_sum(tf.where(mask, losses, 0.0)),
            tf.reduce_sum(tf.cast(mask, tf.float32)),
        )

    def sums(batch):
        results = strategy.run(replica_sums, args=(batch,))
        return [strategy.reduce("SUM", r, axis=None) for r in results]

    return sums
