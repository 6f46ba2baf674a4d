"""Draws what a run recorded and what its model looks at, as PNG files."""

import pathlib
from collections.abc import Sequence

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np

from vit_tf.inspection import plots

# Classes in a confusion matrix, and up to how many are numbered.
_CONFUSED, _NUMBERED = 40, 20

_STYLE = plots.STYLE


def confusion(
    matrix: np.ndarray, names: Sequence[str], path: pathlib.Path, *, title: str
) -> None:
    """Which classes are taken for which; of many classes, those with most mistakes.

    Args:
        matrix: int (classes, classes), examples of a class (row) told as (column).
        names: one per class.
        path: the PNG to write.
        title: of the drawing.
    """
    wrong = matrix.sum(axis=0) + matrix.sum(axis=1) - 2 * np.diag(matrix)
    kept = np.sort(np.argsort(-wrong, kind="stable")[:_CONFUSED])
    if len(kept) < len(matrix):
        title += f": the {len(kept)} of {len(matrix)} classes with most mistakes"
    sizes = np.maximum(matrix.sum(axis=1), 1)
    shares = (matrix / sizes[:, None])[np.ix_(kept, kept)]
    side = 2.0 + 0.32 * len(kept)
    with plt.rc_context(_STYLE | {"axes.grid": False}):
        figure, axes = plt.subplots(figsize=(side + 1, side))
        drawn = axes.imshow(shares, vmin=0, vmax=1, cmap="cividis")
        labels = [names[i][:18] for i in kept]
        axes.set_xticks(range(len(kept)), labels, rotation=90, fontsize=7)
        axes.set_yticks(range(len(kept)), labels, fontsize=7)
        if len(kept) <= _NUMBERED:
            for (row, column), share in np.ndenumerate(shares):
                axes.text(
                    column,
                    row,
                    matrix[kept[row], kept[column]],
                    ha="center",
                    va="center",
                    fontsize=6,
                    color="white" if share < 0.5 else "black",
                )
        axes.set(xlabel="told as", ylabel="is", title=title)
        axes.title.set_fontsize(8)
        figure.colorbar(drawn, label="share of the class", shrink=0.8)
        _save(figure, path)


def contact_sheet(
    images: np.ndarray,
    captions: Sequence[str],
    path: pathlib.Path,
    *,
    title: str,
) -> None:
    """Images in rows of eight, each with its caption.

    Args:
        images: (number, height, width, 3) in [0, 1].
        captions: one per image, cut to what fits above it.
        path: the PNG to write.
    """
    columns = min(8, len(images))
    rows = -(-len(images) // columns)
    with plt.rc_context(_STYLE | {"axes.grid": False}):
        figure, panels = plt.subplots(
            rows,
            columns,
            figsize=(1.3 * columns, 1.45 * rows + 0.4),
            squeeze=False,
        )
        for axes in panels.flat:
            axes.set_axis_off()
        for axes, image, caption in zip(panels.flat, images, captions):
            axes.imshow(np.clip(image, 0, 1), interpolation="nearest")
            lines = [line[:18] for line in caption.split("\n")]
            axes.set_title("\n".join(lines), fontsize=7 if len(lines) == 1 else 5.5)
        figure.suptitle(title, fontsize=9)
        _save(figure, path)


def wilson_interval(share: float, count: int) -> tuple[float, float]:
    """The 95 % Wilson score interval of a share seen in `count` examples."""
    z = 1.959964
    centre = (share + z * z / (2 * count)) / (1 + z * z / count)
    half = z * np.sqrt(share * (1 - share) / count + z * z / (4 * count * count))
    half /= 1 + z * z / count
    return float(max(0.0, centre - half)), float(min(1.0, centre + half))


def _save(figure, path: pathlib.Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)
    plt.close(figure)
