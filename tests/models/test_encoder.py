"""Relative positions, axial attention and stochastic depth of an encoder block."""

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from keras import ops

from vit_tf.models import encoder, layers


def _normal(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype("float32")


def _block(**settings):
    block = encoder.EncoderBlock(8, 16, 2, **settings)
    block.build()
    for i, weight in enumerate(block.weights):
        weight.assign(_normal(*weight.shape, seed=i) * 0.5)
    return block


@settings(max_examples=25, deadline=None)
@given(tokens=st.integers(1, 9), heads=st.integers(1, 3))
def test_offsets_are_key_minus_query(tokens, heads):
    by_query = _normal(2, heads, tokens, 2 * tokens - 1)
    found = ops.convert_to_numpy(encoder.by_offset(by_query))
    assert found.shape == (2, heads, tokens, tokens)
    for q in range(tokens):
        for k in range(tokens):
            want = by_query[:, :, q, k - q + tokens - 1]
            np.testing.assert_array_equal(found[:, :, q, k], want)


def test_axial_attention_sees_its_own_row_or_column_only():
    x = _normal(1, 9, 8)
    for axis, same in (("rows", lambda i: i // 3), ("columns", lambda i: i % 3)):
        block = _block(axis=axis)
        before = ops.convert_to_numpy(block(x)[0])
        changed = x.copy()
        changed[0, 4, 0] += 1.0  # the middle of the 3 x 3 grid
        after = ops.convert_to_numpy(block(changed)[0])
        moved = np.abs(after - before).max(axis=-1)[0] > 1e-6
        assert list(moved) == [same(i) == same(4) for i in range(9)]


def test_full_weights_sum_to_one_and_lie_on_the_axis():
    for axis in ("rows", "columns", None):
        block = _block(axis=axis)
        _, weights = block(_normal(2, 9, 8))
        full = ops.convert_to_numpy(block.full_weights(weights))
        assert full.shape == (2, 2, 9, 9)
        np.testing.assert_allclose(full.sum(axis=-1), 1, rtol=1e-5)
        assert (full > 0).sum() == 2 * 2 * 9 * (9 if axis is None else 3)


@pytest.mark.parametrize("rescale", [True, False])
def test_a_branch_is_dropped_for_whole_images_at_its_rate(rescale):
    x = ops.ones((4000, 3, 2))
    keys = ops.convert_to_tensor([[3, 4], [5, 6]])
    y = ops.convert_to_numpy(layers.drop_branch(x, 0.25, keys, 1, rescale=rescale))
    kept = y[:, 0, 0] != 0
    assert (y.reshape(4000, -1) == y[:, :1, 0]).all()
    assert kept.mean() == pytest.approx(0.75, abs=5 * (0.25 * 0.75 / 4000) ** 0.5)
    np.testing.assert_allclose(y[kept], 1 / 0.75 if rescale else 1.0)


def test_the_two_branches_of_a_block_draw_for_themselves():
    block = _block(drop_rate=0.5)
    x, keys = _normal(64, 4, 8), np.arange(2 * layers.SITES).reshape(-1, 2)
    alone, _ = block(x)
    dropped, _ = block(x, keys=keys)
    unchanged = np.abs(dropped - x).max(axis=(1, 2)) == 0  # both branches left out
    assert 5 < unchanged.sum() < 30  # a quarter of 64; half, if they drew together
    assert np.abs(dropped - alone).max() > 0


def test_attention_to_other_tokens():
    layer = encoder.Attention(8, 2)
    layer.build()
    x, context = _normal(2, 3, 8), _normal(2, 5, 8, seed=1)
    y, weights = layer(x, context)
    assert y.shape == (2, 3, 8) and weights.shape == (2, 2, 3, 5)
    theirs = keras.layers.MultiHeadAttention(2, 4)
    theirs.build((None, 3, 8), (None, 5, 8))
    theirs.set_weights(layer.get_weights())
    np.testing.assert_allclose(y, theirs(x, context), atol=1e-5)
