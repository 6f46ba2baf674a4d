"""The closed form against scikit-learn, plain solves, and its own other half."""

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st
from sklearn import linear_model

from vit_tf.evaluation import ridge_regression


def _examples(n=60, d=7, classes=4, seed=0, scale=3.0):
    rng = np.random.default_rng(seed)
    features = scale * rng.normal(size=(n, d)) + rng.normal(size=d)
    return features, np.arange(n) % classes


def _inputs(features, of=None):
    """X with its constant, as fewshot_lsr.py, whitened by the examples `of`."""
    of = features if of is None else of
    whitened = (features - of.mean(axis=0)) / (of.std(axis=0) + 1e-5)
    return np.concatenate([whitened, np.full((len(features), 1), 100.0)], axis=1)


def _targets(labels, classes):
    targets = -np.ones((len(labels), classes))
    targets[np.arange(len(labels)), labels] = 1
    return targets


def _solved(x, y, l2, primal):
    """The two equations, each with a solver of linear systems."""
    if primal:
        return np.linalg.solve(x.T @ x + l2 * np.eye(x.shape[1]), x.T @ y)
    return x.T @ np.linalg.solve(x @ x.T + l2 * np.eye(len(x)), y)


@hypothesis.settings(deadline=None, max_examples=60)
@hypothesis.given(
    n=st.integers(2, 40),
    d=st.integers(1, 40),
    classes=st.integers(2, 5),
    power=st.integers(-3, 12),
    seed=st.integers(0, 1000),
)
def test_both_halves_are_the_equations(n, d, classes, power, seed):
    features, labels = _examples(n, d, classes, seed)
    found = ridge_regression.Ridge(features, labels, num_classes=classes)
    assert found.is_primal == (n >= d + 1)
    x, y, l2 = _inputs(features), _targets(labels, classes), 2.0**power
    got = found.weights(l2)
    for primal in (True, False):
        want = _solved(x, y, l2, primal)
        np.testing.assert_allclose(got, want, rtol=0, atol=1e-7 * abs(want).max())
    others, _ = _examples(9, d, classes, seed + 1)
    scores = _inputs(others, of=features) @ got
    best = np.sort(scores, axis=1)
    hypothesis.assume((best[:, -1] - best[:, -2]).min() > 1e-6)
    np.testing.assert_array_equal(
        found.predict(others, [l2]), scores.argmax(axis=1)[None]
    )


@pytest.mark.parametrize("shape", [(60, 7), (8, 8), (7, 8), (12, 50)])
@pytest.mark.parametrize("l2", [0.5, 1024.0])
def test_scikit_learn_has_the_same_weights(shape, l2):
    """On the padded matrix, whose constant it regularises as the others."""
    features, labels = _examples(*shape)
    x, y = _inputs(features), _targets(labels, 4)
    theirs = linear_model.Ridge(alpha=l2, fit_intercept=False, solver="svd").fit(x, y)
    ours = ridge_regression.Ridge(features, labels, num_classes=4).weights(l2)
    np.testing.assert_allclose(ours, theirs.coef_.T, rtol=1e-7, atol=1e-10)


def test_several_l2_at_once_are_each_alone():
    features, labels = _examples(30, 5)
    others, _ = _examples(10_000, 5, seed=1)  # more rows than are classified at a time
    found = ridge_regression.Ridge(features, labels, num_classes=4)
    l2s = [1e-3, 1.0, 1e6]
    together = found.predict(others, l2s)
    assert together.shape == (3, 10_000) and (together[0] != together[2]).any()
    for l2, row in zip(l2s, together):
        np.testing.assert_array_equal(found.predict(others, [l2])[0], row)
        scores = _inputs(others, of=features) @ found.weights(l2)
        np.testing.assert_array_equal(scores.argmax(axis=1), row)


def test_features_of_any_scale_and_place_are_told_alike():
    """Whitening is by the examples; a constant feature does no harm."""
    features, labels = _examples(40, 6)
    others, _ = _examples(50, 6, seed=2)
    want = ridge_regression.Ridge(features, labels, num_classes=4).predict(
        others, [4.0]
    )
    moved = [
        np.concatenate([1e3 * part + 50, np.full((len(part), 1), 7.0)], axis=1)
        for part in (features, others)
    ]
    got = ridge_regression.Ridge(moved[0], labels, num_classes=4).predict(
        moved[1], [4.0]
    )
    np.testing.assert_array_equal(got, want)


def test_float32_features_are_solved_in_float64():
    features, labels = _examples(20, 6)
    single = features.astype("float32")
    ours = ridge_regression.Ridge(single, labels, num_classes=4).weights(1e-4)
    assert ours.dtype == np.float64
    want = ridge_regression.Ridge(
        single.astype("float64"), labels, num_classes=4
    ).weights(1e-4)
    np.testing.assert_array_equal(ours, want)


@pytest.mark.parametrize("shape", [(30, 5), (12, 20)])
@pytest.mark.parametrize("l2", [1e-2, 1.0, 1024.0])
def test_leaving_one_out_is_solving_without_it(shape, l2):
    features, labels = _examples(*shape)
    got = ridge_regression.Ridge(features, labels, num_classes=4).leave_one_out(l2)
    x, y = _inputs(features), _targets(labels, 4)
    for i in range(len(x)):
        rest = np.arange(len(x)) != i
        w = _solved(x[rest], y[rest], l2, primal=True)
        np.testing.assert_allclose(got[i], x[i] @ w, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("l2", [0.0, -1.0, float("nan")])
def test_no_weight_at_all_is_refused(l2):
    features, labels = _examples()
    with pytest.raises(ValueError, match="need a number above 0"):
        ridge_regression.Ridge(features, labels, num_classes=4).weights(l2)
