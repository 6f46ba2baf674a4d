"""Draws the curves, accuracies, confusions and images of runs, as PNG files."""

import pathlib
from collections.abc import Sequence

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
from matplotlib import figure as mpl_figure

from vit_tf.inspection import plot_text, plots

_CONFUSED = 40  # classes in a confusion matrix, at most
_NUMBERED = 20  # up to so many classes its cells have numbers
_NAME_INCHES = 3.5  # of a class name beside the matrix, at most
_PANEL_INCHES = 1.5  # of an image on a contact sheet

_STYLE = plots.STYLE


def confusion(
    matrix: np.ndarray, names: Sequence[str], path: pathlib.Path, *, title: str
) -> None:
    """Draws which classes are taken for which; of many, those with most mistakes.

    Args:
        matrix: int (classes, classes), examples by true class (row) and predicted class
            (column).
        names: one per class.
        path: the PNG to write.
        title: of the figure.
    """
    wrong = matrix.sum(axis=0) + matrix.sum(axis=1) - 2 * np.diag(matrix)
    kept = np.sort(np.argsort(-wrong, kind="stable")[:_CONFUSED])
    if len(kept) < len(matrix):
        title += f": the {len(kept)} of {len(matrix)} classes with most mistakes"
    sizes = np.maximum(matrix.sum(axis=1), 1)
    shares = (matrix / sizes[:, None])[np.ix_(kept, kept)]
    labels = [plot_text.fit(str(names[i]), _NAME_INCHES, 7) for i in kept]
    beside = max(plot_text.width(label, 7) for label in labels)  # inches
    side = max(1.6, 0.32 * len(kept)) + beside + 0.5
    with plot_text.style(_STYLE | {"axes.grid": False}, title, *labels):
        figure, axes = plt.subplots(figsize=(side + 1.1, side + 0.3))
        picture = axes.imshow(shares, vmin=0, vmax=1, cmap="cividis")
        axes.set_xticks(range(len(kept)), labels, rotation=90, fontsize=7)
        axes.set_yticks(range(len(kept)), labels, fontsize=7)
        if len(kept) <= _NUMBERED:
            for (row, column), share in np.ndenumerate(shares):
                number = int(matrix[kept[row], kept[column]])
                # Zeros recede, so that mistakes stand out.
                seen = "white" if share < 0.5 else "black"
                axes.text(
                    column,
                    row,
                    f"{number}",
                    ha="center",
                    va="center",
                    fontsize=6,
                    color=seen if number else "#6c7a99",
                )
        axes.set(xlabel="predicted class", ylabel="true class")
        wrapped = plot_text.wrap(title, side + 0.9, 8)
        figure.suptitle(wrapped, fontsize=8)
        figure.colorbar(picture, label="share of the true class", shrink=0.8)
        _save(figure, path)


def contact_sheet(
    images: np.ndarray,
    captions: Sequence[str],
    path: pathlib.Path,
    *,
    title: str,
) -> None:
    """Draws images in rows of eight, each with its caption.

    Args:
        images: (number, height, width, 3) in [0, 1].
        captions: one per image; each of their lines is broken into two at most.
        path: the PNG to write.
        title: of the sheet.
    """
    columns = min(8, len(images))
    rows = -(-len(images) // columns)
    size = 7 if max(c.count("\n") for c in captions) == 0 else 6  # points
    wrapped = [
        plot_text.wrap(caption, _PANEL_INCHES - 0.1, size, lines=2)
        for caption in captions
    ]
    above = (max(c.count("\n") for c in wrapped) + 1) * 1.3 * size / 72  # inches
    wide = max(4.5, _PANEL_INCHES * columns)  # a title needs room on a small sheet too
    heading = plot_text.wrap(title, wide - 0.2, 9)
    tall = (_PANEL_INCHES + above) * rows + 0.2 * (heading.count("\n") + 2)
    with plot_text.style(_STYLE | {"axes.grid": False}, title, *captions):
        figure, panels = plt.subplots(
            rows, columns, figsize=(wide, tall), squeeze=False
        )
        for axes in panels.flat:
            axes.set_axis_off()
        for axes, image, caption in zip(panels.flat, images, wrapped):
            axes.imshow(np.clip(image, 0, 1), interpolation="nearest")
            axes.set_title(caption, fontsize=size)
        figure.suptitle(heading, fontsize=9)
        _save(figure, path)


def wilson_interval(share: float, count: int) -> tuple[float, float]:
    """Returns the 95 % Wilson score interval of a share seen in `count` examples."""
    z = 1.959964
    centre = (share + z * z / (2 * count)) / (1 + z * z / count)
    half = z * np.sqrt(share * (1 - share) / count + z * z / (4 * count * count))
    half /= 1 + z * z / count
    return float(max(0.0, centre - half)), float(min(1.0, centre + half))


def _save(figure: mpl_figure.Figure, path: pathlib.Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)
    plt.close(figure)
