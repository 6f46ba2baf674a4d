"""Schedules and update rules against the equations, written out in NumPy."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from vit_tf import config, errors
from vit_tf.training import optimizers, schedules


def _rate(**kwargs):
    return schedules.LearningRate(**kwargs)


def _at(rate, *steps):
    return [float(rate(s)) for s in steps]


def test_linear_schedule_has_the_papers_values():
    # ImageNet-21k's: base 1e-3, warm-up 10k (Table 3), 311k steps (counted here),
    # end 1e-5 (the authors' answer in vision_transformer's issue 2).
    rate = _rate(base=1e-3, schedule="linear", total_steps=311_000, warmup_steps=10_000)
    np.testing.assert_allclose(
        _at(rate, 0, 5_000, 10_000, 155_000, 311_000),
        [0.0, 5.0e-4, 1.0e-3, 5.2309e-4, 1.0e-5],
        rtol=2e-5,
    )


def test_cosine_schedule_ends_at_zero_and_is_half_in_the_middle():
    rate = _rate(base=0.03, schedule="cosine", total_steps=600, warmup_steps=100)
    np.testing.assert_allclose(
        _at(rate, 0, 50, 100, 350, 600), [0, 0.015, 0.03, 0.015, 0], atol=1e-9
    )


def test_the_steps_of_the_hyperrule_are_taken_one_update_after_each_mark():
    # BiT's section 3.3: 10,000 steps, warm-up 500, a tenth at 3,000, 6,000 and 9,000.
    rate = _rate(base=3e-3, schedule="steps", total_steps=10_000, warmup_steps=500)
    np.testing.assert_allclose(
        _at(rate, 0, 250, 500, 3000, 3001, 6000, 6001, 9000, 9001, 9999),
        [0, 1.5e-3, 3e-3, 3e-3, 3e-4, 3e-4, 3e-5, 3e-5, 3e-6, 3e-6],
        rtol=1e-5,
    )


def test_the_steps_of_bits_pretraining_are_its_marks_of_40_epochs():
    # BiT's section 3.3: a tenth at epochs 10, 23, 30 and 37 of 40; here 100 steps each.
    rate = _rate(base=0.48, schedule="steps_jft", total_steps=4000, warmup_steps=100)
    np.testing.assert_allclose(
        _at(rate, 50, 100, 1000, 1001, 2300, 2301, 3000, 3001, 3700, 3701),
        [0.24, 0.48, 0.48, *np.repeat([48e-3, 48e-4, 48e-5], 2), 48e-6],
        rtol=1e-5,
    )


def test_without_warmup_the_first_step_has_the_full_rate():
    assert (
        _at(_rate(base=0.1, schedule="constant", total_steps=5), 0, 4)
        == [pytest.approx(0.1)] * 2
    )


def test_warmup_longer_than_the_run_is_refused():
    with pytest.raises(
        errors.UserError, match="optim.warmup_steps=10: .* only 10 steps"
    ):
        _rate(base=1, schedule="linear", total_steps=10, warmup_steps=10)


def test_a_linear_end_above_the_start_is_refused():
    with pytest.raises(
        errors.UserError, match="optim.linear_end=1e-05: above optim.lr"
    ):
        _rate(base=1e-6, schedule="linear", total_steps=10)


SHAPES = {"kernel": (3, 4), "bias": (4,), "pos_embedding": (1, 5, 4)}
STEPS = 12


def _variables(rng):
    return [
        keras.Variable(rng.normal(size=shape).astype("float32"), name=name)
        for name, shape in SHAPES.items()
    ]


def _numpy(rule, theta, gradients, rates, decay):
    """The authors' update rules in float64."""
    m = np.zeros_like(theta)
    v = np.zeros_like(theta)
    path, average = [], theta.copy()
    for t, (g, lr) in enumerate(zip(gradients, rates), start=1):
        if rule == "adam":
            m = 0.9 * m + 0.1 * g
            v = 0.999 * v + 0.001 * g * g
            step = (m / (1 - 0.9**t)) / (np.sqrt(v / (1 - 0.999**t)) + 1e-8)
        else:
            m = 0.9 * m + g
            step = m
        theta = theta - lr * (step + decay * theta)
        average = 0.95 * average + 0.05 * theta
        path.append(theta)
    return path, average


