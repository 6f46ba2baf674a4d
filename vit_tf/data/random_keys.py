"""Keys of stateless draws: how numbers make a key, and an order that a key draws."""

import tensorflow as tf


def fold_in(key: tf.Tensor, *numbers: int | tf.Tensor) -> tf.Tensor:
    """Mixes numbers into a key, one after the other.

    Args:
        key: (2,) int64.
        numbers: scalars; those of tensors are taken as int64.

    Returns:
        A key, (2,) int64, of which another number makes another one.
    """
    for number in numbers:
        if isinstance(number, tf.Tensor):
            number = tf.cast(number, tf.int64)
        # TensorFlow's own annotation knows whole numbers only, its text tensors too.
        key = tf.random.fold_in(key, number)  # pyright: ignore
    return key


def shuffle(values: tf.Tensor, key: tf.Tensor) -> tf.Tensor:
    """Orders the rows of a tensor by a key, (2,) int64."""
    # Type checkers do not see the names below `tf.random.experimental`.
    return tf.random.experimental.stateless_shuffle(values, key)  # pyright: ignore
