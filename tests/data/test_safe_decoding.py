"""Files from anybody: a view as in evaluation, or a line on why not; never a failure."""

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support import image_files
from vit_tf import config
from vit_tf.data import images, safe_decoding

DATA = config.View(image_size=8)
MAX_PIXELS = 100_000


@tf.function(input_signature=[tf.TensorSpec((None,), tf.string)])
def _views(encoded):
    return safe_decoding.views(encoded, DATA, max_pixels=MAX_PIXELS)


def _see(files):
    pixels, problems = _views(tf.constant(list(files), tf.string))
    return pixels.numpy(), [problem.decode() for problem in problems.numpy()]


@pytest.mark.parametrize("crop", list(config.EvalCrop))
def test_good_files_are_shown_as_evaluation_shows_them(crop):
    """Pixel for pixel, in a graph; out of it see tests/tools/test_predict.py."""
    data = config.Data(image_size=24, eval_crop=crop)
    files = list(image_files.readable().values())
    stream = tf.data.Dataset.from_tensor_slices(files)
    stream = stream.map(lambda file: images.evaluation_view(file, data))
    wanted = np.stack(list(stream.as_numpy_iterator()))

    @tf.function
    def see(encoded):
        return safe_decoding.views(encoded, data, max_pixels=MAX_PIXELS)

    pixels, problems = see(tf.constant(files))
    np.testing.assert_array_equal(pixels, wanted)
    assert set(problems.numpy()) == {b""}


BROKEN = {
    "empty": (b"", safe_decoding.EMPTY),
    "one byte": (b"x", safe_decoding.UNKNOWN),
    "text": (b"an image, honestly", safe_decoding.UNKNOWN),
    "cut jpeg": (image_files.readable()["jpeg"][:300], safe_decoding.DAMAGED),
    "cut png": (image_files.readable()["png"][:300], safe_decoding.DAMAGED),
    "cut webp": (image_files.readable()["webp"][:60], safe_decoding.DAMAGED),
    "head of a jpeg": (b"\xff\xd8\xff", safe_decoding.DAMAGED),
    "head of a png": (b"\x89PNG\r\n\x1a\n", safe_decoding.DAMAGED),
    "head of a gif": (b"GIF89a", safe_decoding.DAMAGED),
    "png bomb": (image_files.png_bomb(), "too large: 60000 x 60000 pixels"),
    "gif bomb": (image_files.gif_bomb(), "too large: 65535 x 65535 pixels"),
    "many frames": (
        image_files.gif_bomb(300, 2),
        "too large: 300 x 300 pixels",
    ),
    "many blocks": (image_files.gif_of_blocks(50_000), safe_decoding.TOO_LARGE),
    "animated webp": (image_files.animated_webp(), safe_decoding.ANIMATED),
}


def test_each_broken_file_gets_its_reason_and_leaves_the_others_alone():
    good = image_files.readable()["jpeg"]
    files = [good]
    for file, _ in BROKEN.values():
        files += [file, good]
    pixels, problems = _see(files)
    (alone,), _ = _see([good])
    for i in range(0, len(files), 2):
        np.testing.assert_array_equal(pixels[i], alone)
        assert problems[i] == ""
    for i, (name, (_, reason)) in enumerate(BROKEN.items()):
        assert problems[2 * i + 1].startswith(reason), name
        assert not pixels[2 * i + 1].any()


@pytest.mark.parametrize("crop", list(config.EvalCrop))
def test_a_narrow_image_is_refused_by_every_view(crop):
    """A central crop would make 40 million pixels of its 600; one rule for all."""
    data = config.Data(image_size=24, eval_crop=crop)
    most = safe_decoding.MAX_RATIO
    files = [
        image_files.encoded(image_files.picture(1, h), "PNG") for h in (most, most + 1)
    ]
    _, problems = safe_decoding.views(tf.constant(files), data, max_pixels=MAX_PIXELS)
    assert [p.decode() for p in problems.numpy()] == ["", safe_decoding.NARROW]


@pytest.mark.parametrize("name", BROKEN)
def test_a_file_alone_gets_the_same_reason(name):
    """As preparing and verifying ask, and a line of a list of millions."""
    file, reason = BROKEN[name]
    if not name.startswith("many"):  # these need more than two frames' pixels
        assert safe_decoding.explain(file).startswith(reason)


def test_small_whole_files_have_no_reason_against_them():
    for name, file in image_files.readable(2, 2).items():
        assert safe_decoding.explain(file) == "", name


def test_no_files_give_no_views():
    pixels, problems = _see([])
    assert pixels.shape == (0, 8, 8, 3) and problems == []


@pytest.mark.parametrize(
    "count", [300, pytest.param(5000, marks=pytest.mark.slow)], ids=str
)
def test_mutated_files_give_views_or_reasons(count):
    draw = np.random.default_rng(count)
    files = list(image_files.readable().values())
    seen = reasons = 0
    for _ in range(0, count, 50):
        pixels, problems = _see([image_files.mutated(draw, files) for _ in range(50)])
        assert np.isfinite(pixels).all() and np.abs(pixels).max() <= 1
        bad = np.array([problem != "" for problem in problems])
        assert not pixels[bad].any()
        seen, reasons = seen + (~bad).sum(), reasons + bad.sum()
    print(f"{count} mutated files: {seen} seen, {reasons} with a reason")
    assert seen > count / 20 and reasons > count / 20  # both happen


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=200))
def test_any_bytes_give_a_reason_or_a_view(data):
    pixels, problems = _see([data, b"\x89PNG\r\n\x1a\n" + data, b"GIF89a" + data])
    assert pixels.shape == (3, 8, 8, 3) and len(problems) == 3
