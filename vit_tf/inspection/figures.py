"""The inspection figures of one model: each drawn, with the arrays behind it.

A figure that a model cannot have, such as position similarity of one without
positions, is refused in one line; so is one that needs images where there are none.
"""

import dataclasses
import io
import os
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from vit_tf import config
from vit_tf.inspection import inspector, measures, plots
from vit_tf.runtime import filesystem


@dataclasses.dataclass(frozen=True)
class Figure:
    """A drawing and the numbers in it."""

    name: str
    drawing: Any
    arrays: dict[str, np.ndarray]

    def write(self, folder: str) -> list[str]:
        """Writes NAME.png, NAME.svg and NAME.npz; gives their paths."""
        with filesystem.refusing(folder):
            tf.io.gfile.makedirs(folder)
        stem = os.path.join(folder, self.name)
        paths = plots.save(self.drawing, stem)
        held = io.BytesIO()
        np.savez_compressed(held, **self.arrays)
        filesystem.write_whole(f"{stem}.npz", held.getvalue())
        return [*paths, f"{stem}.npz"]


def draw(seen: inspector.Subject, name: str) -> Figure:
    """The figure `name`, one of NAMES.

    Raises:
        config.Refused: the model has no such figure, or it needs images.
    """
    try:
        return Figure(name, *_MAKERS[name](seen))
    except config.Refused as refusal:
        raise config.Refused(f"{name}: {refusal}") from None


def draw_all(
    seen: inspector.Subject, names: Sequence[str] | None = None
) -> Iterator[Figure | config.Refused]:
    """Every figure that the model can have; of another, why it has none."""
    for name in names or NAMES:
        try:
            yield draw(seen, name)
        except config.Refused as refusal:
            yield refusal


def _filters(seen: inspector.Subject):
    kernel = measures.rgb_kernel(seen.network)
    components, explained = measures.embedding_filters(kernel)
    own = getattr(seen.network, "stem", ()) is None
    what = "RGB embedding filters" if own else "RGB filters of the first convolution"
    title = f"{seen.name}: {what}\n(first {len(components)} principal components)"
    drawing = plots.filters(components, title=title)
    return drawing, {"components": components, "explained_variance": explained}


def _position(seen: inspector.Subject):
    matrix = measures.position_similarity(measures.position_table(seen.network))
    title = f"{seen.name}, {seen.pixels}"
    drawing = plots.position_similarity({title: matrix})
    return drawing, {"cosine_similarity": matrix}


def _distance(seen: inspector.Subject):
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
        reference=(float(level.item()), "all tokens alike"),
    )
    return drawing, {
        "distance_pixels": values,
        "distance_pixels_of_images": seen.measured.distance,
    }


def _entropy(seen: inspector.Subject):
    values = seen.measured.entropy.mean(axis=0)
    drawing = plots.heads(
        values,
        title=f"{seen.name}\n{seen.shown_images}",
        label="attention entropy [nats]",
        reference=(float(np.log(seen.network.num_tokens)), "all tokens alike"),
    )
    return drawing, {
        "entropy_nats": values,
        "entropy_nats_of_images": seen.measured.entropy,
    }


def _rollout(seen: inspector.Subject):
    maps, shown = seen.measured.rollout, seen.shown
    pixels = (seen.images.pixels[:shown] + 1) / 2
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


def captions(seen: inspector.Subject) -> list[str]:
    """What the model says of each image, or the image's name if it says nothing."""
    shares, labels = seen.probabilities, seen.images.labels
    if shares is None:
        return list(seen.images.names)
    words = []
    for image, row in enumerate(shares):
        told = int(row.argmax())
        share = f"{100 * row[told]:.0f}" if row[told] >= 0.01 else "< 1"
        words.append(f"{seen.class_name(told)} {share} %")
        if labels is not None and seen.class_names and labels[image] != told:
            words[-1] += f" (is {seen.class_name(int(labels[image]))})"
    return words


def _layers(seen: inspector.Subject):
    matrix = seen.measured.similarity
    if matrix is None:
        count = len(seen.images.pixels)
        raise config.Refused(f"comparing layers needs 4 images or more, got {count}")
    title = f"{seen.name}: similarity of layers\n{seen.shown_images}"
    return plots.layers(matrix, title=title), {"linear_cka": matrix}


def _probes(seen: inspector.Subject):
    measures.check_tokens(seen.network)
    if seen.probe is None:
        raise config.Refused(
            "needs labelled images to learn from and to test on: name a prepared data "
            "set with --images"
        )
    found = seen.probe()
    title = (
        f"{seen.name}: linear probes\nlearned from {found.train:,} images, tested on "
        f"{found.test:,}"
    )
    drawing = plots.probes(found.accuracy, chance=found.chance, title=title)
    return drawing, {
        "accuracy": found.accuracy,
        "l2": found.l2,
        "train_images": np.array(found.train),
        "test_images": np.array(found.test),
        "chance": np.array(found.chance),
    }


_MAKERS = {
    "filters": _filters,
    "position": _position,
    "distance": _distance,
    "entropy": _entropy,
    "rollout": _rollout,
    "layers": _layers,
    "probes": _probes,
}
NAMES = tuple(_MAKERS)
