"""What Pillow sees in an image file's header: format, size, and how it was held."""

import collections
import dataclasses
import io
import os
import pathlib
import statistics
from collections.abc import Sequence
from concurrent import futures

from PIL import Image, ImageOps

from vit_tf.data import safe_decoding

_UNREADABLE = (OSError, ValueError, SyntaxError, Image.DecompressionBombError)
_ORIENTATION = 0x0112  # the EXIF tag; 1 is upright


@dataclasses.dataclass(frozen=True)
class Facts:
    """Of a set of image files.

    Attributes:
        formats: how many files there are of each format.
        widths, heights: smallest, median and largest, in pixels.
        turned: files whose EXIF data say that the camera was turned.
    """

    formats: dict[str, int]
    widths: tuple[int, int, int]
    heights: tuple[int, int, int]
    turned: int


def collect(folder: pathlib.Path, paths: Sequence[str]) -> Facts | None:
    """Reads the header of every file; None where there is none that Pillow knows."""
    with futures.ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:
        read = pool.map(lambda path: _header(folder / path), paths)
        known = [header for header in read if header is not None]
    if not known:
        return None
    formats, widths, heights, turned = zip(*known)
    return Facts(
        dict(collections.Counter(formats)), _range(widths), _range(heights), sum(turned)
    )


def _header(path: pathlib.Path) -> tuple[str, int, int, bool] | None:
    try:
        with Image.open(path) as image:
            return image.format or "?", image.width, image.height, _is_turned(image)
    except _UNREADABLE:
        return None


def _is_turned(image: Image.Image) -> bool:
    return image.getexif().get(_ORIENTATION, 1) not in (0, 1)


def _range(numbers: Sequence[int]) -> tuple[int, int, int]:
    return min(numbers), round(statistics.median(numbers)), max(numbers)


def is_turned(encoded: bytes) -> bool:
    """Returns whether EXIF data say that the camera was turned; False of no image."""
    try:
        with Image.open(io.BytesIO(encoded)) as image:
            return _is_turned(image)
    except _UNREADABLE:
        return False


def upright(encoded: bytes) -> bytes:
    """Turns an image as its EXIF data say, stored as PNG; others stay as they are.

    So does what cannot be read or is too large: whoever decodes it says why.
    """
    try:
        with Image.open(io.BytesIO(encoded)) as image:
            too_large = image.width * image.height > safe_decoding.MAX_PIXELS
            if too_large or not _is_turned(image):
                return encoded
            out = io.BytesIO()
            ImageOps.exif_transpose(image).convert("RGB").save(out, "PNG")
        return out.getvalue()
    except _UNREADABLE:
        return encoded
