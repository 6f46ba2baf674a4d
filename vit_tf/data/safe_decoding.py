"""Image files that nobody has checked: each becomes a view, or a line on why not.

What a server is sent. Sizes are read from the header before anything is decoded, so
that a small file cannot ask for gigabytes; one bad file leaves the others alone. Ops
of TensorFlow's C++ runtime only, so that it can be exported.
"""

import functools
from collections.abc import Callable

import tensorflow as tf

from vit_tf import config
from vit_tf.data import image_headers, images

# Decoded this takes 200 MB; a phone's photograph has 12 to 50 million pixels.
MAX_PIXELS = 64_000_000

# A central crop enlarges the shorter side and the longer one with it: of an image as
# narrow as this a view of 384 pixels is cut out of 240 MB. The same for every view, so
# that what is prepared can be trained with, evaluated and predicted.
MAX_RATIO = 100

_PARALLEL = 4  # files that are decoded at once, each with its memory

# Reasons, as the caller of a server reads them.
EMPTY = "empty: no bytes"
UNKNOWN = "not a JPEG, PNG, WebP, GIF or BMP file"
DAMAGED = "damaged: cannot be decoded"
ANIMATED = "an animated WebP: only still ones are read"
TOO_LARGE = "too large"  # and by how much
TABLE = "a BMP with fewer than 24 bits a pixel: its table of colours is not read"
NARROW = f"too narrow: one side is more than {MAX_RATIO} times the other"


def views(
    encoded: tf.Tensor, view: config.View, *, max_pixels: int
) -> tuple[tf.Tensor, tf.Tensor]:
    """Decodes image files and shows them as evaluation does.

    Args:
        encoded: string (n,), whole files; n may be 0.
        view: size and crop.
        max_pixels: of a file, over all frames of an animation, that are decoded.

    Returns:
        float32 (n, image_size, image_size, 3) in [-1, 1], zeros where a file could
        not be read, and string (n,), empty or why it could not.
    """
    n, size = tf.size(encoded, tf.int64), view.image_size
    nothing = tf.zeros((size, size, 3))

    @tf.autograph.experimental.do_not_convert
    def show(i: tf.Tensor) -> tuple[tf.Tensor, ...]:
        why = problem(encoded[i], max_pixels=max_pixels)
        image = tf.cond(
            why == "",
            lambda: images.evaluation_view(encoded[i], view),
            lambda: nothing,
        )
        return i, image, why

    # What fails is left out here and missed below. The row behind the last one is
    # there because an empty set has no batch.
    rows = tf.data.Dataset.range(n).map(
        show, num_parallel_calls=_PARALLEL, deterministic=True
    )
    last = tf.data.Dataset.from_tensors((n, nothing, tf.constant("")))
    rows = rows.ignore_errors().concatenate(last)
    places, pixels, problems = rows.batch(n + 1).get_single_element()
    shape = tf.stack([n + 1, size, size, 3])
    pixels = tf.scatter_nd(places[:, None], pixels, shape)[:-1]
    damaged = tf.fill([n + 1], DAMAGED)
    problems = tf.tensor_scatter_nd_update(damaged, places[:, None], problems)[:-1]
    return tf.ensure_shape(pixels, (None, size, size, 3)), problems


def problem(encoded: tf.Tensor, *, max_pixels: int = MAX_PIXELS) -> tf.Tensor:
    """Says why a file is not decoded, by its first bytes; or an empty string.

    Args:
        encoded: a scalar string, the whole file.
        max_pixels: of a file, over all frames of an animation, that are decoded.
    """
    height, width, pixels = image_headers.pixels(encoded)
    size = [tf.strings.as_string(number) for number in (width, height)]
    over = f" pixels, or more over all frames; at most {max_pixels} are decoded"
    too_large = tf.strings.join([f"{TOO_LARGE}: ", size[0], " x ", size[1], over])
    return tf.case(
        [
            (tf.strings.length(encoded) == 0, lambda: tf.constant(EMPTY)),
            (width == image_headers.NONE, lambda: tf.constant(UNKNOWN)),
            (image_headers.is_animated_webp(encoded), lambda: tf.constant(ANIMATED)),
            (pixels > max_pixels, lambda: too_large),
            (
                image_headers.is_coloured_by_a_table(encoded),
                lambda: tf.constant(TABLE),
            ),
            (
                tf.maximum(height, width) > MAX_RATIO * tf.minimum(height, width),
                lambda: tf.constant(NARROW),
            ),
        ],
        default=lambda: tf.constant(""),
    )


def check(encoded: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Decodes a file whole to see whether it can be.

    Args:
        encoded: a scalar string, the whole file.

    Returns:
        Why it is not decoded, or an empty string; and a pixel, which has to be asked
        for because what nobody asks for is optimized away.

    Raises:
        tf.errors.InvalidArgumentError: it is damaged behind its header.
    """
    why = problem(encoded)
    pixel = tf.cond(
        why == "",
        lambda: tf.reduce_max(images.decode(encoded)),
        lambda: tf.zeros((), tf.uint8),
    )
    return why, pixel


def explain(encoded: bytes) -> str:
    """Says why a file cannot be decoded; empty where it can."""
    try:
        why, _ = _checked()(tf.constant(encoded))
        return why.numpy().decode()
    except tf.errors.OpError:
        return DAMAGED


@functools.cache
def _checked() -> Callable:
    """Traces `check` once: step by step it takes longer than to decode an image."""
    return tf.function(check, input_signature=[tf.TensorSpec((), tf.string)])
