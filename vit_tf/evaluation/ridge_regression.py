"""Linear classifiers of a few features in closed form: ridge regression onto ±1.

The few-shot measure of the paper (section 4.1) with the conventions of the authors'
evaluator (big_vision's fewshot_lsr.py), in float64. Of n examples with d
features, whitened and with a constant as the last one, X is (n, d + 1); Y (n, classes)
is 1 at the class and -1 elsewhere; the classifier is

    W = argmin ||X W - Y||² + l2 ||W||²
      = (Xᵀ X + l2 I)⁻¹ Xᵀ Y    (primal, taken for n >= d + 1)
      = Xᵀ (X Xᵀ + l2 I)⁻¹ Y    (dual)

and one decomposition of the smaller matrix, Q diag(e) Qᵀ, serves every l2:

    W = Q diag(1 / (e + l2)) Qᵀ Xᵀ Y    or    Xᵀ Q diag(1 / (e + l2)) Qᵀ Y.
"""

from collections.abc import Sequence

import numpy as np

BIAS = 100.0  # the constant: so large that l2 hardly touches its weights
_EPSILON = 1e-5  # added to the standard deviation of a feature
_ROWS = 4096  # classified at a time: float64 of a whole large split fills the memory


class Ridge:
    """Fits linear classifiers to a set of examples, one for each l2.

    Features are whitened with the mean and the standard deviation of these examples
    alone, and so is everything that is classified later.

    Args:
        features: (n, d).
        labels: int (n,), 0 to num_classes - 1.
        num_classes: number of classes, some of which may have no example.
    """

    def __init__(self, features: np.ndarray, labels: np.ndarray, *, num_classes: int):
        features = np.asarray(features, np.float64)
        self.num_classes = num_classes
        self.mean = features.mean(axis=0)
        self.std = features.std(axis=0) + _EPSILON
        self._inputs = self._whiten(features)  # X
        self._targets = 2.0 * np.eye(num_classes)[labels] - 1.0  # Y
        n, d = self._inputs.shape
        self.is_primal = n >= d
        x = self._inputs
        self._eigenvalues, q = np.linalg.eigh(x.T @ x if self.is_primal else x @ x.T)
        # Rounding leaves the zeros of a singular matrix on either side of it.
        self._eigenvalues = np.maximum(self._eigenvalues, 0.0)
        # W = left diag(1 / (e + l2)) right.
        self._vectors = q
        self._left = q if self.is_primal else x.T @ q  # (d + 1, r)
        y = self._targets
        self._right = q.T @ (x.T @ y if self.is_primal else y)  # (r, classes)

    def weights(self, l2: float) -> np.ndarray:
        """Returns W, (d + 1, classes); the last row belongs to the constant."""
        return (self._left * self._shrink(l2)) @ self._right

    def predict(self, features: np.ndarray, l2s: Sequence[float]) -> np.ndarray:
        """Returns the class of the largest score, int64 (len(l2s), examples)."""
        weights = [self.weights(l2) for l2 in l2s]
        classes = np.empty((len(l2s), len(features)), np.int64)
        for first in range(0, len(features), _ROWS):
            rows = slice(first, first + _ROWS)
            x = self._whiten(np.asarray(features[rows], np.float64))
            for i, w in enumerate(weights):
                classes[i, rows] = (x @ w).argmax(axis=1)
        return classes

    def leave_one_out(self, l2: float) -> np.ndarray:
        """Scores each example by the classifier of all the others, (n, classes).

        Without solving again: the residual of Y is, in the dual,

            ([K + l2 I]⁻¹ Y)_i / ([K + l2 I]⁻¹)_ii    with K = X Xᵀ,

        which is (Y - X W)_i / (1 - H_ii) with H = X (Xᵀ X + l2 I)⁻¹ Xᵀ in the primal
        (Rifkin and Lippert 2007, Notes on Regularized Least-Squares).
        The whitening stays that of all examples.
        """
        shrink, q = self._shrink(l2), self._vectors
        if self.is_primal:
            projected = self._inputs @ q
            residual = self._targets - (projected * shrink) @ self._right
            share = 1.0 - (projected**2) @ shrink
        else:
            residual = (q * shrink) @ self._right
            share = (q**2) @ shrink
        return self._targets - residual / share[:, None]

    def _shrink(self, l2: float) -> np.ndarray:
        if not l2 > 0:
            raise ValueError(f"l2: got {l2}, need a number above 0")
        return 1.0 / (self._eigenvalues + l2)

    def _whiten(self, features: np.ndarray) -> np.ndarray:
        whitened = (features - self.mean) / self.std
        return np.pad(whitened, ((0, 0), (0, 1)), constant_values=BIAS)
