"""Draws what a model has learned, as in the paper: Figures 6, 7, 10, 11, 14.

Each function takes arrays and returns a Matplotlib figure; `save` writes it. No window
and no global state: figures can be drawn beside a training loop. Colour maps are
viridis and cividis, which readers with and without colour vision read alike.
"""

import io
import math
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib import axes as mpl_axes
from matplotlib import figure as mpl_figure
from PIL import Image, ImageFilter

from vit_tf.inspection import plot_text
from vit_tf.runtime import filesystem

# Okabe and Ito's palette: distinct for colour-blind readers.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")

STYLE: dict[str, Any] = {
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.3,
    "figure.constrained_layout.use": True,
    "savefig.dpi": plot_text.DPI,
    "svg.hashsalt": "vit_tf",  # the same figure gives the same file
}
_NO_GRID = STYLE | {"axes.grid": False}
_PER_ROW = 8  # images side by side
_TITLE_SIZE = 9  # points
_SHEET_INCHES = 9.6


def filters(components: np.ndarray, *, title: str) -> mpl_figure.Figure:
    """Draws filters in rows of seven, the strongest first (Figure 7, left).

    Args:
        components: (number, height, width, 3) in [0, 1].
    """
    columns = min(7, len(components))
    sheet, _ = _sheet(components, columns)
    rows = math.ceil(len(components) / columns)
    with plot_text.style(_NO_GRID, title):
        drawn = mpl_figure.Figure(figsize=(0.7 * columns + 0.6, 0.7 * rows + 0.9))
        axes = drawn.subplots()
        axes.imshow(sheet, interpolation="nearest")
        axes.set_axis_off()
        _set_title(axes, title)
    return drawn


def position_similarity(models: Mapping[str, np.ndarray]) -> mpl_figure.Figure:
    """Draws cosine similarity of position embeddings, a tile per patch (Figures 7, 10).

    Args:
        models: title -> similarities (patches, patches) of a square grid.
    """
    with plot_text.style(_NO_GRID, *models):
        fine = max(map(len, models.values())) > 10 * 10
        side = 5.8 if fine else 3.6  # inches
        drawn = mpl_figure.Figure(figsize=(side * len(models) + 0.6, side + 0.1))
        panels = drawn.subplots(1, len(models), squeeze=False)[0]
        for axes, (title, matrix) in zip(panels, models.items()):
            grid = math.isqrt(len(matrix))
            axes.imshow(tiles(matrix, grid), vmin=-1, vmax=1, cmap="viridis")
            every = max(1, math.ceil(grid / 16))  # numbers that do not touch
            ticks = (np.arange(0, grid, every) + 0.5) * (grid + 1) - 0.5
            axes.set_xticks(ticks, range(1, grid + 1, every))
            axes.set_yticks(ticks, range(1, grid + 1, every))
            axes.tick_params(length=0, labelsize=9 if grid <= 10 else 6)
            axes.set(xlabel="input patch column")
            _set_title(axes, title, inches=side)
        panels[0].set_ylabel("input patch row")
        drawn.colorbar(
            panels[0].images[0], ax=panels.tolist(), label="cosine similarity"
        )
    return drawn


def heads(
    values: np.ndarray,
    *,
    title: str,
    label: str,
    reference: tuple[float, str],
) -> mpl_figure.Figure:
    """Draws a dot for each head over the depth of the network (Figures 7 right, 11).

    Args:
        values: (blocks, heads).
        label: of the vertical axis, with its unit.
        reference: a level and its meaning, drawn as a dotted line.
    """
    blocks, count = values.shape
    level, meaning = reference
    with plot_text.style(STYLE, title):
        drawn = mpl_figure.Figure(figsize=(5.0, 3.3))
        axes = drawn.subplots()
        depth = np.repeat(np.arange(1, blocks + 1), count)
        shown = axes.scatter(
            depth,
            values.ravel(),
            c=np.tile(np.arange(1, count + 1), blocks),
            cmap=matplotlib.colormaps["cividis"].resampled(count),
            vmin=0.5,
            vmax=count + 0.5,
            s=22,
            edgecolors="white",
            linewidths=0.4,
            zorder=3,
        )
        axes.axhline(level, color="black", linestyle=":", linewidth=1)
        axes.annotate(
            meaning,
            (1, level),
            xycoords=("axes fraction", "data"),
            xytext=(-2, 2),
            textcoords="offset points",
            ha="right",
            fontsize=7,
        )
        step = max(1, math.ceil(blocks / 12))
        axes.set_xticks(range(max(1, step), blocks + 1, step))
        axes.set_xlim(0.4, blocks + 0.6)
        axes.set_ylim(0, 1.1 * max(level, values.max()))
        axes.set(xlabel="network depth (layer)", ylabel=label)
        _set_title(axes, title)
        numbers = range(1, count + 1, max(1, math.ceil(count / 8)))
        drawn.colorbar(shown, label="head", ticks=list(numbers))
    return drawn


