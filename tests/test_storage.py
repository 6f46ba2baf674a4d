"""Order of rows: fresh every epoch, whole, and a function of seed and position."""

import itertools
import pathlib

import hypothesis
import numpy as np
import pytest
import tensorflow as tf
import tensorflow_datasets as tfds
from hypothesis import strategies as st

from vit_tf import config
from vit_tf.data import datasets, storage
from vit_tf.data.builders import digits

# Rows in seven files, the last one cut.
SPLIT = "test[:399]"
NUM_ROWS = 399


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> datasets.Source:
    root = tmp_path_factory.mktemp("shards")
    digits.Digits(data_dir=root).download_and_prepare(
        download_config=tfds.download.DownloadConfig(num_shards=7)
    )
    return datasets.open_source("digits", str(root))


@pytest.fixture(params=["memory", "files"])
def path(request, monkeypatch) -> str:
    """Both ways of reading; from files in three groups with windows of 30 rows."""
    if request.param == "files":
        monkeypatch.setattr(storage, "IN_MEMORY_BYTES", 0)
        monkeypatch.setattr(storage, "SHARDS_PER_GROUP", 3)
        monkeypatch.setattr(storage, "WINDOW_BYTES", 30 * 190)
    return request.param


def _share(batch_size: int = 10, first: int = 0, count: int | None = None):
    return storage.Share(
        batch_size=batch_size,
        first=first,
        count=batch_size - first if count is None else count,
    )


def _indices(source, count, *, seed=0, start=0, share=None, split=SPLIT) -> list[int]:
    rows = storage.shuffled(
        source, split, seed=seed, start=start, share=share or _share()
    )
    return [int(row["index"]) for row in rows.take(count)]


def _shard_of(source: datasets.Source, indices: list[int]) -> np.ndarray:
    """Which of the split's files holds each row."""
    ends = np.cumsum([shard.take for shard in source.shards(SPLIT)])
    return np.searchsorted(ends, indices, side="right")


def test_rows_in_order_are_those_that_tfds_reads(source):
    ours = list(storage.in_order(source, "train[10%:60%]"))
    one_by_one = tfds.ReadConfig(interleave_cycle_length=1)
    theirs = source.builder.as_dataset("train[10%:60%]", read_config=one_by_one)
    assert [int(row["index"]) for row in ours] == list(range(len(theirs)))
    for row, example in zip(ours, theirs, strict=True):
        parsed = source.parse(row["record"])
        assert int(parsed["label"]) == int(example["label"])
        image = tf.io.decode_png(parsed["image"])
        np.testing.assert_array_equal(image, example["image"])


def test_every_epoch_holds_every_row_once_in_a_new_order(source, path):
    seen = _indices(source, 3 * NUM_ROWS)
    epochs = [tuple(seen[i * NUM_ROWS :][:NUM_ROWS]) for i in range(3)]
    assert all(sorted(epoch) == list(range(NUM_ROWS)) for epoch in epochs)
    assert len({*epochs, tuple(range(NUM_ROWS))}) == 4


def test_rows_carry_their_epoch_and_record(source, path):
    records = {int(r["index"]): r["record"] for r in storage.in_order(source, SPLIT)}
    rows = storage.shuffled(source, SPLIT, seed=3, start=300, share=_share())
    for place, row in enumerate(rows.take(200), start=300):
        assert int(row["epoch"]) == place // NUM_ROWS
        assert row["record"] == records[int(row["index"])]


def test_a_stream_can_start_anywhere(source, path):
    whole = _indices(source, 3 * NUM_ROWS, seed=2**31 - 1)

    @hypothesis.settings(deadline=None, max_examples=8)
    @hypothesis.given(start=st.integers(0, 3 * NUM_ROWS - 40))
    @hypothesis.example(start=NUM_ROWS)
    @hypothesis.example(start=NUM_ROWS - 1)
    def check(start):
        rest = _indices(source, 40, seed=2**31 - 1, start=start)
        assert rest == whole[start : start + 40]

    check()


def test_a_stream_can_start_far_away(source, path):
    start = 5_000_000 * NUM_ROWS + 17  # epoch numbers beyond 16 bits, as rows do
    assert len(set(_indices(source, NUM_ROWS - 17, start=start))) == NUM_ROWS - 17


def test_seeds_give_orders_of_their_own(source, path):
    orders = {tuple(_indices(source, 30, seed=seed)) for seed in (0, 1, 256, 2**30)}
    assert len(orders) == 4


def test_orders_do_not_come_back_after_256_epochs(source):
    # tf.random.experimental.index_shuffle does: the reason not to use it.
    later = _indices(source, NUM_ROWS, start=256 * NUM_ROWS)
    assert _indices(source, NUM_ROWS) != later


