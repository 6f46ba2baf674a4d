"""RandAugment as AugReg trained with it (arXiv 2106.10270; big_vision).

Sixteen operations of uint8 images, of which every layer applies one, drawn
uniformly, at one fixed magnitude. They follow the code that the released models
were trained with, TensorFlow's AutoAugment over tensorflow-addons, down to its
quirks, because "RandAugment" means other operations in every library. All run on
the host, inside tf.data: XLA cannot compile the geometric ones.
"""

import math

import tensorflow as tf

FILL = 128  # of pixels that come from outside the image


def rand_augment(
    image: tf.Tensor, seed: tf.Tensor, *, layers: int, magnitude: int
) -> tf.Tensor:
    """Applies `layers` operations, each drawn from `OPERATIONS` with replacement.

    Args:
        image: uint8 (height, width, 3), both at least 3.
        seed: (2,) integers; the result is a function of these and the image.
        layers: how many operations.
        magnitude: of every operation, 0 to 20; 0 is not nothing, see `distort`.

    Returns:
        uint8 (height, width, 3).
    """
    names = list(OPERATIONS)
    for key in tf.unstack(tf.random.split(seed, layers)):
        which, inside = tf.unstack(tf.random.split(key, 2))
        branches = [
            lambda n=name, i=image, k=inside: distort(i, n, k, magnitude=magnitude)
            for name in names
        ]
        chosen = tf.random.stateless_uniform((), which, 0, len(names), tf.int32)
        image = tf.ensure_shape(tf.switch_case(chosen, branches), image.shape)
    return image


def distort(
    image: tf.Tensor, name: str, seed: tf.Tensor, *, magnitude: int
) -> tf.Tensor:
    """Applies the operation `name` of `OPERATIONS`.

    Magnitude 10 is the usual full strength and 0 not none: factors of blends are
    then 0.1, a posterised channel keeps one bit, and what takes no magnitude
    (autocontrast, equalize, invert) is as strong as ever.

    Args:
        image: uint8 (height, width, 3).
        name: a key of `OPERATIONS`.
        seed: (2,) integers, for the sign of a shift or the place of a hole.
        magnitude: 0 to 20.

    Returns:
        uint8 (height, width, 3).
    """
    return OPERATIONS[name](image, magnitude / 10.0, seed)


def autocontrast(image: tf.Tensor) -> tf.Tensor:
    """Stretches every channel to 0..255; a channel of one value stays."""
    pixels = tf.cast(image, tf.float32)
    low = tf.reduce_min(pixels, axis=(0, 1))
    high = tf.reduce_max(pixels, axis=(0, 1))
    scale = 255.0 / tf.maximum(high - low, 1.0)
    stretched = tf.clip_by_value(pixels * scale + (-low * scale), 0.0, 255.0)
    return tf.where(high > low, tf.cast(stretched, tf.uint8), image)


