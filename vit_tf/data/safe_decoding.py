"""Image files that nobody has checked: each becomes a view, or a line on why not.

What a server is sent. Sizes are read from the header before anything is decoded, so
that a small file cannot ask for gigabytes; one bad file leaves the others alone. Ops
of TensorFlow's C++ runtime only, so that it can be exported.
"""

import tensorflow as tf

from vit_tf import config
from vit_tf.data import image_headers, images

# Decoded this takes 200 MB; a phone's photograph has 12 to 50 million pixels.
MAX_PIXELS = 64_000_000

# Of a narrow image, whose shorter side is enlarged to be cut out of: 200 MB of floats.
MAX_ENLARGED = 2**24

_PARALLEL = 4  # files that are decoded at once, each with its memory

# Reasons, as the caller of a server reads them.
EMPTY = "empty: no bytes"
UNKNOWN = "not a JPEG, PNG, WebP, GIF or BMP file"
DAMAGED = "damaged: cannot be decoded"
ANIMATED = "an animated WebP: only still ones are read"
TOO_LARGE = "too large"  # and by how much
NARROW = "too narrow: its shorter side would be enlarged beyond measure"


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
        problem = _problem(encoded[i], view, max_pixels)
        image = tf.cond(
            problem == "",
            lambda: images.evaluation_view(encoded[i], view),
            lambda: nothing,
        )
        return i, image, problem

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


def _problem(encoded: tf.Tensor, view: config.View, max_pixels: int) -> tf.Tensor:
    """Says why a file is not decoded, by its first bytes; or an empty string."""
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
                _enlarged(height, width, view) > MAX_ENLARGED,
                lambda: tf.constant(NARROW),
            ),
        ],
        default=lambda: tf.constant(""),
    )


def _enlarged(height: tf.Tensor, width: tf.Tensor, view: config.View) -> tf.Tensor:
    """Pixels of the image that the central crop is cut out of; 0 without one."""
    margin = images.central_margin(view)
    if margin is None:
        return tf.zeros((), tf.int64)
    shorter = tf.maximum(tf.minimum(height, width), 1)
    return margin * margin * tf.maximum(height, width) // shorter
