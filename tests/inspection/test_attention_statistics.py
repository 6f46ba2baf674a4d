"""Attention measured block by block is attention measured all at once."""

import numpy as np
import pytest

from tests.support import twins
from vit_tf import errors
from vit_tf.inspection import attention_statistics, measures
from vit_tf.models import vit


def _batches(images, size):
    return [images[i : i + size] for i in range(0, len(images), size)]


@pytest.mark.parametrize(
    "name",
    [
        "token",
        "gap+sincos2d",
        "hybrid",
        pytest.param("map", marks=pytest.mark.slow),
        pytest.param("axial", marks=pytest.mark.slow),
    ],
)
def test_batches_give_what_all_images_at_once_give(name):
    model = twins.filled(twins.TWINS[name]())
    images = twins.images(model, batch=5)
    got = attention_statistics.measure(model, _batches(images, 2))
    every = measures.attention_weights(model, images)
    want = measures.mean_attention_distance(every, patch_size=model.token_stride)
    assert got.distance.shape == (5, model.num_blocks, model.num_heads)
    np.testing.assert_allclose(got.distance.mean(axis=0), want, rtol=1e-4)
    np.testing.assert_allclose(
        got.entropy.mean(axis=0), measures.attention_entropy(every), rtol=1e-4
    )
    rollout = measures.rollout_map(measures.attention_rollout(every))
    np.testing.assert_allclose(got.rollout, rollout, atol=1e-5)
    np.testing.assert_allclose(got.outputs, model(images, training=False), atol=1e-3)
    alone = attention_statistics.measure(model, [images[3:4]])
    np.testing.assert_allclose(alone.distance[0], got.distance[3], rtol=1e-4)
    assert alone.similarity is None


def test_nothing_of_a_batch_is_kept():
    model = twins.transformer(depth=4)
    record = attention_statistics.Reducing(model, None)
    model(twins.images(model), training=False, record=record)
    assert not record and len(record.distance) == model.num_blocks


def _cka(tokens):
    """Linear CKA of layers by its definition, from unbiased HSIC of one batch."""
    flat = [np.asarray(x, np.float64).reshape(len(x), -1) for x in tokens]
    pairs = [[measures.hsic(a @ a.T, b @ b.T) for b in flat] for a in flat]
    own = np.sqrt(np.diag(pairs))
    return pairs / np.outer(own, own)


def test_layers_are_compared_by_their_tokens():
    model = twins.filled(twins.transformer(depth=3))
    images = twins.images(model, batch=6)
    record = {}
    model(images, training=False, record=record)
    names = [vit.POSITIONED, *(vit.BLOCK.format(i) for i in range(3))]
    got = attention_statistics.measure(model, [images]).similarity
    assert got.shape == (4, 4)
    np.testing.assert_allclose(got, _cka([record[n] for n in names]), atol=1e-6)
    np.testing.assert_allclose(np.diag(got), 1)
    assert got[0, 3] < 0.999, "layers differ"


def test_similarity_is_summed_over_batches_by_their_images():
    rng = np.random.default_rng(0)
    sums = attention_statistics.LayerSimilarity()
    weighed = np.zeros((2, 2))
    for n in (5, 8):
        grams = [x @ x.T for x in rng.standard_normal((2, n, 3))]
        sums.add(grams)
        weighed += n * np.array([[measures.hsic(a, b) for b in grams] for a in grams])
    own = np.sqrt(np.diag(weighed))
    np.testing.assert_allclose(sums.cka(), weighed / np.outer(own, own))


def test_a_last_batch_of_few_images_is_left_out_of_likeness_alone():
    model = twins.filled(twins.TWINS["token"]())
    images = twins.images(model, batch=9)
    got = attention_statistics.measure(model, _batches(images, 6))
    first = attention_statistics.measure(model, [images[:6]])
    np.testing.assert_allclose(got.similarity, first.similarity)
    assert len(got.distance) == 9


def test_a_resnet_has_no_attention():
    model = twins.TWINS["resnet"]()
    with pytest.raises(errors.UserError, match="a ResNet has no tokens"):
        attention_statistics.measure(model, [twins.images(model)])
