"""Which image files --images names: folders, files, patterns; and reading one."""

import glob
import os
import pathlib
import sys
from collections.abc import Sequence

from vit_tf import errors
from vit_tf.data import image_files


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
            paths = _matching(name)
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


def _matching(pattern: str) -> list[str]:
    """Lists the images of a pattern; hidden folders only where it names them itself."""
    parts = pattern.split(os.sep)
    first = next(i for i, part in enumerate(parts) if glob.has_magic(part))
    found = []
    for path in sorted(glob.glob(pattern, recursive=True)):
        if image_files.is_meant(os.sep.join(path.split(os.sep)[first:])):
            found.append(path)
    return found


def _within(folder: str) -> list[str]:
    seen = image_files.walk(folder, _refuse)
    if seen.left_out:
        said = image_files.say(seen.left_out)
        print(f"{folder}: left out by name: {said}", file=sys.stderr)
    return [os.path.join(folder, path) for path in seen.files]


def _checked(path: str) -> str:
    """Checks a file that is named itself: a mistyped name is better refused than sent."""
    try:
        with open(path, "rb") as file:
            head = file.read(8)
    except OSError as error:
        _refuse(error)
    if not head.startswith(image_files.HEADS):
        raise errors.UserError(
            f"--images={path}: not an image (JPEG, PNG, GIF, BMP, WebP)"
        )
    return path


def _refuse(error: OSError) -> None:
    raise errors.UserError(f"--images={error.filename}: {error.strerror}") from None
