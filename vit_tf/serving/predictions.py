"""The prediction of one image: its likeliest classes, or why it could not be read."""

import dataclasses
from collections.abc import Sequence

import numpy as np


@dataclasses.dataclass(frozen=True)
class Prediction:
    """What a model says of one image.

    Attributes:
        classes: the k likeliest, best first; empty where there is an error.
        scores: (k,) their probabilities, in [0, 1]; empty where there is an error.
        error: one line why the image could not be read; empty if it could.
    """

    classes: tuple[str, ...]
    scores: tuple[float, ...]
    error: str = ""


def refuse(error: str) -> Prediction:
    """Makes the answer for an image that could not be read,
    with the reason as one line.
    """
    return Prediction((), (), " ".join(error.split()) or "cannot be read")


def first(answer: Prediction, top: int) -> Prediction:
    """Returns the answer with no more than so many classes."""
    return Prediction(answer.classes[:top], answer.scores[:top], answer.error)


def of_arrays(
    classes: Sequence[Sequence[str]] | np.ndarray,
    scores: Sequence[Sequence[float]] | np.ndarray,
    errors: Sequence[str],
) -> list[Prediction]:
    """Answers of a batch from the outputs of the signature `serving_default`.

    Args:
        classes: (batch, k) names, best first.
        scores: (batch, k) probabilities.
        errors: (batch,) empty where the image was readable.

    Raises:
        ValueError: batches of different sizes.
    """
    return [
        refuse(error)
        if error
        else Prediction(tuple(names), tuple(float(score) for score in row))
        for names, row, error in zip(classes, scores, errors, strict=True)
    ]
