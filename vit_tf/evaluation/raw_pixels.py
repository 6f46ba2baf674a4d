"""Accuracy of simple classifiers on raw pixels: a yardstick for a small image set."""

import numpy as np
from sklearn import linear_model, neighbors

# More than the solver takes on scans of 8 x 8 pixels, where it takes hundreds.
_MOST_ITERATIONS = 10_000


def count_right(
    train: tuple[np.ndarray, np.ndarray], test: tuple[np.ndarray, np.ndarray]
) -> dict[str, int]:
    """Fits scikit-learn's classifiers, with its defaults, to pixels in [0, 1].

    Args:
        train: images (n, ...) uint8 and labels (n,), to fit to.
        test: others of the same size, to read.

    Returns:
        How many of `test` each one reads right: the nearest neighbour (Euclidean) and
        logistic regression (L2, C = 1).
    """
    models = {
        "nearest neighbour": neighbors.KNeighborsClassifier(n_neighbors=1),
        "logistic regression": linear_model.LogisticRegression(
            max_iter=_MOST_ITERATIONS
        ),
    }
    (pixels, labels), (others, theirs) = (
        (images.reshape(len(images), -1) / 255, known)
        for images, known in (train, test)
    )
    return {
        name: int((model.fit(pixels, labels).predict(others) == theirs).sum())
        for name, model in models.items()
    }
