"""Training dynamics are the authors': the step against NumPy, step by step.

What is tested is a run's own step (`step.build`, `optim.build`, the objective and the
recipes' settings). The reference holds its weights in float64 and writes out the
forward pass (reference_vit), the losses and their derivative by the logits, clipping,
schedules and update rules, as the authors' code has them (vit_jax, big_vision). It
takes nothing of vit_tf but the way back from the logits to the weights, of a second
network; that way is tested against differences of the reference's loss.
"""

import functools
import math

import numpy as np
import pytest
import tensorflow as tf

from tests.support import reference_vit, tiny
from vit_tf import config
from vit_tf.models import build, npz_weights
from vit_tf.objectives import classification
from vit_tf.recipes import paper
from vit_tf.runtime import timing
from vit_tf.training import optimizers, train_state

STEPS, WARMUP, BATCH, SIZE, CLASSES = 20, 5, 8, 16, 10
BASE = {"finetune": 0.03, "pretrain": 8e-4}  # Tables 3 and 4
BIAS = -10.0  # of the head, in pre-training (the authors' configs)


def _config(kind) -> config.Config:
    """A recipe of the paper, cut to 20 steps of a tiny network on the CPU."""
    if kind == "finetune":
        cfg = paper.finetune("ViT-mu/8", "cifar10", start_from=None, lr=BASE[kind])
    else:
        cfg = paper.pretrain("ViT-B/16", "jft300m")
        cfg.model.variant = "ViT-mu/8"
    cfg.model.depth = 2
    cfg.data.image_size, cfg.data.batch_size = SIZE, BATCH
    cfg.optim.warmup_steps = WARMUP
    cfg.train.length, cfg.train.unit = STEPS, config.Unit.STEPS
    cfg.train.precision = config.Precision.FLOAT32
    return cfg


def _network(cfg):
    return build.build(cfg.model, num_classes=CLASSES, image_size=SIZE)


def _start(network) -> dict[str, np.ndarray]:
    """Fixed weights: none is zero but the head, which is as every run starts it."""
    rng = np.random.default_rng(1)
    arrays = {}
    for name, value in npz_weights.released(network).items():
        drawn = 0.2 * rng.standard_normal(value.shape) + name.endswith("scale")
        if "encoder_norm" in name:  # so that the first gradients are below the clip
            drawn *= 0.4
        arrays[name] = value if name.startswith("head/") else drawn.astype("float32")
    return arrays


def _batches(kind) -> dict[str, np.ndarray]:
    """Noisy images of their class; in pre-training some have more labels, or none."""
    rng = np.random.default_rng(2)
    classes = rng.integers(0, CLASSES, (STEPS, BATCH))
    faces = rng.integers(0, 200, (CLASSES, SIZE, SIZE, 3))
    pixels = faces[classes] + rng.integers(0, 56, (STEPS, BATCH, SIZE, SIZE, 3))
    labels = classes.astype("int32")
    if kind == "pretrain":
        labels = np.eye(CLASSES, dtype="float32")[classes]
        labels[rng.random(labels.shape) < 0.1] = 1.0
        labels[:, 0] = 0.0
    return {"image": pixels.astype("uint8"), "label": labels}


def _rates(kind) -> np.ndarray:
    """Linear warm-up from 0; then a cosine to 0 (Table 4) or a line to 1e-5."""
    rates = []
    for t in range(STEPS):
        done = max(t - WARMUP, 0) / (STEPS - WARMUP)
        if kind == "finetune":
            rate = BASE[kind] * (1 + math.cos(math.pi * done)) / 2
        else:
            rate = BASE[kind] + (1e-5 - BASE[kind]) * done
        rates.append(rate * t / WARMUP if t < WARMUP else rate)
    return np.array(rates)


def _targets(labels):
    return np.eye(CLASSES)[labels] if labels.ndim == 1 else labels.astype("float64")


def _loss(kind, logits, targets):
    """Mean over the batch, and its derivative by the logits."""
    if kind == "finetune":
        odds = np.exp(logits - logits.max(axis=1, keepdims=True))
        shares = odds / odds.sum(axis=1, keepdims=True)
        losses = -(targets * np.log(shares)).sum(axis=1)
    else:
        shares = 1 / (1 + np.exp(-logits))
        each = targets * np.log(shares) + (1 - targets) * np.log1p(-shares)
        losses = -each.sum(axis=1)  # over the classes: a sum
    return losses.sum() / BATCH, (shares - targets) / BATCH


def _reference_loss(kind, theta, pixels, labels):
    logits = reference_vit.forward(theta, pixels / 127.5 - 1)["logits"]
    return _loss(kind, logits, _targets(labels))


def _gradients(network, theta, pixels, by_logits) -> dict[str, np.ndarray]:
    """From the derivative by the logits to that by every weight, of a network."""
    npz_weights.assign(network, theta, name="the reference's weights")
    names = list(npz_weights.released(network))
    values = [v.value for v in network.weights]
    with tf.GradientTape() as tape:
        tape.watch(values)
        logits = network(tf.constant(pixels / 127.5 - 1, tf.float32), training=True)
    found = tape.gradient(
        logits,
        values,
        output_gradients=tf.constant(by_logits, tf.float32),
        unconnected_gradients=tf.UnconnectedGradients.ZERO,
    )
    return {n: g.numpy().astype("float64") for n, g in zip(names, found)}


