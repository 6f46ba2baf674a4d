"""Each layer against NumPy or Keras, its initial values, and its dropout."""

import math

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from keras import ops

from vit_tf.models import encoder, layers, positions


def _built(layer):
    layer.build()
    return layer


def _normal(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype("float32")


def _array(variable):
    return ops.convert_to_numpy(variable).astype(np.float64)


def test_linear_contracts_its_axes_and_keeps_the_released_shapes():
    into = _built(layers.Linear((6,), (2, 4), bias_initializer="random_normal"))
    back = _built(layers.Linear((2, 4), (6,), bias_initializer="random_normal"))
    assert into.kernel.shape == (6, 2, 4) and into.bias.shape == (2, 4)
    assert back.kernel.shape == (2, 4, 6) and back.bias.shape == (6,)
    x = _normal(3, 5, 6)
    want = np.einsum("btd,dhk->bthk", x, _array(into.kernel)) + _array(into.bias)
    np.testing.assert_allclose(into(x), want.reshape(3, 5, 8), atol=1e-5)
    want = np.einsum("bthk,hkd->btd", want, _array(back.kernel)) + _array(back.bias)
    np.testing.assert_allclose(back(into(x)), want, atol=1e-5)


@pytest.mark.parametrize("dtype", ["float32", "float64", "bfloat16"])
def test_linear_gives_the_same_with_axes_kept_as_flattened(dtype):
    """Float32 flattens, what accelerators run keeps axes; float64 shows both equal."""
    tolerance = {"float32": 1e-5, "float64": 1e-9, "bfloat16": 0.1}[dtype]
    into = _built(layers.Linear((6,), (2, 4), dtype=dtype))
    back = _built(layers.Linear((2, 4), (6,), dtype=dtype))
    into.bias.assign(_normal(2, 4, seed=1))
    back.bias.assign(_normal(6, seed=2))
    x = _normal(3, 5, 6).astype(np.float64)
    want = np.einsum("btw,whd->bthd", x, _array(into.kernel)) + _array(into.bias)
    heads = into.to_heads(ops.cast(x, dtype))
    got = ops.cast(heads, "float64")
    np.testing.assert_allclose(got, want.transpose(0, 2, 1, 3), atol=tolerance)
    got = ops.cast(into(ops.cast(x, dtype)), "float64")
    np.testing.assert_allclose(got, want.reshape(3, 5, 8), atol=tolerance)
    want = np.einsum("bthd,hdw->btw", want, _array(back.kernel)) + _array(back.bias)
    got = ops.cast(back.from_heads(heads), "float64")
    np.testing.assert_allclose(got, want, atol=4 * tolerance)


@pytest.mark.parametrize("axes", [((64,), (4, 32)), ((4, 32), (64,)), ((64,), (128,))])
def test_xavier_bounds_are_those_of_the_flattened_matrix(axes):
    keras.utils.set_random_seed(1)
    kernel = _array(_built(layers.Linear(*axes)).kernel)
    bound = math.sqrt(6 / (64 + 128))
    assert 0.99 * bound < abs(kernel).max() <= bound * (1 + 1e-6)
    assert kernel.std() == pytest.approx(bound / math.sqrt(3), rel=0.03)
    assert abs(kernel.mean()) < 0.03 * bound


def test_patch_embedding_is_the_strided_convolution():
    layer = _built(layers.PatchEmbedding(4, 10))
    layer.bias.assign(_normal(10))
    images = _normal(2, 12, 8, 3)
    conv = ops.conv(images, layer.kernel, strides=4, padding="valid") + layer.bias
    assert layer.kernel.shape == (4, 4, 3, 10)
    np.testing.assert_allclose(layer(images), ops.reshape(conv, (2, 6, 10)), atol=1e-5)


def test_patch_embedding_starts_as_a_truncated_normal_of_its_fan_in():
    keras.utils.set_random_seed(2)
    kernel = _array(_built(layers.PatchEmbedding(8, 96)).kernel)
    sigma = math.sqrt(1 / (8 * 8 * 3))
    assert kernel.std() == pytest.approx(sigma, rel=0.02)
    # The truncated normal reaches to 2 standard deviations of the untruncated one,
    # which is wider by 1 / 0.8796.
    assert 1.9 * sigma / 0.8796 < abs(kernel).max() <= 2 * sigma / 0.8796 * (1 + 1e-5)


@pytest.mark.parametrize("offset", [0.0, 100.0])
def test_layer_norm_matches_numpy_with_epsilon_1e_6(offset):
    layer = _built(layers.LayerNorm(16))
    layer.scale.assign(_normal(16, seed=1))
    layer.bias.assign(_normal(16, seed=2))
    # Small enough that an epsilon of 1e-3 would be seen.
    x = _normal(3, 5, 16) * 0.01 + offset
    y = x.astype(np.float64)
    y = (y - y.mean(-1, keepdims=True)) / np.sqrt(y.var(-1, keepdims=True) + 1e-6)
    want = y * _array(layer.scale) + _array(layer.bias)
    np.testing.assert_allclose(layer(x), want, atol=1e-4 if offset == 0 else 5e-2)


def test_layer_norm_computes_in_float32_under_bfloat16():
    layer = _built(layers.LayerNorm(64, dtype="mixed_bfloat16"))
    layer.scale.assign(_normal(64, seed=1))
    x = ops.cast(_normal(4, 64) + 3, "bfloat16")
    exact = _built(layers.LayerNorm(64, dtype="float32"))
    exact.scale.assign(layer.scale)
    want = ops.cast(exact(ops.cast(x, "float32")), "bfloat16")
    assert keras.backend.standardize_dtype(layer(x).dtype) == "bfloat16"
    np.testing.assert_array_equal(
        ops.convert_to_numpy(ops.cast(layer(x), "float32")),
        ops.convert_to_numpy(ops.cast(want, "float32")),
    )


def test_self_attention_equals_keras_multi_head_attention():
    ours = _built(encoder.Attention(24, 3))
    theirs = keras.layers.MultiHeadAttention(3, 8)
    theirs.build((None, 7, 24), (None, 7, 24))
    for i, weight in enumerate(ours.weights):
        weight.assign(_normal(*weight.shape, seed=i) * 0.3)
    # The same order and the same shapes, so the arrays copy as they are.
    theirs.set_weights(ours.get_weights())
    x = _normal(2, 7, 24)
    want, want_weights = theirs(x, x, return_attention_scores=True)
    got, got_weights = ours(x)
    np.testing.assert_allclose(got, want, atol=1e-5)
    np.testing.assert_allclose(got_weights, want_weights, atol=1e-6)


def test_attention_weights_are_float32_and_sum_to_one_under_bfloat16():
    layer = _built(encoder.Attention(24, 3, dtype="mixed_bfloat16"))
    tokens, weights = layer(_normal(2, 50, 24) * 4)
    assert keras.backend.standardize_dtype(tokens.dtype) == "bfloat16"
    assert keras.backend.standardize_dtype(weights.dtype) == "float32"
    np.testing.assert_allclose(ops.sum(weights, axis=-1), np.ones((2, 3, 50)), 1e-5)


def test_mlp_uses_the_tanh_gelu():
    layer = _built(layers.MlpBlock(1, 1))
    layer.grow.kernel.assign([[1.0]])
    layer.shrink.kernel.assign([[1.0]])
    layer.grow.bias.assign([0.0])
    layer.shrink.bias.assign([0.0])
    # gelu(2): 1.954597694 in the tanh form, 1.954499736 with erf.
    np.testing.assert_allclose(layer(np.array([[[2.0]]], "float32")), 1.9545977, 2e-7)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("rate", [0.1, 0.5])
def test_dropout_keeps_the_right_share_and_the_mean(rate, dtype):
    x = ops.ones((1500, 1500), dtype)
    keys = ops.convert_to_tensor([[3, 4], [5, 6]])
    y = ops.convert_to_numpy(ops.cast(layers.dropout(x, rate, keys, 1), "float32"))
    kept = (y != 0).mean()
    # Five standard deviations, 0.001 at rate 0.1: draws in bfloat16, multiples of
    # 1/128, would drop a share of 13/128 and miss it.
    assert abs(kept - (1 - rate)) < 5 * math.sqrt(rate * (1 - rate) / y.size)
    np.testing.assert_allclose(y[y != 0], 1 / (1 - rate), rtol=1e-2)


@settings(max_examples=20, deadline=None)
@given(st.lists(st.integers(-(2**31), 2**31 - 1), min_size=4, max_size=4, unique=True))
def test_a_mask_is_a_function_of_its_key_alone(numbers):
    keys = np.array(numbers, "int32").reshape(2, 2)
    x = ops.ones((64, 8))
    first = ops.convert_to_numpy(layers.dropout(x, 0.5, keys, 0))
    again = ops.convert_to_numpy(layers.dropout(x, 0.5, keys[::-1], 1))
    other = ops.convert_to_numpy(layers.dropout(x, 0.5, keys, 1))
    np.testing.assert_array_equal(first, again)
    assert (first != other).mean() > 0.3


def test_no_keys_and_no_rate_change_nothing():
    x = _normal(4, 5)
    assert layers.dropout(x, 0.5, None, 0) is x
    assert layers.dropout(x, 0.0, np.zeros((1, 2), "int32"), 0) is x


@pytest.mark.parametrize(
    "layer",
    [
        layers.Linear((4,), (2, 3), "lecun_normal", keras.initializers.Constant(-6.9)),
        layers.LayerNorm(8),
        positions.PositionEmbedding(5, 8),
        encoder.Attention(8, 2, 0.1),
        layers.MlpBlock(8, 16, 0.2),
        encoder.EncoderBlock(8, 16, 2, 0.1, 0.2, dtype="mixed_bfloat16"),
        layers.PatchEmbedding(4, 8, name="embedding"),
    ],
    ids=lambda layer: type(layer).__name__,
)
def test_every_layer_is_rebuilt_from_its_config(layer):
    twin = keras.saving.deserialize_keras_object(
        keras.saving.serialize_keras_object(layer)
    )
    assert type(twin) is type(layer)
    assert twin.get_config() == layer.get_config()
    assert [w.shape for w in _built(twin).weights] == [
        w.shape for w in _built(layer).weights
    ]
