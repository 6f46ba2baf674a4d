"""Mixup and CutMix of pairs: how much is drawn on the host, mixed on the device.

Rows 2k and 2k + 1 of the global batch are partners: each becomes a mixture of
itself and the other, its label as well. The authors' get_mixup rolls the
batch by one inside each device's shard, so that its result depends on how many
devices there are; rolling the global batch would send images between devices and
hosts. A pair is never torn apart, because every replica and every micro-batch has
an even number of rows (`step.share` refuses another). So the mixed examples are the
same for any number of hosts, replicas and micro-batches. As the order of the
examples is random, the partner is as random as a rolled one; timm pairs rows the
same way, from both ends of the batch.

The strength is one number for all rows of a step. It travels with the batch, which
stays uint8 until the device scales it; mixing is done on the scaled floats.
"""

from collections.abc import Callable

import tensorflow as tf

from vit_tf import config

# What a batch that is to be mixed carries besides its images and labels.
WEIGHT = "mix_weight"  # float32 (b,): of the row's own pixels inside the box
BOX = "mix_box"  # int32 (b, 4), top, left, bottom, right; without it, everything


def is_on(data: config.Data) -> bool:
    """Returns whether training batches are mixed."""
    return bool(data.mixup or data.cutmix)


def drawer(data: config.Data) -> Callable[[tf.Tensor], dict[str, tf.Tensor]]:
    """Returns `draw(seed)`: one step's `WEIGHT` () and, with CutMix, `BOX` (4,).

    Mixup (arXiv 1710.09412): a ~ Beta(p, p), then max(a, 1 - a), as the reference
    does, so that a row keeps the larger part of itself. CutMix (arXiv 1905.04899):
    a box whose share of the image is 1 - a, around a uniform centre and cut off at
    the edge, shows the partner. With both, a fair coin decides for each step.
    """
    size = data.image_size
    everything = tf.constant([0, 0, size, size], tf.int32)

    def mixup(seed: tf.Tensor) -> dict[str, tf.Tensor]:
        a = beta(data.mixup, seed)
        return {WEIGHT: tf.maximum(a, 1.0 - a), BOX: everything}

    def cutmix(seed: tf.Tensor) -> dict[str, tf.Tensor]:
        area, place = tf.unstack(tf.random.split(seed, 2))
        return {
            WEIGHT: tf.constant(0.0),
            BOX: _box(size, 1.0 - beta(data.cutmix, area), place),
        }

    def draw(seed: tf.Tensor) -> dict[str, tf.Tensor]:
        if not data.cutmix:
            return {WEIGHT: mixup(seed)[WEIGHT]}
        if not data.mixup:
            return cutmix(seed)
        coin, inside = tf.unstack(tf.random.split(seed, 2))
        heads = tf.random.stateless_uniform((), coin) < 0.5
        return tf.cond(heads, lambda: mixup(inside), lambda: cutmix(inside))

    return draw


def mix(
    images: tf.Tensor, labels: tf.Tensor, weight: tf.Tensor, box: tf.Tensor | None
) -> tuple[tf.Tensor, tf.Tensor]:
    """Mixes every row with its partner.

    Args:
        images: float (b, height, width, channels), b even.
        labels: float (b, classes), one or several per row.
        weight: float32 (b,), of the row's own pixels inside `box`.
        box: int32 (b, 4), or None for the whole image; outside it nothing is mixed.

    Returns:
        images and labels of the same shapes and types; the labels are mixed by the
        share of the pixels that each image has.
    """
    height, width = (int(side or 0) for side in images.shape[1:3])  # both static
    own = weight[:, None, None, None]
    kept = weight
    if box is not None:
        top, left, bottom, right = tf.unstack(box[:, :, None], axis=1)  # (b, 1) each
        y, x = tf.range(height), tf.range(width)
        rows, columns = (y >= top) & (y < bottom), (x >= left) & (x < right)
        inside = rows[:, :, None, None] & columns[:, None, :, None]
        own = tf.where(inside, own, 1.0)
        area = (bottom - top) * (right - left)
        share = tf.cast(area[:, 0], tf.float32) / (height * width)
        kept = 1.0 - share * (1.0 - weight)
    own = tf.cast(own, images.dtype)
    kept = tf.cast(kept, labels.dtype)[:, None]
    return (
        own * images + (1 - own) * partners(images),
        kept * labels + (1 - kept) * partners(labels),
    )


def partners(rows: tf.Tensor) -> tf.Tensor:
    """Swaps rows 2k and 2k + 1 of a tensor with an even number of rows."""
    pairs = tf.reshape(rows, (-1, 2, *rows.shape[1:]))
    return tf.reshape(tf.reverse(pairs, axis=(1,)), (-1, *rows.shape[1:]))


def beta(p: float, seed: tf.Tensor) -> tf.Tensor:
    """Draws from Beta(p, p), float32 ().

    As a ratio of two Gamma(p) draws. These underflow for small p, so their
    logarithms are made from Gamma(p + 1) * uniform ** (1 / p).
    """
    gammas, uniforms = tf.unstack(tf.random.split(seed, 2))
    gamma = tf.random.stateless_gamma(
        (2,), gammas, tf.constant(p + 1.0, tf.float64), dtype=tf.float64
    )
    uniform = tf.random.stateless_uniform((2,), uniforms, dtype=tf.float64)
    logs = tf.math.log(gamma) + tf.math.log1p(-uniform) / p  # 1 - uniform is not 0
    return tf.cast(tf.sigmoid(logs[0] - logs[1]), tf.float32)


def _box(size: int, share: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
    """Draws a square of `share` of the image around a uniform centre, int32 (4,)."""
    side = tf.cast(size * tf.sqrt(share), tf.int32)
    centre = tf.random.stateless_uniform((2,), seed, 0, size, tf.int32)
    begin = tf.maximum(centre - side // 2, 0)
    end = tf.minimum(centre - side // 2 + side, size)
    return tf.concat([begin, end], axis=0)
