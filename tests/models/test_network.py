"""What must hold for every architecture alike, on its tiny twin."""

import functools
import os
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.support import reference_resnet, reference_vit, tiny, twins
from vit_tf import errors
from vit_tf.models import npz_weights

EVERY = pytest.mark.parametrize("kind", twins.TWINS)


def _slow_but(*kinds):
    """Every kind; those that are not named repeat what these do, and are slow."""
    marks = {kind: [] if kind in kinds else pytest.mark.slow for kind in twins.TWINS}
    return pytest.mark.parametrize(
        "kind", [pytest.param(kind, marks=mark) for kind, mark in marks.items()]
    )


@functools.cache
def _twin(kind):
    return twins.filled(twins.TWINS[kind]())


def _reference(kind, arrays, images):
    if kind == "resnet":
        return reference_resnet.bit(arrays, images)
    return reference_vit.forward(arrays, images, **twins.UNSEEN.get(kind, {}))


@pytest.mark.parametrize("kind", [k for k in twins.TWINS if k != "axial_resnet"])
def test_every_intermediate_equals_the_numpy_reference(kind):
    network, record = _twin(kind), {}
    images = twins.images(network)
    logits = network(images, record=record)
    want = _reference(kind, npz_weights.released(network), images)
    assert record.keys() == want.keys()
    for name, value in want.items():
        twins.close(record[name], value, 2e-5)
    twins.close(logits, want["logits"], 2e-5)
    # The tolerance means something: the logits differ between the images.
    spread = want["logits"].std(axis=0).min()
    assert spread > 5 * 2e-5 * abs(want["logits"]).max()


@EVERY
def test_no_parameter_is_dead_and_no_gradient_is_infinite(kind):
    network = _twin(kind)
    with tf.GradientTape() as tape:
        logits = network(twins.images(network), training=True)
        loss = tf.reduce_sum(tf.square(logits))
    gradients = tape.gradient(loss, network.trainable_variables)
    for variable, gradient in zip(network.trainable_variables, gradients):
        if variable.path.endswith("/key/bias"):  # softmax takes it out again
            assert gradient is None
            continue
        assert gradient is not None and np.isfinite(gradient).all(), variable.path
        assert np.abs(gradient).max() > 0, variable.path


@_slow_but("token", "map", "relative", "axial", "resnet")
def test_xla_gives_the_same_logits_and_gradients(kind):
    network = _twin(kind)

    def step(images):
        with tf.GradientTape() as tape:
            logits = network(images, training=True)
            loss = tf.reduce_mean(tf.square(logits))
        gradients = tape.gradient(loss, network.trainable_variables)
        return logits, [g for g in gradients if g is not None]  # not key biases

    images = tf.constant(twins.images(network))
    logits, gradients = step(images)
    compiled = tf.function(step, jit_compile=True)(images)
    twins.close(compiled[0], logits)
    top = max(float(tf.reduce_max(tf.abs(g))) for g in gradients)
    for got, want in zip(compiled[1], gradients):
        np.testing.assert_allclose(got, want, rtol=0, atol=1e-5 * top)


@EVERY
def test_bfloat16_stays_close_and_answers_in_float32(kind):
    # Smaller weights, as real ones are: scores of a hundred would need more digits.
    exact = twins.filled(twins.TWINS[kind](), scale=0.1)
    network = twins.TWINS[kind](dtype="mixed_bfloat16")
    network.set_weights(exact.get_weights())
    assert {w.dtype for w in network.weights} == {"float32"}
    images = twins.images(network)
    got, want = network(images), exact(images)
    assert got.dtype == "float32"
    twins.close(got, want, 0.05)
    assert np.abs(got - want).max() > 0  # it did compute in bfloat16


@EVERY
def test_saved_as_keras_and_loaded_it_is_the_same(kind, tmp_path):
    network = twins.filled(twins.TWINS[kind](dtype="mixed_bfloat16"))
    network.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    assert type(again) is type(network)
    assert again.get_config() == network.get_config()
    for ours, theirs in zip(network.weights, again.weights, strict=True):
        assert ours.path == theirs.path
        np.testing.assert_array_equal(ours.numpy(), theirs.numpy())
    images = twins.images(network)
    np.testing.assert_array_equal(network(images), again(images))


@EVERY
def test_the_released_layout_holds_every_array_and_comes_back(kind, tmp_path):
    network = _twin(kind)
    npz_weights.save_released(network, tmp_path / "weights.npz")
    again = twins.TWINS[kind]()
    npz_weights.load_released(again, tmp_path / "weights.npz")
    for name, array in npz_weights.released(network).items():
        assert array.tobytes() == npz_weights.released(again)[name].tobytes(), name


@EVERY
def test_images_of_another_size_are_refused_in_one_line(kind):
    network = _twin(kind)
    with pytest.raises(errors.UserError, match="images: got shape") as refusal:
        network(np.zeros((1, 8, 12, 3), "float32"))
    assert "\n" not in str(refusal.value)


# Recomputing activations --------------------------------------------------------


def _gradients(network, images, **options):
    @tf.function(**options)
    def step(images):
        # As step.py does it: the tape sees the variables it is told to watch.
        values = [v.value for v in network.trainable_variables]
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(values)
            logits = network(images, training=True, seed=tf.constant([1, 2]))
            loss = tf.reduce_mean(tf.square(logits))
        zero = tf.UnconnectedGradients.ZERO
        return logits, tape.gradient(loss, values, unconnected_gradients=zero)

    return step(images)


