"""Source: a data set that lies prepared on disk, and what its records hold."""

import dataclasses
import hashlib
import json
import re
import typing
from typing import Any, TypeAlias

import tensorflow as tf
import tensorflow_datasets as tfds
from tensorflow_datasets.core.utils import shard_utils

from vit_tf import errors
from vit_tf.data import dataset_spec, integrity, labels

Path = tfds.core.Path
Shard: TypeAlias = shard_utils.FileInstruction

# Where the data sets of TFDS keep the name of an example.
_NAME_KEYS = ("file_name", "filename", "image/file_name", "image/filename", "name")


# Compared by identity, as two openings are two sources.
@dataclasses.dataclass(frozen=True, eq=False)
class Source:
    """A prepared data set: what the pipeline reads and what a result prints."""

    name: str
    builder: tfds.core.DatasetBuilder
    spec: dataset_spec.DatasetSpec

    @property
    def features(self) -> tfds.features.FeaturesDict:
        """Returns what is stored of each example."""
        return _features(self.builder)

    @property
    def version(self) -> str:
        return str(self.builder.version)

    @property
    def num_classes(self) -> int:
        # Of a set whose classes are chosen when it is prepared: those it has.
        return self.spec.num_classes or len(self.class_names)

    @property
    def multi_label(self) -> bool:
        """Returns whether a label is float32 (num_classes,) of zeros and ones.

        Otherwise it is an int32 scalar.
        """
        return self.spec.label.multi

    @property
    def label_spec(self) -> tf.TensorSpec:
        """Returns shape and type of the label of one example."""
        if self.multi_label:
            return tf.TensorSpec((self.num_classes,), tf.float32)
        return tf.TensorSpec((), tf.int32)

    @property
    def class_names(self) -> tuple[str, ...]:
        """Returns names in label order; numbers where the data set has no names."""
        if self.spec.label.names is not None:
            return self.spec.label.names
        features, key = self.features, self.spec.label.names_key
        label = features[key] if key else None
        label = getattr(label, "feature", label)  # of a list: of what it lists
        names = getattr(label, "names", None) or range(self.spec.num_classes)
        return tuple(str(name) for name in names)

    @property
    def content_digest(self) -> str:
        """Returns a SHA-256 that changes with the examples, or with how they are split.

        Of a folder of images that of its manifest; of others of what TFDS notes of
        their files.
        """
        noted = dict(self.builder.info.metadata or {}).get("content_digest")
        if noted:
            return str(noted)
        splits = {
            name: [list(info.shard_lengths), info.num_bytes]
            for name, info in self.builder.info.splits.items()
        }
        text = json.dumps([self.builder.name, self.version, splits], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()

    def num_examples(self, split: str) -> int:
        """Counts the examples of a split expression such as 'train[:98%]'.

        Raises:
            errors.UserError: no such split, nothing in it, or an example twice.
        """
        return sum(shard.take for shard in self.shards(split))

    def shards(self, split: str) -> list[Shard]:
        """Lists the files of a split: filename, and how many records to skip and take.

        The parts of a sum such as 'train[:800]+test[:200]' follow one another.

        Raises:
            errors.UserError: see `num_examples`.
        """
        splits = self.builder.info.splits
        try:
            shards = [s for s in splits[split].file_instructions if s.take > 0]
        except (ValueError, KeyError, AssertionError) as error:
            words = re.findall(r"[A-Za-z_]\w*", split)
            unknown = [word for word in words if word not in splits]
            # TFDS says in its first line what it cannot make sense of.
            reason = f" ({str(error).splitlines()[0]})"
            hint = errors.nearest(unknown[0], splits) if unknown else reason
            raise errors.UserError(
                f"{self.name}: no split {split!r}{hint}; there are: "
                f"{count_splits(self.builder)}"
            ) from None
        if not shards:
            raise errors.UserError(f"{self.name}: split {split!r} holds no examples")
        if twice := _find_overlap(shards):
            raise errors.UserError(
                f"{self.name}: split {split!r} names {twice:,} examples twice; name "
                "parts that do not overlap"
            )
        return shards

    def num_bytes(self, split: str) -> int:
        """Estimates the bytes of a split's records from the mean over the data set."""
        splits = self.builder.info.splits
        total = sum(info.num_bytes for info in splits.values())
        examples = sum(info.num_examples for info in splits.values())
        return round(total / examples * self.num_examples(split))

    def parse(self, record: tf.Tensor) -> dict[str, tf.Tensor]:
        """Parses a serialized record to {image: encoded bytes,
        label: see `label_spec`}.

        Raises:
            tf.errors.InvalidArgumentError: the record is no such example, or its
                label is out of range.
        """
        spec, key = self.spec, self.spec.image_key
        example = self._parse(record, {key: True, **spec.label.features})
        image = spec.redraw(example[key]) if spec.redraw else example[key]
        return {"image": image, "label": self._derive_label(example)}

    def parse_label(self, record: tf.Tensor) -> tf.Tensor:
        """Parses the label alone; the image is not touched."""
        return self._derive_label(self._parse(record, self.spec.label.features))

    def describe(self, record: tf.Tensor, split: str, index: int) -> str:
        """Names a record to a person: its file, if known, and where it stands."""
        where = f"record {index} of {self.name} {self.version} {split}"
        for key in _NAME_KEYS:
            if key in self.features:
                try:
                    name = self._parse(record, {key: True})[key].numpy().decode()
                except tf.errors.OpError:  # the record itself is no example
                    return where
                return f"{name} ({where})"
        return where

    def _derive_label(self, features: labels.Features) -> tf.Tensor:
        label = self.spec.label.derive(features)
        if not self.multi_label:
            label = labels.check_range(label, self.num_classes)
        return tf.ensure_shape(label, self.label_spec.shape)

    def _parse(self, record: tf.Tensor, spec: labels.Features) -> labels.Features:
        """Parses the features of `spec`; an image stays encoded."""
        wanted = _select(self.features, spec)
        key = self.spec.image_key
        decoders = {key: tfds.decode.SkipDecoding()} if key in spec else None
        features = wanted.deserialize_example(record, decoders=decoders)
        return typing.cast(labels.Features, features)


def _select(
    features: tfds.features.FeaturesDict, spec: labels.Features
) -> tfds.features.FeaturesDict:
    """Selects the features that `labels.Label.features` names."""
    # tfds.decode.PartialDecoding does it too, with warnings that users would see.
    chosen = {}
    for key, part in spec.items():
        feature: Any = features[key]
        if part is not True:  # of a list of dicts
            feature = tfds.features.Sequence(_select(feature.feature, part))
        chosen[key] = feature
    return tfds.features.FeaturesDict(chosen)


def is_prepared(directory: Path) -> bool:
    """Returns whether TFDS finished writing a data set here."""
    return (directory / "dataset_info.json").exists()


def list_versions(home: Path) -> list[str]:
    """Lists prepared versions below `home`, oldest first."""
    if not home.is_dir():
        return []
    names = [path.name for path in home.iterdir() if is_prepared(path)]
    numbered = [name for name in names if re.fullmatch(r"\d+\.\d+\.\d+", name)]
    return sorted(numbered, key=lambda name: tuple(map(int, name.split("."))))


def find_newest(directory: Path) -> Path | None:
    """Returns the directory itself, or its newest version, if prepared."""
    if is_prepared(directory):
        return directory
    versions = list_versions(directory)
    return directory / versions[-1] if versions else None


def open_directory(
    name: str,
    directory: Path,
    spec: dataset_spec.DatasetSpec | None = None,
    *,
    check_rows: bool = True,
) -> Source:
    """Opens a directory that TFDS wrote.

    Args:
        name: what to call it.
        directory: holds dataset_info.json.
        spec: what is known of it. None: it has one image and one class label.
        check_rows: whether files with other numbers of records than the description
            says are refused here; `verification` lists them all.

    Raises:
        errors.UserError: damaged, stored in another format, or without `spec` not clear what is
            the image and what the label.
    """
    integrity.check(directory)
    try:
        builder = tfds.builder_from_directory(directory)
        _check_description(builder)
    # TFDS has no error of its own for files that are cut, emptied or another thing.
    except Exception as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        raise integrity.refusal(
            directory, f"its description cannot be read ({reason})"
        ) from error
    file_format = builder.info.file_format
    if file_format != tfds.core.FileFormat.TFRECORD:
        stored = file_format.value if file_format else "an unknown format"
        raise errors.UserError(
            f"{directory}: stored as {stored}, need tfrecord; prepare it "
            f"again with file_format='tfrecord'"
        )
    if check_rows:
        integrity.check_rows(directory, builder.info.splits.values())
    return Source(name, builder, spec or _guess_spec(name, builder))


def _check_description(builder: tfds.core.DatasetBuilder) -> None:
    """Looks at all that is read later, so that damage shows here.

    Raises:
        ValueError: what belongs together does not agree.
    """
    for key, feature in _features(builder).items():
        if isinstance(feature, tfds.features.ClassLabel):
            names = feature.names
            if len(names) != feature.num_classes or len(set(names)) != len(names):
                raise ValueError(
                    f"{key} has {feature.num_classes} classes, names differ"
                )


def count_splits(builder: tfds.core.DatasetBuilder) -> str:
    """Returns the splits as text: 'train (1,197), test (400)'."""
    splits = builder.info.splits.items()
    return ", ".join(f"{key} ({info.num_examples:,})" for key, info in splits)


def _features(builder: tfds.core.DatasetBuilder) -> tfds.features.FeaturesDict:
    return typing.cast(tfds.features.FeaturesDict, builder.info.features)


def _guess_spec(
    name: str, builder: tfds.core.DatasetBuilder
) -> dataset_spec.DatasetSpec:
    features: Any = _features(builder)
    keys = {
        kind: sorted(key for key in features if isinstance(features[key], kind))
        for kind in (tfds.features.Image, tfds.features.ClassLabel)
    }
    (image_keys, label_keys) = keys.values()
    if len(image_keys) != 1 or len(label_keys) != 1:
        raise errors.UserError(
            f"{name}: need one image and one class label among the features, got "
            f"images {image_keys} and labels {label_keys}; add a spec to "
            f"vit_tf/data/catalog.py"
        )
    return dataset_spec.DatasetSpec(
        tfds_name=builder.name,
        version=str(builder.version),
        num_classes=features[label_keys[0]].num_classes,
        image_key=image_keys[0],
        label=labels.stored(label_keys[0]),
    )


def _find_overlap(shards: list[Shard]) -> int:
    """Counts the records that are taken again after they were taken once."""
    ends: dict[str, int] = {}
    twice = 0
    for shard in sorted(shards, key=lambda s: (str(s.filename), s.skip)):
        end = shard.skip + shard.take
        known = ends.get(str(shard.filename), 0)
        twice += max(0, min(known, end) - shard.skip)
        ends[str(shard.filename)] = max(known, end)
    return twice
