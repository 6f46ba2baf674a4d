"""Image operations against NumPy and Pillow, and their randomness."""

import io

import hypothesis
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import strategies as st
from PIL import Image

from tests.support import image_files
from vit_tf import config
from vit_tf.data import images


def _noise(height: int, width: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (height, width, 3), dtype=np.uint8)


def _encode(pixels: np.ndarray, file_format: str = "png", **options) -> bytes:
    file = io.BytesIO()
    mode = options.pop("mode", None)
    Image.fromarray(pixels).convert(mode).save(file, file_format, **options)
    return file.getvalue()


def _bilinear(image: np.ndarray, size: int) -> np.ndarray:
    """Half-pixel centres, no antialiasing, edges repeated."""

    def weights(length: int) -> np.ndarray:
        place = np.clip((np.arange(size) + 0.5) * length / size - 0.5, 0, length - 1)
        low = np.floor(place).astype(int)
        matrix = np.zeros((size, length))
        matrix[np.arange(size), low] += 1 - (place - low)
        matrix[np.arange(size), np.minimum(low + 1, length - 1)] += place - low
        return matrix

    rows, columns = weights(image.shape[0]), weights(image.shape[1])
    return np.einsum("ai,bj,ijc->abc", rows, columns, image.astype(float))


def _key(number: int) -> tf.Tensor:
    return tf.constant([7, number], tf.int64)


@pytest.mark.parametrize("mode", ["RGB", "L", "P", "RGBA", "LA"])
def test_png_of_every_kind_decodes_to_its_rgb(mode):
    pixels = (
        np.repeat(_noise(9, 7)[..., :1], 3, axis=-1) if "L" in mode else _noise(9, 7)
    )
    encoded = _encode(pixels, mode=mode)
    expected = np.asarray(Image.open(io.BytesIO(encoded)).convert("RGB"))
    decoded = images.decode(encoded)
    assert decoded.dtype == tf.uint8
    np.testing.assert_array_equal(decoded, expected)


def test_alpha_is_dropped_not_blended():
    pixels = np.dstack([_noise(5, 5), np.full((5, 5), 3, np.uint8)])
    np.testing.assert_array_equal(images.decode(_encode(pixels)), pixels[..., :3])


@pytest.mark.parametrize("mode", ["L", "CMYK"])
def test_grey_and_cmyk_jpegs_become_rgb(mode):
    pixels = np.full((16, 24, 3), 0, np.uint8)
    pixels[:, 12:] = 200 if mode == "L" else (220, 30, 90)
    decoded = images.decode(_encode(pixels, "jpeg", mode=mode, quality=95)).numpy()
    assert decoded.shape == (16, 24, 3)
    np.testing.assert_allclose(decoded[:, :8], pixels[:, :8], atol=4)
    np.testing.assert_allclose(decoded[:, 16:], pixels[:, 16:], atol=4)


def test_of_an_animation_the_first_frame_stays():
    frames = [Image.fromarray(np.full((6, 8, 3), c, np.uint8)) for c in (0, 255)]
    file = io.BytesIO()
    frames[0].save(file, "gif", save_all=True, append_images=frames[1:])
    np.testing.assert_array_equal(images.decode(file.getvalue()), np.zeros((6, 8, 3)))


def test_of_an_animated_png_the_first_frame_stays():
    frames = [Image.fromarray(np.full((6, 8, 3), c, np.uint8)) for c in (9, 255)]
    file = io.BytesIO()
    frames[0].save(file, "png", save_all=True, append_images=frames[1:])
    assert b"acTL" in file.getvalue()
    np.testing.assert_array_equal(images.decode(file.getvalue()), np.full((6, 8, 3), 9))


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_of_sixteen_bits_the_upper_eight_stay(channels):
    pixels = np.random.default_rng(0).integers(0, 2**16, (5, 7, channels), np.uint16)
    encoded = tf.io.encode_png(tf.constant(pixels, tf.uint16))
    colour = pixels[..., :1] if channels < 3 else pixels[..., :3]
    expected = np.broadcast_to(colour >> 8, (5, 7, 3))
    np.testing.assert_array_equal(images.decode(encoded), expected)


