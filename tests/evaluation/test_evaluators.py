import numpy as np
import pytest
import tensorflow as tf

from vit_tf import config
from vit_tf.evaluation import evaluators
from vit_tf.objectives import classification

CLASSES = 7


def _predictions(logits, labels):
    rows = evaluators.judge(tf.constant(logits), tf.constant(labels))
    rows = {name: value.numpy() for name, value in rows.items()}
    for name in ("hit", "top5", "labelled"):
        rows[name] = rows[name].astype(bool)
    return evaluators.Predictions(**rows, loss=np.ones(len(logits), np.float32))


@pytest.fixture
def logits():
    return np.random.default_rng(0).normal(size=(200, CLASSES)).astype("float32")


@pytest.fixture
def labels():
    return np.random.default_rng(1).integers(0, CLASSES - 1, 200).astype("int32")


def _soft_max(logits):
    shares = np.exp(logits.astype("float64"))
    return shares / shares.sum(axis=1, keepdims=True)


def test_measures_are_what_their_definitions_say(logits, labels):
    found = _predictions(logits, labels)
    got = {
        m: evaluators.measure(found, m, "test")
        for m in classification.Classification.measures
    }
    order = np.argsort(-logits, axis=1)
    hits = order[:, 0] == labels
    shares = _soft_max(logits)
    want = {
        "accuracy": hits.mean(),
        "top5_accuracy": np.mean([label in o[:5] for label, o in zip(labels, order)]),
        # The last class has no example and does not count.
        "class_accuracy": np.mean([hits[labels == c].mean() for c in range(6)]),
        "nll": -np.log(shares[np.arange(200), labels]).mean(),
        "loss": 1.0,
        "ece": _calibration_error(shares.max(axis=1), hits),
    }
    assert {m.name for m in got.values()} == want.keys()
    for metric in got.values():
        assert metric.value == pytest.approx(want[metric.name], rel=1e-5)
        assert (metric.count, metric.split) == (200, "test")


def _calibration_error(confidence, hits, bins=15):
    """Guo et al., equation 5, bin by bin."""
    total = 0.0
    for b in range(bins):
        inside = (confidence >= b / bins) & (confidence < (b + 1) / bins)
        if inside.any():
            gap = abs(hits[inside].mean() - confidence[inside].mean())
            total += inside.mean() * gap
    return total


def test_certain_and_right_is_calibrated_and_certain_and_wrong_is_not():
    ones, right = np.ones(10), np.ones(10, bool)
    assert evaluators.calibration_error(ones, right) == 0
    assert evaluators.calibration_error(ones, ~right) == 1
    assert evaluators.calibration_error(np.full(10, 0.5), np.arange(10) < 5) == 0


def test_any_of_several_labels_is_right_and_none_does_not_count(logits):
    several = np.zeros((200, CLASSES), np.float32)
    several[:, :2] = 1
    several[150:] = 0
    found = _predictions(logits, several)
    accuracy = evaluators.measure(found, "accuracy", "validation")
    assert accuracy.count == 150
    best = logits.argmax(axis=1)
    assert accuracy.value == pytest.approx((best[:150] < 2).mean())
    nll = evaluators.measure(found, "nll", "validation")
    both = _soft_max(logits)[:150, :2].sum(axis=1)
    assert nll.value == pytest.approx(-np.log(both).mean(), rel=1e-5)
    assert evaluators.measure(found, "loss", "validation").count == 200
    with pytest.raises(config.Refused, match="class_accuracy: .* several labels"):
        evaluators.measure(found, "class_accuracy", "validation")


def test_one_label_in_either_form_is_the_same(logits, labels):
    one = _predictions(logits, labels)
    hot = _predictions(logits, np.eye(CLASSES, dtype="float32")[labels])
    for name in ("predicted", "hit", "top5", "labelled", "confidence"):
        np.testing.assert_array_equal(getattr(one, name), getattr(hot, name))
    np.testing.assert_allclose(one.nll, hot.nll, rtol=1e-5)


def test_fewer_than_five_classes_are_all_among_the_five_likeliest():
    logits = np.eye(3, dtype="float32")
    found = _predictions(logits, np.array([1, 2, 0], "int32"))
    assert evaluators.measure(found, "top5_accuracy", "test").value == 1
    assert evaluators.measure(found, "accuracy", "test").value == 0
