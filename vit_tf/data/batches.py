"""The two kinds of batches: of training, uint8 pixels, and of evaluation, float32."""

from typing import NotRequired, TypedDict

import numpy as np
import tensorflow as tf

from vit_tf import config, errors


class TrainBatch(TypedDict):
    """One replica's share of a training step, as `pipeline.train_stream` gives it.

    Attributes:
        image: uint8 (b, height, width, 3). Bytes, because they are a quarter of what
            goes to the device; the objective scales them there.
        label: int32 (b,), or float32 (b, classes) where an image has several labels.
        index: int64 (b,), the rows of the split, to name an image that fails.
        mix_weight: float32 (b,), drawn by mixup or CutMix for the step.
        mix_box: int32 (b, 4), top, left, bottom, right of CutMix.
    """

    image: tf.Tensor
    label: tf.Tensor
    index: tf.Tensor
    mix_weight: NotRequired[tf.Tensor]
    mix_box: NotRequired[tf.Tensor]


class EvalBatch(TypedDict):
    """One replica's share of an evaluation, as `evaluation_stream.stream` gives it.

    Attributes:
        image: float32 (b, height, width, 3) in [-1, 1].
        label: int32 (b,), or float32 (b, classes) where an image has several labels.
        mask: bool (b,), false for the padding that makes the last batch full.
        index: int64 (b,), the rows of the split; -1 for padding.
    """

    image: tf.Tensor
    label: tf.Tensor
    mask: tf.Tensor
    index: tf.Tensor


def per_replica(batch_size: int, num_replicas: int, name: str) -> int:
    """Returns the rows of a global batch that each replica gets.

    Args:
        batch_size: global.
        num_replicas: over all hosts.
        name: of the field that the batch size comes from, for the refusal.

    Raises:
        errors.UserError: the batch does not divide.
    """
    if batch_size % num_replicas:
        near = errors.near_multiples(batch_size, num_replicas)
        raise errors.UserError(
            f"{name}={batch_size}: does not divide over {num_replicas} replicas; "
            f"near sizes that do: {near}"
        )
    return batch_size // num_replicas


def finished(batches: tf.data.Dataset) -> tf.data.Dataset:
    """Returns the batches in a fixed order, made ahead, and not cut up once more."""
    options = tf.data.Options()
    options.deterministic = True
    # The stream is cut to hosts and replicas already.
    options.experimental_distribute.auto_shard_policy = (
        tf.data.experimental.AutoShardPolicy.OFF
    )
    return batches.prefetch(tf.data.AUTOTUNE).with_options(options)


def noise(data: config.Data, *, num_classes: int) -> dict[str, np.ndarray]:
    """Returns a global batch of noise as the stream gives it, to measure steps with."""
    rng = np.random.default_rng(0)
    size, number = data.image_size, data.batch_size
    return {
        "image": rng.integers(0, 256, (number, size, size, 3), np.uint8),
        "label": rng.integers(0, num_classes, (number,), np.int32),
    }
