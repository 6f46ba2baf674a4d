"""Rows agree with TFDS; opening says clearly what is missing."""

import shutil

import numpy as np
import pytest
import tensorflow_datasets as tfds

from tests.support import fakes
from vit_tf import errors
from vit_tf.data import catalog
from vit_tf.data.builders import digits, objectnet, shapes


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


OWN = {
    "shapes": shapes.Shapes,
    "digits": digits.Digits,
    "objectnet": objectnet.Objectnet,
}


# Of its two releases TFDS knows nothing; tests/data/builders/test_imagenet21k.py checks them.
IN_TFDS = [name for name in catalog.DATASETS if not name.startswith("imagenet21k")]


@pytest.mark.parametrize("name", IN_TFDS)
def test_rows_pin_versions_and_features_that_exist(name, tmp_path):
    row = catalog.DATASETS[name]
    if name in OWN:
        builder = OWN[name](data_dir=tmp_path)
        assert row.version == str(builder.version)
    else:
        builder = fakes.builder(name)  # TFDS refuses a version that it cannot build
        assert str(builder.version) == row.version
    features = builder.info.features
    assert isinstance(features[row.image_key], tfds.features.Image)
    for key in row.label.features:
        assert key in features
    if row.label.names_key:
        label = features[row.label.names_key]
        assert getattr(label, "feature", label).num_classes == row.num_classes


def test_splits_are_those_of_the_paper():
    rows = catalog.DATASETS
    splits = {name: row.development for name, row in rows.items()}
    assert splits["cifar10"] == splits["cifar100"] == ("train[:98%]", "train[98%:]")
    assert splits["imagenet2012"] == ("train[:99%]", "train[99%:]")
    assert splits["oxford_iiit_pet"] == ("train[:90%]", "train[90%:]")
    assert splits["oxford_flowers102"] == ("train[:90%]", "train[90%:]")
    for name in ("cifar10", "cifar100", "oxford_iiit_pet", "oxford_flowers102"):
        assert rows[name].final == ("train", "test")
    assert rows["imagenet2012"].final == ("train", "validation")
    assert rows["imagenet2012_real"].final == (None, "validation")
    few_shot = {name: row.few_shot for name, row in rows.items() if row.few_shot}
    halves = {
        "imagenet2012": ("train[:65000]", "validation"),
        "imagenet2012_10pct": ("train", "validation"),
        "uc_merced": ("train[:1000]", "train[1000:]"),
        "colorectal_histology": ("train[:2000]", "train[2000:]"),
    }
    whole = "cifar100 oxford_iiit_pet caltech101 cars196 dtd caltech_birds2011"
    assert few_shot == halves | dict.fromkeys(whole.split(), ("train", "test"))


# From the counts of TFDS' catalogue, by hand.
@pytest.mark.parametrize(
    "name,sizes",
    [
        ("cifar10", (49_000, 1_000, 50_000, 10_000)),
        ("cifar100", (49_000, 1_000, 50_000, 10_000)),
        ("imagenet2012", (1_268_355, 12_812, 1_281_167, 50_000)),
        ("oxford_iiit_pet", (3_312, 368, 3_680, 3_669)),
        ("oxford_flowers102", (918, 102, 1_020, 6_149)),
    ],
)
def test_every_split_has_its_real_size(name, sizes, tmp_path):
    row = catalog.DATASETS[name]
    fakes.write_metadata(name, tmp_path, {k: (n,) for k, n in row.counts.items()})
    source = catalog.open_source(name, str(tmp_path))
    splits = row.development + row.final
    assert tuple(source.num_examples(split) for split in splits) == sizes


