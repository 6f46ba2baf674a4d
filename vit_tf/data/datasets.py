"""DATASETS: which data sets there are, with pinned versions; opens prepared ones.

To add a data set, add a row. Opening never downloads: `tools.prepare_data` does.
"""

import dataclasses
import os
import re

import tensorflow as tf
import tensorflow_datasets as tfds

from vit_tf import config
from vit_tf.data.builders import digits, image_folder, imagenet21k, shapes

Path = tfds.core.Path


@dataclasses.dataclass(frozen=True, kw_only=True)
class Row:
    """One data set of TFDS.

    Attributes:
        tfds_name: TFDS name, with its config if it has any.
        version: the only version that is read; other versions differ in content.
        num_classes: size of the label set; 0 where whoever prepares it decides.
        development: splits (train, evaluation) to choose hyper-parameters on.
        final: splits (train, evaluation) to report.
        image_key: name of the image in the features.
        label_key: name of the label in the features.
        manual_files: what the user must fetch by hand before preparing.
    """

    tfds_name: str
    version: str
    num_classes: int
    development: tuple[str, str]
    final: tuple[str, str]
    image_key: str = "image"
    label_key: str = "label"
    manual_files: tuple[str, ...] = ()


# Splits of paper.md 3.2: 2 % of CIFAR, 1 % of ImageNet, 10 % of the others.
DATASETS = {
    "shapes": Row(
        tfds_name="shapes",
        version=str(shapes.Shapes.VERSION),
        num_classes=len(shapes.FORMS),
        development=("train", "validation"),
        final=("train", "test"),
    ),
    "digits": Row(
        tfds_name="digits",
        version=str(digits.Digits.VERSION),
        num_classes=10,
        development=("train", "validation"),
        final=("train", "test"),
    ),
    "cifar10": Row(
        tfds_name="cifar10",
        version="3.0.2",
        num_classes=10,
        development=("train[:98%]", "train[98%:]"),
        final=("train", "test"),
    ),
    "cifar100": Row(
        tfds_name="cifar100",
        version="3.0.2",
        num_classes=100,
        development=("train[:98%]", "train[98%:]"),
        final=("train", "test"),
    ),
    "imagenet2012": Row(
        tfds_name="imagenet2012",
        version="5.1.0",
        num_classes=1000,
        development=("train[:99%]", "train[99%:]"),
        final=("train", "validation"),
        manual_files=("ILSVRC2012_img_train.tar", "ILSVRC2012_img_val.tar"),
    ),
    **{
        name: Row(
            tfds_name=f"{imagenet21k.NAME}/{release}",
            version=imagenet21k.VERSION,
            num_classes=0,
            development=imagenet21k.DEVELOPMENT,
            final=imagenet21k.FINAL,
        )
        for name, release in imagenet21k.RELEASES.items()
    },
    "oxford_iiit_pet": Row(
        tfds_name="oxford_iiit_pet",
        version="4.0.0",
        num_classes=37,
        development=("train[:90%]", "train[90%:]"),
        final=("train", "test"),
    ),
    "oxford_flowers102": Row(
        tfds_name="oxford_flowers102",
        version="2.1.1",
        num_classes=102,
        development=("train[:90%]", "train[90%:]"),
        final=("train", "test"),
    ),
}


@dataclasses.dataclass(frozen=True)
class Source:
    """A prepared data set: what the pipeline reads and what a result prints."""

    name: str
    builder: tfds.core.DatasetBuilder
    image_key: str
    label_key: str
    num_classes: int

    @property
    def version(self) -> str:
        return str(self.builder.version)

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names in label order; the numbers where the data set has no names."""
        label = self.builder.info.features[self.label_key]
        names = getattr(label, "names", None) or range(self.num_classes)
        return tuple(str(name) for name in names)

    def num_examples(self, split: str) -> int:
        """Examples of a split expression such as 'train[:98%]'.

        Raises:
            config.Refused: no such split, or nothing in it.
        """
        return sum(shard.take for shard in self.shards(split))

    def shards(self, split: str) -> list[tfds.core.utils.shard_utils.FileInstruction]:
        """The files of a split: filename, and how many records to skip and take."""
        splits = self.builder.info.splits
        try:
            shards = [s for s in splits[split].file_instructions if s.take > 0]
        except (ValueError, KeyError, AssertionError) as error:
            words = re.findall(r"[A-Za-z_]\w*", split)
            unknown = [word for word in words if word not in splits]
            # TFDS says in its first line what it cannot make sense of.
            reason = f" ({str(error).splitlines()[0]})"
            hint = config.nearest(unknown[0], splits) if unknown else reason
            raise config.Refused(
                f"{self.name}: no split {split!r}{hint}; there are: "
                f"{_list_splits(splits)}"
            ) from None
        if not shards:
            raise config.Refused(f"{self.name}: split {split!r} holds no examples")
        return shards

    def num_bytes(self, split: str) -> int:
        """Bytes of the split's records, from the mean over the whole data set."""
        splits = self.builder.info.splits
        total = sum(info.num_bytes for info in splits.values())
        examples = sum(info.num_examples for info in splits.values())
        return round(total / examples * self.num_examples(split))

    def parse(self, record: tf.Tensor) -> dict[str, tf.Tensor]:
        """A serialized record to {image: encoded bytes, label: int32}."""
        features = self.builder.info.features
        keys = (self.image_key, self.label_key)
        wanted = tfds.features.FeaturesDict({key: features[key] for key in keys})
        example = wanted.deserialize_example(
            record, decoders={self.image_key: tfds.decode.SkipDecoding()}
        )
        label = tf.cast(example[self.label_key], tf.int32)
        return {"image": example[self.image_key], "label": label}

    def describe(self, record: tf.Tensor, split: str, index: int) -> str:
        """Names a record to a person: its file, if known, and where it stands."""
        where = f"record {index} of {self.name} {self.version} {split}"
        features = self.builder.info.features
        if "file_name" not in features:
            return where
        wanted = tfds.features.FeaturesDict({"file_name": features["file_name"]})
        file_name = wanted.deserialize_example(record)["file_name"].numpy().decode()
        return f"{file_name} ({where})"


