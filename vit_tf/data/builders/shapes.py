"""Light shapes on dark, textured ground, drawn here: real pixels, no download.

The label is the form alone. Colour, size, rotation and place are drawn without
looking at the class, and every class covers the same area on average, so mean
colour and brightness say nothing about it.

Figures are lighter than their ground, as in version 1 they need not be: a ViT then
spends most of its first steps on learning that a dark form on light ground is the same
form. The quickstart's, on one seed, named 35 % after 1,500 steps, and of these 95 %.
"""

import functools
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import tensorflow as tf
import tensorflow_datasets as tfds

# 48 pixels: a random crop for the usual 32 pixel input still shrinks the image,
# while 24,000 of them are drawn in seconds and take about 70 MB.
IMAGE_SIZE = 48
SPLIT_SIZES = {"train": 20_000, "validation": 2_000, "test": 2_000}
_BLOCK = 500  # images drawn together; image i depends on (split, i) only
_DARK = np.float32(0.55)  # of full brightness at most, the ground's two colours
_LIGHT = 0.45  # of full brightness at least, the figure's colour
_NUM_MARKS = 3  # small distractors per image
_MOST_TURN = np.pi / 6  # either way; all the way round takes hours to learn
_PETALS = 5  # points of the star


class Shapes(tfds.core.GeneratorBasedBuilder):
    """24,000 JPEG images of ten forms."""

    VERSION = tfds.core.Version("2.0.0")

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self,
            description="Ten forms on textured ground; see the module's docstring.",
            features=tfds.features.FeaturesDict(
                {
                    "image": tfds.features.Image(
                        shape=(IMAGE_SIZE, IMAGE_SIZE, 3), encoding_format="jpeg"
                    ),
                    "label": tfds.features.ClassLabel(names=list(FORMS)),
                }
            ),
            supervised_keys=("image", "label"),
        )

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict:
        del dl_manager  # nothing is downloaded
        return {split: self._generate_examples(split) for split in SPLIT_SIZES}

    def _generate_examples(self, split: str) -> Iterator[tuple[int, dict]]:
        for first in range(0, SPLIT_SIZES[split], _BLOCK):
            images, labels = draw(split, first // _BLOCK)
            for row in range(min(_BLOCK, SPLIT_SIZES[split] - first)):
                example = {"image": _jpeg(images[row]), "label": int(labels[row])}
                yield first + row, example


def _jpeg(image: np.ndarray) -> bytes:
    """Encodes as JPEG, because that is what the large image sets hold.

    At full colour resolution: halving it would smear forms this small.
    """
    return tf.io.encode_jpeg(image, quality=95, chroma_downsampling=False).numpy()


def draw(split: str, block: int) -> tuple[np.ndarray, np.ndarray]:
    """Draws one block of a split; the same block always gives the same pixels.

    Returns:
        Images (500, 48, 48, 3) uint8 and labels (500,) int64, ten classes in turn.
    """
    rng = np.random.Generator(
        np.random.Philox(key=[list(SPLIT_SIZES).index(split), block])
    )
    labels = np.arange(_BLOCK) % len(FORMS)
    ground = rng.random((_BLOCK, 1, 3), np.float32) + _uniform(rng, -0.2, 0.2, 2, 3)
    ground *= _DARK
    figure = _lighter_colour(rng, ground)

    weight = _waves(rng, cycles=3.0)[..., None]
    image = weight * _pixels(ground[:, 0]) + (1 - weight) * _pixels(ground[:, 1])
    image = _add_marks(rng, image)

    shading = 0.3 * (_waves(rng, cycles=1.5)[..., None] - 0.5)
    alpha = figure_alpha(rng, labels)[..., None]
    image += alpha * (_pixels(figure) + shading - image)

    grain = rng.standard_normal((_BLOCK, IMAGE_SIZE, IMAGE_SIZE, 1), np.float32)
    image += _uniform(rng, 0.01, 0.08)[:, None, None, None] * grain
    return np.rint(image.clip(0, 1) * 255).astype(np.uint8), labels


def _uniform(rng: np.random.Generator, low: float, high: float, *shape) -> np.ndarray:
    """Draws float32 (500, *shape) in [low, high)."""
    return low + (high - low) * rng.random((_BLOCK, *shape), np.float32)


def _pixels(colours: np.ndarray) -> np.ndarray:
    return colours[:, None, None, :]  # (500, 1, 1, 3)


def _lighter_colour(rng: np.random.Generator, ground: np.ndarray) -> np.ndarray:
    """Chooses of eight random light colours the one farthest from both ground colours."""
    candidates = _uniform(rng, _LIGHT, 1, 8, 3)
    gap = np.linalg.norm(candidates[:, :, None] - ground[:, None], axis=-1).min(-1)
    return candidates[np.arange(_BLOCK), gap.argmax(1)]


def _waves(rng: np.random.Generator, *, cycles: float) -> np.ndarray:
    """Draws a random soft texture in [0, 1]: four plane waves, (500, 48, 48) float32."""
    place = np.linspace(0, 2 * np.pi, IMAGE_SIZE, dtype=np.float32)
    frequency = _uniform(rng, -cycles, cycles, 2, 4, 1)
    phase = _uniform(rng, 0, 2 * np.pi, 4, 1)
    down, along = frequency[:, 0] * place + phase, frequency[:, 1] * place
    # sin(a + b) = sin a cos b + cos a sin b turns a wave into two outer products.
    total = np.einsum("nkh,nkw->nhw", np.sin(down), np.cos(along), optimize=True)
    total += np.einsum("nkh,nkw->nhw", np.cos(down), np.sin(along), optimize=True)
    return 0.5 + total / 8


def _add_marks(rng: np.random.Generator, image: np.ndarray) -> np.ndarray:
    """Paints small bars and specks that belong to no class."""
    place = np.arange(IMAGE_SIZE, dtype=np.float32)
    centre = _uniform(rng, 0, IMAGE_SIZE, 2, _NUM_MARKS, 1)
    half = _uniform(rng, 0.5, 3.0, 2, _NUM_MARKS, 1)
    cover = np.clip(half + 0.5 - np.abs(place - centre), 0, 1)
    down, along = cover[:, 0], cover[:, 1]  # (500, marks, 48)
    colours = rng.random((_BLOCK, _NUM_MARKS, 3), np.float32)
    total = np.einsum("nkh,nkw->nhw", down, along, optimize=True)[..., None]
    painted = np.stack(
        [
            np.einsum("nkh,nkw->nhw", down * colours[:, :, c, None], along)
            for c in range(3)
        ],
        axis=-1,
    )
    painted /= np.maximum(total, 1)  # where marks overlap they share the pixel
    return image * (1 - np.minimum(total, 1)) + painted


def figure_alpha(rng: np.random.Generator, labels: np.ndarray) -> np.ndarray:
    """Returns how much of each pixel the figure covers, (500,
    48, 48) float32 in [0, 1].
    """
    # The radius of the circle of equal area. The room to move is the same for
    # every class, else the place would tell wide forms from compact ones.
    radius = IMAGE_SIZE * _uniform(rng, 0.18, 0.27)
    middle = (IMAGE_SIZE - 1) / 2
    widest = max(unit_of(name).reach for name in FORMS)
    room = np.maximum(middle - widest * radius, 0)[:, None]
    centre = middle + room * _uniform(rng, -1, 1, 2)
    turn = _uniform(rng, -_MOST_TURN, _MOST_TURN)
    place = np.arange(IMAGE_SIZE, dtype=np.float32)
    y = (place - centre[:, 0, None])[:, :, None]  # (500, 48, 1)
    x = (place - centre[:, 1, None])[:, None, :]  # (500, 1, 48)
    alpha = np.empty((_BLOCK, IMAGE_SIZE, IMAGE_SIZE), np.float32)
    for label, (name, distance) in enumerate(FORMS.items()):
        rows = labels == label
        cos, sin = np.cos(turn[rows])[:, None, None], np.sin(turn[rows])[:, None, None]
        unit = unit_of(name)
        size = (radius[rows] * unit.scale)[:, None, None]
        u = (cos * x[rows] + sin * y[rows]) / size + unit.centre[0]
        v = (cos * y[rows] - sin * x[rows]) / size + unit.centre[1]
        # A pixel that the edge crosses is covered in part.
        alpha[rows] = np.clip(0.5 - distance(u, v) * size, 0, 1)
    return alpha


class _Unit(NamedTuple):
    """What makes a form comparable to the unit circle."""

    scale: float  # gives it the unit circle's area
    centre: tuple[float, float]  # its centre of mass, before scaling
    reach: float  # its farthest point from there, after scaling


@functools.cache
def unit_of(name: str) -> _Unit:
    """Measures a form on a fine grid."""
    axis = np.linspace(-2, 2, 801, dtype=np.float32)
    u, v = np.meshgrid(axis, axis)
    inside = FORMS[name](u, v) < 0
    scale = float(np.sqrt(np.pi / (inside.sum() * (axis[1] - axis[0]) ** 2)))
    centre = float(u[inside].mean()), float(v[inside].mean())
    reach = np.hypot(u[inside] - centre[0], v[inside] - centre[1]).max()
    return _Unit(scale, centre, float(reach) * scale)


# Signed distances, negative inside; (u, v) in units of the form's own size.


def _box(u, v, half_width: float, half_height: float) -> np.ndarray:
    return np.maximum(np.abs(u) - half_width, np.abs(v) - half_height)


def _disc(u, v, radius: float = 1.0) -> np.ndarray:
    return np.hypot(u, v) - radius


def _half_plane(u, v, degrees: float, offset: float) -> np.ndarray:
    angle = np.deg2rad(degrees)
    return np.float32(np.cos(angle)) * u + np.float32(np.sin(angle)) * v - offset


def _crescent(u, v) -> np.ndarray:
    return np.maximum(_disc(u + 0.2, v), -_disc(u - 0.3, v, 0.8))


def _cross(u, v) -> np.ndarray:
    return np.minimum(_box(u, v, 1.0, 0.3), _box(u, v, 0.3, 1.0))


def _ell(u, v) -> np.ndarray:
    return np.minimum(_box(u + 0.45, v, 0.3, 1.0), _box(u, v - 0.7, 0.75, 0.3))


def _half_disc(u, v) -> np.ndarray:
    return np.maximum(_disc(u, v + 0.42), -(v + 0.42))


def _heart(u, v) -> np.ndarray:
    side = np.float32(np.sqrt(0.5))
    across, along = side * (u + v), side * (v - u)
    lobes = np.minimum(_disc(across + 0.6, along, 0.6), _disc(across, along + 0.6, 0.6))
    return np.minimum(_box(across, along, 0.6, 0.6), lobes)


def _ring(u, v) -> np.ndarray:
    return np.abs(_disc(u, v, 0.8)) - 0.25


def _square(u, v) -> np.ndarray:
    return _box(u, v, 1.0, 1.0)


def _star(u, v) -> np.ndarray:
    sector = 2 * np.pi / _PETALS
    angle = np.abs((np.arctan2(v, u) + sector / 2) % sector - sector / 2)
    radius = np.hypot(u, v)
    x, y = radius * np.cos(angle), radius * np.sin(angle)
    # The edge from the tip (1, 0) to the notch, 0.4 out on the sector's border.
    notch = 0.4 * np.cos(sector / 2), 0.4 * np.sin(sector / 2)
    normal = np.array([notch[1], 1 - notch[0]]) / np.hypot(notch[1], 1 - notch[0])
    return (normal[0] * (x - 1) + normal[1] * y).astype(np.float32)


def _triangle(u, v) -> np.ndarray:
    sides = [_half_plane(u, v, degrees, 0.5) for degrees in (-30, 90, 210)]
    return np.maximum(np.maximum(*sides[:2]), sides[2])


FORMS = {
    "circle": _disc,
    "crescent": _crescent,
    "cross": _cross,
    "ell": _ell,
    "half_disc": _half_disc,
    "heart": _heart,
    "ring": _ring,
    "square": _square,
    "star": _star,
    "triangle": _triangle,
}
