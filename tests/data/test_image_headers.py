"""Sizes by the first bytes: what PIL says, for every format and any size."""

import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support import image_files
from vit_tf.data import image_headers


@tf.function(input_signature=[tf.TensorSpec((), tf.string)])
def _traced(encoded):
    return image_headers.pixels(encoded)


def _pixels(encoded):
    return tuple(int(n) for n in _traced(tf.constant(encoded)))


@settings(max_examples=15, deadline=None)
@given(st.integers(1, 300), st.integers(1, 300))
def test_every_format_says_its_size(width, height):
    for name, encoded in image_files.readable(width, height).items():
        frames = 4 if name == "animated gif" else 1
        found = _pixels(encoded)
        assert found[:2] == (height, width), name
        # An animation may store less than whole frames, where little changes.
        assert width * height <= found[2] <= frames * width * height, name


def test_a_gif_is_as_large_as_its_frames():
    """Not as its header says; all of them are unpacked."""
    side, frames = 65_535, 3
    found = _pixels(image_files.gif_bomb(side, frames))
    assert found == (side, side, frames * side**2)


def test_a_bmp_may_be_upside_down():
    encoded = bytearray(image_files.encoded(image_files.picture(7, 5), "BMP"))
    encoded[22:26] = (-5).to_bytes(4, "little", signed=True)
    assert _pixels(bytes(encoded)) == (5, 7, 35)


@pytest.mark.parametrize("encoded", [b"", b"GIF7", b"text", b"\0" * 100, b"RIFF"])
def test_what_is_no_image_has_no_size(encoded):
    assert _pixels(encoded) == (image_headers.NONE, image_headers.NONE, 0)


@pytest.mark.parametrize("count", [1_000, 19_000, 21_000])
def test_a_walk_of_too_many_blocks_ends(count):
    pixels = _pixels(image_files.gif_of_blocks(count))[2]
    assert pixels == (1 if count < image_headers.MAX_BLOCKS else image_headers.ENDLESS)


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_a_cut_gif_ends_the_walk(data):
    whole = image_files.readable()["animated gif"]
    cut = whole[: data.draw(st.integers(6, len(whole)))]
    assert _pixels(cut)[2] <= _pixels(whole)[2]
