"""Mixup and CutMix against NumPy, and that only (seed, step) decides them."""

import hypothesis
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import strategies as st
from scipy import stats

from tests.support import tiny
from vit_tf import config, errors
from vit_tf.data import (
    catalog,
    evaluation_stream,
    mixup_cutmix,
    pipeline,
)
from vit_tf.training import loop, step

SIZE = 16


def _share(cfg, *, replicas):
    return step.share(cfg.data, accumulation=cfg.train.accumulation, replicas=replicas)


def _drawn(count: int, **changes) -> dict[str, np.ndarray]:
    """What `count` steps draw, stacked."""
    draw = mixup_cutmix.drawer(config.Data(image_size=SIZE, **changes))
    seeds = tf.data.Dataset.range(count).map(
        lambda i: tf.stack([tf.constant(3, i.dtype), i])
    )
    rows = list(seeds.map(draw).as_numpy_iterator())
    return {key: np.stack([row[key] for row in rows]) for key in rows[0]}


@pytest.mark.parametrize("p", [0.2, 0.8, 1.0, 5.0])
def test_weights_are_the_larger_part_of_a_beta_draw(p):
    weights = _drawn(1000, mixup=p)[mixup_cutmix.WEIGHT]
    assert weights.min() >= 0.5 and weights.max() <= 1.0

    def expected(x):  # of max(a, 1 - a)
        return stats.beta.cdf(x, p, p) - stats.beta.cdf(1 - x, p, p)

    # The largest float32 below 1 is not 1: near 1 the two distributions differ.
    inner = weights[weights < 1 - 1e-6]
    share = np.searchsorted(np.sort(weights), np.linspace(0.5, 0.999, 50)) / 1000
    assert abs(share - expected(np.linspace(0.5, 0.999, 50))).max() < 0.06
    assert len(inner) > 400


@pytest.mark.parametrize("p", [1e-3, 1e-2, 100.0])
def test_extreme_parameters_stay_finite(p):
    draws = np.array([mixup_cutmix.beta(p, tf.constant([1, i])) for i in range(40)])
    assert np.isfinite(draws).all() and (draws >= 0).all() and (draws <= 1).all()
    if p < 1:  # nearly a coin
        assert (np.minimum(draws, 1 - draws) < 1e-3).mean() > 0.7
        assert 5 < (draws > 0.5).sum() < 35
    else:
        assert abs(draws - 0.5).max() < 0.3


def test_boxes_are_squares_around_any_pixel_cut_at_the_edge():
    drawn = _drawn(1000, cutmix=1.0)
    assert (drawn[mixup_cutmix.WEIGHT] == 0).all(), "inside, the partner alone is seen"
    top, left, bottom, right = drawn[mixup_cutmix.BOX].T
    heights, widths = bottom - top, right - left
    assert (top >= 0).all() and (bottom <= SIZE).all() and (heights >= 0).all()
    assert (left >= 0).all() and (right <= SIZE).all() and (widths >= 0).all()
    whole = (top > 0) & (left > 0) & (bottom < SIZE) & (right < SIZE)
    assert (heights == widths)[whole].all() and whole.sum() > 100
    assert top.min() == 0 and bottom.max() == SIZE and heights.max() > SIZE / 2
    assert abs((top + bottom).mean() / 2 - SIZE / 2) < 1


def test_with_both_a_fair_coin_decides():
    drawn = _drawn(400, mixup=0.8, cutmix=1.0)
    mixup = drawn[mixup_cutmix.WEIGHT] > 0
    assert 160 <= mixup.sum() <= 240  # four standard deviations
    assert (drawn[mixup_cutmix.BOX][mixup] == [0, 0, SIZE, SIZE]).all()
    assert (drawn[mixup_cutmix.WEIGHT][mixup] >= 0.5).all()


def _numpy(images, labels, weight, box):
    """From the definitions, row by row, in float64."""
    mixed, targets = images.copy(), labels.copy()
    for row in range(len(images)):
        other = row + 1 if row % 2 == 0 else row - 1
        top, left, bottom, right = box[row]
        for y in range(top, bottom):
            for x in range(left, right):
                own, theirs = images[row, y, x], images[other, y, x]
                mixed[row, y, x] = weight[row] * own + (1 - weight[row]) * theirs
        pixels = images.shape[1] * images.shape[2]
        lost = (bottom - top) * (right - left) * (1 - weight[row]) / pixels
        targets[row] = (1 - lost) * labels[row] + lost * labels[other]
    return mixed, targets


@hypothesis.settings(deadline=None, max_examples=30)
@hypothesis.given(
    pairs=st.integers(1, 3),
    weight=st.floats(0, 1, width=32),
    box=st.tuples(*[st.integers(0, 5)] * 4) | st.none(),
    compiled=st.booleans(),
)
def test_mixtures_are_those_of_numpy(pairs, weight, box, compiled):
    rng = np.random.default_rng(pairs)
    images = rng.uniform(-1, 1, (2 * pairs, 5, 5, 3))
    labels = np.eye(4)[rng.integers(0, 4, 2 * pairs)]
    labels[0, :2] = 1  # several labels
    if box is not None:
        box = (*np.minimum(box[:2], box[2:]), *np.maximum(box[:2], box[2:]))
    everywhere = (0, 0, 5, 5) if box is None else box
    weights = np.full(2 * pairs, weight, "float32")
    expected = _numpy(images, labels, weights, [everywhere] * 2 * pairs)
    boxes = None if box is None else tf.constant([box] * 2 * pairs, tf.int32)
    mixed, targets = tf.function(mixup_cutmix.mix, jit_compile=compiled)(
        tf.constant(images, tf.float32), tf.constant(labels, tf.float32), weights, boxes
    )
    np.testing.assert_allclose(mixed, expected[0], atol=1e-6)
    np.testing.assert_allclose(targets, expected[1], atol=1e-6)


