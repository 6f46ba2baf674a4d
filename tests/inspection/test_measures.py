"""Inspection: constants that can be worked out, and invariants that must hold."""

import itertools

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support import reference_vit, twins
from vit_tf import config
from vit_tf.inspection import measures
from vit_tf.models import build, npz_weights, vit


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
    got = measures.attention_weights(model, images)
    want = reference_vit.forward(npz_weights.released(model), images)
    assert len(got) == 3
    for i, array in enumerate(got):
        assert isinstance(array, np.ndarray) and array.dtype == np.float32
        np.testing.assert_allclose(array, want[f"attention_{i}"], atol=1e-5)
    assert measures.rollout_map(measures.attention_rollout(got)).shape == (2, 3, 3)


# Mean attention distance: Figure 7 ----------------------------------------------


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
    got = measures.mean_attention_distance(
        [_uniform(tokens, heads=2)] * 2, patch_size=patch
    )
    assert got.shape == (2, 2)
    np.testing.assert_allclose(got, pixels, atol=5e-5)


@pytest.mark.parametrize("cls", [0, 1])
def test_distances_of_known_attention(cls):
    size = 14 * 14 + cls
    own = np.eye(size)[None, None]
    assert measures.mean_attention_distance([own], patch_size=16) == [[0.0]]
    # Every patch attends to the top left one, and the class token to itself.
    corner = np.zeros((1, 1, size, size))
    corner[..., cls] = 1
    rows, columns = np.indices((14, 14))
    want = 16 * np.hypot(rows, columns).mean()
    got = measures.mean_attention_distance([corner], patch_size=16)
    assert got == pytest.approx(want)
    # The longest way of all: 294.16 pixels.
    far = np.zeros((1, 1, size, size))
    far[0, 0, cls, -1] = 1
    got = measures.mean_attention_distance([far], patch_size=16)
    assert got * 14 * 14 == pytest.approx(294.16, abs=0.005)


def test_distances_are_means_over_images_for_each_block_and_head():
    rng = np.random.default_rng(0)
    attentions = [_softmax(rng, 3, 2, 10, 10) for _ in range(4)]
    got = measures.mean_attention_distance(attentions, patch_size=8)
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


# Rollout: D.8 -----------------------------------------------------------------


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
    rollout = measures.attention_rollout(attentions)
    assert rollout.shape == (2, tokens, tokens)
    np.testing.assert_allclose(rollout.sum(-1), 1)
    for image in range(2):
        want = np.eye(tokens)
        for weights_ in attentions:
            layer = sum(weights_[image, h] for h in range(heads)) / heads
            want = np.matmul(0.5 * layer + 0.5 * np.eye(tokens), want)
        np.testing.assert_allclose(rollout[image], want, atol=1e-12)
    seen = measures.rollout_map(rollout)
    assert seen.shape == (2, side, side)
    if cls:
        np.testing.assert_array_equal(seen.reshape(2, -1), rollout[:, 0, 1:])
    else:
        np.testing.assert_allclose(seen.sum((1, 2)), 1)
        np.testing.assert_allclose(seen.reshape(2, -1), rollout.mean(1))


def test_rollout_of_identity_and_of_uniform_attention():
    own = np.broadcast_to(np.eye(10), (1, 2, 10, 10))
    np.testing.assert_array_equal(measures.attention_rollout([own] * 5)[0], np.eye(10))
    rollout = measures.attention_rollout([_uniform(10)] * 40)
    np.testing.assert_allclose(rollout, 0.1, atol=1e-6)


def test_the_first_block_acts_first():
    # Block 0 moves token 1 to token 2, block 1 moves token 2 to the class token: the
    # class token sees token 1 only in this order.
    first, second = np.zeros((2, 1, 1, 5, 5))
    first[..., 2, 1] = second[..., 0, 2] = 1
    assert measures.attention_rollout([first, second])[0, 0, 1] == 0.25
    assert measures.attention_rollout([second, first])[0, 0, 1] == 0


def test_rollout_goes_on_where_it_stopped():
    rng = np.random.default_rng(0)
    attentions = [_softmax(rng, 2, 3, 5, 5) for _ in range(4)]
    half = measures.attention_rollout(attentions[:2])
    np.testing.assert_allclose(
        measures.attention_rollout(attentions[2:], start=half),
        measures.attention_rollout(attentions),
    )


# Entropy and likeness of layers --------------------------------------------------


def test_entropy_of_uniform_and_of_identity_attention():
    np.testing.assert_allclose(
        measures.attention_entropy([_uniform(10, heads=2)] * 3), np.log(10), 1e-6
    )
    own = np.broadcast_to(np.eye(10), (1, 2, 10, 10))
    np.testing.assert_array_equal(measures.attention_entropy([own]), [[0, 0]])


def test_entropy_is_a_mean_over_tokens_and_images():
    attention = _softmax(np.random.default_rng(0), 3, 2, 5, 5)
    got = measures.attention_entropy([attention])
    for head in range(2):
        rows = attention[:, head].reshape(-1, 5)
        want = np.mean([-sum(p * np.log(p) for p in row) for row in rows])
        assert got[0, head] == pytest.approx(want)