@pytest.mark.parametrize("name", [n for n, r in catalog.DATASETS.items() if r.counts])
def test_parts_of_a_split_do_not_overlap(name, tmp_path):
    row = catalog.DATASETS[name]
    # In files of uneven sizes, so that parts begin and end inside of them.
    counts = {k: (n // 3, n // 5, n - n // 3 - n // 5) for k, n in row.counts.items()}
    fakes.write_metadata(name, tmp_path, counts)
    source = catalog.open_source(name, str(tmp_path))
    for train, evaluation in filter(None, (row.development, row.final, row.few_shot)):
        assert source.num_examples(evaluation) > 0
        if train:
            both = source.num_examples(f"{train}+{evaluation}")
            parts = (source.num_examples(part) for part in (train, evaluation))
            assert both == sum(parts)


def test_the_data_folder_is_an_argument_an_environment_variable_or_home(monkeypatch):
    monkeypatch.setenv("HOME", "/home/someone")
    monkeypatch.setenv("TFDS_DATA_DIR", "/elsewhere")
    assert str(catalog.find_data_dir("/here")) == "/here"
    assert str(catalog.find_data_dir("~/here")) == "/home/someone/here"
    assert str(catalog.find_data_dir()) == "/elsewhere"
    monkeypatch.delenv("TFDS_DATA_DIR")
    assert str(catalog.find_data_dir()) == "/home/someone/tensorflow_datasets"


def test_what_is_not_prepared_names_the_command(tmp_path):
    command = f"`python -m tools.prepare_data --dataset=cifar10 --data_dir={tmp_path}`"
    with pytest.raises(errors.UserError) as refusal:
        catalog.open_source("cifar10", str(tmp_path))
    assert str(refusal.value).startswith("cifar10: not prepared in ")
    assert str(refusal.value).endswith(f"run {command}")
    assert "\n" not in str(refusal.value)


def test_another_version_is_refused(tmp_path, data_dir):
    shutil.copytree(f"{data_dir}/digits/1.0.0", tmp_path / "digits" / "0.9.0")
    with pytest.raises(errors.UserError, match="holds version 0.9.0, need 1.0.0; run"):
        catalog.open_source("digits", str(tmp_path))


def test_a_half_written_data_set_is_not_prepared(tmp_path, data_dir):
    home = tmp_path / "digits"
    shutil.copytree(f"{data_dir}/digits/1.0.0", home / "incomplete.X4F2_1.0.0")
    (home / "1.0.0").mkdir()
    with pytest.raises(errors.UserError, match="not prepared"):
        catalog.open_source("digits", str(tmp_path))


@pytest.mark.parametrize("name", ["cifr10", "oxford_flower", "", "..", "no/such/place"])
def test_an_unknown_name_is_refused(tmp_path, name):
    with pytest.raises(
        errors.UserError, match=f"data set '{name}': unknown"
    ) as refusal:
        catalog.open_source(name, str(tmp_path))
    near = {"cifr10": "cifar10", "oxford_flower": "oxford_flowers102"}.get(name)
    assert near is None or f"did you mean {near}?" in str(refusal.value)


def test_any_prepared_directory_opens_by_path_or_name(scans_dir):
    for name in (f"{scans_dir}/scans/2.1.0", f"{scans_dir}/scans", "scans"):
        source = catalog.open_source(name, str(scans_dir))
        assert (source.name, source.version) == (name, "2.1.0")
        assert (source.spec.image_key, source.spec.label.names_key) == (
            "picture",
            "kind",
        )
        assert source.class_names == ("a", "b")
        assert source.num_examples("all_of_it") == 6


def test_the_newest_version_is_opened(tmp_path, scans_dir):
    for version in ("2.1.0", "2.9.0", "2.10.0"):
        shutil.copytree(scans_dir / "scans" / "2.1.0", tmp_path / "scans" / version)
    source = catalog.open_source("scans", str(tmp_path))
    assert str(source.builder.data_path) == str(tmp_path / "scans" / "2.10.0")


def test_an_ambiguous_label_is_refused(scans_dir):
    with pytest.raises(errors.UserError, match="'colour', 'kind'.*add a spec"):
        catalog.open_source("two_labels", str(scans_dir))


def test_other_file_formats_are_refused(tmp_path):
    digits.Digits(data_dir=tmp_path).download_and_prepare(file_format="array_record")
    with pytest.raises(errors.UserError, match="stored as array_record, need tfrecord"):
        catalog.open_source("digits", str(tmp_path))
