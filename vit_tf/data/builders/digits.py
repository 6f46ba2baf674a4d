"""scikit-learn's handwritten digits: 1,797 real scans of 8x8 pixels, no download."""

import io
from collections.abc import Iterator
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from PIL import Image
from sklearn import datasets as sklearn_datasets
from sklearn import model_selection

SPLIT_SIZES = {"train": 1_197, "validation": 200, "test": 400}
_GREY_LEVELS = 16  # the scans count 0 to 16 dark pixels of a 4x4 square


class Digits(tfds.core.GeneratorBasedBuilder):
    """Ten classes; fixed splits that keep each class's share (stratified)."""

    VERSION = tfds.core.Version("1.0.0")

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self,
            description="Test part of the UCI optical digits, as scikit-learn ships.",
            features=tfds.features.FeaturesDict(
                {
                    "image": tfds.features.Image(shape=(8, 8, 1)),
                    "label": tfds.features.ClassLabel(names=list("0123456789")),
                }
            ),
            supervised_keys=("image", "label"),
        )

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict:
        del dl_manager  # nothing is downloaded
        pixels, labels = _scans()
        return {
            split: self._generate_examples(pixels, labels, rows)
            for split, rows in split_rows(labels).items()
        }

    def _generate_examples(
        self, pixels: np.ndarray, labels: np.ndarray, rows: np.ndarray
    ) -> Iterator[tuple[int, dict]]:
        for row in rows.tolist():
            yield row, {"image": _png(pixels[row]), "label": int(labels[row])}


def read(split: str) -> tuple[np.ndarray, np.ndarray]:
    """Returns the same examples without TFDS: (n, 8, 8) uint8
    pixels and (n,) int64 labels.
    """
    pixels, labels = _scans()
    rows = split_rows(labels)[split]
    return pixels[rows], labels[rows]


def _scans() -> tuple[np.ndarray, np.ndarray]:
    digits: Any = sklearn_datasets.load_digits()  # a Bunch: keys are attributes
    pixels = np.rint(digits.images * (255 / _GREY_LEVELS)).astype(np.uint8)
    return pixels, digits.target


def split_rows(labels: np.ndarray) -> dict[str, np.ndarray]:
    """Returns row numbers of each split, always the same, each class at its own share."""
    rest = np.arange(len(labels))
    chosen: dict[str, np.ndarray] = {}
    for split in ("test", "validation"):
        parts = model_selection.train_test_split(
            rest, test_size=SPLIT_SIZES[split], stratify=labels[rest], random_state=0
        )
        rest, chosen[split] = (np.asarray(part) for part in parts)
    return {"train": rest, **chosen}


def _png(pixels: np.ndarray) -> bytes:
    """Returns grey pixels (8, 8) uint8 as a PNG file."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, format="png")
    return file.getvalue()
