"""Image files of every kind that a server is sent, and files that are broken."""

import io
import struct
import zlib

import numpy as np
import PIL.Image


def picture(width=40, height=30, seed=0) -> PIL.Image.Image:
    draws = np.random.default_rng(seed)
    return PIL.Image.fromarray(draws.integers(0, 255, (height, width, 3), np.uint8))


def encoded(image: PIL.Image.Image, kind: str, **settings) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **settings)
    return file.getvalue()


def readable(width=40, height=30) -> dict[str, bytes]:
    """Files of the same size that all have an answer."""
    image = picture(width, height)
    grey = np.arange(width * height, dtype=np.uint16).reshape(height, width) * 40
    frames = [picture(width, height, seed).convert("P") for seed in range(1, 4)]
    clear = image.convert("RGBA")
    clear.putalpha(image.convert("L"))
    table = image.convert("P")
    rotated = PIL.Image.Exif()
    rotated[0x0112] = 6  # 'turn me', which is not heeded
    return {
        "jpeg": encoded(image, "JPEG"),
        "progressive jpeg": encoded(image, "JPEG", progressive=True),
        "grey jpeg": encoded(image.convert("L"), "JPEG"),
        "cmyk jpeg": encoded(image.convert("CMYK"), "JPEG"),
        "exif jpeg": encoded(image, "JPEG", exif=rotated),
        "png": encoded(image, "PNG"),
        "rgba png": encoded(image.convert("RGBA"), "PNG"),
        "palette png": encoded(image.convert("P"), "PNG"),
        "16 bit png": encoded(PIL.Image.fromarray(grey), "PNG"),
        "black and white png": encoded(image.convert("1"), "PNG"),
        "gif": encoded(image.convert("P"), "GIF"),
        "animated gif": encoded(
            image.convert("P"), "GIF", save_all=True, append_images=frames
        ),
        "bmp": encoded(image, "BMP"),
        "webp": encoded(image, "WEBP"),
        "lossless webp": encoded(image, "WEBP", lossless=True),
        "webp with alpha": encoded(clear, "WEBP", lossless=True, exact=True),
        "lossy webp with alpha": encoded(clear, "WEBP"),
        "png with alpha": encoded(clear, "PNG"),
        "grey png with alpha": encoded(clear.convert("LA"), "PNG"),
        "palette png with a clear colour": encoded(table, "PNG", transparency=3),
        "grey bmp": encoded(image.convert("L"), "BMP"),
    }


def gif_bomb(side=65_535, frames=1) -> bytes:
    """A header of 1 x 1, and frames as large as they can be said to be."""
    head = b"GIF89a" + struct.pack("<HHBBB", 1, 1, 0x80, 0, 0) + bytes(6)
    frame = b"," + struct.pack("<HHHHB", 0, 0, side, side, 0) + b"\x02\x02\x44\x01\x00"
    return head + frame * frames + b";"


def png_bomb(side=60_000) -> bytes:
    """A few hundred bytes that say they are 3.6 gigapixels."""

    def chunk(kind, data):
        body = kind + data
        return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))

    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    data = zlib.compress(bytes(1000))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data)


def gif_of_blocks(count: int) -> bytes:
    """A comment of `count` pieces of one byte."""
    head = b"GIF89a" + struct.pack("<HHBBB", 1, 1, 0, 0, 0)
    return head + b"!\xfe" + b"\x01x" * count + b"\x00;"


def animated_webp() -> bytes:
    frames = [picture(seed=seed) for seed in (1, 2)]
    return encoded(picture(), "WEBP", save_all=True, append_images=frames)


def mutated(draw: np.random.Generator, files: list[bytes]) -> bytes:
    """A file with bytes changed, cut out, repeated, or of another put in."""
    file = bytearray(files[draw.integers(len(files))])
    for _ in range(draw.integers(1, 6)):
        at = int(draw.integers(max(len(file), 1)))
        length = int(draw.integers(1, 40))
        what = draw.integers(4)
        if what == 0:
            file[at : at + length] = draw.bytes(min(length, len(file) - at))
        elif what == 1:
            del file[at : at + length]
        elif what == 2:
            file[at:at] = file[at : at + length] * int(draw.integers(1, 20))
        else:
            other = files[draw.integers(len(files))]
            file[at:at] = other[: int(draw.integers(len(other)))]
    return bytes(file)
