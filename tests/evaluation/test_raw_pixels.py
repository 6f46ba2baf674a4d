"""The yardstick that the quickstart names, counted again."""

import numpy as np

from experiments import quickstart
from vit_tf.data import catalog
from vit_tf.data.builders import digits
from vit_tf.evaluation import raw_pixels


def test_the_quickstart_names_what_is_counted():
    found = raw_pixels.count_right(digits.read("train"), digits.read("test"))
    assert found == quickstart.RAW_PIXELS


def test_what_is_read_without_tfds_are_the_prepared_digits(data_dir):
    source = catalog.open_source("digits", data_dir)
    for split in digits.SPLIT_SIZES:
        pixels, labels = digits.read(split)
        assert len(pixels) == source.num_examples(split)
        prepared = sorted(
            (example["image"].tobytes(), int(example["label"]))
            for example in source.builder.as_dataset(split).as_numpy_iterator()
        )
        assert prepared == sorted(
            (image.tobytes(), int(label))
            for image, label in zip(pixels, labels, strict=True)
        )


def test_both_classifiers_are_counted():
    """Two dark and two light images; of the test images one has the wrong label."""
    pixels = np.array([[0, 10], [10, 0], [250, 255], [255, 240]], np.uint8)
    labels = np.array([0, 0, 1, 1])
    theirs = np.array([0, 1, 1, 1])
    found = raw_pixels.count_right((pixels, labels), (pixels[:, ::-1], theirs))
    assert found == {"nearest neighbour": 3, "logistic regression": 3}
