"""Image operations: decode, crops, flip, resize, value range. Pure functions.

Everything here runs inside tf.data on the host, takes its randomness from the
stateless seed it is given, and works on one image at a time. EXIF orientation
is ignored, as the authors' code does.
"""

import tensorflow as tf

from vit_tf import config
from vit_tf.data import randaugment

# tf.image.sample_distorted_bounding_box's defaults, as vit_jax takes them, written out
# because the stateless op's own defaults are not a promise.
_ASPECT_RANGE = (0.75, 1.33)
_MAX_ATTEMPTS = 100


def decode(encoded: tf.Tensor) -> tf.Tensor:
    """Decodes JPEG, PNG, WebP, GIF or BMP bytes to uint8 (height, width, 3).

    Grey becomes three equal channels, CMYK becomes RGB, alpha is dropped, of an
    animation the first frame stays.
    """

    def as_stored(channels: int) -> tf.Tensor:
        return tf.io.decode_image(encoded, channels=channels, expand_animations=False)

    # TensorFlow drops the alpha of a PNG if asked for three channels; not of a WebP.
    image = tf.cond(
        tf.strings.substr(encoded, 0, 4) == b"RIFF",
        lambda: tf.slice(as_stored(0), [0, 0, 0], [-1, -1, 3]),
        lambda: as_stored(3),
    )
    return tf.ensure_shape(image, (None, None, 3))


def training_view(encoded: tf.Tensor, data: config.Data, seed: tf.Tensor) -> tf.Tensor:
    """Makes an augmented training image (section 4.1; BiT, arXiv 1912.11370, 3.3).

    Args:
        encoded: the image file's bytes, a scalar string.
        data: crop, image size, flip, and RandAugment.
        seed: (2,) integers; the view is a function of these and the bytes.

    Returns:
        uint8 (image_size, image_size, 3), rounded to the nearest value.
    """
    crop_seed, flip_seed, augment_seed = tf.unstack(tf.random.split(seed, 3))
    size = data.image_size
    image = {
        config.Crop.INCEPTION: lambda: resize(
            inception_crop(encoded, crop_seed, min_area=data.min_crop_area), size
        ),
        config.Crop.RANDOM: lambda: random_crop(
            resize(decode(encoded), enlarged(size)), crop_seed, size
        ),
        config.Crop.RANDOM_160: lambda: random_crop(
            resize(decode(encoded), round(size * 160 / 128)), crop_seed, size
        ),
        config.Crop.RANDOM_SMALL: lambda: random_crop(
            resize_small(decode(encoded), enlarged(size)), crop_seed, size
        ),
        config.Crop.RESIZE: lambda: resize(decode(encoded), size),
    }[data.crop]()
    if data.flip:
        image = random_flip(image, flip_seed)
    image = tf.cast(tf.round(image), tf.uint8)
    if data.randaug_layers:
        image = randaugment.rand_augment(
            image,
            augment_seed,
            layers=data.randaug_layers,
            magnitude=data.randaug_magnitude,
        )
    return image


def evaluation_view(encoded: tf.Tensor, view: config.View) -> tf.Tensor:
    """Makes an evaluation image, float32 (image_size, image_size, 3) in [-1, 1]."""
    image, size = decode(encoded), view.image_size
    margin = central_margin(view)
    if margin is not None:
        pixels = central_crop(resize_small(image, margin), size)
    elif view.eval_crop is config.EvalCrop.SQUARE_CENTRAL:
        pixels = central_crop(resize(image, round(size * 256 / 224)), size)
    else:
        pixels = resize(image, size)
    return to_model_range(pixels)


def central_margin(view: config.View) -> int | None:
    """Returns the pixels to which the shorter side is resized for a central crop.

    None where a view has no such crop and squeezes the whole image. The longer side follows, so that a narrow image becomes a large one.
    """
    size = view.image_size
    return {
        config.EvalCrop.CENTRAL: round(size * 256 / 224),
        config.EvalCrop.CENTRAL_448: enlarged(size),
        config.EvalCrop.CENTRAL_512: round(size * 512 / 480),
    }.get(view.eval_crop)


def to_model_range(images: tf.Tensor, dtype: tf.DType = tf.float32) -> tf.Tensor:
    """Scales [0, 255] to [-1, 1] in float32, then casts to `dtype`."""
    return tf.cast((tf.cast(images, tf.float32) - 127.5) / 127.5, dtype)


