"""The rows of a prepared split, shuffled without any state.

They form one endless stream: epoch after epoch, each a fresh order of
all rows. The row at a position of that stream depends on the seed and the
position alone, so a run continues at any position without replaying the earlier
ones, and every host can pick its own part of each batch.
"""

import dataclasses

import numpy as np
import tensorflow as tf

from vit_tf.data import data_source, random_keys, record_files, sharded_shuffle

# A split, or what is kept of it, of at most this many bytes is held in memory, still
# encoded. The data sets that the paper transfers to fit (Pets, the largest, has
# 0.8 GB); ImageNet (144 GB) does not, and no laptop is short of 1 GiB. A small part of
# a large split costs one pass over the files that hold it, at every start.
IN_MEMORY_BYTES = 2**30
# Larger splits are shuffled in windows of about this many bytes: 2,400 images of
# ImageNet. Up to three windows are in memory. The files themselves are shuffled
# already, when TFDS writes them.
WINDOW_BYTES = 2**28


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
    shards = record_files.Shards(source, split, keep)
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
    loaded = record_files.load_rows(source, split, keep)

    @tf.autograph.experimental.do_not_convert
    def permute(epoch: tf.Tensor) -> dict[str, tf.Tensor]:
        place = order.choose(epoch)
        return {"epoch": tf.fill(tf.shape(place), epoch), "place": place}

    @tf.autograph.experimental.do_not_convert
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
