"""Order of rows: fresh every epoch, whole, and a function of seed and position."""

import itertools
import pathlib

import hypothesis
import numpy as np
import pytest
import tensorflow as tf
import tensorflow_datasets as tfds
from hypothesis import strategies as st

from vit_tf import errors
from vit_tf.data import (
    catalog,
    data_source,
    record_files,
    record_store,
    sharded_shuffle,
)
from vit_tf.data.builders import digits

# Rows in seven files, the last one cut.
SPLIT = "test[:399]"
NUM_ROWS = 399


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> catalog.Source:
    root = tmp_path_factory.mktemp("shards")
    digits.Digits(data_dir=root).download_and_prepare(
        download_config=tfds.download.DownloadConfig(num_shards=7)
    )
    return catalog.open_source("digits", str(root))


@pytest.fixture(params=["memory", "files"])
def path(request, monkeypatch) -> str:
    """Both ways of reading; from files in lanes with windows of 30 rows."""
    if request.param == "files":
        monkeypatch.setattr(record_store, "IN_MEMORY_BYTES", 0)
        monkeypatch.setattr(record_store, "WINDOW_BYTES", 30 * 190)
    return request.param


def _share(batch_size: int = 10, first: int = 0, count: int | None = None):
    return record_store.Share(
        batch_size=batch_size,
        first=first,
        count=batch_size - first if count is None else count,
    )


def _indices(source, count, *, seed=0, start=0, share=None, split=SPLIT) -> list[int]:
    rows = record_store.shuffled(
        source, split, seed=seed, start=start, share=share or _share()
    )
    return [int(row["index"]) for row in rows.take(count)]


def _shard_of(source: catalog.Source, indices: list[int]) -> np.ndarray:
    """Which of the split's files holds each row."""
    ends = np.cumsum([shard.take for shard in source.shards(SPLIT)])
    return np.searchsorted(ends, indices, side="right")


def test_rows_in_order_are_those_that_tfds_reads(source):
    ours = list(record_files.in_order(source, "train[10%:60%]"))
    one_by_one = tfds.ReadConfig(interleave_cycle_length=1)
    theirs = source.builder.as_dataset("train[10%:60%]", read_config=one_by_one)
    assert [int(row["index"]) for row in ours] == list(range(len(theirs)))
    for row, example in zip(ours, theirs, strict=True):
        parsed = source.parse(row["record"])
        assert int(parsed["label"]) == int(example["label"])
        image = tf.io.decode_png(parsed["image"])
        np.testing.assert_array_equal(image, example["image"])


def test_every_epoch_holds_every_row_once_in_a_new_order(source, path):
    rows = record_store.shuffled(source, SPLIT, seed=0, start=0, share=_share())
    # Lanes pass from an epoch to the next within a batch of each other.
    seen = [(int(r["epoch"]), int(r["index"])) for r in rows.take(3 * NUM_ROWS + 20)]
    epochs = [tuple(i for e, i in seen if e == epoch) for epoch in range(3)]
    assert all(sorted(epoch) == list(range(NUM_ROWS)) for epoch in epochs)
    assert len({*epochs, tuple(range(NUM_ROWS))}) == 4


def test_rows_carry_their_epoch_and_record(source, path):
    records = {
        int(r["index"]): r["record"] for r in record_files.in_order(source, SPLIT)
    }
    rows = record_store.shuffled(source, SPLIT, seed=3, start=300, share=_share())
    for place, row in enumerate(rows.take(200), start=300):
        near = place // NUM_ROWS, (place - 10) // NUM_ROWS, (place + 10) // NUM_ROWS
        assert int(row["epoch"]) in (near[:1] if path == "memory" else near)
        assert row["record"] == records[int(row["index"])]


def test_a_stream_can_start_anywhere(source, path):
    whole = _indices(source, 3 * NUM_ROWS, seed=2**31 - 1)

    @hypothesis.settings(deadline=None, max_examples=4)
    @hypothesis.given(start=st.integers(0, 3 * NUM_ROWS - 40))
    @hypothesis.example(start=NUM_ROWS)
    @hypothesis.example(start=NUM_ROWS - 1)
    def check(start):
        rest = _indices(source, 40, seed=2**31 - 1, start=start)
        assert rest == whole[start : start + 40]

    check()


def test_a_stream_can_start_far_away(source, path):
    start = 5_000_000 * NUM_ROWS + 20  # epoch numbers beyond 16 bits, as rows do
    assert len(set(_indices(source, NUM_ROWS - 40, start=start))) == NUM_ROWS - 40


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
    rows = record_store.shuffled(source, "test[:10]", seed=1, start=0, share=_share())
    firsts = [int(row["index"]) for row in rows.take(3000)][::10]
    counts = np.bincount(firsts, minlength=10)
    assert ((counts - 30) ** 2 / 30).sum() < 27.9  # exceeded once in 1,000 seeds


