"""The rows of a prepared split, in file order or shuffled without any state.

Shuffled rows form one endless stream: epoch after epoch, each a fresh order of
all rows. The row at a position of that stream depends on the seed and the
position alone, so a run continues at any position without replaying the earlier
ones, and every host can pick its own part of each batch.
"""

import dataclasses
from typing import Any

import numpy as np
import tensorflow as tf

from vit_tf import errors
from vit_tf.data import data_source, random_keys, sharded_shuffle

# A split, or what is kept of it, of at most this many bytes is held in memory, still
# encoded. The data sets that the paper transfers to fit (Pets, the largest, has
# 0.8 GB); ImageNet (144 GB) does not, and no laptop is short of 1 GiB. A small part of
# a large split costs one pass over the files that hold it, at every start.
IN_MEMORY_BYTES = 2**30
# Larger splits are shuffled in windows of about this many bytes: 2,400 images of
# ImageNet. Up to three windows are in memory. The files themselves are shuffled
# already, when TFDS writes them.
WINDOW_BYTES = 2**28

_UNREADABLE = (
    tf.errors.DataLossError,  # a record is cut off or altered
    tf.errors.FailedPreconditionError,  # a file ends early
    tf.errors.NotFoundError,
    tf.errors.PermissionDeniedError,
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Share:
    """The part of every global batch that one host feeds.

    Attributes:
        batch_size: rows of the global batch.
        first: place of the host's first row in the batch.
        count: how many rows from there.
    """

    batch_size: int
    first: int
    count: int


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


def shuffled(
    source: data_source.Source,
    split: str,
    *,
    seed: int,
    start: int,
    share: Share,
    keep: np.ndarray | None = None,
) -> tf.data.Dataset:
    """Makes the endless stream of shuffled rows from position `start` on.

    Args:
        source: the prepared data set.
        split: a split expression.
        seed: chooses the orders of all epochs.
        start: position in the stream of all hosts' rows.
        share: which rows to give; the others are dropped undecoded.
        keep: the rows that there are, as a sorted vector of `index`; None: all.

    Returns:
        {epoch: int64, index: int64, record: string} scalars; `index` counts the
        rows of the split in file order.
    """
    shards = Shards(source, split, keep)
    num_examples = int(shards.counts.sum())
    order = _Order(num_examples, seed=seed, start=start, share=share)
    mean_bytes = source.num_bytes(split) / source.num_examples(split)
    if mean_bytes * num_examples <= IN_MEMORY_BYTES:
        return _from_memory(source, split, order, keep)
    return sharded_shuffle.stream(
        shards.counts,
        shards.read,
        order.permute,
        start=start,
        batch_size=share.batch_size,
        first=share.first,
        count=share.count,
        window=max(1, int(WINDOW_BYTES / mean_bytes)),
    )


def find_broken_file(source: data_source.Source, split: str) -> str | None:
    """Reads the split's files one by one; names the first that fails, and why."""
    shards = Shards(source, split)
    damages = (_find_damage(shards, number) for number in range(len(shards.paths)))
    return next((damage for damage in damages if damage), None)


@dataclasses.dataclass(frozen=True)
class _Order:
    """Which row stands where in the endless stream."""

    num_examples: int
    _: dataclasses.KW_ONLY
    seed: int
    start: int
    share: Share

    @property
    def first_epoch(self) -> int:
        return self.start // self.num_examples

    def permute(
        self, size: int | tf.Tensor, epoch: tf.Tensor, purpose: int | tf.Tensor
    ) -> tf.Tensor:
        """Orders 0..size-1 by (seed, epoch, purpose): (size,) int64.

        tf.random.experimental.index_shuffle would need no memory, but it knows
        256 orders only for sets below 65,536 rows (epoch 256 would repeat epoch
        0), and at its four rounds batches are not random samples.
        """
        key = tf.constant([self.seed, 0], tf.int64)
        key = random_keys.fold_in(key, epoch, purpose)
        return random_keys.shuffle(tf.range(size, dtype=tf.int64), key)

    def choose(self, epoch: tf.Tensor) -> tf.Tensor:
        """Orders an epoch, without the rows before the start and other hosts'."""
        rows = self.permute(self.num_examples, epoch, 0)
        position = epoch * self.num_examples + tf.range(
            self.num_examples, dtype=tf.int64
        )
        place = position % self.share.batch_size - self.share.first
        ours = (place >= 0) & (place < self.share.count) & (position >= self.start)
        return tf.boolean_mask(rows, ours)


def _from_memory(
    source: data_source.Source, split: str, order: _Order, keep: np.ndarray | None
) -> tf.data.Dataset:
    """Streams encoded rows from memory, which holds only the kept ones."""
    loaded = load_rows(source, split, keep)

    def permute(epoch: tf.Tensor) -> dict[str, tf.Tensor]:
        place = order.choose(epoch)
        return {"epoch": tf.fill(tf.shape(place), epoch), "place": place}

    def stream(loaded: dict[str, tf.Tensor]) -> tf.data.Dataset:
        rows = tf.data.Dataset.range(order.first_epoch, tf.int64.max).map(permute)
        rows = rows.prefetch(1).unbatch()
        return rows.map(
            lambda row: {
                "epoch": row["epoch"],
                "index": loaded["index"][row["place"]],
                "record": loaded["record"][row["place"]],
            }
        )

    # Through a data set of one element, because a function that captured the
    # records could make them a constant of its graph, and graphs end at 2 GB.
    return tf.data.Dataset.from_tensors(loaded).flat_map(stream)


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
