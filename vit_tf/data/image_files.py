"""Which files of a folder are images that a model can be shown: one walk for all.

Preparing, inspecting and predicting see the same files of a folder. Without TensorFlow,
which a client of a server does not need.
"""

import collections
import dataclasses
import os
from collections.abc import Callable, Iterator, Mapping

# What images.decode and image_headers.pixels know.
EXTENSIONS = (".jpg", ".jpeg", ".jfif", ".png", ".gif", ".bmp", ".webp")

# How files of these formats begin.
HEADS = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF8", b"BM", b"RIFF")

HIDDEN = "hidden"
LOOP = "a link to a folder that it lies in"
NO_FILE = "not a file"  # a pipe or a device, which reading would wait for
LOOSE = "images beside the class folders"


@dataclasses.dataclass(frozen=True)
class Walk:
    """The images of a folder, and what else is in it.

    Attributes:
        files: paths below the folder, those of a folder before those of its folders.
        left_out: for each reason (an extension, `HIDDEN`, `LOOP`, `NO_FILE`) how many
            files, or folders of which nothing was read.
    """

    files: list[str]
    left_out: dict[str, int]


def is_image(name: str) -> bool:
    """Returns whether a file of this name, without its folder, is an image by its
    extension, and not hidden.
    """
    return name.lower().endswith(EXTENSIONS) and not name.startswith(".")


def is_hidden(name: str) -> bool:
    """Returns whether a folder is one that systems and archivers leave behind."""
    return name.startswith((".", "__"))


def is_meant(path: str) -> bool:
    """Returns whether a relative path is an image's that lies in no hidden folder."""
    *parents, name = path.split(os.sep)
    return is_image(name) and not any(is_hidden(parent) for parent in parents)


def entries(folder: str) -> tuple[list[str], list[str], dict[str, int]]:
    """Lists the folders and the files inside by name, sorted, and counts hidden ones.

    Links count as what they lead to; one that leads nowhere is a file, which whoever
    reads it reports.

    Raises:
        OSError: it cannot be read.
    """
    left_out: collections.Counter[str] = collections.Counter()
    folders, files = [], []
    with os.scandir(folder) as inside:
        for entry in inside:
            is_folder = entry.is_dir()
            if entry.name.startswith(".") or (is_folder and is_hidden(entry.name)):
                left_out[HIDDEN] += 1
            elif is_folder:
                folders.append(entry.name)
            elif entry.is_file() or not os.path.exists(entry.path):
                files.append(entry.name)
            else:
                left_out[NO_FILE] += 1
    return sorted(folders), sorted(files), dict(left_out)


def walk(folder: str, on_error: Callable[[OSError], None]) -> Walk:
    """Finds the images of a folder and of all folders in it, links followed.

    Args:
        folder: where to look.
        on_error: called with what a folder cannot be read for.
    """
    files: list[str] = []
    left_out: collections.Counter[str] = collections.Counter()
    for parent, names in _visit(folder, (), left_out, on_error):
        for name in names:
            if is_image(name):
                files.append(os.path.relpath(os.path.join(parent, name), folder))
            else:
                left_out[kind(name)] += 1
    return Walk(files, dict(left_out))


def _visit(
    folder: str,
    above: tuple[str, ...],
    left_out: collections.Counter[str],
    on_error: Callable[[OSError], None],
) -> Iterator[tuple[str, list[str]]]:
    """Yields each folder with the names of its files, sorted.

    `above` are the real paths of the folders on the way here: a link to one of them
    would never end. Two links to each other's folders are such a loop as well.
    """
    here = os.path.realpath(folder)
    if any(_lies_in(place, here) for place in above):
        left_out[LOOP] += 1
        return
    try:
        folders, files, hidden = entries(folder)
    except OSError as error:
        on_error(error)
        return
    left_out.update(hidden)
    yield folder, files
    for name in folders:
        inner = os.path.join(folder, name)
        yield from _visit(inner, (*above, here), left_out, on_error)


def kind(name: str) -> str:
    """Returns what a file that is no image is counted by: its extension, if any."""
    return os.path.splitext(name)[1].lower() or name


def _lies_in(place: str, folder: str) -> bool:
    """Returns whether a real path is a folder's, or below it."""
    return place == folder or place.startswith(folder.rstrip(os.sep) + os.sep)


def say(left_out: Mapping[str, int]) -> str:
    """Writes what was left out: '3 .heic, 2 hidden'; empty where nothing was."""
    return ", ".join(f"{n:,} {kind}" for kind, n in sorted(left_out.items()))