@hypothesis.settings(deadline=None, max_examples=60)
@hypothesis.given(
    height=st.integers(1, 70),
    width=st.integers(1, 70),
    subsampling=st.sampled_from(["4:4:4", "4:2:2", "4:2:0"]),
    progressive=st.booleans(),
    mode=st.sampled_from(["RGB", "L", "CMYK"]),
    data=st.data(),
)
def test_fused_crop_is_decode_then_crop_bit_for_bit(
    height, width, subsampling, progressive, mode, data
):
    pixels = _noise(height, width, seed=height * 71 + width)
    encoded = _encode(
        pixels, "jpeg", mode=mode, subsampling=subsampling, progressive=progressive
    )
    y, x = data.draw(st.integers(0, height - 1)), data.draw(st.integers(0, width - 1))
    h, w = data.draw(st.integers(1, height - y)), data.draw(st.integers(1, width - x))
    begin, size = tf.constant([y, x, 0]), tf.constant([h, w, -1])
    shape = tf.image.extract_jpeg_shape(encoded)
    fused = images.decode_jpeg_box(encoded, shape, begin, size)
    np.testing.assert_array_equal(fused, images.decode(encoded)[y : y + h, x : x + w])


@pytest.mark.parametrize("file_format", ["jpeg", "png"])
def test_inception_crop_cuts_the_sampled_box(file_format):
    encoded = _encode(_noise(60, 80), file_format)
    whole = images.decode(encoded).numpy()
    for number in range(20):
        begin, size = images.sample_box(whole.shape, _key(number), min_area=0.05)
        (y, x, _), (h, w, _) = begin.numpy(), size.numpy()
        cut = images.inception_crop(encoded, _key(number), min_area=0.05)
        np.testing.assert_array_equal(cut, whole[y : y + h, x : x + w])


def test_boxes_keep_to_area_and_aspect_and_fill_the_range():
    height, width = 300, 400
    sizes = np.array(
        [
            images.sample_box((height, width, 3), _key(i), min_area=0.2)[1][:2]
            for i in range(600)
        ]
    )
    areas = sizes.prod(axis=1) / (height * width)
    aspects = sizes[:, 1] / sizes[:, 0]
    # One pixel of rounding.
    assert areas.min() > 0.195 and areas.max() <= 1
    assert aspects.min() > 0.745 and aspects.max() < 1.34
    assert areas.min() < 0.25 and areas.max() > 0.9
    assert aspects.min() < 0.78 and aspects.max() > 1.3


def test_boxes_lie_everywhere():
    boxes = [images.sample_box((90, 90, 3), _key(i), min_area=0.05) for i in range(300)]
    begin = np.array([b[:2] for b, _ in boxes])
    end = begin + np.array([s[:2] for _, s in boxes])
    assert (begin >= 0).all() and (end <= 90).all()
    assert (begin.min(0) <= 1).all() and (end.max(0) >= 89).all()
    assert (begin.max(0) > 45).all() and (end.min(0) < 45).all()


def test_a_box_that_must_be_whole_is_whole():
    begin, size = images.sample_box((40, 50, 3), _key(0), min_area=1.0)
    assert begin.numpy().tolist() == [0, 0, 0]
    assert size.numpy()[:2].tolist() == [40, 50]


@pytest.mark.parametrize("shape", [(31, 57), (9, 5), (64, 64)])
def test_resize_is_bilinear_without_antialiasing(shape):
    image = _noise(*shape)
    resized = images.resize(tf.constant(image), 24)
    assert resized.dtype == tf.float32
    np.testing.assert_allclose(resized, _bilinear(image, 24), atol=1e-3)


def test_central_crop_by_hand():
    # 28 pixels: the shorter side of 64 becomes 32, so each pixel is a 2 x 2 mean.
    image = _noise(64, 96)
    small = image.reshape(32, 2, 48, 2, 3).mean(axis=(1, 3))
    cut = _evaluated(image, 28, config.EvalCrop.CENTRAL)
    np.testing.assert_allclose(cut, small[2:30, 10:38], atol=1e-3)


def test_central_448_crop_by_hand():
    # 24 pixels: the shorter side of 56 becomes 28.
    image = _noise(84, 56)
    small = image.reshape(42, 2, 28, 2, 3).mean(axis=(1, 3))
    cut = _evaluated(image, 24, config.EvalCrop.CENTRAL_448)
    np.testing.assert_allclose(cut, small[9:33, 2:26], atol=1e-3)


def test_central_512_crop_by_hand():
    # 30 pixels: the shorter side of 64 becomes 32.
    image = _noise(96, 64)
    small = image.reshape(48, 2, 32, 2, 3).mean(axis=(1, 3))
    cut = _evaluated(image, 30, config.EvalCrop.CENTRAL_512)
    np.testing.assert_allclose(cut, small[9:39, 1:31], atol=1e-3)


def test_square_central_crop_is_the_middle_of_the_square():
    image = _noise(75, 50)
    cut = _evaluated(image, 28, config.EvalCrop.SQUARE_CENTRAL)
    np.testing.assert_allclose(cut, _bilinear(image, 32)[2:30, 2:30], atol=1e-3)


