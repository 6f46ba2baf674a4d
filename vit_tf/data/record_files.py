"""The rows of a prepared split in file order, and which of its files is broken."""

from typing import Any

import numpy as np
import tensorflow as tf

from vit_tf import errors
from vit_tf.data import data_source

_UNREADABLE = (
    tf.errors.DataLossError,  # a record is cut off or altered
    tf.errors.FailedPreconditionError,  # a file ends early
    tf.errors.NotFoundError,
    tf.errors.PermissionDeniedError,
)


def in_order(
    source: data_source.Source, split: str, keep: np.ndarray | None = None
) -> tf.data.Dataset:
    """Yields rows once each, in file order: {index: int64, record: string} scalars.

    Args:
        source: the prepared data set.
        split: a split expression.
        keep: the rows to give, as a sorted vector of `index`; None: all.
    """
    shards = Shards(source, split, keep)
    return tf.data.Dataset.range(len(shards.counts)).flat_map(shards.read)


def load_rows(
    source: data_source.Source, split: str, keep: np.ndarray | None
) -> dict[str, tf.Tensor]:
    """Loads the kept rows in file order: vectors of index and serialized record."""
    count = source.num_examples(split) if keep is None else len(keep)
    try:
        (loaded,) = in_order(source, split, keep).batch(count)
    except _UNREADABLE:
        broken = find_broken_file(source, split)
        raise errors.UserError(f"{source.name}: {broken}; prepare it again") from None
    return loaded


def find_broken_file(source: data_source.Source, split: str) -> str | None:
    """Reads the split's files one by one; names the first that fails, and why."""
    shards = Shards(source, split)
    damages = (_find_damage(shards, number) for number in range(len(shards.paths)))
    return next((damage for damage in damages if damage), None)


class Shards:
    """The files of a split that hold rows to keep, readable by number in a graph.

    Attributes:
        paths: the files.
        counts: int64, how many rows of each are kept.
    """

    def __init__(
        self, source: data_source.Source, split: str, keep: np.ndarray | None = None
    ) -> None:
        shards = source.shards(split)
        takes = np.array([shard.take for shard in shards], np.int64)
        firsts = np.cumsum(takes) - takes
        self._kept = None
        self.counts = takes
        if keep is not None:
            kept = np.zeros(takes.sum(), bool)
            kept[keep] = True
            self.counts = np.add.reduceat(kept, firsts, dtype=np.int64)
            with tf.device("CPU"):  # a tensor, as an array would be in the graph
                self._kept = tf.constant(kept)
        used = np.flatnonzero(self.counts)
        self.paths = [shards[number].filename for number in used]
        self.counts = self.counts[used]
        self._skips = np.array([shards[number].skip for number in used], np.int64)
        self._takes = takes[used]
        self._firsts = firsts[used]

    @tf.autograph.experimental.do_not_convert
    def read(self, number: int | tf.Tensor) -> tf.data.Dataset:
        """Rows {index, record} of one file. Fails if the file ends early."""
        take = tf.gather(self._takes, number)
        first = tf.gather(self._firsts, number)
        records = tf.data.TFRecordDataset(tf.gather(self.paths, number))
        records = records.skip(tf.gather(self._skips, number)).take(take)
        records = records.apply(tf.data.experimental.assert_cardinality(take))
        indices = tf.data.Dataset.range(first, first + take)
        rows = tf.data.Dataset.zip({"index": indices, "record": records})
        if self._kept is None:
            return rows

        @tf.autograph.experimental.do_not_convert
        def is_kept(row: Any) -> tf.Tensor:
            return tf.gather(self._kept, row["index"])

        return rows.filter(is_kept)


def _find_damage(shards: Shards, number: int) -> str | None:
    """Reads one file to its end; names it and says what is wrong, if anything is."""
    path = shards.paths[number]
    try:
        for _ in shards.read(number):
            pass
    except _UNREADABLE as error:
        kind = type(error).__name__.removesuffix("Error")
        return f"{path} is damaged, cut off or missing ({kind})"
    return None
