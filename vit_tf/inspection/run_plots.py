"""Draws what a run recorded and what its model looks at, as PNG files."""

import itertools
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np

from vit_tf.inspection import plots

# Classes in a confusion matrix, and up to how many are numbered.
_CONFUSED, _NUMBERED = 40, 20

COLOURS, _STYLE = plots.COLOURS, plots.STYLE


def curves(
    panels: Mapping[str, Mapping[str, Sequence[Mapping[str, Any]]]],
    path: pathlib.Path,
    *,
    name: str,
    label: str,
    smooth: int = 1,
) -> None:
    """Field `name` of metrics.jsonl rows against the step, a line per run.

    Args:
        panels: title -> run -> its rows; runs of one panel share its axes.
        path: the PNG to write.
        name: 'loss', 'learning_rate', ...
        label: the vertical axis' label, with its unit.
        smooth: rows in the running mean that is drawn over the faint raw line.
    """
    looks = itertools.cycle((c, s) for s in ("-", "--", ":") for c in COLOURS)
    with plt.rc_context(_STYLE):
        figure, found = plt.subplots(
            1, len(panels), figsize=(3.6 * len(panels), 2.7), squeeze=False
        )
        for axes, (title, runs) in zip(found[0], panels.items()):
            for run, rows in runs.items():
                points = [(r["step"], r[name]) for r in rows if name in r]
                steps, values = np.array(points).T
                colour, dashes = next(looks)
                if smooth > 1:
                    axes.plot(steps, values, color=colour, alpha=0.25, linewidth=0.8)
                    steps, values = _running_mean(steps, values, smooth)
                axes.plot(steps, values, dashes, color=colour, linewidth=1.8, label=run)
            axes.set(title=title, xlabel="training step", ylabel=label)
            axes.set_ylim(bottom=0)
            if len(runs) > 1:
                axes.legend(frameon=False)
        _save(figure, path)


def accuracies(
    results: Mapping[str, tuple[float, int]], path: pathlib.Path, *, chance: float
) -> None:
    """Accuracy of each run with a 95 % interval, and chance as a dotted line.

    Args:
        results: run -> (accuracy in [0, 1], number of examples).
        path: the PNG to write.
        chance: accuracy of guessing.
    """
    with plt.rc_context(_STYLE):
        figure, axes = plt.subplots(figsize=(5.2, 0.55 * len(results) + 1.1))
        for i, (value, count) in enumerate(results.values()):
            low, high = wilson_interval(value, count)
            axes.barh(i, 100 * value, color=COLOURS[i], height=0.6)
            axes.plot([100 * low, 100 * high], [i, i], color="black", linewidth=1.5)
            axes.text(1.5, i, f"{100 * value:.1f} %", va="center", color="white")
        axes.axvline(100 * chance, color="black", linestyle=":", linewidth=1)
        axes.set_yticks(range(len(results)), results)
        axes.invert_yaxis()
        axes.set(xlim=(0, 100), xlabel="accuracy on held-out images [%]")
        axes.grid(axis="y", visible=False)
        _save(figure, path)


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


def _running_mean(steps, values, width):
    if len(values) < 2 * width:
        return steps, values
    mean = np.convolve(values, np.ones(width) / width, mode="valid")
    return steps[width - 1 :], mean


def _save(figure, path: pathlib.Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)
    plt.close(figure)
