"""Folders of images: which files belong to which split and class, which are damaged.

Either FOLDER/CLASS/... or FOLDER/SPLIT/CLASS/..., with splits named train, test,
val, valid, validation or dev, in any case.
"""

import collections
import dataclasses
import hashlib
import os
import pathlib
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from vit_tf import errors
from vit_tf.data import class_names, image_files, safe_decoding

_SPLITS = {
    "train": "train",
    "test": "test",
    "val": "validation",
    "valid": "validation",
    "validation": "validation",
    "dev": "validation",
}
_DEFAULT_SHARE = 0.1  # of the images, held out where there are no split folders
UNLABELLED = "unlabelled"  # the one class of a folder without class folders


@dataclasses.dataclass(frozen=True)
class Listing:
    """What a folder holds.

    Attributes:
        folder: the folder itself.
        class_names: sorted; the place in this tuple is the label.
        files: for each split the image files, as (path in the folder, class).
        ignored: how many files were passed over, by reason (`image_files.Walk`).
        empty: classes without any image, which are left out.
        settings: what else decided the splits and classes.
    """

    folder: pathlib.Path
    class_names: tuple[str, ...]
    files: dict[str, list[tuple[str, str]]]
    ignored: dict[str, int]
    empty: tuple[str, ...] = ()
    settings: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def paths(self) -> list[str]:
        """Returns the images of all splits."""
        return [path for files in self.files.values() for path, _ in files]


def list_folder(
    folder: str,
    validation_share: float | None = None,
    *,
    nested: bool = False,
    unlabelled: bool = False,
) -> Listing:
    """Lists the images of a folder without opening them.

    Args:
        folder: holds class folders, or split folders that hold class folders.
        validation_share: share of each class's training images to hold out as split
            'validation'. None: 0.1 without split folders, 0 with them. The images are
            chosen by the hash of their paths, so the choice is always the same; every
            class that has two images has one in each.
        nested: whether every folder with images in it is a class, named by its path
            below the class folders' place ('animals/cat').
        unlabelled: whether there are no class folders, and all images have one class.

    Raises:
        errors.UserError: no such folder, no images, fewer than two classes, ...
    """
    root = pathlib.Path(folder).expanduser().resolve()
    if not root.is_dir():
        raise errors.UserError(f"--folder={folder}: no such folder")
    ignored: collections.Counter[str] = collections.Counter()
    homes = _find_splits(root, unlabelled)
    if root not in homes.values():
        _look_into(root, ignored)
    listed = {
        split: _unlabelled(root, home, ignored)
        if unlabelled
        else _list_classes(root, home, ignored, nested)
        for split, home in homes.items()
    }
    names, empty = _agree_on_classes(listed, unlabelled)
    files = {
        split: [(path, name) for name in names for path in classes.get(name, [])]
        for split, classes in listed.items()
    }
    if validation_share is None:
        validation_share = _DEFAULT_SHARE if list(homes.values()) == [root] else 0.0
    elif validation_share > 0 and "validation" in files:
        raise errors.UserError(
            f"--validation_share={validation_share}: {folder} has a validation "
            "folder already; leave the flag out"
        )
    settings = {
        "validation_share": validation_share,
        "nested": nested,
        "unlabelled": unlabelled,
    }
    return Listing(
        root, names, hold_out(files, validation_share), dict(ignored), empty, settings
    )


def find_unreadable(
    listing: Listing, watch: Callable[[Iterable], Iterable] = iter
) -> dict[str, str]:
    """Decodes every image whole; gives the files that fail with the reason.

    What prediction and serving refuse is refused here, for the same reasons.

    Args:
        listing: the images to look at.
        watch: wraps the sequence of images seen, to show progress.
    """
    # tf.strings cannot carry a name that is not UTF-8, and TFDS cannot store it.
    paths = [path for path in listing.paths if _is_utf8(path)]
    bad = {
        path: "file name is not UTF-8" for path in listing.paths if not _is_utf8(path)
    }
    seen = np.zeros(len(paths), bool)
    places = [str(listing.folder / path) for path in paths]

    def decode(number: tf.Tensor, place: tf.Tensor) -> tuple[tf.Tensor, ...]:
        return number, *safe_decoding.check(tf.io.read_file(place))

    numbers = tf.data.Dataset.from_tensor_slices((np.arange(len(paths)), places))
    numbers = numbers.map(decode, num_parallel_calls=tf.data.AUTOTUNE)
    for number, problem, _ in watch(numbers.ignore_errors().as_numpy_iterator()):
        seen[number] = True
        if problem:
            bad[paths[number]] = problem.decode()
    for path, good in zip(paths, seen, strict=True):
        if not good:
            bad[path] = _reason(listing.folder / path)
    return {path: bad[path] for path in listing.paths if path in bad}


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


