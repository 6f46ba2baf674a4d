"""A prepared data set: its splits, its files, and what its records hold."""

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_datasets as tfds

from tests.support import fakes
from vit_tf import config
from vit_tf.data import catalog


def test_a_split_that_names_examples_twice_is_refused(data_dir):
    source = catalog.open_source("digits", data_dir)
    for split, twice in (("train+train[:5]", 5), ("test[:9]+train+test[4:6]", 2)):
        with pytest.raises(config.Refused, match=f"names {twice} examples twice"):
            source.num_examples(split)
    assert source.num_examples("train[:5]+train[5:]") == 1197


def test_an_open_row_knows_its_classes_and_counts(data_dir):
    source = catalog.open_source("digits", data_dir)
    assert (source.name, source.version, source.num_classes) == ("digits", "1.0.0", 10)
    assert source.class_names == tuple("0123456789")
    assert source.num_examples("train") == 1197
    assert source.num_examples("train[:98%]") == 1173
    assert source.num_examples("train[98%:]") == 24
    assert source.num_examples("test+validation") == 600


def test_bytes_of_a_split_are_estimated(data_dir):
    source = catalog.open_source("digits", data_dir)
    (shard,) = source.shards("train")
    size = tf.io.gfile.stat(shard.filename).length
    assert source.num_bytes("train") == pytest.approx(size, rel=0.1)
    assert source.num_bytes("train[:50%]") == pytest.approx(size / 2, rel=0.1)


def test_parse_keeps_the_image_encoded(data_dir):
    source = catalog.open_source("digits", data_dir)
    (shard,) = source.shards("test[:1]")
    record = next(iter(tf.data.TFRecordDataset(shard.filename)))
    parsed = source.parse(record)
    one_by_one = tfds.ReadConfig(interleave_cycle_length=1)
    example = next(iter(source.builder.as_dataset("test", read_config=one_by_one)))
    assert parsed["label"].dtype == tf.int32
    assert int(parsed["label"]) == int(example["label"])
    assert parsed["image"].dtype == tf.string
    image = tf.io.decode_png(parsed["image"])
    np.testing.assert_array_equal(image, example["image"])
    assert source.describe(record, "test", 0) == "record 0 of digits 1.0.0 test"


@pytest.mark.parametrize(
    "split,complaint",
    [
        ("tran", r"did you mean train\?"),
        ("val", "one of: train, validation, test|one of: train, test, validation"),
        ("train+tests", r"did you mean test\?"),
        ("train[:98", "Error parsing"),
        ("train[:5000]", "Requested slice"),
        ("train[:200%]", "Error parsing"),
        ("", "Error parsing"),
    ],
)
def test_an_unknown_split_lists_what_there_is(data_dir, split, complaint):
    source = catalog.open_source("digits", data_dir)
    with pytest.raises(config.Refused, match=complaint) as refusal:
        source.num_examples(split)
    line = str(refusal.value)
    assert line.startswith(f"digits: no split {split!r}") and "\n" not in line
    for part in ("train (1,197)", "validation (200)", "test (400)"):
        assert part in line


def test_an_empty_split_is_refused(data_dir):
    source = catalog.open_source("digits", data_dir)
    with pytest.raises(config.Refused, match="holds no examples"):
        source.num_examples("train[5:5]")


def test_records_are_named_by_what_the_data_set_calls_them(tmp_path):
    names = {
        "dtd": "file_name",
        "eurosat": "filename",
        "caltech101": "image/file_name",
        "retinopathy": "name",
    }
    for task, key in names.items():
        (example,) = fakes.drawn(f"vtab/{task}", 1)
        fakes.write(f"vtab/{task}", tmp_path, {"train": [example | {key: "a/b.jpg"}]})
        source = catalog.open_source(f"vtab/{task}", str(tmp_path))
        (shard,) = source.shards("train")
        (record,) = tf.data.TFRecordDataset(shard.filename)
        where = f"record 7 of vtab/{task} {source.version} train"
        assert source.describe(record, "train", 7) == f"a/b.jpg ({where})"
        assert source.describe(tf.constant(b"no example"), "train", 7) == where


def test_a_record_that_is_no_example_is_an_error(data_dir):
    source = catalog.open_source("digits", data_dir)
    with pytest.raises(tf.errors.InvalidArgumentError):
        source.parse(tf.constant(b"no example"))


def test_label_alone_is_the_label(data_dir):
    source = catalog.open_source("digits", data_dir)
    (shard,) = source.shards("test")
    for record in tf.data.TFRecordDataset(shard.filename).take(5):
        label = source.parse_label(record)
        assert label.dtype == tf.int32 and label.shape == ()
        assert int(label) == int(source.parse(record)["label"])
