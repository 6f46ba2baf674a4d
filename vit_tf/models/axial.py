"""Attention along one axis of a feature map at a time (Axial-DeepLab, 2003.07853).

What AxialResNet50 has in the place of its 3 x 3 convolutions (paper D.6). The
paper's own re-implementation is not public; here stands, position-sensitive as in
Axial-DeepLab: scores = query key + query r_q + key r_k, result = weights (value +
r_v), each r a learned vector per offset, shared by the heads. Its batch norms, which
nothing else here has, become a group norm after each axis and the usual
1 / sqrt(query width) on the scores.
"""

import keras
import numpy as np
from keras import ops

from vit_tf.models import resnet


@keras.saving.register_keras_serializable("vit_tf")
class AxisAttention(keras.layers.Layer):
    """Attention along the last but one axis: (lines, length, features) to the same.

    Queries and keys have half the width of the values.
    """

    def __init__(self, features, length, num_heads, **kwargs):
        super().__init__(**kwargs)
        self.features, self.length, self.num_heads = features, length, num_heads
        self.value_width = features // num_heads
        self.query_width = self.value_width // 2

    def build(self, input_shape=None):
        widths = {
            "query": self.query_width,
            "key": self.query_width,
            "value": self.value_width,
        }
        self.kernels = {
            name: self.add_weight(
                shape=(self.features, self.num_heads * width),
                initializer="glorot_uniform",
                name=f"{name}_kernel",
            )
            for name, width in widths.items()
        }
        self.offsets = {
            name: self.add_weight(
                shape=(2 * self.length - 1, width),
                initializer=keras.initializers.RandomNormal(stddev=width**-0.5),
                name=f"{name}_relative",
            )
            for name, width in widths.items()
        }
        place = np.arange(self.length)
        offset = place[None] - place[:, None] + self.length - 1  # [query, key]
        # A product with ones and zeros, because a gather's gradient is sparse.
        self._pick = np.eye(2 * self.length - 1, dtype="float32")[offset.ravel()]

    def call(self, x):
        query, key, value = (
            self._heads(ops.matmul(x, ops.cast(kernel, x.dtype)))
            for kernel in self.kernels.values()
        )  # (lines, heads, length, head_width)
        near_query, near_key, near_value = (
            self._pairs(table, x.dtype) for table in self.offsets.values()
        )  # (query, key, head_width)
        scores = ops.matmul(query, ops.transpose(key, (0, 1, 3, 2)))
        scores += ops.einsum("bhqd,qkd->bhqk", query, near_query)
        scores += ops.einsum("bhkd,qkd->bhqk", key, near_key)
        scores *= self.query_width**-0.5
        weights = ops.cast(ops.softmax(ops.cast(scores, "float32")), x.dtype)
        mixed = ops.matmul(weights, value)
        mixed += ops.einsum("bhqk,qkd->bhqd", weights, near_value)
        return ops.reshape(ops.transpose(mixed, (0, 2, 1, 3)), ops.shape(x))

    def _heads(self, x):
        x = ops.reshape(
            x, (-1, self.length, self.num_heads, x.shape[-1] // self.num_heads)
        )
        return ops.transpose(x, (0, 2, 1, 3))

    def _pairs(self, table, dtype):
        """Rearranges (2 length - 1, d) by offset to (length,
        length, d) by query and key.
        """
        picked = ops.matmul(ops.cast(self._pick, dtype), ops.cast(table, dtype))
        return ops.reshape(picked, (self.length, self.length, table.shape[-1]))


@keras.saving.register_keras_serializable("vit_tf")
class AxialAttention(keras.layers.Layer):
    """Attention down the columns, then along the rows, then the stride as a mean.

    Args:
        features: channels in and out.
        length: rows, and columns, of the map.
        stride: 1 or 2.
    """

    def __init__(self, features, length, stride=1, num_heads=8, **kwargs):
        super().__init__(**kwargs)
        self.features, self.length = features, length
        self.stride, self.num_heads = stride, num_heads
        policy = {"dtype": self.dtype_policy}
        sizes = (features, length, num_heads)
        self.columns = AxisAttention(*sizes, name="columns", **policy)
        self.rows = AxisAttention(*sizes, name="rows", **policy)
        self.columns_norm, self.rows_norm = (
            resnet.GroupNorm(
                features, 1e-5, ("gamma", "beta"), name=f"{axis}_norm", **policy
            )
            for axis in ("columns", "rows")
        )

    def build(self, input_shape=None):
        for layer in (self.columns, self.columns_norm, self.rows, self.rows_norm):
            layer.build()

    def call(self, x):
        """Maps (batch, length, length, features) to the same, or half as long."""
        turned = ops.transpose(x, (0, 2, 1, 3))
        x = self._along(self.columns, turned)
        x = self.columns_norm(ops.transpose(x, (0, 2, 1, 3)))
        x = self.rows_norm(self._along(self.rows, x))
        if self.stride == 1:
            return x
        return ops.average_pool(
            x, self.stride, self.stride, padding="same", data_format="channels_last"
        )

    def _along(self, attention, x):
        lines = ops.reshape(x, (-1, self.length, self.features))
        shape = (-1, self.length, self.length, self.features)
        return ops.reshape(attention(lines), shape)