def find_data_dir(data_dir: str | None = None) -> Path:
    """`data_dir`, else $TFDS_DATA_DIR, else ~/tensorflow_datasets."""
    chosen = data_dir or os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets"
    return Path(chosen).expanduser()


def open_source(name: str, data_dir: str | None = None) -> Source:
    """Opens a prepared data set without reading its images.

    Args:
        name: a row of DATASETS, the name given to a folder of images by
            `tools.prepare_data`, or a path to any directory that TFDS prepared.
        data_dir: where prepared data sets lie; see `find_data_dir`.

    Raises:
        config.Refused: unknown, not prepared, or prepared by another version; the
            line says the command that prepares it.
    """
    root = find_data_dir(data_dir)
    if name in DATASETS:
        return _open_row(name, root)
    imported = root / image_folder.ImageFolder.name / name
    if not name.startswith((".", "/", "~")) and _versions(imported):
        return _open_folder(name, imported)
    for directory in (root / name, Path(name).expanduser()):
        if name and (newest := _find_newest(directory)) is not None:
            return _open_any(name, newest)
    raise config.Refused(
        f"data set {name!r}: unknown{config.nearest(name, list_names(root))}; need a "
        f"row of vit_tf/data/datasets.py, a folder prepared in {root} by "
        f"tools.prepare_data, or a path that holds dataset_info.json"
    )


def list_names(root: Path) -> list[str]:
    """Every name that `open_source` knows: rows and prepared folders."""
    imported = root / image_folder.ImageFolder.name
    folders = (
        sorted(path.name for path in imported.iterdir()) if imported.exists() else []
    )
    return [*DATASETS, *(name for name in folders if _versions(imported / name))]


def is_prepared(directory: Path) -> bool:
    """Whether TFDS finished writing a data set here."""
    return (directory / "dataset_info.json").exists()


def _open_row(name: str, root: Path) -> Source:
    row = DATASETS[name]
    home = root / row.tfds_name
    if not is_prepared(home / row.version):
        others = _versions(home)
        found = (
            f"{home} holds version {', '.join(others)}, need"
            if others
            else (f"not prepared in {root}: need")
        )
        raise config.Refused(
            f"{name}: {found} {row.version}; run "
            f"`python -m tools.prepare_data --dataset={name} --data_dir={root}`"
        )
    builder = _builder(home / row.version)
    label = builder.info.features[row.label_key]
    num_classes = row.num_classes or label.num_classes
    return Source(name, builder, row.image_key, row.label_key, num_classes)


def _open_folder(name: str, home: Path) -> Source:
    version = str(image_folder.ImageFolder.VERSION)
    if version not in _versions(home):
        raise config.Refused(
            f"{name}: {home} holds version {', '.join(_versions(home))}, this code "
            f"reads {version}; run `python -m tools.prepare_data --folder=PATH "
            f"--name={name}` again"
        )
    return _open_any(name, home / version)


def _open_any(name: str, directory: Path) -> Source:
    """Opens a directory of TFDS that need not be a row of ours."""
    builder = _builder(directory)
    features = builder.info.features
    keys = {
        kind: sorted(key for key in features if isinstance(features[key], kind))
        for kind in (tfds.features.Image, tfds.features.ClassLabel)
    }
    (image_keys, label_keys) = keys.values()
    if len(image_keys) != 1 or len(label_keys) != 1:
        raise config.Refused(
            f"{name}: need one image and one class label among the features, got "
            f"images {image_keys} and labels {label_keys}; add a row to "
            f"vit_tf/data/datasets.py"
        )
    num_classes = features[label_keys[0]].num_classes
    return Source(name, builder, image_keys[0], label_keys[0], num_classes)


def _builder(directory: Path) -> tfds.core.DatasetBuilder:
    builder = tfds.builder_from_directory(directory)
    file_format = builder.info.file_format
    if file_format != tfds.core.FileFormat.TFRECORD:
        raise config.Refused(
            f"{directory}: stored as {file_format.value}, need tfrecord; prepare it "
            f"again with file_format='tfrecord'"
        )
    return builder


def _find_newest(directory: Path) -> Path | None:
    """The directory itself, or its newest version, if prepared."""
    if is_prepared(directory):
        return directory
    versions = _versions(directory)
    return directory / versions[-1] if versions else None


def _versions(home: Path) -> list[str]:
    """Prepared versions below `home`, oldest first."""
    if not home.is_dir():
        return []
    names = [path.name for path in home.iterdir() if is_prepared(path)]
    numbered = [name for name in names if re.fullmatch(r"\d+\.\d+\.\d+", name)]
    return sorted(numbered, key=lambda name: tuple(map(int, name.split("."))))


def _list_splits(splits: tfds.core.SplitDict) -> str:
    return ", ".join(f"{key} ({info.num_examples:,})" for key, info in splits.items())