def equalize(image: tf.Tensor) -> tf.Tensor:
    """Flattens every channel's histogram, in the whole numbers of Pillow."""
    values = tf.cast(image, tf.int32) + 256 * tf.range(3)  # a range per channel
    counts = tf.math.bincount(tf.reshape(values, (-1,)), minlength=768, maxlength=768)
    counts = tf.reshape(counts, (3, 256))
    highest = tf.cast(tf.reduce_max(image, axis=(0, 1)), tf.int32)
    above = tf.gather(counts, highest[:, None], batch_dims=1)
    step = (tf.reduce_sum(counts, axis=1, keepdims=True) - above) // 255  # (3, 1)
    before = tf.cumsum(counts, axis=1, exclusive=True)
    table = tf.minimum((before + step // 2) // tf.maximum(step, 1), 255)
    table = tf.where(step > 0, table, tf.range(256))
    return tf.cast(tf.gather(tf.reshape(table, (-1,)), values), tf.uint8)


def invert(image: tf.Tensor) -> tf.Tensor:
    """Returns 255 - value."""
    return 255 - image


def posterize(image: tf.Tensor, bits: int) -> tf.Tensor:
    """Keeps the highest `bits` bits of every value; at 0, one bit.

    The reference shifts a byte by 8 - bits, and TensorFlow limits shifts of a
    byte to 7, so what reads as "keep nothing" keeps the highest bit.
    """
    kept = min(max(bits, 1), 8)
    return tf.bitwise.bitwise_and(image, tf.constant(256 - 2 ** (8 - kept), tf.uint8))


def solarize(image: tf.Tensor, threshold: int) -> tf.Tensor:
    """Inverts values from `threshold` up, taken modulo 256.

    The reference compares bytes with int(256 * magnitude / 10), which is no byte
    from magnitude 10 on. NumPy below 2 cut it to one: 256 and 512 became 0, so
    that everything is inverted, and 384 became 128. That is what the released
    models saw. (Not cutting would mean: nothing is inverted.)
    """
    return tf.where(image < tf.constant(threshold % 256, tf.uint8), image, 255 - image)


def solarize_add(image: tf.Tensor, addition: int) -> tf.Tensor:
    """Adds `addition` to values below 128, up to 255."""
    added = tf.minimum(tf.cast(image, tf.int32) + addition, 255)
    return tf.where(image < 128, tf.cast(added, tf.uint8), image)


def color(image: tf.Tensor, factor: float) -> tf.Tensor:
    """Moves colours away from grey (factor above 1) or towards it (below)."""
    grey = tf.image.grayscale_to_rgb(tf.image.rgb_to_grayscale(image))
    return blend(grey, image, factor)


def contrast(image: tf.Tensor, factor: float) -> tf.Tensor:
    """Moves away from a grey level or towards it: pixels / 256, not their mean.

    The reference divides the sum of a histogram, which is the number of pixels,
    by 256: the level is 196 at 224 x 224 pixels, and white from 256 x 256 on.
    """
    shape = tf.cast(tf.shape(image), tf.float32)
    level = tf.minimum(shape[0] * shape[1] / 256.0, 255.0)
    return blend(tf.fill(tf.shape(image), tf.cast(level, tf.uint8)), image, factor)


def brightness(image: tf.Tensor, factor: float) -> tf.Tensor:
    """Moves away from black or towards it."""
    return blend(tf.zeros_like(image), image, factor)


def sharpness(image: tf.Tensor, factor: float) -> tf.Tensor:
    """Moves away from Pillow's smoothed image or towards it; the edge stays as is.

    Smoothed by the reference's float convolution. Where 13 divides the weighted
    sum exactly, rounding decides whether the fraction that is cut off is 0 or
    0.999..., so another machine may give one level more or less there.
    """
    kernel = tf.constant([[1, 1, 1], [1, 5, 1], [1, 1, 1]], tf.float32) / 13.0
    kernel = tf.tile(tf.reshape(kernel, (3, 3, 1, 1)), (1, 1, 3, 1))
    smooth = tf.nn.depthwise_conv2d(
        tf.cast(image, tf.float32)[None], kernel, (1, 1, 1, 1), "VALID"
    )
    smooth = tf.cast(tf.clip_by_value(smooth[0], 0.0, 255.0), tf.uint8)
    edge = [[1, 1], [1, 1], [0, 0]]
    inside = tf.pad(tf.ones_like(smooth, tf.bool), edge)
    return blend(tf.where(inside, tf.pad(smooth, edge), image), image, factor)


def rotate(image: tf.Tensor, degrees: tf.Tensor) -> tf.Tensor:
    """Turns around the centre, to the nearest pixel."""
    angle = tf.cast(degrees, tf.float32) * (math.pi / 180.0)
    cos, sin = tf.cos(angle), tf.sin(angle)
    far = tf.cast(tf.shape(image)[:2] - 1, tf.float32)
    bottom, right = far[0], far[1]
    x = (right - (cos * right - sin * bottom)) / 2.0
    y = (bottom - (sin * right + cos * bottom)) / 2.0
    return transform(image, [cos, -sin, x, sin, cos, y])


def shear_x(image: tf.Tensor, level: tf.Tensor) -> tf.Tensor:
    """Moves row y to the left by level * y pixels."""
    return transform(image, [1.0, level, 0.0, 0.0, 1.0, 0.0])


def shear_y(image: tf.Tensor, level: tf.Tensor) -> tf.Tensor:
    """Moves column x up by level * x pixels."""
    return transform(image, [1.0, 0.0, 0.0, level, 1.0, 0.0])


def translate_x(image: tf.Tensor, pixels: tf.Tensor) -> tf.Tensor:
    """Moves to the left."""
    return transform(image, [1.0, 0.0, pixels, 0.0, 1.0, 0.0])


def translate_y(image: tf.Tensor, pixels: tf.Tensor) -> tf.Tensor:
    """Moves up."""
    return transform(image, [1.0, 0.0, 0.0, 0.0, 1.0, pixels])


def transform(image: tf.Tensor, matrix: list[tf.Tensor | float]) -> tf.Tensor:
    """Moves pixels: the one at (x, y) becomes the one nearest to matrix @ (x, y, 1).

    Args:
        image: uint8 (height, width, 3).
        matrix: six numbers, row by row.

    Returns:
        uint8 (height, width, 3), `FILL` where the place is outside.
    """
    row = [tf.cast(number, tf.float32) for number in (*matrix, 0.0, 0.0)]
    moved = tf.raw_ops.ImageProjectiveTransformV3(
        images=image[None],
        transforms=tf.stack(row)[None],
        output_shape=tf.shape(image)[:2],
        fill_value=float(FILL),
        interpolation="NEAREST",
        fill_mode="CONSTANT",
    )
    return tf.ensure_shape(moved[0], image.shape)


def cutout(image: tf.Tensor, seed: tf.Tensor, *, half: int) -> tf.Tensor:
    """Fills a square of side 2 * half, centred on a uniformly drawn pixel."""
    centre = [
        tf.random.stateless_uniform((), key, 0, length, tf.int32)
        for length, key in zip(
            tf.unstack(tf.shape(image)[:2]),
            tf.unstack(tf.random.split(seed, 2)),
        )
    ]
    return punch(image, tf.stack(centre), half=half)


def punch(image: tf.Tensor, centre: tf.Tensor, *, half: int) -> tf.Tensor:
    """Fills rows y - half to y + half - 1 of `centre` (y, x), columns likewise."""
    away = [
        tf.range(length) - middle
        for length, middle in zip(tf.unstack(tf.shape(image)[:2]), tf.unstack(centre))
    ]
    rows, columns = ((place >= -half) & (place < half) for place in away)
    hole = rows[:, None, None] & columns[None, :, None]
    return tf.where(hole, tf.constant(FILL, tf.uint8), image)


def blend(degenerate: tf.Tensor, image: tf.Tensor, factor: float) -> tf.Tensor:
    """Computes degenerate + factor * (image - degenerate), cut to whole bytes."""
    if factor == 1.0:
        return image
    start = tf.cast(degenerate, tf.float32)
    mixed = start + factor * (tf.cast(image, tf.float32) - start)
    return tf.cast(tf.clip_by_value(mixed, 0.0, 255.0), tf.uint8)


def _signed(amount: float, seed: tf.Tensor) -> tf.Tensor:
    """Returns `amount` or its opposite, each with probability one half."""
    return tf.where(tf.random.stateless_uniform((), seed) < 0.5, amount, -amount)


def _enhance(strength: float) -> float:
    return strength * 1.8 + 0.1


# Name -> (image, magnitude / 10, seed) -> image. The numbers are AugReg's; sizes
# are pixels whatever the image's size.
OPERATIONS = {
    "autocontrast": lambda image, s, key: autocontrast(image),
    "equalize": lambda image, s, key: equalize(image),
    "invert": lambda image, s, key: invert(image),
    "rotate": lambda image, s, key: rotate(image, _signed(30.0 * s, key)),
    "posterize": lambda image, s, key: posterize(image, int(s * 4)),
    "solarize": lambda image, s, key: solarize(image, int(s * 256)),
    "color": lambda image, s, key: color(image, _enhance(s)),
    "contrast": lambda image, s, key: contrast(image, _enhance(s)),
    "brightness": lambda image, s, key: brightness(image, _enhance(s)),
    "sharpness": lambda image, s, key: sharpness(image, _enhance(s)),
    "shear_x": lambda image, s, key: shear_x(image, _signed(0.3 * s, key)),
    "shear_y": lambda image, s, key: shear_y(image, _signed(0.3 * s, key)),
    "translate_x": lambda image, s, key: translate_x(image, _signed(100.0 * s, key)),
    "translate_y": lambda image, s, key: translate_y(image, _signed(100.0 * s, key)),
    "cutout": lambda image, s, key: cutout(image, key, half=int(s * 40)),
    "solarize_add": lambda image, s, key: solarize_add(image, int(s * 110)),
}