def _evaluated(image: np.ndarray, size: int, crop: config.EvalCrop) -> np.ndarray:
    """The evaluation view, back in 0..255."""
    data = config.Data(image_size=size, eval_crop=crop)
    return images.evaluation_view(_encode(image), data).numpy() * 127.5 + 127.5


@pytest.mark.parametrize("shape", [(75, 50), (50, 83), (40, 40), (20, 31)])
def test_central_crop_is_the_mean_over_covered_area(shape):
    def cover(length: int, size: int) -> np.ndarray:
        """How much of each old pixel lies in each new one, rows sum to 1."""
        edges = np.arange(size + 1) * length / size
        low, high = np.maximum.outer, np.minimum.outer
        old = np.arange(length)
        overlap = high(edges[1:], old + 1) - low(edges[:-1], old)
        return overlap.clip(0) * size / length

    image = _noise(*shape)
    height, width = (round(length * 32 / min(shape)) for length in shape)
    rows, columns = cover(shape[0], height), cover(shape[1], width)
    small = np.einsum("ai,bj,ijc->abc", rows, columns, image.astype(float))
    top, left = (height - 28) // 2, (width - 28) // 2
    cut = _evaluated(image, 28, config.EvalCrop.CENTRAL)
    np.testing.assert_allclose(cut, small[top : top + 28, left : left + 28], atol=0.01)


def test_central_crop_of_a_tiny_image_has_the_full_size():
    for crop in config.EvalCrop:
        assert _evaluated(_noise(3, 5), 28, crop).shape == (28, 28, 3)


def test_random_crops_are_windows_and_reach_every_place():
    y, x = np.mgrid[:56, :56].astype(np.uint8)
    image = tf.constant(np.dstack([y, x, y]))
    corners = set()
    for number in range(300):
        cut = images.random_crop(image, _key(number), 48).numpy()
        top, left = int(cut[0, 0, 0]), int(cut[0, 0, 1])
        np.testing.assert_array_equal(cut, image[top : top + 48, left : left + 48])
        corners.add((top, left))
    assert {top for top, _ in corners} == {left for _, left in corners} == set(range(9))


@pytest.mark.parametrize(
    ("crop", "shape", "before"),
    [
        # Shapes that the resize before the crop leaves as they are.
        (config.Crop.RANDOM, (56, 56), 56),  # 48 * 448 / 384
        (config.Crop.RANDOM_160, (60, 60), 60),  # 48 * 160 / 128
        (config.Crop.RANDOM_SMALL, (56, 80), 56),
    ],
)
def test_random_crops_are_taken_from_the_size_of_their_name(crop, shape, before):
    y, x = np.mgrid[: shape[0], : shape[1]].astype(np.uint8)
    image = np.dstack([y, x, y])
    data = config.Data(image_size=48, crop=crop, flip=False)
    corners = set()
    for number in range(80):
        cut = images.training_view(_encode(image), data, _key(number)).numpy()
        top, left = int(cut[0, 0, 0]), int(cut[0, 0, 1])
        np.testing.assert_array_equal(cut, image[top : top + 48, left : left + 48])
        corners.add((top, left))
    assert max(top for top, _ in corners) > before - 48 - 3
    # Of the longer side, too, every place is reached.
    assert max(left for _, left in corners) > shape[1] - 48 - 3


def test_random_crops_square_the_image_and_random_small_does_not():
    image = np.zeros((60, 120, 3), np.uint8)
    image[20:40, 40:60] = 255  # a square of a third of the shorter side
    sides = {}
    for crop in (config.Crop.RANDOM, config.Crop.RANDOM_SMALL):
        data = config.Data(image_size=48, crop=crop, flip=False)
        views = [images.training_view(_encode(image), data, _key(i)) for i in range(40)]
        whole = max(views, key=lambda v: v.numpy().sum()).numpy()[..., 0] > 127
        sides[crop] = whole.any(axis=1).sum(), whole.any(axis=0).sum()
    height, width = sides[config.Crop.RANDOM_SMALL]
    assert abs(height - width) <= 1
    height, width = sides[config.Crop.RANDOM]
    assert abs(height - 2 * width) <= 2


