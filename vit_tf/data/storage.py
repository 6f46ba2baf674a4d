"""The rows of a prepared split, in file order or shuffled without any state.

Shuffled rows form one endless stream: epoch after epoch, each a fresh order of
all rows. The row at a position of that stream depends on the seed and the
position alone, so a run continues at any position without replaying the earlier
ones, and every host can pick its own part of each batch.
"""

import dataclasses
import math

import numpy as np
import tensorflow as tf

from vit_tf import config
from vit_tf.data import datasets

# A split of at most this many bytes is held in memory, still encoded. The data
# sets that the paper transfers to fit (Pets, the largest, has 0.8 GB); ImageNet
# (144 GB) does not, and no laptop is short of 1 GiB.
IN_MEMORY_BYTES = 2**30
# Larger splits are read in groups of this many files at a time, interleaved, ...
SHARDS_PER_GROUP = 16
# ... and shuffled in windows of about this many bytes: 2,400 images of ImageNet.
# Up to three windows are in memory. The files themselves are shuffled already,
# when TFDS writes them.
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


def in_order(source: datasets.Source, split: str) -> tf.data.Dataset:
    """Every row once, in file order: {index: int64, record: string} scalars."""
    shards = _Shards(source, split)
    return tf.data.Dataset.range(len(shards.takes)).flat_map(shards.read)


def shuffled(
    source: datasets.Source, split: str, *, seed: int, start: int, share: Share
) -> tf.data.Dataset:
    """The endless stream of shuffled rows from position `start` on.

    Args:
        source: the prepared data set.
        split: a split expression.
        seed: chooses the orders of all epochs.
        start: position in the stream of all hosts' rows.
        share: which rows to give; the others are dropped undecoded.

    Returns:
        {epoch: int64, index: int64, record: string} scalars; `index` counts the
        rows of the split in file order.
    """
    order = _Order(source.num_examples(split), seed=seed, start=start, share=share)
    if source.num_bytes(split) <= IN_MEMORY_BYTES:
        return _from_memory(source, split, order)
    return _from_files(source, split, order)


def find_broken_file(source: datasets.Source, split: str) -> str | None:
    """Reads the split's files one by one; names the first that fails, and why."""
    shards = _Shards(source, split)
    for number, path in enumerate(shards.paths):
        try:
            for _ in shards.read(number):
                pass
        except _UNREADABLE as error:
            kind = type(error).__name__.removesuffix("Error")
            return f"{path} is damaged, cut off or missing ({kind})"
    return None


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
    ):
        """0..size-1 in an order that (seed, epoch, purpose) decide: (size,) int64.

        tf.random.experimental.index_shuffle would need no memory, but it knows
        256 orders only for sets below 65,536 rows (epoch 256 would repeat epoch
        0), and at its four rounds batches are not random samples.
        """
        fold_in = tf.random.experimental.stateless_fold_in
        key = tf.constant([self.seed, 0], tf.int64)
        key = fold_in(
            fold_in(key, tf.cast(epoch, tf.int64)), tf.cast(purpose, tf.int64)
        )
        return tf.random.experimental.stateless_shuffle(
            tf.range(size, dtype=tf.int64), key
        )

    def choose(self, size: int | tf.Tensor, epoch: tf.Tensor, first: int | tf.Tensor):
        """Shuffles `size` rows that fill an epoch from place `first` on.

        Returns:
            int64 numbers below `size`, in order, without the rows before the
            start and those of other hosts.
        """
        rows = self.permute(size, epoch, first)
        position = epoch * self.num_examples + first + tf.range(size, dtype=tf.int64)
        place = position % self.share.batch_size - self.share.first
        ours = (place >= 0) & (place < self.share.count) & (position >= self.start)
        return tf.boolean_mask(rows, ours)


