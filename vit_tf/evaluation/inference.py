"""One pass of a model over a split: a value of each example, exactly once.

The result does not depend on batch size or replicas: rows stand in the order of the
split's files, padding is removed, and the count is checked.
"""

import contextlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from vit_tf import config, errors
from vit_tf.data import (
    data_source,
    evaluation_stream,
    failing_records,
)
from vit_tf.runtime import multihost

# (model, `batches.EvalBatch`) -> {name: (batch, ...)} of numbers, on one replica. No
# bools, which hosts cannot gather.
Compute = Callable[[Any, Mapping[str, tf.Tensor]], Mapping[str, tf.Tensor]]


class InferencePass:
    """Runs `compute` over every example of a split; compiled once for all of them.

    Args:
        model: the first argument of `compute`.
        compute: gives a row for each example of a batch of `evaluation_stream.stream`.
        strategy: its replicas share each batch.
        processes: those of the run; all of them have to make the pass together.
    """

    def __init__(
        self,
        model: keras.Model,
        compute: Compute,
        *,
        strategy: tf.distribute.Strategy,
        processes: multihost.Processes,
    ):
        self.strategy, self.processes = strategy, processes

        def replica(batch):
            values = {**compute(model, batch), "index": batch["index"]}
            if processes.count == 1:
                return values
            # A host can read its own replicas only, so every replica gets all values.
            context = tf.distribute.get_replica_context()
            # all_gather needs tensors that are on a device; those that come straight
            # from the batch are not yet.
            own = {k: tf.identity(v) for k, v in values.items()}
            return {k: context.all_gather(v, axis=0) for k, v in own.items()}

        self.step = tf.function(
            lambda batch: strategy.run(replica, args=(batch,)), autograph=False
        )

    def over(
        self,
        source: data_source.Source,
        view: config.View,
        split: str,
        *,
        batch_size: int,
        keep: np.ndarray | None = None,
        on_progress: Callable[[int], None] | None = None,
    ) -> dict[str, np.ndarray]:
        """Computes the values of all examples of a split, in file order.

        Args:
            source: an opened data set.
            view: size and crop.
            split: a split expression.
            batch_size: global; rounded up to what the replicas can share.
            keep: the rows to read, sorted; None: all.
            on_progress: called after every batch with the number of examples done.

        Returns:
            The outputs of `compute`, each (examples, ...).

        Raises:
            errors.UserError: a record that cannot be read, by name.
            RuntimeError: the data gave another number of examples than the split has;
                a wrong count is never reported.
        """
        parts: dict[str, list[np.ndarray]] = {}
        done = 0
        with self._naming_failures(source, view, split, batch_size, keep):
            for batch in self._batches(source, view, split, batch_size, keep):
                values = {k: self._rows(v) for k, v in self.step(batch).items()}
                real = values["index"] >= 0  # -1 is padding
                for name, value in values.items():
                    parts.setdefault(name, []).append(value[real])
                done += int(real.sum())
                if on_progress is not None:
                    on_progress(done)
        rows = {name: np.concatenate(values) for name, values in parts.items()}
        index = rows.pop("index")
        expected = np.arange(source.num_examples(split)) if keep is None else keep
        if not np.array_equal(np.sort(index), expected):
            raise RuntimeError(
                f"split {split!r} of {source.name}: saw {len(index)} examples, need "
                f"{len(expected)}"
            )
        order = np.argsort(index)
        return {name: values[order] for name, values in rows.items()}

    @contextlib.contextmanager
    def _naming_failures(self, source, view, split, batch_size, keep):
        """Turns an error of TensorFlow into one line that names record or remedy."""
        try:
            yield
        except tf.errors.ResourceExhaustedError as error:
            raise errors.UserError(
                f"evaluating {split!r}: out of memory at {view.image_size} pixels with "
                f"{batch_size} images at a time; lower the batch size of the "
                "evaluation, which changes no number"
            ) from error
        except tf.errors.OpError as error:
            if self.processes.is_loss(error):  # another process died; not the data
                raise
            culprit = failing_records.find_in_split(source, view, split, keep)
            if culprit is None:
                raise
            raise errors.UserError(
                f"evaluating {split!r}: {culprit}; mend or remove it and prepare the "
                "data again"
            ) from error

    def _rows(self, value: tf.Tensor) -> np.ndarray:
        """Returns the rows of all replicas of all hosts."""
        parts = self.strategy.experimental_local_results(value)
        if self.processes.count > 1:  # gathered: each replica has them all
            return parts[0].numpy()
        return np.concatenate([part.numpy() for part in parts])

    def _batches(self, source, view, split, batch_size, keep) -> Iterator:
        replicas = self.strategy.num_replicas_in_sync
        stream = self.strategy.distribute_datasets_from_function(
            lambda context: evaluation_stream.stream(
                source,
                view,
                split,
                # Rounded up to a multiple of the replicas: any batch size gives the
                # same numbers.
                batch_size=-(-batch_size // replicas) * replicas,
                keep=keep,
                num_hosts=context.num_input_pipelines,
                host_index=context.input_pipeline_id,
                num_replicas=replicas,
            )
        )
        return iter(stream)
