"""Lanes: every row once an epoch, whatever the hosts, from any position."""

import collections
import itertools

import numpy as np
import tensorflow as tf
from hypothesis import example, given, settings
from hypothesis import strategies as st

from vit_tf.data import sharded_shuffle


def _permute(size, epoch, purpose):
    fold_in = tf.random.experimental.stateless_fold_in
    key = tf.constant([7, 0], tf.int64)
    key = fold_in(fold_in(key, epoch), tf.cast(purpose, tf.int64))
    return tf.random.experimental.stateless_shuffle(
        tf.range(tf.cast(size, tf.int64)), key
    )


def _rows(counts, number, *, start=0, batch_size, first=0, count=None, window=8):
    """The first `number` rows as (epoch, file, row in the file)."""
    counts = np.array(counts, np.int64)

    def read(file):
        rows = tf.data.Dataset.range(tf.gather(counts, file))
        return rows.map(lambda row: {"file": file, "row": row})

    stream = sharded_shuffle.stream(
        counts,
        read,
        _permute,
        start=start,
        batch_size=batch_size,
        first=first,
        count=batch_size if count is None else count,
        window=window,
    )
    return [
        (int(r["epoch"]), int(r["file"]), int(r["row"]))
        for r in stream.take(number).as_numpy_iterator()
    ]


def _every(counts):
    return {(f, r) for f, count in enumerate(counts) for r in range(count)}


COUNTS = st.lists(st.integers(1, 9), min_size=1, max_size=12)


@settings(max_examples=2, deadline=None)
@given(
    counts=COUNTS,
    batch_size=st.sampled_from([1, 2, 6, 16, 24]),
    window=st.integers(1, 40),
)
def test_every_epoch_has_every_row_once(counts, batch_size, window):
    total = sum(counts)
    # Lanes may differ by a row, so that a batch or two hold rows of two epochs.
    rows = _rows(
        counts, 3 * total + 2 * batch_size, batch_size=batch_size, window=window
    )
    for epoch in range(3):
        found = [(f, r) for e, f, r in rows if e == epoch]
        assert len(found) == total and set(found) == _every(counts)


@settings(max_examples=2, deadline=None)
@given(
    counts=COUNTS,
    batch_size=st.sampled_from([2, 6, 16, 32]),
    start=st.integers(0, 150),
    window=st.integers(1, 40),
)
@example(counts=[5], batch_size=16, start=77, window=3)
def test_any_position_is_reached_without_what_lies_before(
    counts, batch_size, start, window
):
    whole = _rows(counts, start + 40, batch_size=batch_size, window=window)
    again = _rows(counts, 40, start=start, batch_size=batch_size, window=window)
    assert again == whole[start:]


@settings(max_examples=3, deadline=None)
@given(counts=COUNTS, hosts=st.sampled_from([2, 3, 4]), per_host=st.integers(1, 4))
def test_hosts_together_give_the_batch_of_one(counts, hosts, per_host):
    batch_size = hosts * per_host
    alone = _rows(counts, 5 * batch_size, batch_size=batch_size)
    parts = [
        _rows(
            counts,
            5 * per_host,
            batch_size=batch_size,
            first=host * per_host,
            count=per_host,
        )
        for host in range(hosts)
    ]
    for k in range(5):
        batch = [p[k * per_host : (k + 1) * per_host] for p in parts]
        assert list(itertools.chain(*batch)) == alone[k * batch_size :][:batch_size]


def test_hosts_read_files_apart():
    counts, hosts = [10] * 320, 4
    readers = collections.defaultdict(set)
    for host in range(hosts):
        rows = _rows(
            counts, 800, batch_size=32, first=8 * host, count=8, window=64
        )  # a quarter of the epoch
        for epoch, file, _ in rows:
            assert epoch == 0
            readers[file].add(host)
    assert len(readers) == 320
    assert all(len(found) == 1 for found in readers.values())


def test_orders_differ_between_epochs_and_mix_the_files():
    counts = [16] * 32
    rows = _rows(counts, 2 * 512, batch_size=32, window=512)
    first, second = ([r[1:] for r in rows if r[0] == e] for e in (0, 1))
    assert first != second
    batches = [rows[i : i + 32] for i in range(0, 512, 32)]
    assert min(len({file for _, file, _ in batch}) for batch in batches) > 8


def test_a_position_far_on_is_in_the_right_epoch():
    rows = _rows([3, 4], 7, start=7 * 10**6, batch_size=7)
    assert {epoch for epoch, *_ in rows} == {10**6}
