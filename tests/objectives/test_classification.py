"""Losses against NumPy, and the authors' initial values."""

import numpy as np
import pytest
import tensorflow as tf

from vit_tf import config
from vit_tf.data import mixup_cutmix
from vit_tf.objectives import classification


class _Logits:
    """Stands in for a model: gives fixed logits and keeps what it was shown."""

    compute_dtype = "float32"

    def __init__(self, logits):
        self.logits = tf.constant(logits, tf.float32)

    def __call__(self, images, *, training, seed):
        self.images, self.training, self.seed = images, training, seed
        return self.logits


def _batch(labels, image=None):
    number = len(labels)
    image = np.zeros((number, 2, 2, 3), "uint8") if image is None else image
    return {"image": tf.constant(image), "label": tf.constant(labels, tf.int32)}


def _losses(logits, labels, *, training=True, **kwargs):
    objective = classification.Classification(
        config.Objective(**kwargs), num_classes=np.shape(logits)[1]
    )
    losses, _ = objective(_Logits(logits), _batch(labels), training=training)
    return losses.numpy()


def _numpy(logits, labels, loss, smoothing):
    """Written from the definitions, in float64."""
    z = np.asarray(logits, "float64")
    y = np.eye(z.shape[1])[labels] * (1 - smoothing) + smoothing / z.shape[1]
    if loss == "softmax":
        p = np.exp(z) / np.exp(z).sum(1, keepdims=True)
        return -(y * np.log(p)).sum(1)
    s = 1 / (1 + np.exp(-z))
    return -(y * np.log(s) + (1 - y) * np.log(1 - s)).sum(1)  # sum, not mean


@pytest.mark.parametrize("loss", ["softmax", "sigmoid"])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_losses_follow_their_definitions(loss, smoothing):
    rng = np.random.default_rng(0)
    logits, labels = rng.normal(size=(5, 7)) * 3, rng.integers(0, 7, 5)
    got = _losses(logits, labels, loss=loss, label_smoothing=smoothing)
    np.testing.assert_allclose(got, _numpy(logits, labels, loss, smoothing), rtol=1e-5)
    evaluated = _losses(
        logits, labels, loss=loss, label_smoothing=smoothing, training=False
    )
    np.testing.assert_allclose(evaluated, _numpy(logits, labels, loss, 0), rtol=1e-5)


@pytest.mark.parametrize(
    ("loss", "classes", "bias", "initial"),
    [
        ("sigmoid", 21_843, -10.0, 10.9916),
        ("sigmoid", 18_291, -10.0, 10.8304),
        ("sigmoid", 1000, -6.9, 7.9073),
        ("sigmoid", 1000, -10.0, 10.0454),
        ("sigmoid", 1000, 0.0, 693.147),
        ("softmax", 1000, 0.0, 6.9078),
        ("softmax", 100, 0.0, 4.6052),
        ("softmax", 10, 0.0, 2.3026),
    ],
)
def test_initial_losses_are_the_papers(loss, classes, bias, initial):
    """A zero head gives logits that equal its bias."""
    got = _losses(np.full((1, classes), bias), [3], loss=loss)
    assert got[0] == pytest.approx(initial, rel=2e-5)


def test_training_pixels_are_scaled_and_evaluation_pixels_are_not():
    model = _Logits(np.zeros((1, 3)))
    objective = classification.Classification(config.Objective(), num_classes=3)
    bytes_ = np.full((1, 2, 2, 3), 255, "uint8")
    objective(model, _batch([0], bytes_), seed="a seed")
    np.testing.assert_array_equal(model.images, np.ones((1, 2, 2, 3)))
    assert (model.training, model.seed) == (True, "a seed")
    scaled = np.full((1, 2, 2, 3), 0.25, "float32")
    objective(model, _batch([0], scaled), training=False)
    np.testing.assert_array_equal(model.images, scaled)
    assert model.training is False


@pytest.mark.parametrize("loss", ["softmax", "sigmoid"])
def test_mixed_rows_have_the_losses_of_both_labels(loss):
    rng = np.random.default_rng(0)
    logits, labels = rng.normal(size=(4, 3)), np.array([0, 2, 1, 1])
    pixels = rng.integers(0, 256, (4, 2, 2, 3)).astype("uint8")
    batch = _batch(labels, pixels) | {mixup_cutmix.WEIGHT: tf.fill((4,), 0.75)}
    objective = classification.Classification(
        config.Objective(loss=loss, label_smoothing=0.1), num_classes=3
    )
    model = _Logits(logits)
    losses, _ = objective(model, batch)
    # Both losses are linear in the targets, and smoothing is the same for all.
    own = _numpy(logits, labels, loss, 0.1)
    theirs = _numpy(logits, labels[[1, 0, 3, 2]], loss, 0.1)
    np.testing.assert_allclose(losses, 0.75 * own + 0.25 * theirs, rtol=1e-5)
    mixed = 0.75 * pixels + 0.25 * pixels[[1, 0, 3, 2]]
    np.testing.assert_allclose(model.images, mixed / 127.5 - 1, atol=1e-5)
    losses, _ = objective(model, batch, training=False)
    np.testing.assert_allclose(losses, _numpy(logits, labels, loss, 0), rtol=1e-5)
    np.testing.assert_allclose(model.images, pixels / 127.5 - 1, atol=1e-5)


def test_several_labels_or_none_are_summed_over_the_classes():
    logits = np.random.default_rng(0).normal(size=(3, 4)).astype("float32")
    labels = np.array([[1, 0, 1, 0], [0, 0, 0, 0], [0, 1, 0, 0]], "float32")
    objective = classification.Classification(
        config.Objective(loss="sigmoid"), num_classes=4
    )
    batch = _batch([0, 0, 1]) | {"label": tf.constant(labels)}
    found, _ = objective(_Logits(logits), batch, training=False)
    share = 1 / (1 + np.exp(-logits.astype("float64")))
    want = -(labels * np.log(share) + (1 - labels) * np.log(1 - share)).sum(axis=1)
    np.testing.assert_allclose(found, want, rtol=1e-5)
    one, _ = objective(_Logits(logits), _batch([0, 0, 1]), training=False)
    assert found[2] == one[2]  # one label, in either form