def test_batches_mix_files(source, monkeypatch):
    monkeypatch.setattr(record_store, "IN_MEMORY_BYTES", 0)
    share = _share(batch_size=48)
    shard = _shard_of(source, _indices(source, 96, share=share))
    assert all(len(set(batch)) >= 5 for batch in shard.reshape(2, 48))


def _bytes_read() -> int:
    """Bytes that this process has asked the system for so far."""
    text = pathlib.Path("/proc/self/io").read_text()
    return int(dict(line.split(": ") for line in text.splitlines())["rchar"])


@pytest.fixture(scope="module")
def thousand(tmp_path_factory) -> data_source.Source:
    """A set of 1,000 files with ten records of 50 kB each: 0.5 GB of zeros."""
    root = tmp_path_factory.mktemp("thousand")
    features = tfds.features.FeaturesDict(
        {
            "image": tfds.features.Image(shape=(None, None, 3)),
            "label": tfds.features.ClassLabel(num_classes=2),
        }
    )
    picture = tf.io.encode_png(np.zeros((2, 2, 3), np.uint8)).numpy() + bytes(50_000)
    record = features.serialize_example({"image": picture, "label": 1})
    template = "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}"
    for number in range(1000):
        name = f"big-train.tfrecord-{number:05d}-of-01000"
        with tf.io.TFRecordWriter(str(root / name)) as writer:
            for _ in range(10):
                writer.write(record)
    split = tfds.core.SplitInfo(
        name="train",
        shard_lengths=[10] * 1000,
        num_bytes=len(record) * 10_000,
        filename_template=tfds.core.ShardedFileTemplate(
            data_dir=root, dataset_name="big", template=template
        ),
    )
    tfds.folder_dataset.write_metadata(
        data_dir=str(root), features=features, split_infos=[split]
    )
    return catalog.open_source(str(root))


@pytest.mark.skipif(
    not pathlib.Path("/proc/self/io").exists(), reason="counts bytes with /proc"
)
def test_a_start_in_the_middle_reads_no_more_than_a_file_per_lane(
    thousand, monkeypatch
):
    monkeypatch.setattr(record_store, "IN_MEMORY_BYTES", 0)
    monkeypatch.setattr(record_store, "WINDOW_BYTES", 32 * 50_000)
    share = _share(batch_size=32)
    read = {}
    for start in (0, 32 * 160):
        rows = record_store.shuffled(
            thousand, "train", seed=1, start=start, share=share
        )
        before = _bytes_read()
        assert len(list(rows.take(32))) == 32
        read[start] = _bytes_read() - before
    file = 10 * 50_000
    # What a start at 0 reads ahead, and a file in each of 16 lanes: of 500 MB.
    assert read[32 * 160] <= read[0] + sharded_shuffle.LANES * file, read
    assert read[32 * 160] < 60 * file, read


def test_records_in_memory_are_no_constants_of_a_graph(source):
    # A GraphDef ends at 2 GB; TensorFlow makes constants of short vectors.
    def graph_bytes(split: str) -> int:
        rows = record_store.shuffled(source, split, seed=0, start=0, share=_share())
        variant = tf.data.experimental.to_variant(rows)
        graph = tf.raw_ops.DatasetToGraphV2(input_dataset=variant).numpy()
        return tf.compat.v1.GraphDef.FromString(graph).library.ByteSize()

    more_bytes = source.num_bytes("test[:110]") - source.num_bytes("test[:10]")
    assert graph_bytes("test[:110]") - graph_bytes("test[:10]") < more_bytes / 10


def test_fewer_rows_than_a_batch(source, path):
    rows = record_store.shuffled(source, "test[:3]", seed=0, start=0, share=_share())
    seen = [(int(r["epoch"]), int(r["index"])) for r in rows.take(40)]
    for epoch in range(10):
        assert sorted(i for e, i in seen if e == epoch) == [0, 1, 2]


@pytest.mark.parametrize("damage", ["cut", "cut between records", "altered", "gone"])
def test_a_damaged_file_is_named(tmp_path, monkeypatch, damage):
    digits.Digits(data_dir=tmp_path).download_and_prepare(
        download_config=tfds.download.DownloadConfig(num_shards=3)
    )
    source = catalog.open_source("digits", str(tmp_path))
    assert record_files.find_broken_file(source, "train") is None
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
    assert file.name in record_files.find_broken_file(source, "train")
    with pytest.raises(errors.UserError, match=file.name):
        record_store.shuffled(source, "train", seed=0, start=0, share=_share())
    monkeypatch.setattr(record_store, "IN_MEMORY_BYTES", 0)
    with pytest.raises(tf.errors.OpError):
        rows = record_store.shuffled(source, "train", seed=0, start=0, share=_share())
        for _ in itertools.islice(rows, 2000):
            pass