def test_half_of_the_images_are_mirrored():
    image = tf.constant(_noise(4, 4), tf.float32)
    count = 0
    for number in range(400):
        flipped = images.random_flip(image, _key(number)).numpy()
        mirrored = np.array_equal(flipped, image[:, ::-1])
        assert mirrored or np.array_equal(flipped, image)
        count += mirrored
    assert 160 <= count <= 240  # four standard deviations


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("crop", list(config.Crop))
@pytest.mark.parametrize("file_format", ["jpeg", "png"])
def test_views_depend_on_the_seed_alone(file_format, crop, flip):
    encoded = _encode(_noise(40, 50), file_format)
    data = config.Data(image_size=16, crop=crop, flip=flip)
    tf.random.set_seed(1)
    once = [images.training_view(encoded, data, _key(i)).numpy() for i in range(8)]
    tf.random.set_seed(2)
    keys = tf.data.Dataset.range(8).map(
        lambda i: tf.stack([tf.constant(7, tf.int64), i])
    )
    again = keys.map(lambda key: images.training_view(encoded, data, key))
    np.testing.assert_array_equal(once, list(again.as_numpy_iterator()))
    random = flip or crop != config.Crop.RESIZE
    assert (len({view.tobytes() for view in once}) > 1) == random


def test_training_views_are_rounded_to_uint8():
    image = _noise(31, 45)
    data = config.Data(image_size=20, crop=config.Crop.RESIZE, flip=False)
    view = images.training_view(_encode(image), data, _key(0))
    assert view.dtype == tf.uint8 and view.shape == (20, 20, 3)
    assert np.abs(view.numpy() - _bilinear(image, 20)).max() < 0.501


def test_crop_and_flip_are_drawn_independently():
    # A left-right ramp shows the mirror image, its slope the width of the box.
    image = np.broadcast_to(np.arange(256, dtype=np.uint8)[:, None], (64, 256, 3))
    data = config.Data(image_size=16)
    views = [
        images.training_view(_encode(image), data, _key(i)).numpy().astype(float)
        for i in range(300)
    ]
    rise = np.array([view[8, -1, 0] - view[8, 0, 0] for view in views])
    centre = np.array([view[8, :, 0].mean() for view in views])
    assert abs(np.corrcoef(rise > 0, centre)[0, 1]) < 0.25
    assert abs(np.corrcoef(rise > 0, np.abs(rise))[0, 1]) < 0.25


@pytest.mark.parametrize("eval_crop", list(config.EvalCrop))
def test_evaluation_views_are_in_the_models_range(eval_crop):
    data = config.Data(image_size=14, eval_crop=eval_crop)
    image = np.zeros((30, 30, 3), np.uint8)
    image[:, 15:] = 255
    view = images.evaluation_view(_encode(image), data)
    assert view.dtype == tf.float32 and view.shape == (14, 14, 3)
    assert float(tf.reduce_min(view)) == -1 and float(tf.reduce_max(view)) == 1


def test_evaluation_resizes_are_not_rounded():
    image = _noise(31, 45)
    data = config.Data(image_size=20, eval_crop=config.EvalCrop.RESIZE)
    view = images.evaluation_view(_encode(image), data)
    expected = _bilinear(image, 20) / 127.5 - 1
    np.testing.assert_allclose(view, expected, atol=1e-5)


def test_model_range():
    values = tf.constant([0, 51, 255], tf.uint8)
    np.testing.assert_allclose(images.to_model_range(values), [-1, -0.6, 1], atol=1e-7)
    assert images.to_model_range(values, tf.bfloat16).dtype == tf.bfloat16


def test_damaged_images_are_an_error():
    encoded = _encode(_noise(64, 64), "jpeg", quality=90)
    with pytest.raises(tf.errors.InvalidArgumentError):
        images.decode(encoded[: len(encoded) // 2])
    with pytest.raises(tf.errors.InvalidArgumentError):
        images.decode(b"not an image")


# TensorFlow's JPEG decoder takes a faster transform than Pillow's, and the authors' code
# takes TensorFlow's: their pixels are ours, and up to this many levels from Pillow's.
_FAST_JPEG = 12


@pytest.mark.parametrize("name", image_files.readable())
def test_pixels_are_those_of_pillow(name):
    encoded = image_files.readable()[name]
    ours = images.decode(tf.constant(encoded)).numpy().astype(int)
    theirs = Image.open(io.BytesIO(encoded))
    if theirs.mode == "I;16":
        grey = np.asarray(theirs).astype(int) >> 8
        theirs = np.repeat(grey[..., None], 3, axis=-1)
    else:
        theirs = np.asarray(theirs.convert("RGBA" if "alpha" in name else "RGB"))
        theirs = theirs[..., :3].astype(int)
    levels = _FAST_JPEG if "jpeg" in name else 0 if "lossy webp" not in name else 1
    assert np.abs(ours - theirs).max() <= levels