def test_hsic_is_the_mean_over_distinct_images():
    """The U-statistic written out: every tuple of different images counts once."""
    n, rng = 5, np.random.default_rng(0)
    x, y = rng.standard_normal((n, 3)), rng.standard_normal((n, 4))
    k, m = x @ x.T, y @ y.T
    twos = np.mean([k[i, j] * m[i, j] for i, j in itertools.permutations(range(n), 2)])
    threes = np.mean(
        [k[i, j] * m[i, q] for i, j, q in itertools.permutations(range(n), 3)]
    )
    fours = np.mean(
        [k[i, j] * m[q, r] for i, j, q, r in itertools.permutations(range(n), 4)]
    )
    assert measures.hsic(k, m) == pytest.approx(twos - 2 * threes + fours)
    with pytest.raises(config.Refused, match="needs 4 images or more, got 3"):
        measures.hsic(k[:3, :3], m[:3, :3])


# RGB embedding filters: Figure 7 -------------------------------------------------


def test_filters_are_the_principal_components_of_the_kernels():
    # Filters that are sums of three orthogonal pictures with falling strength.
    rng = np.random.default_rng(0)
    size, count = 4 * 4 * 3, 60
    pictures = np.linalg.qr(rng.standard_normal((size, 3)))[0].T
    strength = np.array([5.0, 3.0, 1.0])
    amounts = rng.standard_normal((count, 3))
    amounts = np.linalg.qr(amounts - amounts.mean(axis=0))[0] * strength
    kernel = (amounts @ pictures + rng.standard_normal(size)).T.reshape(4, 4, 3, count)
    components, explained = measures.embedding_filters(kernel, components=3)
    assert components.shape == (3, 4, 4, 3)
    np.testing.assert_allclose(explained, strength**2 / (strength**2).sum())
    for component, picture in zip(components, pictures):
        picture = picture * np.sign(picture[np.abs(picture).argmax()])
        picture = (picture - picture.min()) / np.ptp(picture)
        np.testing.assert_allclose(component.ravel(), picture, atol=1e-9)


@pytest.mark.parametrize(
    ("name", "shape", "number"), [("token", (4, 4, 3), 28), ("hybrid", (7, 7, 3), 28)]
)
def test_filters_of_models_are_pictures(name, shape, number):
    model = twins.filled(twins.TWINS[name]())
    components, explained = measures.embedding_filters(measures.rgb_kernel(model))
    assert components.shape == (number, *shape)
    assert components.min(axis=(1, 2, 3)) == pytest.approx(0)
    assert components.max(axis=(1, 2, 3)) == pytest.approx(1)
    assert (np.diff(explained) <= 0).all() and 0 < explained.sum() <= 1


def test_few_or_equal_filters_have_few_components():
    rng = np.random.default_rng(0)
    few = rng.standard_normal((2, 2, 3, 5))
    assert len(measures.embedding_filters(few)[0]) == 4  # the mean takes one away
    components, explained = measures.embedding_filters(np.ones((2, 2, 3, 8)))
    assert np.isfinite(components).all() and not explained.any()


# Position similarity: Figure 7 --------------------------------------------------


@pytest.mark.parametrize("cls", [0, 1])
def test_position_similarity_is_the_cosine_without_the_class_token(cls):
    table = np.random.default_rng(0).standard_normal((1, 9 + cls, 6))
    got = measures.position_similarity(table)
    assert got.shape == (9, 9)
    for i in range(9):
        for j in range(9):
            a, b = table[0, i + cls], table[0, j + cls]
            cosine = a @ b / np.sqrt((a @ a) * (b @ b))
            assert got[i, j] == pytest.approx(cosine)
    np.testing.assert_allclose(
        measures.position_similarity(table[0] * 7), got, atol=1e-12
    )


def test_position_similarity_takes_the_variable_and_survives_zeros():
    variable = keras.Variable(np.zeros((1, 5, 3)))
    np.testing.assert_array_equal(
        measures.position_similarity(variable), np.zeros((4, 4))
    )


@pytest.mark.parametrize(
    "name", ["token", "gap+sincos2d", "2d", "every", "hybrid", "axial"]
)
def test_the_position_table_is_what_the_model_adds(name):
    model = twins.filled(twins.TWINS[name]())
    record = {}
    model(twins.images(model), training=False, record=record)
    added = np.asarray(record[vit.POSITIONED])[:, model.has_class_token :]
    added = added - np.asarray(record[vit.PATCHES])
    table = measures.position_table(model)
    assert table.shape == (model.num_tokens, model.width)
    for image in added:
        np.testing.assert_allclose(image, table[model.has_class_token :], atol=1e-5)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("unpooled", "adds no position embedding to its tokens .positions=nowhere"),
        ("relative", "adds no position embedding to its tokens .positions=relative"),
        ("resnet", "a ResNet has no tokens"),
    ],
)
def test_models_without_positions_say_so(name, said):
    with pytest.raises(config.Refused, match=said):
        measures.position_table(twins.TWINS[name]())


def test_tokens_that_are_no_square_are_refused():
    for call in (
        lambda: measures.position_similarity(np.ones((1, 12, 3))),
        lambda: measures.rollout_map(np.ones((1, 12, 12))),
        lambda: measures.mean_attention_distance([_uniform(12)], patch_size=4),
    ):
        with pytest.raises(config.Refused, match="12 tokens: need a square"):
            call()
