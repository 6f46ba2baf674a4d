"""The order of a split that is too large for memory: lanes that hosts read apart.

Every epoch lays the files in a fresh order, end to end, and cuts that row of rows
into lanes of equal length. A batch takes equally many rows from each lane, and each
lane shuffles its rows in windows. A host reads the lanes of its part of the batch and
no other file (but for the two in which a lane begins and ends), yet which examples
are in a batch does not depend on the hosts. Where a lane stands at a step follows
from counts, so a run goes on anywhere by reading what comes next: no more than one
file per lane lies before it.
"""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

# Lanes of a batch that 16 divides; else their largest common divisor. As many hosts
# can read files apart, and as many files are read at a time.
LANES = 16

_SHARDS = -1  # what `permute` shuffles; windows have numbers from 0


def stream(
    counts: np.ndarray,
    read: Callable[[tf.Tensor], tf.data.Dataset],
    permute: Callable[..., tf.Tensor],
    *,
    start: int,
    batch_size: int,
    first: int,
    count: int,
    window: int,
) -> tf.data.Dataset:
    """Makes the endless stream of one host's rows.

    Args:
        counts: (files,) int64, rows in each file.
        read: file number, an int64 scalar, to its rows as {name: tensor} scalars.
        permute: (size, epoch, purpose) to 0..size-1 in an order that these decide.
        start: position in the stream of all hosts' rows.
        batch_size: global.
        first: place of this host's first row in each batch.
        count: rows from there.
        window: rows that are shuffled together, over all lanes.

    Returns:
        Rows as `read` gives them, with their epoch, int64.
    """
    lanes = math.gcd(batch_size, LANES)
    width = batch_size // lanes  # rows of a lane in each batch
    lane = _Lane(
        counts,
        read,
        permute,
        lanes=lanes,
        width=width,
        start=start // batch_size * width,
        window=max(1, window // lanes),
    )
    low, high = first // width, -(-(first + count) // width)
    rows = tf.data.Dataset.range(low, high).interleave(
        lane.batches,
        cycle_length=high - low,
        block_length=1,
        num_parallel_calls=high - low,
        deterministic=True,
    )
    rows = rows.unbatch()
    # Where lanes are not a host's own it drops the others' rows; and a start within a
    # batch drops the rows of that batch before it.
    places = np.arange(low * width, high * width)
    ours = (places >= first) & (places < first + count)
    if not ours.all():
        kept = tf.constant(ours)

        def is_ours(number: Any, *_: Any) -> tf.Tensor:
            return kept[number % len(ours)]

        rows = rows.enumerate().filter(is_ours).map(lambda _, row: row)
    return rows.skip(int((ours & (places < start % batch_size)).sum()))


class _Lane:
    """One lane, by its number, an int64 scalar tensor.

    With n rows in an epoch and L lanes, lane j has floor((e n + j) / L) rows before
    epoch e. So lanes never differ by more than a row, and those of an epoch have n
    together (Hermite's identity).
    """

    def __init__(
        self,
        counts: np.ndarray,
        read: Callable[[tf.Tensor], tf.data.Dataset],
        permute: Callable[..., tf.Tensor],
        *,
        lanes: int,
        width: int,
        start: int,
        window: int,
    ) -> None:
        self.counts, self.read, self.permute = counts, read, permute
        self.lanes, self.width = lanes, width
        self.start, self.window = start, window
        self.total = int(counts.sum())

    @tf.autograph.experimental.do_not_convert
    def batches(self, number: tf.Tensor) -> tf.data.Dataset:
        """Yields the lane's rows in groups of `width`, its part of a batch."""
        return self.rows(number).batch(self.width, drop_remainder=True)

    def rows(self, number: tf.Tensor) -> tf.data.Dataset:
        """Yields the lane's endless rows from its `start` on."""
        # The last epoch that has at most `start` rows before it.
        first = ((self.start + 1) * self.lanes - 1 - number) // self.total
        passed = self.start - self._before(first, number)

        def read_epoch(epoch: tf.Tensor) -> tf.data.Dataset:
            skipped = tf.where(epoch == first, passed, tf.zeros_like(passed))
            return self._read_epoch(epoch, number, skipped)

        epochs = tf.data.Dataset.range(tf.int64.max).map(lambda i: first + i)
        return epochs.flat_map(read_epoch).prefetch(1).unbatch()

    def _before(self, epoch: tf.Tensor, number: tf.Tensor) -> tf.Tensor:
        """Counts the rows of a lane before an epoch."""
        return (epoch * self.total + number) // self.lanes

    def _read_epoch(
        self, epoch: tf.Tensor, number: tf.Tensor, skipped: tf.Tensor
    ) -> tf.data.Dataset:
        """Yields shuffled windows of the lane's rows in one epoch, less `skipped` rows."""
        others = tf.range(self.lanes, dtype=tf.int64)
        sizes = self._before(epoch + 1, others) - self._before(epoch, others)
        begin = tf.reduce_sum(sizes[:number])
        end = begin + sizes[number]
        first_window = skipped // self.window
        pieces = self._pieces(epoch, begin + first_window * self.window, end)
        rows = pieces.flat_map(
            lambda piece: self.read(piece[0]).skip(piece[1]).take(piece[2])
        )

        def shuffle(i: tf.Tensor, rows: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
            size = tf.size(tf.nest.flatten(rows)[0], tf.int64)
            order = self.permute(size, epoch, i * self.lanes + number)
            order = order[tf.maximum(skipped - i * self.window, 0) :]
            picked = {name: tf.gather(value, order) for name, value in rows.items()}
            return picked | {"epoch": tf.fill(tf.shape(order), epoch)}

        return rows.batch(self.window).enumerate(first_window).map(shuffle)

    def _pieces(
        self, epoch: tf.Tensor, begin: tf.Tensor, end: tf.Tensor
    ) -> tf.data.Dataset:
        """Yields (file, rows to skip, rows to take) of rows begin to end of an epoch."""
        chosen = self.permute(len(self.counts), epoch, _SHARDS)
        sizes = tf.gather(self.counts, chosen)
        ends = tf.cumsum(sizes)
        starts = ends - sizes
        low, high = tf.maximum(starts, begin), tf.minimum(ends, end)
        pieces = tf.stack([chosen, low - starts, high - low], axis=1)
        return tf.data.Dataset.from_tensor_slices(tf.boolean_mask(pieces, low < high))