@pytest.mark.parametrize("count", [5, 10])
def test_hosts_share_every_batch(source, path, count):
    whole = _indices(source, 900, seed=5, start=20)
    parts = [
        _indices(source, 90 * count, seed=5, start=20, share=_share(10, first, count))
        for first in range(0, 10, count)
    ]
    batches = np.array(whole).reshape(90, 10)
    np.testing.assert_array_equal(
        np.hstack([np.reshape(part, (90, count)) for part in parts]), batches
    )


def test_orders_are_uniform(source):
    # Where row 0 comes in 300 epochs: ten bins of 30, chi-square with 9 degrees.
    rows = storage.shuffled(source, "test[:10]", seed=1, start=0, share=_share())
    firsts = [int(row["index"]) for row in rows.take(3000)][::10]
    counts = np.bincount(firsts, minlength=10)
    assert ((counts - 30) ** 2 / 30).sum() < 27.9  # exceeded once in 1,000 seeds


def test_windows_mix_files_and_rows(source, monkeypatch):
    monkeypatch.setattr(storage, "IN_MEMORY_BYTES", 0)
    monkeypatch.setattr(storage, "SHARDS_PER_GROUP", 4)
    monkeypatch.setattr(storage, "WINDOW_BYTES", 100 * 190)
    shard = _shard_of(source, _indices(source, 100))
    assert len(set(shard)) == 4  # the group's files, ...
    assert (np.diff(shard) == 0).sum() < 50  # ... not one after the other


def test_files_before_the_start_are_not_read(source, monkeypatch, tmp_path):
    monkeypatch.setattr(storage, "IN_MEMORY_BYTES", 0)
    monkeypatch.setattr(storage, "SHARDS_PER_GROUP", 2)
    whole = _indices(source, NUM_ROWS, seed=2)
    shards = source.shards(SPLIT)
    group = list(dict.fromkeys(_shard_of(source, whole)))[:2]
    start = sum(shards[number].take for number in group)
    moved = [pathlib.Path(shards[number].filename) for number in group]
    for file in moved:
        file.rename(tmp_path / file.name)
    try:
        assert _indices(source, 200, seed=2, start=start) == whole[start : start + 200]
        with pytest.raises(tf.errors.NotFoundError):
            _indices(source, 1, seed=2)
    finally:
        for file in moved:
            (tmp_path / file.name).rename(file)


def test_records_in_memory_are_no_constants_of_a_graph(source):
    # A GraphDef ends at 2 GB; TensorFlow makes constants of short vectors.
    def graph_bytes(split: str) -> int:
        rows = storage.shuffled(source, split, seed=0, start=0, share=_share())
        graphs = [f.function.graph.as_graph_def() for f in rows._functions()]
        return sum(graph.ByteSize() for graph in graphs)

    more_bytes = source.num_bytes("test[:110]") - source.num_bytes("test[:10]")
    assert graph_bytes("test[:110]") - graph_bytes("test[:10]") < more_bytes / 10


def test_fewer_rows_than_a_batch(source, path):
    seen = _indices(source, 30, split="test[:3]")
    assert [sorted(seen[i : i + 3]) for i in range(0, 30, 3)] == [[0, 1, 2]] * 10


@pytest.mark.parametrize("damage", ["cut", "cut between records", "altered", "gone"])
def test_a_damaged_file_is_named(tmp_path, monkeypatch, damage):
    digits.Digits(data_dir=tmp_path).download_and_prepare(
        download_config=tfds.download.DownloadConfig(num_shards=3)
    )
    source = datasets.open_source("digits", str(tmp_path))
    assert storage.find_broken_file(source, "train") is None
    file = pathlib.Path(source.shards("train")[1].filename)
    content = file.read_bytes()
    if damage == "gone":
        file.unlink()
    elif damage == "cut":
        file.write_bytes(content[:-10])
    elif damage == "altered":
        file.write_bytes(content[:2000] + bytes([content[2000] ^ 1]) + content[2001:])
    else:
        # A record is its length (8 bytes), a checksum (4), the data, a checksum (4).
        ends = [0]
        while ends[-1] < len(content):
            length = int.from_bytes(content[ends[-1] :][:8], "little")
            ends.append(ends[-1] + length + 16)
        file.write_bytes(content[: ends[-2]])
    assert file.name in storage.find_broken_file(source, "train")
    with pytest.raises(config.Refused, match=file.name):
        storage.shuffled(source, "train", seed=0, start=0, share=_share())
    monkeypatch.setattr(storage, "IN_MEMORY_BYTES", 0)
    with pytest.raises(tf.errors.OpError):
        rows = storage.shuffled(source, "train", seed=0, start=0, share=_share())
        for _ in itertools.islice(rows, 2000):
            pass