def _clip(gradients):
    """g min(1, 1 / |g|) with the norm of all gradients as one vector."""
    norm = math.sqrt(sum((g**2).sum() for g in gradients.values()))
    factor = 1 / norm if norm > 1 else 1.0
    return {name: g * factor for name, g in gradients.items()}, norm


def _sgd(theta, gradients, state, rate):
    """m <- 0.9 m + g; theta <- theta - rate m."""
    for name, g in gradients.items():
        state[name] = 0.9 * state.get(name, 0.0) + g
        theta[name] = theta[name] - rate * state[name]


def _adam(theta, gradients, state, rate):
    """Adam of (0.9, 0.999, 1e-8); kernels alone decay, by 0.1 of the learning rate."""
    t = state["t"] = state.get("t", 0) + 1
    for name, g in gradients.items():
        m, v = state.get(name, (0.0, 0.0))
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g**2
        state[name] = m, v
        change = m / (1 - 0.9**t) / (np.sqrt(v / (1 - 0.999**t)) + 1e-8)
        decay = 0.1 * theta[name] if name.endswith("/kernel") else 0.0
        theta[name] = theta[name] - rate * change - rate * decay


def _reference(kind, network, theta, batches):
    """Losses, gradient norms and final weights, in float64."""
    theta = {name: value.astype("float64") for name, value in theta.items()}
    state, losses, norms = {}, [], []
    for pixels, labels, rate in zip(batches["image"], batches["label"], _rates(kind)):
        loss, by_logits = _reference_loss(kind, theta, pixels, labels)
        gradients = _gradients(network, theta, pixels, by_logits)
        clipped, norm = _clip(gradients)
        if kind == "finetune":
            _sgd(theta, clipped, state, rate)
        else:
            _adam(theta, gradients, state, rate)  # unclipped, but for ImageNet
        losses.append(loss)
        norms.append(norm)
    return np.array(losses), np.array(norms), theta


def _run(cfg, network, batches):
    """What the run's own step reports of the same batches; trains the network."""
    optimizer = optimizers.build(
        cfg.optim,
        total_steps=timing.num_steps(cfg.train, batch_size=BATCH, num_examples=0),
        variables=network.trainable_variables,
    )
    objective = classification.Classification(cfg.objective, num_classes=CLASSES)
    state = train_state.TrainState(network, objective, optimizer)
    steps = tiny.steps(state, cfg, tiny.one_device())
    stream = iter(tf.data.Dataset.from_tensor_slices(batches))
    return {n: v.numpy() for n, v in steps(stream, tf.constant(STEPS)).items()}


@functools.cache
def _start_of(kind):
    """Config, batches, a network for the reference, and the first weights."""
    cfg = _config(kind)
    network = _network(cfg)
    return cfg, _batches(kind), network, _start(network)


@functools.cache
def _expected(kind):
    _, batches, network, start = _start_of(kind)
    return _reference(kind, network, start, batches)


@pytest.mark.parametrize("kind", ["finetune", "pretrain"])
def test_every_step_and_the_final_weights_are_those_of_numpy(kind):
    cfg, batches, _, start = _start_of(kind)
    trained = _network(cfg)
    npz_weights.assign(trained, start, name="the start")
    found = _run(cfg, trained, batches)
    losses, norms, theta = _expected(kind)
    np.testing.assert_allclose(found["learning_rate"], _rates(kind), rtol=1e-5)
    np.testing.assert_allclose(found["loss"], losses, rtol=1e-6)
    np.testing.assert_allclose(found["gradient_norm"], norms, rtol=1e-5)
    for name, got in npz_weights.released(trained).items():
        first, last = start[name], theta[name]
        rounding = 5e-7 * np.linalg.norm(first)
        allowed = rounding + 5e-5 * np.linalg.norm(last - first)
        assert np.linalg.norm(got - last) <= allowed, name


def test_the_clip_binds_in_some_steps_only():
    _, norms, _ = _expected("finetune")
    assert norms.min() < 1 < norms.max()


@pytest.mark.parametrize("kind", ["finetune", "pretrain"])
def test_the_references_gradients_are_slopes_of_its_loss(kind):
    """Along a random direction of every array, by central differences in float64."""
    _, batches, network, _ = _start_of(kind)
    _, _, theta = _expected(kind)  # where the head is not zero any more
    pixels, labels = batches["image"][0], batches["label"][0]
    _, by_logits = _reference_loss(kind, theta, pixels, labels)
    gradients = _gradients(network, theta, pixels, by_logits)
    rng = np.random.default_rng(3)
    for name, gradient in gradients.items():
        direction = rng.standard_normal(gradient.shape)
        ends = [
            _reference_loss(
                kind, theta | {name: theta[name] + h * direction}, pixels, labels
            )[0]
            for h in (1e-5, -1e-5)
        ]
        slope = (ends[0] - ends[1]) / 2e-5
        want = pytest.approx(slope, rel=1e-4, abs=1e-6)
        assert (gradient * direction).sum() == want, name