def rollout(
    images: np.ndarray,
    maps: np.ndarray,
    captions: Sequence[str],
    *,
    patch_size: int,
    title: str,
) -> mpl_figure.Figure:
    """Draws each image beside itself lit by its attention, numbered (Figures 6, 14).

    Args:
        images: (number, height, width, 3) in [0, 1].
        maps: (number, g, g) from `measures.rollout_map`.
        captions: one per image, shortened to its width. More than 32 images leave room
            for their numbers only.
        patch_size: pixels from one token to the next.
    """
    height, width = images.shape[1:3]
    gap = max(1, width // 28)
    pairs = [
        np.concatenate(
            [
                image,
                np.ones((height, gap, 3)),
                image * mask(weight, (height, width), patch_size)[..., None],
            ],
            axis=1,
        )
        for image, weight in zip(images, maps)
    ]
    columns = min(4 if len(images) <= 32 else _PER_ROW, len(images))
    named = len(images) <= 32
    room = width / 4 if named else width / 7  # for the words above an image
    sheet, places = _sheet(np.stack(pairs), columns, gap=3 * gap, above=round(room))
    inches = max(3.4, _SHEET_INCHES * columns / (4 if named else _PER_ROW))
    with plot_text.style(_NO_GRID, title, *captions):
        drawn = mpl_figure.Figure(
            figsize=(inches, inches * sheet.shape[0] / sheet.shape[1] + 0.6)
        )
        axes = drawn.subplots()
        axes.imshow(sheet, interpolation="nearest" if width < 96 else "antialiased")
        for number, ((x, y), caption) in enumerate(zip(places, captions), start=1):
            text, size = str(number), 7 if named else 4.5
            if named:  # up to the next image's own
                text = plot_text.fit(f"{number}  {caption}", inches / columns - 0.1, 7)
            drawn_text = axes.text(x, y - gap, text, fontsize=size, va="bottom")
            drawn_text.set_in_layout(False)  # which would shrink the images for it
        axes.set_axis_off()
        _set_title(axes, title)
    return drawn


def panels(pictures: Mapping[str, np.ndarray], *, title: str) -> mpl_figure.Figure:
    """Draws each image as several pictures side by side, eight images in a column.

    Args:
        pictures: name -> uint8 (number, size, size, 3); an image's pictures have the
            same index in each.
    """
    names, stacked = list(pictures), np.stack(list(pictures.values())) / 255
    number, size = stacked.shape[1:3]
    gap = max(1, size // 16)
    spaced = np.pad(
        stacked, ((0, 0), (0, 0), (0, 0), (0, gap), (0, 0)), constant_values=1
    )
    wide = spaced.transpose(1, 2, 0, 3, 4).reshape(number, size, -1, 3)[:, :, :-gap]
    columns = min(4, math.ceil(number / 8))
    sheet, places = _sheet(wide, columns, gap=3 * gap)
    inches = max(3.4, 0.8 * columns * len(names))
    with plot_text.style(_NO_GRID, title, *pictures):
        drawn = mpl_figure.Figure(
            figsize=(inches, inches * sheet.shape[0] / sheet.shape[1] + 0.7)
        )
        axes = drawn.subplots()
        axes.imshow(sheet, interpolation="nearest" if size < 96 else "antialiased")
        for left, top in places[:columns]:
            for index, name in enumerate(names):
                middle = left + index * (size + gap) + size / 2
                words = plot_text.fit(name, inches / columns / len(names), 7)
                axes.text(
                    middle, top - gap, words, fontsize=7, ha="center", va="bottom"
                )
        axes.set_axis_off()
        _set_title(axes, title, pad=14)
    return drawn


def layers(matrix: np.ndarray, *, title: str) -> mpl_figure.Figure:
    """Draws how similar the tokens of any two layers are.

    Args:
        matrix: (layers, layers) linear CKA; layer 0 is the embedding.
    """
    with plot_text.style(_NO_GRID, title):
        drawn = mpl_figure.Figure(figsize=(4.4, 3.7))
        axes = drawn.subplots()
        shown = axes.imshow(matrix, vmin=0, vmax=1, cmap="viridis", origin="lower")
        axes.set(xlabel="layer (0: embedding)", ylabel="layer (0: embedding)")
        _set_title(axes, title)
        drawn.colorbar(shown, label="linear CKA")
    return drawn


def probes(accuracy: np.ndarray, *, chance: float, title: str) -> mpl_figure.Figure:
    """Draws the accuracy of a linear classifier on the features of each layer.

    Args:
        accuracy: (layers,) in [0, 1]; layer 0 is the embedding, the last one the
            encoder's output.
        chance: accuracy of always predicting the most frequent class.
    """
    with plot_text.style(STYLE, title):
        drawn = mpl_figure.Figure(figsize=(4.8, 3.1))
        axes = drawn.subplots()
        axes.plot(100 * accuracy, "o-", color=COLOURS[0], markersize=4)
        axes.axhline(100 * chance, color="black", linestyle=":", linewidth=1)
        axes.annotate(
            "most frequent class",
            (1, 100 * chance),
            xycoords=("axes fraction", "data"),
            xytext=(-2, 2),
            textcoords="offset points",
            ha="right",
            fontsize=7,
        )
        names = [*map(str, range(len(accuracy) - 1)), "out"]
        step = max(1, math.ceil(len(names) / 14))
        shown = [*range(0, len(names) - step, step), len(names) - 1]
        axes.set_xticks(shown, [names[i] for i in shown])
        axes.set_ylim(0, 100)
        axes.set(xlabel="layer (0: embedding)", ylabel="accuracy [%]")
        _set_title(axes, title)
    return drawn


def _set_title(
    axes: mpl_axes.Axes, title: str, *, inches: float | None = None, pad: float = 6
) -> None:
    """Writes a title of at most the figure's width, which layouts would else cut off.

    Args:
        inches: the room; None: the figure's width.
        pad: points between title and axes.
    """
    if inches is None:
        inches = axes.get_figure(root=True).get_figwidth()
    wrapped = plot_text.wrap(title, inches - 0.2, _TITLE_SIZE)
    axes.set_title(wrapped, fontsize=_TITLE_SIZE, pad=pad)


def mask(weight: np.ndarray, size: tuple[int, int], patch_size: int) -> np.ndarray:
    """Spreads a map of patches over the pixels of an image, 0 to 1 (Figure 6).

    As the authors do (google-research/vision_transformer, issue 27): divided by its
    largest value, in 8 bits, resized by Lanczos to the image's size, blurred by a
    Gaussian of one patch, and stretched to [0, 1].

    Args:
        weight: (g, g), not negative.
        size: height and width of the image.
        patch_size: pixels from one token to the next, the blur's radius.

    Returns:
        (height, width) float64; 1 everywhere where all patches are equal.
    """
    largest = max(float(weight.max()), np.finfo(np.float64).tiny)
    small = Image.fromarray((weight / largest * 255).astype(np.uint8))
    wide = small.resize((size[1], size[0]), Image.Resampling.LANCZOS)
    soft = np.asarray(wide.filter(ImageFilter.GaussianBlur(patch_size)), np.float64)
    spread = np.ptp(soft)
    return (soft - soft.min()) / spread if spread else np.ones(size)


def heat(image: np.ndarray, weight: np.ndarray, *, patch_size: int) -> np.ndarray:
    """Draws an image in grey with a map of patches as colour on it.

    The colour (inferno) is added as light, so that it is seen on black too, where
    `mask` leaves black; where the map is smallest nothing is added.

    Args:
        image: (height, width, 3) in [0, 1].
        weight: (g, g), not negative.
        patch_size: pixels from one token to the next.

    Returns:
        (height, width, 3) in [0, 1].
    """
    light = mask(weight, image.shape[:2], patch_size)
    colour = matplotlib.colormaps["inferno"](light)[..., :3]
    grey = image @ np.array([0.299, 0.587, 0.114])[:, None]
    return 1 - (1 - 0.6 * grey) * (1 - 0.9 * colour)


def tiles(matrix: np.ndarray, grid: int) -> np.ndarray:
    """Arranges (grid^2, grid^2) as one picture, with a gap of a cell between tiles."""
    size = grid * (grid + 1) - 1
    canvas = np.full((size, size), np.nan)
    for index, row in enumerate(matrix):
        top, left = (n * (grid + 1) for n in divmod(index, grid))
        canvas[top : top + grid, left : left + grid] = row.reshape(grid, grid)
    return canvas


def encode(drawn: mpl_figure.Figure, kind: str) -> bytes:
    """Returns the figure as a file's bytes; the same figure gives the same bytes.

    Args:
        kind: 'png' or 'svg'.
    """
    buffer = io.BytesIO()
    # No date and no version, which would differ between equal figures.
    metadata = {"svg": {"Date": None}, "png": {"Software": None}}[kind]
    with plot_text.style(STYLE):
        drawn.savefig(buffer, format=kind, metadata=metadata)
    return buffer.getvalue()


def save(drawn: mpl_figure.Figure, stem: str) -> list[str]:
    """Writes STEM.png and STEM.svg, on any path of tf.io.gfile; returns the paths."""
    paths = []
    for kind in ("png", "svg"):
        paths.append(f"{stem}.{kind}")
        filesystem.write_whole(paths[-1], encode(drawn, kind))
    return paths


def _sheet(
    pictures: np.ndarray, columns: int, *, gap: int | None = None, above: int = 0
) -> tuple[np.ndarray, list[tuple[int, int]]]:
    """Places pictures in rows on white; returns the upper left corner (x, y) of each.

    Args:
        pictures: (number, height, width, 3).
        columns: pictures in a row.
        gap: pixels between them.
        above: more pixels above each.
    """
    number, height, width, _ = pictures.shape
    gap = max(1, width // 8) if gap is None else gap
    rows = math.ceil(number / columns)
    shape = (rows * (height + above + gap) - gap, columns * (width + gap) - gap, 3)
    sheet, places = np.ones(shape), []
    for index, picture in enumerate(pictures):
        row, column = divmod(index, columns)
        x, y = column * (width + gap), row * (height + above + gap) + above
        sheet[y : y + height, x : x + width] = picture
        places.append((x, y))
    return np.clip(sheet, 0, 1), places
