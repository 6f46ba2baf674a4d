"""Rows agree with TFDS; opening says clearly what is missing."""

import shutil

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_datasets as tfds

from vit_tf import config
from vit_tf.data import datasets
from vit_tf.data.builders import digits, shapes

NUM_CLASSES = {
    "shapes": 10,
    "digits": 10,
    "cifar10": 10,
    "cifar100": 100,
    "imagenet2012": 1000,
    "oxford_iiit_pet": 37,
    "oxford_flowers102": 102,
}


class Scans(tfds.core.GeneratorBasedBuilder):
    """A data set that is no row: a picture under another name."""

    VERSION = tfds.core.Version("2.1.0")
    LABELS = ("kind",)

    def _info(self):
        labels = {
            key: tfds.features.ClassLabel(names=["a", "b"]) for key in self.LABELS
        }
        image = tfds.features.Image(shape=(4, 4, 3))
        return tfds.core.DatasetInfo(
            builder=self,
            features=tfds.features.FeaturesDict({"picture": image, **labels}),
        )

    def _split_generators(self, dl_manager):
        return {"all_of_it": self._generate_examples()}

    def _generate_examples(self):
        for number in range(6):
            picture = np.full((4, 4, 3), number, np.uint8)
            yield number, {"picture": picture} | {k: number % 2 for k in self.LABELS}


class TwoLabels(Scans):
    LABELS = ("kind", "colour")


@pytest.fixture(scope="module")
def scans_dir(tmp_path_factory):
    root = tmp_path_factory.mktemp("scans")
    Scans(data_dir=root).download_and_prepare()
    TwoLabels(data_dir=root).download_and_prepare()
    return root


# Of its two releases TFDS knows nothing; tests/test_imagenet21k.py checks them.
IN_TFDS = [name for name in datasets.DATASETS if not name.startswith("imagenet21k")]


@pytest.mark.parametrize("name", IN_TFDS)
def test_rows_pin_versions_that_exist(name):
    row = datasets.DATASETS[name]
    builder = {"shapes": shapes.Shapes, "digits": digits.Digits}.get(name)
    builder = builder or tfds.builder_cls(row.tfds_name)
    assert row.version == str(builder.VERSION)
    assert row.num_classes == NUM_CLASSES[name]


def test_splits_are_those_of_the_paper():
    splits = {name: row.development for name, row in datasets.DATASETS.items()}
    assert splits["cifar10"] == splits["cifar100"] == ("train[:98%]", "train[98%:]")
    assert splits["imagenet2012"] == ("train[:99%]", "train[99%:]")
    assert splits["oxford_iiit_pet"] == ("train[:90%]", "train[90%:]")
    assert splits["oxford_flowers102"] == ("train[:90%]", "train[90%:]")
    final = {datasets.DATASETS[name].final for name in IN_TFDS}
    assert final == {("train", "test"), ("train", "validation")}
    assert datasets.DATASETS["imagenet2012"].final == ("train", "validation")


def test_an_open_row_knows_its_classes_and_counts(data_dir):
    source = datasets.open_source("digits", data_dir)
    assert (source.name, source.version, source.num_classes) == ("digits", "1.0.0", 10)
    assert source.class_names == tuple("0123456789")
    assert source.num_examples("train") == 1197
    assert source.num_examples("train[:98%]") == 1173
    assert source.num_examples("train[98%:]") == 24
    assert source.num_examples("test+validation") == 600


def test_bytes_of_a_split_are_estimated(data_dir):
    source = datasets.open_source("digits", data_dir)
    (shard,) = source.shards("train")
    size = tf.io.gfile.stat(shard.filename).length
    assert source.num_bytes("train") == pytest.approx(size, rel=0.1)
    assert source.num_bytes("train[:50%]") == pytest.approx(size / 2, rel=0.1)


def test_parse_keeps_the_image_encoded(data_dir):
    source = datasets.open_source("digits", data_dir)
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


