"""What masked patch prediction predicts: 3-bit colours of patches (B.1.2).

Three bits of red, of green and of blue make a number below 512 = 64 r + 8 g + b.
The quantiser is not published; here a colour of [0, 1] falls into floor(8 * colour),
at most 7, after averaging, and 255 is colour 1.
"""

import tensorflow as tf

NUM_CLASSES = 512


def mean_colors(images: tf.Tensor, patch_size: int) -> tf.Tensor:
    """Computes the mean colour of every patch: the paper's final choice.

    Args:
        images: uint8 (batch, height, width, 3), augmented, not scaled; both sides
            multiples of `patch_size`.
        patch_size: side of a patch in pixels.

    Returns:
        int32 (batch, patches) below 512, patches in raster order, as the tokens.
    """
    return shrunk_colors(images, patch_size, side=1)[..., 0]


def shrunk_colors(images: tf.Tensor, patch_size: int, *, side: int = 4) -> tf.Tensor:
    """Computes the colours of every patch shrunk to `side` x `side` by averaging.

    The paper's second variant has side 4: 16 predictions for a patch of 16 pixels.

    Args:
        images: as in `mean_colors`.
        patch_size: side of a patch in pixels, a multiple of `side`.
        side: cells of a patch along each axis.

    Returns:
        int32 (batch, patches, side * side) below 512, cells in raster order.

    Raises:
        ValueError: a size that does not divide.
    """
    height, width = images.shape[1:3]
    if height % patch_size or width % patch_size or patch_size % side:
        raise ValueError(
            f"images of {height}x{width}, patches of {patch_size}, {side} cells: each "
            "must divide the one before"
        )
    rows, columns, cell = height // patch_size, width // patch_size, patch_size // side
    pixels = tf.reshape(
        tf.cast(images, tf.int32), (-1, rows, side, cell, columns, side, cell, 3)
    )
    sums = tf.reduce_sum(pixels, axis=(3, 6))  # (batch, rows, side, columns, side, 3)
    # floor(8 * mean / 255), in whole numbers: exact at the borders of the bins.
    bins = tf.minimum(8 * sums // (255 * cell * cell), 7)
    classes = tf.reduce_sum(bins * tf.constant([64, 8, 1]), axis=-1)
    # As floats, which hold them exactly: oneDNN prints a line over whole numbers.
    classes = tf.transpose(tf.cast(classes, tf.float32), (0, 1, 3, 2, 4))
    classes = tf.reshape(classes, (-1, rows * columns, side * side))
    return tf.cast(classes, tf.int32)