def _find_splits(root: pathlib.Path, unlabelled: bool) -> dict[str, pathlib.Path]:
    """Finds the split folders, or {'train': root} if there are none."""
    homes: dict[str, pathlib.Path] = {}
    others = []
    for directory in _subfolders(root):
        split = _SPLITS.get(directory.name.lower())
        # A folder named train that holds images and no folders is a class.
        if split is None or not (unlabelled or _subfolders(directory)):
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
    root: pathlib.Path,
    home: pathlib.Path,
    ignored: collections.Counter[str],
    nested: bool,
) -> dict[str, list[str]]:
    """Lists the images of each class of `home`, as paths relative to `root`."""
    spelled: dict[str, str] = {}
    classes: dict[str, list[str]] = {}
    for directory in _look_into(home, ignored):
        inner = [d.name for d in _subfolders(directory) if d.name.lower() in _SPLITS]
        if inner and not nested:
            raise errors.UserError(
                f"--folder={root}: {directory.name} holds split folders "
                f"({_some(inner)}); point --folder at {directory}"
            )
        for folder, paths in _by_folder(root, directory, ignored, nested).items():
            name = class_names.check(folder.relative_to(home).as_posix())
            if spelled.setdefault(name, str(folder)) != str(folder):
                raise errors.UserError(
                    f"--folder={root}: {spelled[name]} and {folder} are one class name "
                    f"({name}) in two spellings; rename one, or put both together"
                )
            classes[name] = paths
    if not classes:
        raise errors.UserError(
            f"--folder={root}: no class folders in {home}; need one folder of images "
            "per class, or --unlabelled for images without classes"
        )
    if not any(classes.values()):
        raise errors.UserError(
            f"--folder={root}: no images ({', '.join(image_files.EXTENSIONS)}) in "
            f"{home}{_instead(ignored)}"
        )
    return classes


def _by_folder(
    root: pathlib.Path,
    directory: pathlib.Path,
    ignored: collections.Counter[str],
    nested: bool,
) -> dict[pathlib.Path, list[str]]:
    """Returns the images of a class folder, or of each folder in it."""
    seen = image_files.walk(str(directory), _refuse)
    ignored.update(seen.left_out)
    folders: dict[pathlib.Path, list[str]] = {} if nested else {directory: []}
    for path in seen.files:
        folder = (directory / path).parent if nested else directory
        place = (directory / path).relative_to(root).as_posix()
        folders.setdefault(folder, []).append(place)
    return folders


def _unlabelled(
    root: pathlib.Path, home: pathlib.Path, ignored: collections.Counter[str]
) -> dict[str, list[str]]:
    """Lists all images of `home` as one class."""
    seen = image_files.walk(str(home), _refuse)
    ignored.update(seen.left_out)
    if not seen.files:
        raise errors.UserError(
            f"--folder={root}: no images ({', '.join(image_files.EXTENSIONS)}) in "
            f"{home}{_instead(ignored)}"
        )
    place = home.relative_to(root)
    return {UNLABELLED: [(place / path).as_posix() for path in seen.files]}


def _instead(ignored: Mapping[str, int]) -> str:
    return f"; there are {image_files.say(dict(ignored))}" if ignored else ""


def _refuse(error: OSError) -> None:
    raise errors.UserError(f"{error.filename}: {error.strerror}") from None


def _agree_on_classes(
    listed: dict[str, dict[str, list[str]]], unlabelled: bool
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Returns all class names, sorted, and those without an image to train on."""
    every = sorted(set().union(*listed.values()))
    used = listed.get("train", {})
    empty = [n for n in every if not any(c.get(n) for c in listed.values())]
    for split, classes in listed.items():
        extra = sorted(n for n, paths in classes.items() if paths and not used.get(n))
        if "train" in listed and extra:
            raise errors.UserError(
                f"--folder: {split} has class folders that train has not: {_some(extra)}"
            )
    names = [name for name in every if name not in empty]
    if len(names) < 2 and not unlabelled:
        raise errors.UserError(
            f"--folder: only one class folder ({names[0]}) has images; need two or more, "
            "so point --folder at the folder that holds the class folders, or use "
            "--unlabelled for images without classes"
        )
    return tuple(names), tuple(empty)


def hold_out(
    files: dict[str, list[tuple[str, str]]], share: float
) -> dict[str, list[tuple[str, str]]]:
    """Moves a share of each class of train to validation, by the hash of the path."""
    if not share or "train" not in files:
        return files
    of_class: dict[str, list[str]] = {}
    for path, name in files["train"]:
        of_class.setdefault(name, []).append(path)
    chosen: set[str] = set()
    for paths in of_class.values():
        # At least one to hold out, and one to train on, where there are two.
        number = min(max(round(share * len(paths)), 1), len(paths) - 1)
        chosen.update(sorted(paths, key=_hash)[:number])
    parts = {
        "train": [file for file in files["train"] if file[0] not in chosen],
        "validation": [file for file in files["train"] if file[0] in chosen],
    }
    # A split without examples cannot be stored: few images may leave one empty.
    return {**files, **{split: part for split, part in parts.items() if part}}


def _hash(path: str) -> float:
    """Returns a number in [0, 1) that depends on the path alone, on any machine."""
    digest = hashlib.sha256(os.fsencode(path)).digest()
    return int.from_bytes(digest[:8], "big") / 2**64


def _subfolders(directory: pathlib.Path) -> list[pathlib.Path]:
    return _look_into(directory, collections.Counter())


def _look_into(
    directory: pathlib.Path, ignored: collections.Counter[str]
) -> list[pathlib.Path]:
    """Lists the folders inside; counts what lies beside them and is not read."""
    try:
        folders, files, hidden = image_files.entries(str(directory))
    except OSError as error:
        _refuse(error)
        raise
    ignored.update(hidden)
    for name in files:
        is_image = image_files.is_image(name)
        ignored[image_files.LOOSE if is_image else image_files.kind(name)] += 1
    return [directory / name for name in folders]


def _reason(path: pathlib.Path) -> str:
    """Says why an image file cannot be used."""
    try:
        with open(path, "rb") as file:
            file.read(1)
    except OSError as error:
        return error.strerror or "cannot be read"
    return safe_decoding.DAMAGED


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
