"""The explorer: one page, without network or server, of a model's attention.

Attention is kept in 8 bits: each row (what one token takes from all tokens) is divided
by its largest weight, which is kept as float32 beside it, and of the shares the square
roots are rounded, because one token may take most of a row and leave small numbers to
the others: a weight is off by at most 1/255 of the largest in its row, small ones by
less. It is packed with gzip, image by image, and unpacked by the browser when the image
is chosen.
"""

import base64
import dataclasses
import gzip
import io
import pathlib

import jinja2.utils
import markupsafe
import matplotlib
import numpy as np
from PIL import Image

from vit_tf import errors
from vit_tf.inspection import inspector, measures
from vit_tf.inspection.pages import templates
from vit_tf.runtime import filesystem

_TEMPLATES = pathlib.Path(__file__).parent
_TOLD = 5  # classes of a prediction
_AROUND = 64  # letters of the page around what is packed of an image
_SMALL = 96  # pixels below which an image is kept without loss


@dataclasses.dataclass(frozen=True)
class Written:
    """What became of the page.

    Attributes:
        path: the page.
        megabytes: its size.
        images: how many it holds.
        left_out: how many did not fit.
    """

    path: str
    megabytes: float
    images: int
    left_out: int


def write(
    seen: inspector.Inspector,
    folder: str,
    *,
    max_megabytes: float,
    blocks: list[int] | None = None,
) -> Written:
    """Writes FOLDER/index.html.

    Args:
        seen: a ViT or a hybrid with images.
        max_megabytes: images that would make the page larger are left out.
        blocks: whose attention is kept, from 0; None: all.

    Raises:
        errors.UserError: a ResNet, no images, no such block, not even one image fits,
            or what the model computes is not finite.
    """
    probabilities = seen.probabilities  # refuses what has no attention or no images
    kept = _check_blocks(seen.network, blocks)
    pictures, packed = [], []
    room = max_megabytes * 1e6 - len(_page(seen, kept, [], []).encode())
    for index, pixels in enumerate(seen.images.pixels):
        data = _pack(seen.network, pixels, kept)
        picture = _picture(seen, probabilities, index)
        room -= len(data) + len(_json(picture)) + _AROUND
        if room < 0:
            break
        pictures.append(picture)
        packed.append(data)
    if not pictures:
        raise errors.UserError(
            f"--max_megabytes={max_megabytes:g}: a page with one image of {seen.name} "
            f"at {seen.pixels} takes {max_megabytes - room / 1e6:.2g} MB; raise "
            "it, or keep fewer layers with --blocks"
        )
    page = _page(seen, kept, pictures, packed)
    path = f"{folder}/index.html"
    filesystem.write_whole(path, page)
    left_out = len(seen.images.pixels) - len(pictures)
    return Written(path, len(page.encode()) / 1e6, len(pictures), left_out)


def quantise(weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rows of weights as bytes: (byte / 255)^2 * scale is the weight.

    Args:
        weights: (..., T) float32, none negative.

    Returns:
        The scales (...) float32, each the largest of its row, and the bytes (..., T).
    """
    scales = weights.max(axis=-1).astype("<f4")
    safe = np.maximum(scales, np.finfo(np.float32).tiny)[..., None]
    return scales, np.rint(255 * np.sqrt(weights / safe)).astype(np.uint8)


def _check_blocks(network, blocks: list[int] | None) -> list[int]:
    every = list(range(network.num_blocks))
    if missing := set(blocks or []) - set(every):
        raise errors.UserError(
            f"--blocks: {network.name} has no block {min(missing)}; it has 0 to "
            f"{every[-1]}"
        )
    return sorted(set(blocks)) if blocks else every


def _pack(network, pixels: np.ndarray, blocks: list[int]) -> str:
    """Packs the attention of one image, and its rollout as one map more, in base64."""
    attention = measures.attention_weights(network, pixels[None])
    rollout = measures.attention_rollout(attention)  # (1, T, T) of all blocks
    if not np.isfinite(rollout).all():
        raise _not_finite(network.name)
    kept = [quantise(attention[i][0]) for i in blocks]
    kept.append(quantise(rollout.astype(np.float32)))
    content = b"".join(part.tobytes() for parts in zip(*kept) for part in parts)
    # The same bytes for the same attention: no time in gzip's header.
    return base64.b64encode(gzip.compress(content, mtime=0)).decode()


def _picture(seen: inspector.Inspector, probabilities, index: int) -> dict:
    """Describes one image and what the model predicts of it."""
    best_classes, label = [], None
    if probabilities is not None:
        row = probabilities[index]
        best = np.argsort(-row, kind="stable")[:_TOLD]
        best_classes = [
            (seen.class_name(int(i)), round(float(row[i]), 6)) for i in best
        ]
    if seen.images.labels is not None:
        label = seen.class_name(int(seen.images.labels[index]))
    pixels = (seen.images.pixels[index] + 1) * 127.5
    image = Image.fromarray(np.rint(np.clip(pixels, 0, 255)).astype(np.uint8))
    held, kind = io.BytesIO(), "png" if image.width < _SMALL else "jpeg"
    image.save(held, kind, **({} if kind == "png" else {"quality": 88}))
    source = f"data:image/{kind};base64,{base64.b64encode(held.getvalue()).decode()}"
    name = seen.images.names[index]
    return {"name": name, "src": source, "prediction": best_classes, "label": label}


def _positions(network) -> dict:
    """Returns position similarity in 8 bits, or why there is none."""
    try:
        similarity = measures.position_similarity(measures.position_table(network))
    except errors.UserError:
        return {"similarity": None, "no_similarity": "This model adds no positions."}
    scaled = np.rint((np.clip(similarity, -1, 1) + 1) * 127.5).astype(np.uint8)
    return {"similarity": base64.b64encode(scaled.tobytes()).decode()}


def _page(seen: inspector.Inspector, blocks, pictures, packed) -> str:
    network = seen.network
    colours = matplotlib.colormaps["viridis"](np.arange(256), bytes=True)[:, :3]
    megabytes = sum(map(len, packed)) / 1e6
    data = {
        "name": seen.name,
        "about": f"{network.num_blocks} layers of {network.num_heads} heads, "
        f"{network.grid} x {network.grid} patches of {network.token_stride} pixels. "
        "Point at or tap a patch to see what it attends to.",
        "footer": f"{len(pictures)} of {seen.images.total:,} images of "
        f"{seen.images.origin} at {seen.pixels}; attention of "
        f"{len(blocks)} layers in 8 bits, {megabytes:.1f} MB of this page.",
        "size": network.image_size,
        "grid": network.grid,
        "tokens": network.num_tokens,
        "first": int(network.has_class_token),
        "output": measures.rollout_reader(network),
        "heads": network.num_heads,
        "blocks": blocks,
        "palette": base64.b64encode(colours.tobytes()).decode(),
        "images": pictures,
        **_positions(network),
    }
    return templates.render(
        _TEMPLATES,
        "page.html",
        title=f"Attention of {seen.name}",
        data=_json(data),
        packed=packed,
    )


def _json(data: dict) -> markupsafe.Markup:
    """Writes JSON that cannot end the script it stands in, whatever names are in it.

    Raises:
        errors.UserError: a number is not finite, which a browser refuses to read.
    """
    try:
        return jinja2.utils.htmlsafe_json_dumps(data, allow_nan=False)
    except ValueError:
        raise _not_finite(data["name"]) from None


def _not_finite(name: str) -> errors.UserError:
    return errors.UserError(
        f"{name}: the model's answers are not finite numbers, so there is nothing to "
        "show; look at an earlier checkpoint, or whether its training has diverged"
    )
