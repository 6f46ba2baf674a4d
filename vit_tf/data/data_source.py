"""Source: a data set that lies prepared on disk, and what its records hold."""

import dataclasses
import re

import tensorflow as tf
import tensorflow_datasets as tfds

from vit_tf import config
from vit_tf.data import dataset_spec, labels

Path = tfds.core.Path
Shard = tfds.core.utils.shard_utils.FileInstruction

# Where the data sets of TFDS keep the name of an example.
_NAME_KEYS = ("file_name", "filename", "image/file_name", "image/filename", "name")


# Compared by identity, as two openings are two sources.
@dataclasses.dataclass(frozen=True, eq=False)
class Source:
    """A prepared data set: what the pipeline reads and what a result prints."""

    name: str
    builder: tfds.core.DatasetBuilder
    row: dataset_spec.Row

    @property
    def version(self) -> str:
        return str(self.builder.version)

    @property
    def num_classes(self) -> int:
        # Of a set whose classes are chosen when it is prepared: those it has.
        return self.row.num_classes or len(self.class_names)

    @property
    def multi_label(self) -> bool:
        """Whether a label is float32 (num_classes,) of zeros and ones.

        Otherwise it is an int32 scalar.
        """
        return self.row.label.multi

    @property
    def label_spec(self) -> tf.TensorSpec:
        """Shape and type of the label of one example."""
        if self.multi_label:
            return tf.TensorSpec((self.num_classes,), tf.float32)
        return tf.TensorSpec((), tf.int32)

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names in label order; the numbers where the data set has no names."""
        features, key = self.builder.info.features, self.row.label.names_key
        label = features[key] if key else None
        label = getattr(label, "feature", label)  # of a list: of what it lists
        names = getattr(label, "names", None) or range(self.row.num_classes)
        return tuple(str(name) for name in names)

    def num_examples(self, split: str) -> int:
        """Examples of a split expression such as 'train[:98%]'.

        Raises:
            config.Refused: no such split, nothing in it, or an example twice.
        """
        return sum(shard.take for shard in self.shards(split))

    def shards(self, split: str) -> list[Shard]:
        """The files of a split: filename, and how many records to skip and take.

        The parts of a sum such as 'train[:800]+test[:200]' follow one another.

        Raises:
            config.Refused: see `num_examples`.
        """
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
                f"{count_splits(self.builder)}"
            ) from None
        if not shards:
            raise config.Refused(f"{self.name}: split {split!r} holds no examples")
        if twice := _find_overlap(shards):
            raise config.Refused(
                f"{self.name}: split {split!r} names {twice:,} examples twice; name "
                "parts that do not overlap"
            )
        return shards

    def num_bytes(self, split: str) -> int:
        """Bytes of the split's records, from the mean over the whole data set."""
        splits = self.builder.info.splits
        total = sum(info.num_bytes for info in splits.values())
        examples = sum(info.num_examples for info in splits.values())
        return round(total / examples * self.num_examples(split))

    def parse(self, record: tf.Tensor) -> dict[str, tf.Tensor]:
        """A serialized record to {image: encoded bytes, label: see `label_spec`}.

        Raises:
            tf.errors.InvalidArgumentError: the record is no such example, or its
                label is out of range.
        """
        row, key = self.row, self.row.image_key
        example = self._parse(record, {key: True, **row.label.features})
        image = row.redraw(example[key]) if row.redraw else example[key]
        return {"image": image, "label": self._derive_label(example)}

    def parse_label(self, record: tf.Tensor) -> tf.Tensor:
        """The label alone; the image is not touched."""
        return self._derive_label(self._parse(record, self.row.label.features))

    def describe(self, record: tf.Tensor, split: str, index: int) -> str:
        """Names a record to a person: its file, if known, and where it stands."""
        where = f"record {index} of {self.name} {self.version} {split}"
        for key in _NAME_KEYS:
            if key in self.builder.info.features:
                try:
                    name = self._parse(record, {key: True})[key].numpy().decode()
                except tf.errors.OpError:  # the record itself is no example
                    return where
                return f"{name} ({where})"
        return where

    def _derive_label(self, features: labels.Features) -> tf.Tensor:
        label = self.row.label.derive(features)
        if not self.multi_label:
            label = labels.check_range(label, self.num_classes)
        return tf.ensure_shape(label, self.label_spec.shape)

    def _parse(self, record: tf.Tensor, spec: dict) -> dict:
        """The features of `spec`; an image stays encoded."""
        wanted = _select(self.builder.info.features, spec)
        key = self.row.image_key
        decoders = {key: tfds.decode.SkipDecoding()} if key in spec else None
        return wanted.deserialize_example(record, decoders=decoders)