def resize(image: tf.Tensor, size: int) -> tf.Tensor:
    """Resizes to a square, bilinear without antialiasing: float32 (size, size, 3).

    The aspect ratio is not kept; this is the paper's resize (section 4.1, after BiT).
    """
    resized = tf.image.resize(image, (size, size), antialias=False)
    return tf.ensure_shape(tf.cast(resized, tf.float32), (size, size, 3))


def inception_crop(
    encoded: tf.Tensor, seed: tf.Tensor, *, min_area: float
) -> tf.Tensor:
    """Decodes a random box of the image, as Inception's: uint8 (h, w, 3).

    Of a JPEG only the box is decoded; other formats are decoded whole.
    """

    def of_jpeg() -> tf.Tensor:
        shape = tf.image.extract_jpeg_shape(encoded)
        begin, size = sample_box(shape, seed, min_area=min_area)
        return decode_jpeg_box(encoded, shape, begin, size)

    def of_any() -> tf.Tensor:
        image = decode(encoded)
        return tf.slice(image, *sample_box(tf.shape(image), seed, min_area=min_area))

    return tf.cond(tf.io.is_jpeg(encoded), of_jpeg, of_any)


def decode_jpeg_box(
    encoded: tf.Tensor, shape: tf.Tensor, begin: tf.Tensor, size: tf.Tensor
) -> tf.Tensor:
    """Computes `tf.slice(decode(encoded), begin, size)` without decoding the rest.

    The same pixels bit for bit: libjpeg smooths colour across neighbouring
    columns, so two more are decoded on each side and cut off again.
    """
    left = tf.maximum(begin[1] - 2, 0)
    right = tf.minimum(begin[1] + size[1] + 2, shape[1])
    window = tf.stack([begin[0], left, size[0], right - left])
    image = tf.image.decode_and_crop_jpeg(encoded, window, channels=3)
    return tf.slice(image, [0, begin[1] - left, 0], [size[0], size[1], 3])


def sample_box(
    shape: tf.Tensor, seed: tf.Tensor, *, min_area: float
) -> tuple[tf.Tensor, tf.Tensor]:
    """Draws a box of random area and aspect ratio for `tf.slice`.

    Args:
        shape: (3,) int32, height, width and channels of the image.
        seed: (2,) integers.
        min_area: smallest share of the image's area; the largest is 1.

    Returns:
        begin (y, x, 0) and size (height, width, -1), int32. The whole image if
        no fitting box is found in 100 attempts.
    """
    begin, size, _ = tf.image.stateless_sample_distorted_bounding_box(
        shape,
        bounding_boxes=tf.zeros((1, 0, 4)),
        seed=seed,
        min_object_covered=0.0,
        aspect_ratio_range=_ASPECT_RANGE,
        area_range=(min_area, 1.0),
        max_attempts=_MAX_ATTEMPTS,
        use_image_if_no_bounding_boxes=True,
    )
    return begin, size


def enlarged(size: int) -> int:
    """Returns BiT's size before a crop of `size`: 448 for 384 (its section 3.3)."""
    return round(size * 448 / 384)


def random_crop(image: tf.Tensor, seed: tf.Tensor, size: int) -> tf.Tensor:
    """Cuts out a random square: (size, size, 3) of a larger image."""
    return tf.image.stateless_random_crop(image, (size, size, 3), seed)


def random_flip(image: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
    """Mirrors left and right with probability one half."""
    mirrored = tf.random.stateless_uniform((), seed) < 0.5
    return tf.cond(mirrored, lambda: tf.reverse(image, axis=(1,)), lambda: image)


def resize_small(image: tf.Tensor, shorter: int) -> tf.Tensor:
    """Resizes the shorter side to `shorter` by area and keeps the aspect ratio.

    Returns:
        float32 (height, width, 3).
    """
    shape = tf.cast(tf.shape(image)[:2], tf.float64)
    target = tf.cast(tf.round(shape * shorter / tf.reduce_min(shape)), tf.int32)
    return tf.image.resize(image, target, method="area")


def central_crop(image: tf.Tensor, size: int) -> tf.Tensor:
    """Cuts out the square in the middle: (size, size, 3) of a larger image."""
    top, left = tf.unstack((tf.shape(image)[:2] - size) // 2)
    cut = tf.image.crop_to_bounding_box(image, top, left, size, size)
    return tf.ensure_shape(cut, (size, size, 3))