def test_the_data_folder_is_an_argument_an_environment_variable_or_home(monkeypatch):
    monkeypatch.setenv("HOME", "/home/someone")
    monkeypatch.setenv("TFDS_DATA_DIR", "/elsewhere")
    assert str(datasets.find_data_dir("/here")) == "/here"
    assert str(datasets.find_data_dir("~/here")) == "/home/someone/here"
    assert str(datasets.find_data_dir()) == "/elsewhere"
    monkeypatch.delenv("TFDS_DATA_DIR")
    assert str(datasets.find_data_dir()) == "/home/someone/tensorflow_datasets"


def test_what_is_not_prepared_names_the_command(tmp_path):
    command = f"`python -m tools.prepare_data --dataset=cifar10 --data_dir={tmp_path}`"
    with pytest.raises(config.Refused) as refusal:
        datasets.open_source("cifar10", str(tmp_path))
    assert str(refusal.value).startswith("cifar10: not prepared in ")
    assert str(refusal.value).endswith(f"run {command}")
    assert "\n" not in str(refusal.value)


def test_another_version_is_refused(tmp_path, data_dir):
    shutil.copytree(f"{data_dir}/digits/1.0.0", tmp_path / "digits" / "0.9.0")
    with pytest.raises(config.Refused, match="holds version 0.9.0, need 1.0.0; run"):
        datasets.open_source("digits", str(tmp_path))


def test_a_half_written_data_set_is_not_prepared(tmp_path, data_dir):
    home = tmp_path / "digits"
    shutil.copytree(f"{data_dir}/digits/1.0.0", home / "incomplete.X4F2_1.0.0")
    (home / "1.0.0").mkdir()
    with pytest.raises(config.Refused, match="not prepared"):
        datasets.open_source("digits", str(tmp_path))


@pytest.mark.parametrize("name", ["cifr10", "oxford_flower", "", "..", "no/such/place"])
def test_an_unknown_name_is_refused(tmp_path, name):
    with pytest.raises(config.Refused, match=f"data set '{name}': unknown") as refusal:
        datasets.open_source(name, str(tmp_path))
    near = {"cifr10": "cifar10", "oxford_flower": "oxford_flowers102"}.get(name)
    assert near is None or f"did you mean {near}?" in str(refusal.value)


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
    source = datasets.open_source("digits", data_dir)
    with pytest.raises(config.Refused, match=complaint) as refusal:
        source.num_examples(split)
    line = str(refusal.value)
    assert line.startswith(f"digits: no split {split!r}") and "\n" not in line
    for part in ("train (1,197)", "validation (200)", "test (400)"):
        assert part in line


def test_an_empty_split_is_refused(data_dir):
    source = datasets.open_source("digits", data_dir)
    with pytest.raises(config.Refused, match="holds no examples"):
        source.num_examples("train[5:5]")


def test_any_prepared_directory_opens_by_path_or_name(scans_dir):
    for name in (f"{scans_dir}/scans/2.1.0", f"{scans_dir}/scans", "scans"):
        source = datasets.open_source(name, str(scans_dir))
        assert (source.name, source.version) == (name, "2.1.0")
        assert (source.image_key, source.label_key) == ("picture", "kind")
        assert source.class_names == ("a", "b")
        assert source.num_examples("all_of_it") == 6


def test_the_newest_version_is_opened(tmp_path, scans_dir):
    for version in ("2.1.0", "2.9.0", "2.10.0"):
        shutil.copytree(scans_dir / "scans" / "2.1.0", tmp_path / "scans" / version)
    source = datasets.open_source("scans", str(tmp_path))
    assert str(source.builder.data_path) == str(tmp_path / "scans" / "2.10.0")


def test_an_ambiguous_label_is_refused(scans_dir):
    with pytest.raises(config.Refused, match="'colour', 'kind'.*add a row"):
        datasets.open_source("two_labels", str(scans_dir))


def test_other_file_formats_are_refused(tmp_path):
    digits.Digits(data_dir=tmp_path).download_and_prepare(file_format="array_record")
    with pytest.raises(config.Refused, match="stored as array_record, need tfrecord"):
        datasets.open_source("digits", str(tmp_path))