def _select(
    features: tfds.features.FeaturesDict, spec: labels.Features
) -> tfds.features.FeaturesDict:
    """The features that `labels.Label.features` names."""
    # tfds.decode.PartialDecoding does it too, with warnings that users would see.
    chosen = {}
    for key, part in spec.items():
        chosen[key] = features[key]
        if part is not True:  # of a list of dicts
            chosen[key] = tfds.features.Sequence(_select(features[key].feature, part))
    return tfds.features.FeaturesDict(chosen)


def is_prepared(directory: Path) -> bool:
    """Whether TFDS finished writing a data set here."""
    return (directory / "dataset_info.json").exists()


def list_versions(home: Path) -> list[str]:
    """Prepared versions below `home`, oldest first."""
    if not home.is_dir():
        return []
    names = [path.name for path in home.iterdir() if is_prepared(path)]
    numbered = [name for name in names if re.fullmatch(r"\d+\.\d+\.\d+", name)]
    return sorted(numbered, key=lambda name: tuple(map(int, name.split("."))))


def find_newest(directory: Path) -> Path | None:
    """The directory itself, or its newest version, if prepared."""
    if is_prepared(directory):
        return directory
    versions = list_versions(directory)
    return directory / versions[-1] if versions else None


def open_directory(
    name: str, directory: Path, row: dataset_spec.Row | None = None
) -> Source:
    """Opens a directory that TFDS wrote.

    Args:
        name: what to call it.
        directory: holds dataset_info.json.
        row: what is known of it. None: it has one image and one class label.

    Raises:
        config.Refused: stored in another format, or without `row` not clear what is
            the image and what the label.
    """
    builder = tfds.builder_from_directory(directory)
    file_format = builder.info.file_format
    if file_format != tfds.core.FileFormat.TFRECORD:
        raise config.Refused(
            f"{directory}: stored as {file_format.value}, need tfrecord; prepare it "
            f"again with file_format='tfrecord'"
        )
    return Source(name, builder, row or _guess_row(name, builder))


def count_splits(builder: tfds.core.DatasetBuilder) -> str:
    """'train (1,197), test (400)'."""
    splits = builder.info.splits.items()
    return ", ".join(f"{key} ({info.num_examples:,})" for key, info in splits)


def _guess_row(name: str, builder: tfds.core.DatasetBuilder) -> dataset_spec.Row:
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
            f"vit_tf/data/catalog.py"
        )
    return dataset_spec.Row(
        tfds_name=builder.name,
        version=str(builder.version),
        num_classes=features[label_keys[0]].num_classes,
        image_key=image_keys[0],
        label=labels.stored(label_keys[0]),
    )


def _find_overlap(shards: list[Shard]) -> int:
    """How many records are taken again after they were taken once."""
    ends: dict[str, int] = {}
    twice = 0
    for shard in sorted(shards, key=lambda s: (str(s.filename), s.skip)):
        end = shard.skip + shard.take
        known = ends.get(str(shard.filename), 0)
        twice += max(0, min(known, end) - shard.skip)
        ends[str(shard.filename)] = max(known, end)
    return twice