@pytest.mark.parametrize("rule", ["adam", "sgd"])
@pytest.mark.parametrize("which", ["kernels", "all"])
def test_update_rules_follow_the_equations_step_by_step(rule, which):
    rng = np.random.default_rng(0)
    variables = _variables(rng)
    starts = [v.numpy().astype("float64") for v in variables]
    cfg = config.Optim(
        rule=rule,
        lr=0.05,
        schedule="linear",
        warmup_steps=3,
        weight_decay=0.3,
        decay=which,
        polyak=0.95,
    )
    optimizer = optimizers.build(cfg, total_steps=STEPS, variables=variables)
    optimizer.start_average()
    gradients = [
        [rng.normal(size=v.shape).astype("float32") for v in variables]
        for _ in range(STEPS)
    ]
    rates = [float(optimizer.learning_rate)]
    paths = []
    for step in gradients:
        optimizer.apply([tf.constant(g) for g in step], variables)
        rates.append(float(optimizer.learning_rate))
        paths.append([v.numpy() for v in variables])
    assert rates[0] == 0.0 and rates[3] == pytest.approx(0.05)

    for i, name in enumerate(SHAPES):
        decay = 0.3 if which == "all" or name == "kernel" else 0.0
        expected, average = _numpy(
            rule, starts[i], [g[i].astype("float64") for g in gradients], rates, decay
        )
        for got, want in zip(paths, expected):
            np.testing.assert_allclose(got[i], want, rtol=2e-5, atol=2e-6)
        np.testing.assert_allclose(
            optimizer.averages[i].numpy(), average, rtol=2e-5, atol=2e-6
        )


def test_momentum_keeps_the_learning_rate_outside():
    """With a changing rate Keras' own SGD takes another path; ours does not."""
    variable = keras.Variable(np.zeros(1, "float32"), name="kernel")
    cfg = config.Optim(rule="sgd", lr=1.0, schedule="linear", linear_end=0.0)
    optimizer = optimizers.build(cfg, total_steps=2, variables=[variable])
    for _ in range(2):  # rates 1.0 and 0.5, gradients 1 and 1
        optimizer.apply([tf.ones(1)], [variable])
    assert variable.numpy()[0] == pytest.approx(-(1.0 + 0.5 * 1.9))


@pytest.mark.parametrize("limit", [None, 0.5, 1e9])
def test_clip_is_by_global_norm(limit):
    gradients = [tf.constant([3.0, 0.0]), tf.constant([[4.0]])]
    clipped = optimizers.clip(gradients, limit, tf.linalg.global_norm(gradients))
    scale = 1.0 if limit is None else min(1.0, limit / 5.0)
    np.testing.assert_allclose(clipped[0], [3.0 * scale, 0.0], rtol=1e-6)
    np.testing.assert_allclose(clipped[1], [[4.0 * scale]], rtol=1e-6)


def test_summed_gradients_are_not_summed_again_over_replicas():
    """Guards the Keras behaviour that the step relies on: one all-reduce."""
    strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1", "CPU:2"])
    with strategy.scope():
        variable = keras.Variable(np.zeros(2, "float32"), name="kernel")
        cfg = config.Optim(rule="sgd", lr=1.0, schedule="constant")
        optimizer = optimizers.build(cfg, total_steps=1, variables=[variable])

    @tf.function
    def step():
        strategy.run(lambda: optimizer.apply([tf.ones(2)], [variable]))

    step()
    np.testing.assert_array_equal(variable.numpy(), [-1.0, -1.0])
    for copy in variable.value.values:
        np.testing.assert_array_equal(copy.numpy(), [-1.0, -1.0])
    assert int(optimizer.iterations.numpy()) == 1