def _from_memory(source: datasets.Source, split: str, order: _Order) -> tf.data.Dataset:
    """Random access to encoded rows in memory."""
    records = _load(source, split)

    def permute(epoch: tf.Tensor) -> dict[str, tf.Tensor]:
        index = order.choose(order.num_examples, epoch, 0)
        return {"epoch": tf.fill(tf.shape(index), epoch), "index": index}

    def stream(records: tf.Tensor) -> tf.data.Dataset:
        rows = tf.data.Dataset.counter(order.first_epoch).map(permute)
        rows = rows.prefetch(1).unbatch()
        return rows.map(lambda row: {**row, "record": records[row["index"]]})

    # Through a data set of one element, because a function that captured the
    # records could make them a constant of its graph, and graphs end at 2 GB.
    return tf.data.Dataset.from_tensors(records).flat_map(stream)


def _from_files(source: datasets.Source, split: str, order: _Order) -> tf.data.Dataset:
    """Groups of files in a shuffled order, rows shuffled in windows of a group."""
    shards = _Shards(source, split)
    num_shards = len(shards.takes)
    num_groups = math.ceil(num_shards / SHARDS_PER_GROUP)
    mean_bytes = source.num_bytes(split) / order.num_examples
    window = max(1, int(WINDOW_BYTES / mean_bytes))

    def shard_order(epoch: tf.Tensor) -> tf.Tensor:
        return order.permute(num_shards, epoch, -1)  # places of windows are >= 0

    def read_group(number: tf.Tensor) -> tf.data.Dataset:
        epoch, group = number // num_groups, number % num_groups
        chosen = shard_order(epoch)
        before = chosen[: group * SHARDS_PER_GROUP]
        chosen = chosen[group * SHARDS_PER_GROUP :][:SHARDS_PER_GROUP]
        first = tf.reduce_sum(tf.gather(shards.takes, before))

        def shuffle(window_number: tf.Tensor, rows: dict) -> dict[str, tf.Tensor]:
            size = tf.size(rows["index"])
            picked = order.choose(size, epoch, first + window_number * window)
            return {
                "epoch": tf.fill(tf.shape(picked), epoch),
                "index": tf.gather(rows["index"], picked),
                "record": tf.gather(rows["record"], picked),
            }

        rows = tf.data.Dataset.from_tensor_slices(chosen).interleave(
            shards.read,
            cycle_length=SHARDS_PER_GROUP,
            num_parallel_calls=tf.data.AUTOTUNE,
            deterministic=True,
        )
        return rows.batch(window).enumerate().map(shuffle)

    # Whole groups before the start are passed over by their counts alone.
    with tf.device("CPU"):
        chosen = shard_order(tf.constant(order.first_epoch, tf.int64)).numpy()
    ends = np.cumsum(shards.takes[chosen])[SHARDS_PER_GROUP - 1 :: SHARDS_PER_GROUP]
    place = order.start - order.first_epoch * order.num_examples
    passed = np.searchsorted(ends, place, side="right")
    groups = tf.data.Dataset.counter(order.first_epoch * num_groups + passed)
    return groups.flat_map(read_group).prefetch(1).unbatch()


class _Shards:
    """The files of a split, readable by number inside a graph."""

    def __init__(self, source: datasets.Source, split: str) -> None:
        shards = source.shards(split)
        self.paths = [shard.filename for shard in shards]
        self.takes = np.array([shard.take for shard in shards], np.int64)
        self._skips = np.array([shard.skip for shard in shards], np.int64)
        self._firsts = np.cumsum(self.takes) - self.takes

    def read(self, number: int | tf.Tensor) -> tf.data.Dataset:
        """Rows {index, record} of one file. Fails if the file ends early."""
        take = tf.gather(self.takes, number)
        first = tf.gather(self._firsts, number)
        records = tf.data.TFRecordDataset(tf.gather(self.paths, number))
        records = records.skip(tf.gather(self._skips, number)).take(take)
        records = records.apply(tf.data.experimental.assert_cardinality(take))
        indices = tf.data.Dataset.range(first, first + take)
        return tf.data.Dataset.zip({"index": indices, "record": records})


def _load(source: datasets.Source, split: str) -> tf.Tensor:
    """All serialized rows of a split in file order, a string vector."""
    rows = in_order(source, split).batch(source.num_examples(split))
    try:
        (row,) = rows
    except _UNREADABLE:
        broken = find_broken_file(source, split)
        raise config.Refused(f"{source.name}: {broken}; prepare it again") from None
    return row["record"]
