"""Images to look at come from a file, a folder of any shape, or a data set."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from tests.support import image_files
from vit_tf import config, errors
from vit_tf.data import (
    catalog,
    evaluation_stream,
)
from vit_tf.inspection import image_sets

DATA = config.View(image_size=8)


def _image(path, colour, size=(8, 8)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, colour).save(path)


@pytest.fixture
def folder(tmp_path):
    _image(tmp_path / "in" / "deep" / "red.PNG", (255, 0, 0))
    _image(tmp_path / "in" / "black.png", (0, 0, 0), (20, 9))
    _image(tmp_path / "in" / "white.webp", (255, 255, 255))
    _image(tmp_path / "in" / ".thumbs" / "black.png", (0, 0, 0))
    (tmp_path / "in" / "._black.png").write_bytes(b"what a Mac leaves")
    (tmp_path / "in" / "notes.txt").write_text("no image")
    return tmp_path / "in"


def test_a_folder_of_any_shape_is_read_in_order_of_names(folder):
    found, source = image_sets.load(str(folder), DATA, max_images=10)
    assert source is None and found.labels is None
    assert found.names == ("black", "red", "white") and found.total == 3
    assert found.origin == "in"
    assert found.pixels.shape == (3, 8, 8, 3) and found.pixels.dtype == np.float32
    np.testing.assert_array_equal(found.pixels[:, 4, 4].mean(axis=-1) > 0, [0, 0, 1])
    np.testing.assert_array_equal(found.pixels[1, 0, 0], [1, -1, -1])
    assert [len(batch) for batch in found.batches(2)] == [2, 1]


@given(number=st.integers(1, 200), size=st.integers(1, 70))
def test_batches_are_even_and_hold_every_image(number, size):
    pixels = np.arange(number)[:, None, None, None]
    found = list(image_sets.Gallery(pixels, (), None, "", number).batches(size))
    np.testing.assert_array_equal(np.concatenate(found), pixels)
    lengths = [len(batch) for batch in found]
    assert max(lengths) <= size and max(lengths) - min(lengths) <= 1
    if size >= 7 and number >= 4:
        assert min(lengths) >= 4, "few images could not be compared"


def test_a_file_is_one_image_whatever_its_name(folder):
    named = folder / "black.png"
    found, _ = image_sets.load(str(named), DATA, max_images=10)
    assert found.names == ("black",) and len(found.pixels) == 1
    other, _ = image_sets.load(str(named.rename(folder / "scan")), DATA, max_images=10)
    np.testing.assert_array_equal(other.pixels, found.pixels)


def test_a_part_is_drawn_once_for_all(folder):
    first, second = (image_sets.load(str(folder), DATA, max_images=2) for _ in range(2))
    assert first[0].names == second[0].names and len(first[0].names) == 2
    assert first[0].total == 3
    rows = image_sets.choose(1000, 50)
    assert len(set(rows)) == 50 and (np.diff(rows) > 0).all()
    assert rows.max() > 800, "not just the first"


def test_a_data_set_is_read_as_evaluation_sees_it(data_dir):
    data = config.Data(image_size=16)
    found, source = image_sets.load(
        "digits", data.view, max_images=5, data_dir=data_dir
    )
    keep = image_sets.choose(400, 5)
    view = data.view
    (batch,) = evaluation_stream.stream(source, view, "test", batch_size=5, keep=keep)
    np.testing.assert_array_equal(found.pixels, batch["image"])
    np.testing.assert_array_equal(found.labels, batch["label"])
    assert found.names == tuple(f"test {row}" for row in keep)
    assert (found.origin, found.total) == ("digits test", 400)
    # More than are read at a time, which leaves padding to take away.
    many, _ = image_sets.load("digits", data.view, max_images=70, data_dir=data_dir)
    assert len(many.pixels) == len(set(many.names)) == 70


def test_another_split_can_be_named(data_dir):
    found, _ = image_sets.load(
        "digits", DATA, max_images=2, split="train", data_dir=data_dir
    )
    assert found.origin == "digits train"
    source = catalog.open_source("digits", data_dir)
    assert image_sets.usual_split(source) == "test"


def test_what_cannot_be_read_is_named(folder, tmp_path, data_dir):
    for content, why in (
        (image_files.encoded(image_files.picture(), "PNG")[:50], "damaged: cannot be"),
        (image_files.png_bomb(), "too large: 60000 x 60000 pixels"),
        (b"", "empty: no bytes"),
    ):
        (folder / "broken.png").write_bytes(content)
        with pytest.raises(errors.UserError, match=f"broken.png: {why}.*; mend it or"):
            image_sets.load(str(folder), DATA, max_images=10)
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(errors.UserError, match="empty: no images; need files ending"):
        image_sets.load(str(empty), DATA, max_images=10)
    with pytest.raises(errors.UserError, match="no prepared data set"):
        image_sets.load(str(folder), DATA, max_images=10, split="test")
    with pytest.raises(
        errors.UserError, match="--images=digit: no such file or folder"
    ):
        image_sets.load("digit", DATA, max_images=10, data_dir=data_dir)