# XLA takes its time over the larger ones.
@pytest.mark.parametrize(
    ("kind", "options"),
    [("resnet", {}), ("token", {"jit_compile": True})]
    + [
        pytest.param(kind, options, marks=pytest.mark.slow)
        for kind in ("token", "hybrid", "axial", "resnet")
        for options in ({}, {"jit_compile": True})
        if (kind, bool(options)) not in (("resnet", False), ("token", True))
    ],
)
def test_remat_computes_the_same(kind, options):
    rates = {} if kind == "resnet" else {"dropout": 0.1, "stochastic_depth": 0.5}
    plain = twins.filled(twins.TWINS[kind](**rates))
    remat = twins.filled(twins.TWINS[kind](**rates, remat=True))
    images = tf.constant(twins.images(plain))
    want, got = (_gradients(n, images, **options) for n in (plain, remat))
    twins.close(got[0], want[0], 1e-6)
    top = max(float(tf.reduce_max(tf.abs(g))) for g in want[1])
    for ours, theirs in zip(got[1], want[1]):
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-6 * top)


_PEAK = """
import resource, sys
import tensorflow as tf
from vit_tf import config
from vit_tf.models import build

remat = sys.argv[1] == "remat"
model = config.Model(variant=sys.argv[2], remat=remat)
network = build.build(model, num_classes=2, image_size=int(sys.argv[3]))
values = [v.value for v in network.trainable_variables]

@tf.function
def step(images):
    with tf.GradientTape(watch_accessed_variables=False) as tape:
        tape.watch(values)
        loss = tf.reduce_mean(network(images, training=True))
    zero = tf.UnconnectedGradients.ZERO
    return [tf.reduce_sum(g) for g in tape.gradient(loss, values, unconnected_gradients=zero)]

step(tf.zeros((1, int(sys.argv[3]), int(sys.argv[3]), 3)))
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
step(tf.zeros((int(sys.argv[4]), int(sys.argv[3]), int(sys.argv[3]), 3)))
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("variant", "size", "batch"), [("ViT-Ti/16", 224, 16), ("R50x1", 128, 8)]
)
def test_remat_needs_measurably_less_memory(variant, size, batch):
    """Peak of the process, above what one small step needed, in MiB."""
    peaks = {}
    for how in ("plain", "remat"):
        done = subprocess.run(
            [sys.executable, "-c", _PEAK, how, variant, str(size), str(batch)],
            cwd=tiny.ROOT,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        peaks[how] = int(done.stdout.split()[-1])
    print(variant, peaks)
    assert peaks["remat"] < 0.6 * peaks["plain"], peaks


# The JAX backend ----------------------------------------------------------------

_ON_JAX = """
import sys
import jax
import keras
import numpy as np

sys.path.insert(0, sys.argv[2])
from tests.support import twins
from vit_tf.models import npz_weights

assert keras.backend.backend() == "jax"
for kind in sys.argv[3:]:
    make = twins.TWINS[kind]
    network = make()
    npz_weights.load_released(network, f"{sys.argv[1]}/{kind}.npz")
    images = twins.images(network)
    values = [v.value for v in network.trainable_variables]
    @jax.jit
    def run(values, images):
        record = {}
        network.stateless_call(values, [], images, record=record)
        return record
    record = run(values, images)
    np.savez(f"{sys.argv[1]}/{kind}.out.npz", **{k: np.asarray(v) for k, v in record.items()})
    if kind == "token":
        np.testing.assert_allclose(network(images), record["logits"], rtol=1e-3, atol=1e-4)
    if kind not in ("token", "axial"):
        continue
    remat = make(remat=True)
    npz_weights.load_released(remat, f"{sys.argv[1]}/{kind}.npz")
    def loss(values, network):
        out = network.stateless_call(values, [], images, training=True)[0]
        return (out ** 2).mean()
    plain = jax.jit(jax.grad(lambda v: loss(v, network)))(values)
    again = jax.jit(jax.grad(lambda v: loss(v, remat)))(values)
    for a, b in zip(plain, again):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5)

network = twins.transformer(dropout=0.2, attention_dropout=0.2, stochastic_depth=0.5)
twins.filled(network)
values = [v.value for v in network.trainable_variables]
run = jax.jit(
    lambda seed: network.stateless_call(values, [], images, training=True, seed=seed)[0]
)
images = twins.images(network)
draws = ([-1, 2], [-1, 2], [-1, 3])
first, again, other = (np.asarray(run(np.array(s))) for s in draws)
assert (first == again).all() and (first != other).all()
assert abs(first - np.asarray(network(images))).max() > 0.01
assert "tensorflow" not in sys.modules
"""


# The others are slow together.
_KINDS = ("token",)
_OTHERS = tuple(kind for kind in twins.TWINS if kind not in _KINDS)


@pytest.mark.needs("jax")
@pytest.mark.parametrize(
    "kinds", [_KINDS, pytest.param(_OTHERS, marks=pytest.mark.slow)]
)
def test_the_jax_backend_computes_the_same(tmp_path, kinds):
    for kind in kinds:
        npz_weights.save_released(_twin(kind), tmp_path / f"{kind}.npz")
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            _ON_JAX,
            str(tmp_path),
            str(tiny.ROOT / "tests"),
            *kinds,
        ],
        check=False,
        env=os.environ | {"KERAS_BACKEND": "jax", "PYTHONPATH": str(tiny.ROOT)},
        stderr=subprocess.PIPE,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    for kind in kinds:
        network, record = _twin(kind), {}
        network(twins.images(network), record=record)
        with np.load(tmp_path / f"{kind}.out.npz") as theirs:
            assert set(theirs.files) == set(record)
            for name, value in record.items():
                twins.close(theirs[name], value, 2e-5)
