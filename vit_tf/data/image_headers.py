"""The size of an image by the first bytes of its file, before anything is decoded.

Formats that `images.decode` knows: JPEG, PNG, WebP, GIF, BMP. Ops of TensorFlow only,
so that a server asks them too.
"""

import tensorflow as tf

_HEAD = 32  # bytes in which all but JPEG and GIF say their size
_GIF_FIRST_BLOCK = 13  # bytes before the global table of colours

NONE = -1  # height and width of what is no image
ENDLESS = 2**62  # pixels of a GIF that nobody should unpack
MAX_BLOCKS = 20_000  # of a GIF: 5 MB in pieces of 255 bytes, half a second of walking

_BMP_TABLE = 54  # where a BMP's table of colours begins, behind two headers
_GREY_TABLE = b"".join(bytes([i, i, i, 0]) for i in range(256))

_FRAME, _EXTENSION = 0x2C, 0x21  # first bytes of a GIF's blocks


def pixels(encoded: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Returns height, width, and the pixels that decoding writes.

    Args:
        encoded: a scalar string, the whole file.

    Returns:
        int64 scalars; height and width are `NONE` for an unknown format. The pixels
        are their product, and more in an animated GIF, all of whose frames are
        unpacked.

    Raises:
        tf.errors.InvalidArgumentError: a JPEG whose header is damaged.
    """
    padded = tf.strings.join([tf.strings.substr(encoded, 0, _HEAD), "\0" * _HEAD])
    head = tf.cast(
        tf.io.decode_raw(tf.strings.substr(padded, 0, _HEAD), tf.uint8), tf.int64
    )

    def begins(text: bytes, at: int = 0) -> tf.Tensor:
        return tf.strings.substr(padded, at, len(text)) == text

    def one(shape: tuple[tf.Tensor, tf.Tensor]) -> tuple[tf.Tensor, ...]:
        height, width = shape
        return height, width, height * width

    def of_jpeg() -> tuple[tf.Tensor, ...]:
        shape = tf.cast(tf.image.extract_jpeg_shape(encoded), tf.int64)
        return one((shape[0], shape[1]))

    def unknown() -> tuple[tf.Tensor, ...]:
        return tuple(tf.constant(number, tf.int64) for number in (NONE, NONE, 0))

    riff = tf.logical_and(begins(b"RIFF"), begins(b"WEBP", 8))
    return tf.case(
        [
            (begins(b"\xff\xd8\xff"), of_jpeg),
            (
                begins(b"\x89PNG\r\n\x1a\n"),
                lambda: one((_big(head, 20, 4), _big(head, 16, 4))),
            ),
            (tf.logical_and(riff, begins(b"VP8 ", 12)), lambda: one(_lossy_webp(head))),
            (tf.logical_and(riff, begins(b"VP8L", 12)), lambda: one(_plain_webp(head))),
            (tf.logical_and(riff, begins(b"VP8X", 12)), lambda: one(_large_webp(head))),
            (begins(b"GIF8"), lambda: _gif(encoded, head)),
            (begins(b"BM"), lambda: one(_bmp(head))),
        ],
        default=unknown,
    )


def is_coloured_by_a_table(encoded: tf.Tensor) -> tf.Tensor:
    """Returns whether it is a BMP of 16 bits a pixel or fewer, but for plain grey.

    TensorFlow takes the places in the table for grey values: other colours, silently.
    """
    head = tf.strings.substr(encoded, 0, _BMP_TABLE + len(_GREY_TABLE))
    head = tf.strings.join([head, "\0" * _BMP_TABLE])  # of a file shorter than that
    bits = tf.strings.substr(head, 28, 1)
    grey = tf.strings.substr(head, _BMP_TABLE, len(_GREY_TABLE)) == _GREY_TABLE
    few = (bits != b"\x18") & (bits != b"\x20")
    return (tf.strings.substr(encoded, 0, 2) == b"BM") & few & ~grey


def is_animated_webp(encoded: tf.Tensor) -> tf.Tensor:
    """Returns whether the header says so (RFC 9649, section 2.7): the
    second bit of its flags.
    """
    large = tf.strings.substr(tf.strings.join([encoded, "\0" * _HEAD]), 0, _HEAD)
    parts = [tf.strings.substr(large, at, 4) for at in (0, 8, 12)]
    is_large = tf.reduce_all(tf.stack(parts) == [b"RIFF", b"WEBP", b"VP8X"])
    flags = tf.io.decode_raw(large, tf.uint8)[20]
    return tf.logical_and(is_large, flags // 2 % 2 == 1)


def _big(head: tf.Tensor, at: int, count: int) -> tf.Tensor:
    """Reads the number in `count` bytes, most significant first."""
    return tf.reduce_sum(head[at : at + count] * [256**i for i in range(count)][::-1])


def _little(head: tf.Tensor, at: int, count: int) -> tf.Tensor:
    return tf.reduce_sum(head[at : at + count] * [256**i for i in range(count)])


def _lossy_webp(head: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Reads the size as RFC 6386, section 9.1: 14 bits each, then 2 of scaling."""
    height, width = _little(head, 28, 2), _little(head, 26, 2)
    return tf.math.floormod(height, 2**14), tf.math.floormod(width, 2**14)


def _plain_webp(head: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Reads the size as RFC 9649, section 3.4: one less than each, 14
    bits, after a signature.
    """
    bits = _little(head, 21, 4)
    height, width = bits // 2**14, bits
    return tf.math.floormod(height, 2**14) + 1, tf.math.floormod(width, 2**14) + 1


def _large_webp(head: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Reads the size as RFC 9649, section 2.7: one less than each, 24 bits."""
    return _little(head, 27, 3) + 1, _little(head, 24, 3) + 1


def _bmp(head: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Reads the size: 32 bits with a sign; a negative height means from top to bottom."""

    def signed(at: int) -> tf.Tensor:
        number = _little(head, at, 4)
        return tf.abs(tf.where(number < 2**31, number, number - 2**32))

    return signed(22), signed(18)


def _gif(encoded: tf.Tensor, head: tf.Tensor) -> tuple[tf.Tensor, ...]:
    """Walks from block to block, because frames may be larger than the header says.

    The decoder unpacks all frames even where only the first is wanted. A walk of more
    than `MAX_BLOCKS`, for which no decoder should be asked either, gives `ENDLESS`.
    """
    # Zeros behind the end, which end everything, as far as a step can go.
    file = tf.strings.join([encoded, "\0" * 2048])
    file = tf.io.decode_raw(file, tf.uint8)
    size = tf.cast(tf.strings.length(encoded), tf.int32)

    def byte(at: tf.Tensor) -> tf.Tensor:
        return tf.cast(file[at], tf.int32)

    def two(at: tf.Tensor) -> tf.Tensor:
        return byte(at) + 256 * byte(at + 1)

    def step(
        at: tf.Tensor,
        height: tf.Tensor,
        width: tf.Tensor,
        total: tf.Tensor,
        blocks: tf.Tensor,
    ) -> tuple[tf.Tensor, ...]:
        is_frame = byte(at) == _FRAME
        rows, columns = two(at + 7), two(at + 5)
        pixels = tf.cast(rows, tf.int64) * tf.cast(columns, tf.int64)
        height = tf.where(is_frame, tf.maximum(height, rows), height)
        width = tf.where(is_frame, tf.maximum(width, columns), width)
        total += tf.where(is_frame, pixels, tf.zeros_like(pixels))
        # A frame: 10 bytes, its colours, the width of its codes; else a label.
        forward = tf.where(is_frame, 11 + _table(byte(at + 9)), 2)
        at, blocks = _data_end(byte, size, at + forward, blocks)
        return at + 1, height, width, total, blocks + 1

    def goes_on(at, height, width, total, blocks):
        kind = byte(tf.minimum(at, size))
        opens = tf.logical_or(kind == _FRAME, kind == _EXTENSION)
        return tf.logical_and(opens, blocks < MAX_BLOCKS)

    start = _GIF_FIRST_BLOCK + _table(tf.cast(head[10], tf.int32))
    height, width = (tf.cast(_little(head, at, 2), tf.int32) for at in (8, 6))
    state = (
        tf.minimum(start, size),
        height,
        width,
        tf.zeros((), tf.int64),
        tf.constant(0),
    )
    _, height, width, total, blocks = tf.while_loop(goes_on, step, state)
    height, width = tf.cast(height, tf.int64), tf.cast(width, tf.int64)
    pixels = tf.maximum(total, height * width)
    return height, width, tf.where(blocks < MAX_BLOCKS, pixels, ENDLESS)


def _data_end(byte, size, at, blocks) -> tuple[tf.Tensor, tf.Tensor]:
    """Finds the place behind pieces of data, each with its length
    before it, and their count.
    """

    def step(at, length, blocks):
        at += length + 1
        return at, byte(at), blocks + 1

    at, _, blocks = tf.while_loop(
        lambda at, length, _: tf.logical_and(length > 0, at < size),
        step,
        (at, byte(at), blocks),
        maximum_iterations=MAX_BLOCKS,
    )
    return at, blocks


def _table(flags: tf.Tensor) -> tf.Tensor:
    """Returns the bytes of the table of colours that such flags announce."""
    colours = tf.bitwise.left_shift(2, tf.math.floormod(flags, 8))
    return tf.where(flags >= 128, 3 * colours, tf.zeros_like(flags))
