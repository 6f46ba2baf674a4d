"""Data sets of TFDS without downloads: real metadata, records of our own making."""

import json
import pathlib
from collections.abc import Iterable, Iterator

import numpy as np
import tensorflow as tf
import tensorflow_datasets as tfds

from vit_tf.data import catalog

BYTES_PER_EXAMPLE = 1000  # as dataset_info.json says


def builder(name: str) -> tfds.core.DatasetBuilder:
    """TFDS' builder of a row, or ours; nothing of it lies on disk."""
    row = catalog.DATASETS[name]
    return tfds.builder(f"{row.tfds_name}:{row.version}", data_dir="/nonexistent")


def drawn(name: str, count: int) -> list[dict]:
    """Random examples with the structure and label ranges of a row."""
    with tfds.testing.mock_data(num_examples=count):
        examples = builder(name).as_dataset(split="train")
        return [_mend(example) for example in tfds.as_numpy(examples)]


def write(
    name: str, root: pathlib.Path, examples: dict[str, Iterable[dict]], shards: int = 1
) -> None:
    """Writes splits of examples where TFDS would, for `datasets.open_source`."""
    features = builder(name).info.features
    counts = {}
    for split, content in examples.items():
        records = [
            features.serialize_example(features.encode_example(e)) for e in content
        ]
        paths, lengths = zip(*_layout(name, root, split, len(records), shards))
        counts[split] = lengths
        for path, length in zip(paths, lengths):
            with tf.io.TFRecordWriter(str(path)) as writer:
                for record in records[:length]:
                    writer.write(record)
            records = records[length:]
    write_metadata(name, root, counts)


def write_metadata(
    name: str, root: pathlib.Path, counts: dict[str, tuple[int, ...]]
) -> None:
    """Writes dataset_info.json and features.json: examples of each file of a split."""
    home = catalog.find_home(name, catalog.Path(root))
    home.mkdir(parents=True, exist_ok=True)
    row = catalog.DATASETS[name]
    splits = [
        {
            "name": split,
            "shardLengths": [str(length) for length in lengths],
            "numBytes": str(BYTES_PER_EXAMPLE * sum(lengths)),
            "filepathTemplate": "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}",
        }
        for split, lengths in counts.items()
    ]
    info = {"name": _stem(name), "version": row.version, "fileFormat": "tfrecord"}
    info["splits"] = splits
    if "/" in row.tfds_name:
        info["configName"] = row.tfds_name.split("/")[1]
    (home / "dataset_info.json").write_text(json.dumps(info))
    builder(name).info.features.save_config(home)


def _mend(example: dict) -> dict:
    """Makes what mock_data draws storable: boxes begin before they end, and the
    features of a list of objects are equally long."""
    mended = {}
    for key, value in example.items():
        if isinstance(value, dict):
            shortest = min(len(part) for part in value.values())
            value = _mend({k: part[:shortest] for k, part in value.items()})
        mended[key] = np.sort(value) if key.endswith("bbox") else value
    return mended


def _stem(name: str) -> str:
    return catalog.DATASETS[name].tfds_name.split("/")[0]


def _layout(name, root, split, count, shards) -> Iterator[tuple[pathlib.Path, int]]:
    home = catalog.find_home(name, catalog.Path(root))
    home.mkdir(parents=True, exist_ok=True)
    for shard in range(shards):
        file = f"{_stem(name)}-{split}.tfrecord-{shard:05}-of-{shards:05}"
        length = count * (shard + 1) // shards - count * shard // shards
        yield pathlib.Path(home) / file, length
