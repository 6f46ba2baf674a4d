"""The two kinds of batches: of training, uint8 pixels, and of evaluation, float32."""

from typing import NotRequired, TypedDict

import tensorflow as tf


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
    """One replica's share of an evaluation, as `pipeline.eval_stream` gives it.

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
