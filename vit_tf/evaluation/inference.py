"""One pass of a model over a split: what it computes of each example, once.

What comes out does not depend on batches and replicas: rows stand in the order of
the split's files, padding is gone, and the count is checked.
"""

import contextlib
from collections.abc import Callable, Iterator

import numpy as np
import tensorflow as tf

from vit_tf import config, errors
from vit_tf.data import data_source, pipeline
from vit_tf.runtime import multihost

# (model, batch) -> {name: (batch, ...)} of numbers, on one replica. No bools, which
# hosts cannot gather.
Computes = Callable[[object, dict[str, tf.Tensor]], dict[str, tf.Tensor]]


class InferencePass:
    """Runs `compute` over every example of a split; compiled once for all of them.

    Args:
        model: the first argument of `compute`.
        compute: what is wanted of each example; gets the batches of
            `pipeline.eval_stream`.
        strategy: its replicas share each batch.
        among: the processes of a run; all of them have to make the pass together.
    """

    def __init__(
        self,
        model,
        compute: Computes,
        *,
        strategy: tf.distribute.Strategy,
        processes: multihost.Processes,
    ):
        self.strategy, self.processes = strategy, processes

        def replica(batch):
            values = {**compute(model, batch), "index": batch["index"]}
            if processes.count == 1:
                return values
            # Hosts see their own replicas only, so every replica tells all of them.
            context = tf.distribute.get_replica_context()
            # What comes straight from the batch has no device yet, which it needs.
            own = {k: tf.identity(v) for k, v in values.items()}
            return {k: context.all_gather(v, axis=0) for k, v in own.items()}

        self._step = tf.function(lambda batch: strategy.run(replica, args=(batch,)))

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
        """The values of all examples of a split, in file order.

        Args:
            source: an opened data set.
            view: size and crop.
            split: a split expression.
            batch_size: global; rounded up to what the replicas can share.
            keep: the rows that are wanted, sorted; None: all.
            on_progress: told after every batch how many examples are done.

        Returns:
            What `compute` gives, each (examples, ...).

        Raises:
            errors.UserError: a record that cannot be read, by name.
            RuntimeError: if the data gave another number of examples than the split
                has; a wrong count is never reported.
        """
        parts: dict[str, list[np.ndarray]] = {}
        done = 0
        with self._naming_failures(source, view, split, batch_size, keep):
            for batch in self._batches(source, view, split, batch_size, keep):
                values = {k: self._rows(v) for k, v in self._step(batch).items()}
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
        """Names the record that cannot be read, or what saves memory."""
        try:
            yield
        except tf.errors.ResourceExhaustedError as error:
            raise errors.UserError(
                f"evaluating {split!r}: out of memory at {view.image_size} pixels with "
                f"{batch_size} images at a time; lower the batch size of the "
                "evaluation, which changes no number"
            ) from error
        except tf.errors.OpError as error:
            if self.processes.is_loss(error):  # not the data's fault
                raise
            culprit = pipeline.find_corrupt_eval(source, view, split, keep)
            if culprit is None:
                raise
            raise errors.UserError(
                f"evaluating {split!r}: {culprit}; mend or remove it and prepare the "
                "data again"
            ) from error

    def _rows(self, value) -> np.ndarray:
        """The rows of all replicas of all hosts."""
        parts = self.strategy.experimental_local_results(value)
        if self.processes.count > 1:  # each has them all
            return parts[0].numpy()
        return np.concatenate([part.numpy() for part in parts])

    def _batches(self, source, view, split, batch_size, keep) -> Iterator:
        replicas = self.strategy.num_replicas_in_sync
        stream = self.strategy.distribute_datasets_from_function(
            lambda context: pipeline.eval_stream(
                source,
                view,
                split,
                # Rounded up, as any batch size gives the same numbers.
                batch_size=-(-batch_size // replicas) * replicas,
                keep=keep,
                num_hosts=context.num_input_pipelines,
                host_index=context.input_pipeline_id,
                num_replicas=replicas,
            )
        )
        return iter(stream)
