"""Folders of images: which files belong to which split and class, which are damaged.

Either FOLDER/CLASS/... or FOLDER/SPLIT/CLASS/..., with splits named train, test,
val or validation.
"""

import collections
import dataclasses
import hashlib
import os
import pathlib
from collections.abc import Callable, Iterable

import numpy as np
import tensorflow as tf

from vit_tf import errors
from vit_tf.data import images

_EXTENSIONS = (".jpg", ".jpeg", ".png")
_SPLITS = {
    "train": "train",
    "test": "test",
    "val": "validation",
    "validation": "validation",
}
_DEFAULT_SHARE = 0.1  # of the images, held out where there are no split folders


@dataclasses.dataclass(frozen=True)
class Listing:
    """What a folder holds.

    Attributes:
        folder: the folder itself.
        class_names: sorted; the place in this tuple is the label.
        files: for each split the image files, as (path in the folder, class).
        ignored: how many files of each other extension were passed over.
    """

    folder: pathlib.Path
    class_names: tuple[str, ...]
    files: dict[str, list[tuple[str, str]]]
    ignored: dict[str, int]

    @property
    def paths(self) -> list[str]:
        return [path for files in self.files.values() for path, _ in files]


def list_folder(folder: str, validation_share: float | None = None) -> Listing:
    """Lists the images of a folder without opening them.

    Args:
        folder: holds class folders, or split folders that hold class folders.
        validation_share: share of the training images to hold out as split
            'validation'. None: 0.1 without split folders, 0 with them. An image
            is held out by the hash of its path, so the choice is always the same
            and stays when other images are added.

    Raises:
        errors.UserError: no such folder, no images, an empty class, ...
    """
    root = pathlib.Path(folder).expanduser().resolve()
    if not root.is_dir():
        raise errors.UserError(f"--folder={folder}: no such folder")
    ignored: collections.Counter[str] = collections.Counter()
    homes = _find_splits(root)
    listed = {
        split: _list_classes(root, home, ignored) for split, home in homes.items()
    }
    class_names = _agree_on_classes(listed)
    files = {
        split: [(path, name) for name in class_names for path in classes.get(name, [])]
        for split, classes in listed.items()
    }
    if validation_share is None:
        validation_share = _DEFAULT_SHARE if list(homes.values()) == [root] else 0.0
    elif validation_share > 0 and "validation" in files:
        raise errors.UserError(
            f"--validation_share={validation_share}: {folder} has a validation "
            "folder already; leave the flag out"
        )
    files = _hold_out(files, validation_share)
    return Listing(root, class_names, files, dict(ignored))


