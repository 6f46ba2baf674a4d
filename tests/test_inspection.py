"""Inspection: constants that can be worked out, and invariants that must hold."""

import keras
import numpy as np
import pytest
import reference_vit
from hypothesis import given, settings
from hypothesis import strategies as st

from vit_tf import config, inspection
from vit_tf.models import build, weights


def _softmax(rng, *shape):
    scores = np.exp(rng.standard_normal(shape))
    return scores / scores.sum(-1, keepdims=True)


def _uniform(tokens, batch=1, heads=1):
    return np.full((batch, heads, tokens, tokens), 1 / tokens, "float32")


def _filled(pool):
    model = build.build(
        config.Model(variant="ViT-mu/4", depth=3, pool=pool),
        num_classes=2,
        image_size=12,
    )
    rng = np.random.default_rng(0)
    for weight in model.weights:
        weight.assign(rng.standard_normal(weight.shape) * 0.3)
    return model


@pytest.mark.parametrize("pool", ["token", "gap"])
def test_attention_weights_are_the_models(pool):
    model = _filled(pool)
    rng = np.random.default_rng(1)
    images = rng.uniform(-1, 1, (2, 12, 12, 3)).astype("float32")
    got = inspection.attention_weights(model, images)
    want = reference_vit.forward(weights.released(model), images)
    assert len(got) == 3
    for i, array in enumerate(got):
        assert isinstance(array, np.ndarray) and array.dtype == np.float32
        np.testing.assert_allclose(array, want[f"attention_{i}"], atol=1e-5)
    assert inspection.rollout_map(inspection.attention_rollout(got)).shape == (2, 3, 3)


# Mean attention distance: paper.md 8.3 ------------------------------------------


@pytest.mark.parametrize(
    ("tokens", "patch", "pixels"),
    [
        (14 * 14, 16, 116.4922),
        (7 * 7, 32, 115.5029),
        (16 * 16, 14, 116.5651),
        (14 * 14 + 1, 16, 115.9009),
        (7 * 7 + 1, 32, 113.1928),
        (16 * 16 + 1, 14, 116.1115),
    ],
)
def test_the_distance_of_uniform_attention(tokens, patch, pixels):
    got = inspection.mean_attention_distance(
        [_uniform(tokens, heads=2)] * 2, patch_size=patch
    )
    assert got.shape == (2, 2)
    np.testing.assert_allclose(got, pixels, atol=5e-5)


@pytest.mark.parametrize("cls", [0, 1])
def test_distances_of_known_attention(cls):
    size = 14 * 14 + cls
    own = np.eye(size)[None, None]
    assert inspection.mean_attention_distance([own], patch_size=16) == [[0.0]]
    # Every patch attends to the top left one, and the class token to itself.
    corner = np.zeros((1, 1, size, size))
    corner[..., cls] = 1
    rows, columns = np.indices((14, 14))
    want = 16 * np.hypot(rows, columns).mean()
    got = inspection.mean_attention_distance([corner], patch_size=16)
    assert got == pytest.approx(want)
    # The longest way of all: 294.16 pixels.
    far = np.zeros((1, 1, size, size))
    far[0, 0, cls, -1] = 1
    got = inspection.mean_attention_distance([far], patch_size=16)
    assert got * 14 * 14 == pytest.approx(294.16, abs=0.005)


def test_distances_are_means_over_images_for_each_block_and_head():
    rng = np.random.default_rng(0)
    attentions = [_softmax(rng, 3, 2, 10, 10) for _ in range(4)]
    got = inspection.mean_attention_distance(attentions, patch_size=8)
    assert got.shape == (4, 2)
    for block in range(4):
        for head in range(2):
            total = 0.0
            for image in range(3):
                for q in range(9):
                    for k in range(9):
                        way = np.hypot(q // 3 - k // 3, q % 3 - k % 3) * 8
                        total += way * attentions[block][image, head, q + 1, k + 1]
            assert got[block, head] == pytest.approx(total / 27)


# Rollout: paper.md 8.4 ----------------------------------------------------------


@settings(max_examples=25, deadline=None)
@given(
    side=st.integers(1, 4),
    cls=st.booleans(),
    blocks=st.integers(1, 4),
    heads=st.integers(1, 3),
)
def test_rollout_rows_sum_to_one_and_follow_the_definition(side, cls, blocks, heads):
    tokens = side * side + cls
    rng = np.random.default_rng(side + 10 * blocks + 100 * heads)
    attentions = [_softmax(rng, 2, heads, tokens, tokens) for _ in range(blocks)]
    rollout = inspection.attention_rollout(attentions)
    assert rollout.shape == (2, tokens, tokens)
    np.testing.assert_allclose(rollout.sum(-1), 1)
    for image in range(2):
        want = np.eye(tokens)
        for weights_ in attentions:
            layer = sum(weights_[image, h] for h in range(heads)) / heads
            want = np.matmul(0.5 * layer + 0.5 * np.eye(tokens), want)
        np.testing.assert_allclose(rollout[image], want, atol=1e-12)
    seen = inspection.rollout_map(rollout)
    assert seen.shape == (2, side, side)
    if cls:
        np.testing.assert_array_equal(seen.reshape(2, -1), rollout[:, 0, 1:])
    else:
        np.testing.assert_allclose(seen.sum((1, 2)), 1)
        np.testing.assert_allclose(seen.reshape(2, -1), rollout.mean(1))


def test_rollout_of_identity_and_of_uniform_attention():
    own = np.broadcast_to(np.eye(10), (1, 2, 10, 10))
    np.testing.assert_array_equal(
        inspection.attention_rollout([own] * 5)[0], np.eye(10)
    )
    rollout = inspection.attention_rollout([_uniform(10)] * 40)
    np.testing.assert_allclose(rollout, 0.1, atol=1e-6)


def test_the_first_block_acts_first():
    # Block 0 moves token 1 to token 2, block 1 moves token 2 to the class token: the
    # class token sees token 1 only in this order.
    first, second = np.zeros((2, 1, 1, 5, 5))
    first[..., 2, 1] = second[..., 0, 2] = 1
    assert inspection.attention_rollout([first, second])[0, 0, 1] == 0.25
    assert inspection.attention_rollout([second, first])[0, 0, 1] == 0


# Position similarity: paper.md 8.2 ----------------------------------------------


@pytest.mark.parametrize("cls", [0, 1])
def test_position_similarity_is_the_cosine_without_the_class_token(cls):
    table = np.random.default_rng(0).standard_normal((1, 9 + cls, 6))
    got = inspection.position_similarity(table)
    assert got.shape == (9, 9)
    for i in range(9):
        for j in range(9):
            a, b = table[0, i + cls], table[0, j + cls]
            cosine = a @ b / np.sqrt((a @ a) * (b @ b))
            assert got[i, j] == pytest.approx(cosine)
    np.testing.assert_allclose(
        inspection.position_similarity(table[0] * 7), got, atol=1e-12
    )


def test_position_similarity_takes_the_variable_and_survives_zeros():
    variable = keras.Variable(np.zeros((1, 5, 3)))
    np.testing.assert_array_equal(
        inspection.position_similarity(variable), np.zeros((4, 4))
    )


def test_tokens_that_are_no_square_are_refused():
    for call in (
        lambda: inspection.position_similarity(np.ones((1, 12, 3))),
        lambda: inspection.rollout_map(np.ones((1, 12, 12))),
        lambda: inspection.mean_attention_distance([_uniform(12)], patch_size=4),
    ):
        with pytest.raises(config.Refused, match="12 tokens: need a square"):
            call()
