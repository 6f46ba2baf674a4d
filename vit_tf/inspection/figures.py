"""Draws the inspection figures of one model, each with its arrays.

A figure that a model cannot have, such as position similarity of a model without
positions, is refused in one line; so is one that needs images where there are none.
"""

import dataclasses
import io
import os
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import tensorflow as tf
from matplotlib import figure as mpl_figure

from vit_tf import errors
from vit_tf.inspection import inspector, measures, plots
from vit_tf.runtime import filesystem


@dataclasses.dataclass(frozen=True)
class Figure:
    """A drawing and the numbers in it.

    Attributes:
        name: one of NAMES, and the stem of its files.
        drawing: the Matplotlib figure.
        arrays: name -> numbers that are drawn.
    """

    name: str
    drawing: mpl_figure.Figure
    arrays: dict[str, np.ndarray]

    def write(self, folder: str) -> list[str]:
        """Writes NAME.png, NAME.svg and NAME.npz; returns their paths.

        Raises:
            errors.UserError: the disk is full or cannot be written.
        """
        with filesystem.refusing(folder):
            tf.io.gfile.makedirs(folder)
        stem = os.path.join(folder, self.name)
        paths = plots.save(self.drawing, stem)
        buffer = io.BytesIO()
        np.savez_compressed(buffer, allow_pickle=False, **self.arrays)
        filesystem.write_whole(f"{stem}.npz", buffer.getvalue())
        return [*paths, f"{stem}.npz"]


# A drawing, and the arrays in it by name.
_Made = tuple[mpl_figure.Figure, dict[str, np.ndarray]]


def draw(seen: inspector.Inspector, name: str) -> Figure:
    """Draws the figure `name`, one of NAMES.

    Raises:
        errors.UserError: the model has no such figure, or it needs images.
    """
    try:
        return Figure(name, *_MAKERS[name](seen))
    except errors.UserError as refusal:
        raise errors.UserError(f"{name}: {refusal}") from None


def draw_all(
    seen: inspector.Inspector, names: Sequence[str] | None = None
) -> Iterator[Figure | errors.UserError]:
    """Draws every figure that the model can have; yields the reason for any other.

    Args:
        seen: the model and its images.
        names: some of NAMES; None: all.
    """
    for name in names or NAMES:
        try:
            yield draw(seen, name)
        except errors.UserError as refusal:
            yield refusal


def _filters(seen: inspector.Inspector) -> _Made:
    kernel = measures.rgb_kernel(seen.network)
    components, explained = measures.embedding_filters(kernel)
    # A hybrid embeds feature maps; its ResNet's first convolution sees RGB.
    embeds_rgb = getattr(seen.network, "stem", ()) is None
    layer = (
        "RGB embedding filters"
        if embeds_rgb
        else "RGB filters of the first convolution"
    )
    title = f"{seen.name}: {layer}\n(first {len(components)} principal components)"
    drawing = plots.filters(components, title=title)
    return drawing, {"components": components, "explained_variance": explained}


def _position(seen: inspector.Inspector) -> _Made:
    matrix = measures.position_similarity(measures.position_table(seen.network))
    title = f"{seen.name}, {seen.pixels}"
    drawing = plots.position_similarity({title: matrix})
    return drawing, {"cosine_similarity": matrix}


def _distance(seen: inspector.Inspector) -> _Made:
    values = seen.measured.distance.mean(axis=0)
    network = seen.network
    tokens = network.num_tokens
    uniform = np.full((1, 1, tokens, tokens), 1 / tokens)
    stride = network.token_stride
    level = measures.mean_attention_distance([uniform], patch_size=stride)
    drawing = plots.heads(
        values,
        title=f"{seen.name}\n{seen.shown_images}",
        label="mean attention distance [pixels]",
        reference=(float(level.item()), "uniform attention"),
    )
    return drawing, {
        "distance_pixels": values,
        "distance_pixels_of_images": seen.measured.distance,
    }


def _entropy(seen: inspector.Inspector) -> _Made:
    values = seen.measured.entropy.mean(axis=0)
    drawing = plots.heads(
        values,
        title=f"{seen.name}\n{seen.shown_images}",
        label="attention entropy [nats]",
        reference=(float(np.log(seen.network.num_tokens)), "uniform attention"),
    )
    return drawing, {
        "entropy_nats": values,
        "entropy_nats_of_images": seen.measured.entropy,
    }


def _rollout(seen: inspector.Inspector) -> _Made:
    maps, shown = seen.measured.rollout, seen.shown
    pixels = (seen.require_images().pixels[:shown] + 1) / 2
    reader = measures.rollout_reader(seen.network)
    first = f", the first {shown}" if len(maps) > shown else ""
    drawing = plots.rollout(
        pixels,
        maps[:shown],
        captions(seen),
        patch_size=seen.network.token_stride,
        title=f"{seen.name}: attention from {reader} to the input\n"
        f"{seen.shown_images}{first}",
    )
    return drawing, {"rollout": maps, "images": pixels.astype("float32")}


def captions(seen: inspector.Inspector) -> list[str]:
    """Returns the predicted class of each image, or its name without a classifier."""
    probabilities, labels = seen.probabilities, seen.require_images().labels
    if probabilities is None:
        return list(seen.require_images().names)
    texts = []
    for image, row in enumerate(probabilities):
        best = int(row.argmax())
        percent = f"{100 * row[best]:.0f}" if row[best] >= 0.01 else "< 1"
        texts.append(f"{seen.class_name(best)} {percent} %")
        if labels is not None and seen.class_names and labels[image] != best:
            texts[-1] += f" (is {seen.class_name(int(labels[image]))})"
    return texts


def _layers(seen: inspector.Inspector) -> _Made:
    matrix = seen.measured.similarity
    if matrix is None:
        count = len(seen.require_images().pixels)
        raise errors.UserError(f"comparing layers needs 4 images or more, got {count}")
    title = f"{seen.name}: similarity of layers\n{seen.shown_images}"
    return plots.layers(matrix, title=title), {"linear_cka": matrix}


def _probes(seen: inspector.Inspector) -> _Made:
    measures.check_tokens(seen.network)
    if seen.probe is None:
        raise errors.UserError(
            "needs labelled images to fit a classifier to and to test it on: name a "
            "prepared data set with --images"
        )
    result = seen.probe()
    title = (
        f"{seen.name}: linear probes\nfitted to {result.train:,} images, tested on "
        f"{result.test:,}"
    )
    drawing = plots.probes(result.accuracy, chance=result.chance, title=title)
    return drawing, {
        "accuracy": result.accuracy,
        "l2": result.l2,
        "train_images": np.array(result.train),
        "test_images": np.array(result.test),
        "chance": np.array(result.chance),
    }


_MAKERS: dict[str, Callable[[inspector.Inspector], _Made]] = {
    "filters": _filters,
    "position": _position,
    "distance": _distance,
    "entropy": _entropy,
    "rollout": _rollout,
    "layers": _layers,
    "probes": _probes,
}
NAMES = tuple(_MAKERS)