def find_unreadable(
    listing: Listing, watch: Callable[[Iterable], Iterable] = iter
) -> dict[str, str]:
    """Decodes every image whole; gives the files that fail with the reason.

    Args:
        listing: the images to look at.
        watch: wraps the sequence of images seen, to show progress.
    """
    # tf.strings cannot carry a name that is not UTF-8, and TFDS cannot store it.
    paths = [path for path in listing.paths if _is_utf8(path)]
    seen = np.zeros(len(paths), bool)
    places = [str(listing.folder / path) for path in paths]

    def decode(number: tf.Tensor, place: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        # A pixel is returned because what nobody asks for is optimized away.
        return number, tf.reduce_max(images.decode(tf.io.read_file(place)))

    numbers = tf.data.Dataset.from_tensor_slices((np.arange(len(paths)), places))
    numbers = numbers.map(decode, num_parallel_calls=tf.data.AUTOTUNE)
    for number, _ in watch(numbers.ignore_errors().as_numpy_iterator()):
        seen[number] = True
    bad = [path for path, good in zip(paths, seen, strict=True) if not good]
    bad += [path for path in listing.paths if not _is_utf8(path)]
    return {path: _reason(listing.folder / path) for path in bad}


def leave_out(listing: Listing, paths: Iterable[str]) -> Listing:
    """Returns the listing without some of its files; no class may become empty."""
    paths = set(paths)
    files = {
        split: [(path, name) for path, name in content if path not in paths]
        for split, content in listing.files.items()
    }
    left = {name for _, name in files.get("train", [])}
    trained = {name for _, name in listing.files.get("train", [])}
    lost = [name for name in listing.class_names if name in trained - left]
    if lost:
        raise errors.UserError(
            f"--folder={listing.folder}: no readable image for class {_some(lost)}"
        )
    kept = {split: content for split, content in files.items() if content}
    return dataclasses.replace(listing, files=kept)


def _find_splits(root: pathlib.Path) -> dict[str, pathlib.Path]:
    """Finds the split folders, or {'train': root} if there are none."""
    homes: dict[str, pathlib.Path] = {}
    others = []
    for directory in _subfolders(root):
        split = _SPLITS.get(directory.name.lower())
        # A folder named train that holds images and no folders is a class.
        if split is None or not _subfolders(directory):
            others.append(directory.name)
        elif split in homes:
            raise errors.UserError(
                f"--folder={root}: {homes[split].name} and {directory.name} are both "
                f"the {split} split; keep one"
            )
        else:
            homes[split] = directory
    if homes and others:
        raise errors.UserError(
            f"--folder={root}: {_some(others)} beside the split folders "
            f"{_some(home.name for home in homes.values())}; need split folders "
            "only, each with class folders in it"
        )
    return homes or {"train": root}


def _list_classes(
    root: pathlib.Path, home: pathlib.Path, ignored: collections.Counter[str]
) -> dict[str, list[str]]:
    """Class folders of `home` with their images, as paths relative to `root`."""
    classes = {}
    for directory in _subfolders(home):
        inner = [d.name for d in _subfolders(directory) if d.name.lower() in _SPLITS]
        if inner:
            raise errors.UserError(
                f"--folder={root}: {directory.name} holds split folders "
                f"({_some(inner)}); point --folder at {directory}"
            )
        paths = []
        for parent, folders, names in os.walk(directory, onerror=_refuse):
            folders.sort()
            for name in sorted(names):
                path = pathlib.Path(parent, name)
                if path.suffix.lower() in _EXTENSIONS and not name.startswith("."):
                    paths.append(path.relative_to(root).as_posix())
                else:
                    ignored[path.suffix.lower() or name] += 1
        classes[directory.name] = paths
    if not classes:
        raise errors.UserError(
            f"--folder={root}: no class folders in {home}; need one folder of "
            f"images per class"
        )
    if not any(classes.values()):
        raise errors.UserError(
            f"--folder={root}: no images ({', '.join(_EXTENSIONS)}) in {home}"
        )
    empty = [name for name, paths in classes.items() if not paths]
    if empty:
        raise errors.UserError(
            f"--folder={root}: no images ({', '.join(_EXTENSIONS)}) for class "
            f"{_some(empty)} in {home}; fill or remove the folder"
        )
    return classes


def _refuse(error: OSError) -> None:
    raise errors.UserError(f"{error.filename}: {error.strerror}") from None


def _agree_on_classes(listed: dict[str, dict[str, list[str]]]) -> tuple[str, ...]:
    """Returns all class names, sorted. Every class must be there to train on."""
    names = sorted(set().union(*listed.values()))
    if len(names) < 2:
        raise errors.UserError(
            f"--folder: only one class folder ({names[0]}); need two or more, so "
            "point --folder at the folder that holds the class folders"
        )
    for split, classes in listed.items():
        extra = sorted(set(classes) - set(listed.get("train", names)))
        if extra:
            raise errors.UserError(
                f"--folder: {split} has class folders that train has not: "
                f"{_some(extra)}"
            )
    return tuple(names)


def _hold_out(
    files: dict[str, list[tuple[str, str]]], share: float
) -> dict[str, list[tuple[str, str]]]:
    """Moves a share of train to validation by the hash of the path."""
    if not share or "train" not in files:
        return files
    # Of every class one image, the last by hash, stays to train on.
    last: dict[str, tuple[float, str]] = {}
    for path, name in files["train"]:
        last[name] = max(last.get(name, (-1.0, "")), (_hash(path), path))
    kept = {path for _, path in last.values()}
    chosen = [_hash(p) < share and p not in kept for p, _ in files["train"]]
    parts = {
        "train": [f for f, out in zip(files["train"], chosen, strict=True) if not out],
        "validation": [f for f, out in zip(files["train"], chosen, strict=True) if out],
    }
    # A split without examples cannot be stored: few images may leave one empty.
    return {**files, **{split: part for split, part in parts.items() if part}}


def _hash(path: str) -> float:
    """Returns a number in [0, 1) that depends on the path alone, on any machine."""
    digest = hashlib.sha256(os.fsencode(path)).digest()
    return int.from_bytes(digest[:8], "big") / 2**64


def _subfolders(directory: pathlib.Path) -> list[pathlib.Path]:
    """Lists the folders inside, sorted, without hidden ones and what
    archivers leave behind.
    """
    return sorted(
        path
        for path in directory.iterdir()
        if path.is_dir() and not path.name.startswith((".", "__"))
    )


def _reason(path: pathlib.Path) -> str:
    """Says why an image file cannot be used."""
    if not _is_utf8(str(path)):
        return "file name is not UTF-8"
    try:
        head = path.read_bytes()[:8]
    except OSError as error:
        return error.strerror or "cannot be read"
    return explain(head)


def explain(head: bytes) -> str:
    """Says why an image that begins with these bytes, 8 or more, cannot be decoded."""
    if not head:
        return "empty file"
    if head.startswith((b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n")):
        return "damaged or cut off"
    return "not a JPEG or PNG image"


def _is_utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _some(names: Iterable[str], most: int = 5) -> str:
    """Lists the first few of many names."""
    names = list(names)
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
