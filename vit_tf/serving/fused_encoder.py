"""The encoder of a ViT in the forms that TensorFlow's CPU runtime fuses.

The same numbers as `models/vit.py` up to rounding, for serving only: no dropout, no
gradient, weights as constants of the graph. Each form is one that the runtime's
rewriter (Grappler's remapper, with oneDNN) turns into one operation:

* matrices over tokens in two dimensions, with bias, GELU or residual in the product;
* queries, keys and values by one matrix, scaled beforehand;
* softmax in the compute dtype: oneDNN sums in float32 and rounds once;
* a layer norm written as a batch norm of one image, as Keras 2 wrote it.

Elsewhere (GPU, other CPUs) these are ordinary operations and give the same numbers.
"""

from collections.abc import Callable

import numpy as np
import tensorflow as tf

from vit_tf.models import encoder, layers, vit

Constant = Callable[[np.ndarray, str], tf.Tensor]


def fits(network) -> bool:
    """Returns whether the encoder is one that is written here: no
    axes, no relative positions.
    """
    return (
        isinstance(network, vit.VisionTransformer)
        and not network.axial
        and len(network.positions) <= 1
        and all(b.relative_tokens is None for b in network.blocks)
    )


def encoder_of(network: vit.VisionTransformer) -> Callable[[tf.Tensor], tf.Tensor]:
    """Writes the blocks of a network, without its last norm, with
    their weights as constants.

    Returns:
        tokens (batch, T, width), positions added, to tokens (batch, T, width), in the
        network's compute dtype.
    """
    dtype = network.compute_dtype
    blocks = [_block_of(block, dtype) for block in network.blocks]

    def encode(tokens: tf.Tensor) -> tf.Tensor:
        _, length, width = tokens.shape
        x = tf.reshape(tokens, (-1, width))
        for block in blocks:
            x = block(x, length)
        return tf.reshape(x, (-1, length, width))

    return encode


def _block_of(block: encoder.EncoderBlock, dtype: str):
    attend = _attention_of(block.attention, dtype)
    norm_1, norm_2 = (
        _norm_of(block.attention_norm, dtype),
        _norm_of(block.mlp_norm, dtype),
    )
    grow, shrink = (
        _linear_of(block.mlp.grow, dtype),
        _linear_of(block.mlp.shrink, dtype),
    )

    def call(x: tf.Tensor, length: int) -> tf.Tensor:
        x = attend(norm_1(x), length) + x
        hidden = tf.nn.gelu(grow(norm_2(x)), approximate=True)
        return shrink(hidden) + x

    return call


def _attention_of(attention: encoder.Attention, dtype: str):
    width, heads = attention.width, attention.num_heads
    depth = width // heads
    kernels, biases = zip(
        *(_matrix(getattr(attention, n)) for n in ("query", "key", "value"))
    )
    scale = np.array([depth**-0.5, 1, 1], np.float32)
    kernel = np.concatenate([k * s for k, s in zip(kernels, scale)], axis=1)
    bias = np.concatenate([b * s for b, s in zip(biases, scale)])
    project, out = _product(kernel, bias, dtype), _linear_of(attention.out, dtype)

    def call(x: tf.Tensor, length: int) -> tf.Tensor:
        # Split along the first axis, which copies nothing.
        parts = tf.reshape(project(x), (-1, length, 3, heads, depth))
        query, key, value = tf.unstack(tf.transpose(parts, (2, 0, 3, 1, 4)), 3)
        weights = tf.nn.softmax(tf.matmul(query, key, transpose_b=True))
        seen = tf.transpose(tf.matmul(weights, value), (0, 2, 1, 3))
        return out(tf.reshape(seen, (-1, width)))

    return call


def _linear_of(layer: layers.Linear, dtype: str):
    return _product(*_matrix(layer), dtype)


def _matrix(layer: layers.Linear) -> tuple[np.ndarray, np.ndarray]:
    """Returns kernel and bias as a matrix and a vector, float32."""
    rows, columns = np.prod(layer.input_axes), np.prod(layer.output_axes)
    kernel = np.asarray(layer.kernel.value, np.float32).reshape(rows, columns)
    return kernel, np.asarray(layer.bias.value, np.float32).reshape(columns)


def _product(kernel: np.ndarray, bias: np.ndarray, dtype: str):
    kernel, bias = tf.constant(kernel, dtype), tf.constant(bias, dtype)
    return lambda x: tf.nn.bias_add(tf.matmul(x, kernel), bias)


def _norm_of(norm: layers.LayerNorm, dtype: str):
    scale = tf.constant(np.asarray(norm.scale.value), dtype)
    bias = tf.constant(np.asarray(norm.bias.value), dtype)

    def call(x: tf.Tensor) -> tf.Tensor:
        rows, width = tf.shape(x)[0], x.shape[1]
        normed = tf.raw_ops.FusedBatchNormV3(
            x=tf.reshape(x, tf.stack([1, rows, width, 1])),
            scale=tf.fill([rows], 1.0),
            offset=tf.fill([rows], 0.0),
            mean=tf.constant([], tf.float32),
            variance=tf.constant([], tf.float32),
            epsilon=layers.LAYER_NORM_EPSILON,
            data_format="NCHW",
            is_training=True,
        ).y
        return tf.reshape(normed, tf.shape(x)) * scale + bias

    return call
