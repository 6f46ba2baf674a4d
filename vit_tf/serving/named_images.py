"""Which image files --images names: folders, files, patterns; and reading one."""

import glob
import os
import pathlib
from collections.abc import Sequence

from vit_tf import errors
from vit_tf.data import image_files

_HEADS = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF8", b"BM", b"RIFF")


def find(given: Sequence[str]) -> list[str]:
    """Finds the image files that are meant, each once, folders in sorted order.

    Of a folder or a pattern these are the files with an image's extension, hidden ones
    left out; a file that is named itself may have any name, but must begin as images do.

    Args:
        given: folders, which are searched to their depth; files; patterns such as
            'scans/*.png'.

    Raises:
        errors.UserError: nothing of that name; not an image; no images at all.
    """
    files: dict[str, None] = {}
    for name in given:
        if os.path.isdir(name):
            paths = _within(name)
        elif os.path.exists(name):
            paths = [_checked(name)]
        elif glob.has_magic(name):
            matches = sorted(glob.glob(name, recursive=True))
            paths = [path for path in matches if _is_named_so(path)]
        else:
            raise errors.UserError(f"--images={name}: no such file or folder")
        if not paths:
            raise errors.UserError(
                f"--images={name}: no images there "
                f"({', '.join(image_files.EXTENSIONS)})"
            )
        files |= dict.fromkeys(paths)
    if not files:
        raise errors.UserError("--images is empty: name a folder, files or a pattern")
    return list(files)


def read(path: str) -> bytes:
    """Reads the bytes of an image file.

    Raises:
        OSError: it cannot be read, or has become something else than a file.
    """
    return pathlib.Path(path).read_bytes()


def _within(folder: str) -> list[str]:
    files = []
    for parent, folders, names in os.walk(folder, onerror=_refuse):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        files += [os.path.join(parent, name) for name in sorted(names)]
    return [path for path in files if _is_named_so(path)]


def _is_named_so(path: str) -> bool:
    return image_files.is_image(os.path.basename(path))


def _checked(path: str) -> str:
    """Checks a file that is named itself: a mistyped name is better refused than sent."""
    try:
        with open(path, "rb") as file:
            head = file.read(8)
    except OSError as error:
        _refuse(error)
    if not head.startswith(_HEADS):
        raise errors.UserError(
            f"--images={path}: not an image (JPEG, PNG, GIF, BMP, WebP)"
        )
    return path


def _refuse(error: OSError) -> None:
    raise errors.UserError(f"--images={error.filename}: {error.strerror}") from None
