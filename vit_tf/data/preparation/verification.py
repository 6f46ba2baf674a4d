"""Verification: whether a prepared data set is whole, and which records are not.

Counts are compared with the table of data sets and with the files themselves; records
are decoded as the pipeline does it.
"""

import dataclasses
from collections.abc import Callable, Iterable

import numpy as np
import tensorflow as tf

from vit_tf.data import data_source, labels, record_files, safe_decoding
from vit_tf.data.builders import image_folder

# Without `every`, so many files of each split are read, and so many records of each.
SAMPLE_FILES = 8
SAMPLE_RECORDS = 64


@dataclasses.dataclass(frozen=True)
class Report:
    """What was looked at and what is wrong.

    Attributes:
        read: for each split how many records were decoded, and how many it has.
        problems: a line for each.
    """

    read: dict[str, tuple[int, int]]
    problems: list[str]


def verify(
    source: data_source.Source,
    *,
    every: bool = False,
    watch: Callable[[Iterable, str, int], Iterable] = lambda things, *_: things,
) -> Report:
    """Looks at every split.

    Args:
        source: the prepared data set.
        every: reads all files and decodes all records, not a sample.
        watch: wraps a sequence (things, what, how many), to show progress.

    Returns:
        The report; nothing is raised for what is wrong with the data.
    """
    problems = _compare_counts(source)
    read = {}
    for split, info in source.builder.info.splits.items():
        if not info.num_examples:
            continue
        shards = source.shards(split)
        chosen = np.arange(len(shards))
        if not every:
            chosen = np.unique(np.linspace(0, len(shards) - 1, SAMPLE_FILES).round())
        firsts = np.cumsum([0] + [shard.take for shard in shards])
        count = 0
        for number in watch(chosen.astype(int), f"Reading {split}", len(chosen)):
            shard = shards[number]
            damage = find_damage(str(shard.filename), shard.take, every=every)
            if damage:
                problems.append(damage)
                continue
            wanted = np.arange(shard.take)
            if not every:
                wanted = wanted[:: -(-shard.take // SAMPLE_RECORDS)]
            keep = firsts[number] + wanted
            problems += _find_corrupt(source, split, keep)
            count += len(keep)
        read[split] = (count, info.num_examples)
    return Report(read, problems)


def find_damage(path: str, expected: int, *, every: bool) -> str | None:
    """Says what is wrong with the frame of a TFRecord file, if anything is.

    Args:
        path: the file.
        expected: how many records it should hold.
        every: also compares the checksums, which reads all of it; otherwise only the
            lengths of the records are followed to the end.
    """
    if not tf.io.gfile.exists(path):
        return f"{path}: missing"
    size = tf.io.gfile.stat(path).length
    if not size:
        return f"{path}: empty file"
    count = place = 0
    with tf.io.gfile.GFile(path, "rb") as file:
        # A record is its length (8 bytes), a checksum (4), the data, a checksum (4).
        while place < size:
            file.seek(place)
            place += int.from_bytes(file.read(8), "little") + 16
            count += 1
    if place != size:
        return f"{path}: cut off or altered at record {count - 1}"
    if count != expected:
        return f"{path}: holds {count:,} records, dataset_info.json says {expected:,}"
    if every:
        count = 0
        try:
            for _ in tf.data.TFRecordDataset(path):
                count += 1
        except tf.errors.DataLossError:
            return f"{path}: altered at record {count}"
    return None


def _compare_counts(source: data_source.Source) -> list[str]:
    """Compares stored splits with the table, or a folder's with its files."""
    stored = source.builder.info.splits
    problems = []
    for split, count in source.spec.counts.items():
        stored_count = stored[split].num_examples if split in stored else 0
        if stored_count != count:
            problems.append(f"split {split}: {stored_count:,} examples, need {count:,}")
    # Of a folder of images there is no row, but the number of its files is kept.
    metadata = source.builder.info.metadata or {}
    if "num_files" in metadata:
        skipped = source.builder.data_path / image_folder.SKIPPED_FILE
        left_out = len(skipped.read_text().splitlines()) if skipped.exists() else 0
        stored_count = sum(info.num_examples for info in stored.values())
        if stored_count != metadata["num_files"] - left_out:
            problems.append(
                f"{stored_count:,} examples of {metadata['num_files']:,} files, of which "
                f"{left_out:,} were left out"
            )
    return problems


def _find_corrupt(
    source: data_source.Source, split: str, keep: np.ndarray
) -> list[str]:
    """Decodes some records of a split; names those that fail."""

    def look(row: dict[str, tf.Tensor]) -> tuple[tf.Tensor, ...]:
        example = source.parse(row["record"])
        return row["index"], *safe_decoding.check(example["image"]), example["label"]

    rows = record_files.in_order(source, split, keep)
    looked = rows.map(look, num_parallel_calls=tf.data.AUTOTUNE).ignore_errors()
    whys = {int(index): why for index, why, *_ in looked.as_numpy_iterator()}
    bad = np.array([index for index in keep if whys.get(index) != b""], np.int64)
    if not len(bad):
        return []
    return [
        f"{source.describe(row['record'], split, index)}: "
        f"{whys[index].decode() if index in whys else _reason(source, row['record'])}"
        for row in record_files.in_order(source, split, bad)
        for index in [int(row["index"])]
    ]


def _reason(source: data_source.Source, record: tf.Tensor) -> str:
    try:
        source.parse(record)
    except tf.errors.InvalidArgumentError as error:
        if labels.OUT_OF_RANGE in error.message:
            return f"label out of range 0 to {source.num_classes - 1}"
        return "no example of this data set"
    return safe_decoding.DAMAGED