def test_a_pair_is_never_torn():
    """What each replica and micro-batch mixes is what the whole batch mixes."""
    rng = np.random.default_rng(0)
    images = tf.constant(rng.uniform(-1, 1, (12, 4, 4, 3)), tf.float32)
    labels = tf.constant(np.eye(12), tf.float32)
    weights, boxes = tf.fill((12,), 0.7), tf.tile([[0, 1, 3, 4]], (12, 1))
    whole = mixup_cutmix.mix(images, labels, weights, boxes)
    for size in (2, 4, 6):
        parts = [
            mixup_cutmix.mix(
                *(part[i : i + size] for part in (images, labels, weights, boxes))
            )
            for i in range(0, 12, size)
        ]
        for got, expected in zip(zip(*parts), whole):
            np.testing.assert_array_equal(tf.concat(got, axis=0), expected)


MIXED = {"data__mixup": 0.8, "data__cutmix": 1.0}


def _batches(source, data, count, **where):
    stream = pipeline.train_stream(source, data, seed=5, **where)
    return list(stream.take(count).as_numpy_iterator())


def test_the_stream_carries_a_steps_mixture_in_every_row(data_dir):
    source = catalog.open_source("digits", data_dir=data_dir)
    data = tiny.make(**MIXED).data
    whole = _batches(source, data, 6)
    plain = _batches(source, tiny.make().data, 6)
    for batch, without in zip(whole, plain):
        assert batch["image"].dtype == np.uint8
        for key in without:  # the mixture is beside them, they are the same
            np.testing.assert_array_equal(batch[key], without[key])
        for key in (mixup_cutmix.WEIGHT, mixup_cutmix.BOX):
            assert len(batch[key]) == 16 and (batch[key] == batch[key][0]).all()
    drawn = {(b[mixup_cutmix.WEIGHT][0], *b[mixup_cutmix.BOX][0]) for b in whole}
    assert len(drawn) == 6, "every step has its own"
    resumed = _batches(source, data, 2, start_step=4)
    for got, expected in zip(resumed, whole[4:]):
        for key, value in expected.items():
            np.testing.assert_array_equal(got[key], value)
    for host in (0, 1):  # two hosts with two replicas each
        where = {"num_hosts": 2, "host_index": host, "num_replicas": 4, "start_step": 2}
        parts = _batches(source, data, 6, **where)
        for number, part in enumerate(parts):
            first = 8 * host + 4 * (number % 2)
            for key, value in whole[2 + number // 2].items():
                np.testing.assert_array_equal(part[key], value[first : first + 4])


def test_evaluation_is_never_mixed(data_dir):
    source = catalog.open_source("digits", data_dir=data_dir)
    data = tiny.make(**MIXED).data
    stream = evaluation_stream.stream(source, data, "test", batch_size=16)
    assert set(stream.element_spec) == {"image", "label", "mask", "index"}


def test_an_odd_share_is_refused():
    cfg = tiny.make(**MIXED, data__batch_size=12, train__accumulation=2)
    assert _share(cfg, replicas=1) == 6
    with pytest.raises(errors.UserError, match="3 images per replica.*near: 8, 16"):
        _share(cfg, replicas=2)
    assert _share(tiny.make(data__batch_size=12), replicas=4) == 3


def _state(cfg, workdir, data_dir, machine):
    loop.train(cfg, str(workdir), machine=machine, data_dir=data_dir)
    state = tiny.newest_state(workdir)
    return {key: value for key, value in state.items() if key.startswith("model/")}


def test_a_mixed_and_augmented_run_repeats_and_replicas_do_not_change_it(
    tmp_path, data_dir
):
    cfg = tiny.make(
        **MIXED,
        data__randaug_layers=1,
        model__depth=1,
        train__length=5,
        train__accumulation=2,
        train__checkpoint_every_steps=5,
    )
    once = _state(cfg, tmp_path / "once", data_dir, tiny.one_device())
    again = _state(cfg, tmp_path / "again", data_dir, tiny.one_device())
    both = _state(cfg, tmp_path / "both", data_dir, tiny.mirrored(2))
    assert len(once) > 15
    for name, value in once.items():
        np.testing.assert_array_equal(again[name], value, err_msg=name)
        error = np.linalg.norm(both[name] - value)
        assert error <= 1e-4 * np.linalg.norm(value) + 1e-7, name
    losses = [
        [r["loss"] for r in tiny.rows(tmp_path / w) if "loss" in r]
        for w in ("once", "both")
    ]
    np.testing.assert_allclose(*losses, rtol=1e-5)
