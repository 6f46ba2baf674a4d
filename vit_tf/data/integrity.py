"""Whether the files of a prepared data set are still those that were written.

TFDS believes its own files: a `dataset_info.json` with another number of rows gives
other batches without a word, a damaged one an error from deep inside. So what was
written is noted beside it, sizes of all files and the SHA-256 of those that describe the
set, and compared whenever the set is opened. `tools.prepare_data --verify` reads the
records themselves.
"""

import hashlib
import json
import urllib.parse
from collections.abc import Iterable, Iterator
from concurrent import futures
from typing import Any

import tensorflow_datasets as tfds

from vit_tf import errors

Path = tfds.core.Path

FILE = "written.json"
_DESCRIBING = (".json", ".txt")  # small, and read when the set is opened
_FRAME = 16  # bytes of a TFRecord beside the record: its length and two checksums
_AT_ONCE = 32  # files asked after, which may be a network away
_LATER = (FILE, "contact_sheet.png")  # not part of the set


def note(directory: Path) -> None:
    """Notes what a set that was just written consists of."""
    paths = list(_files(directory))
    files = dict(zip((p.name for p in paths), _each(_facts, paths), strict=True))
    content = {"files": files, "sha256": _digest(files)}
    text = json.dumps(content, indent=2, sort_keys=True) + "\n"
    (directory / FILE).write_text(text)


def check(directory: Path) -> None:
    """Refuses a set whose files have changed since `note`; others pass.

    Raises:
        errors.UserError: a file is missing, or is another than was written.
    """
    noted = directory / FILE
    if not noted.exists():
        return  # not written by us, or before there were notes
    try:
        content = json.loads(noted.read_text())
        files = dict(content["files"])
        is_whole = content["sha256"] == _digest(files)
    except (ValueError, TypeError, KeyError):
        is_whole = False
    if not is_whole:
        raise refusal(directory, f"{FILE} is damaged") from None
    problems = _each(lambda file: _compare(directory / file[0], file[1]), files.items())
    for name, problem in zip(files, problems, strict=True):
        if problem:
            raise refusal(directory, f"{name} {problem}")


def check_rows(directory: Path, splits: Iterable[Any]) -> None:
    """Refuses local files that hold other numbers of records than the description says.

    For sets without notes. Reads the lengths of the records only where the sizes of the
    files do not follow from the description.

    Args:
        directory: of the set.
        splits: of TFDS, each a `tfds.core.SplitInfo`.

    Raises:
        errors.UserError: a file with more or fewer records, cut off, or a folder. One
            that is missing is reported when it is read.
    """
    if urllib.parse.urlsplit(str(directory)).scheme or (directory / FILE).exists():
        return
    for info in splits:
        paths = [Path(path) for path in info.filepaths]
        if any(path.is_dir() for path in paths):
            name = next(path.name for path in paths if path.is_dir())
            raise refusal(directory, f"{name} is a folder")
        if not all(path.exists() for path in paths):
            continue
        size = sum(path.stat().length for path in paths)
        if size == info.num_bytes + _FRAME * info.num_examples:
            continue
        for path, expected in zip(paths, info.shard_lengths, strict=True):
            count = _count(path)
            if count != expected:
                held = "is cut off" if count is None else f"holds {count:,} records"
                raise refusal(
                    directory,
                    f"{path.name} {held}, dataset_info.json says {expected:,}",
                )


def _count(path: Path) -> int | None:
    """Counts the records of a file by their lengths; None: it ends within one."""
    size, place, count = path.stat().length, 0, 0
    with open(path, "rb") as file:
        while place < size:
            file.seek(place)
            place += int.from_bytes(file.read(8), "little") + _FRAME
            count += 1
    return count if place == size else None


def refusal(directory: Path, problem: str) -> errors.UserError:
    """Makes the one line for a damaged set, with the remedy."""
    return errors.UserError(
        f"{directory}: {problem}; remove that folder and prepare the set again"
    )


def _files(directory: Path) -> Iterator[Path]:
    for path in sorted(directory.iterdir()):
        if path.name not in _LATER and not path.is_dir():
            yield path


def _digest(files: object) -> str:
    return hashlib.sha256(json.dumps(files, sort_keys=True).encode()).hexdigest()


def _each(function, things: Iterable[Any]) -> list[Any]:
    with futures.ThreadPoolExecutor(_AT_ONCE) as pool:
        return list(pool.map(function, things))


def _compare(path: Path, facts: object) -> str:
    """Says what became of a file; empty: nothing."""
    if not path.exists():
        return "is missing"
    if path.is_dir():
        return "is a folder"
    return "" if _facts(path) == facts else "has changed since it was prepared"


def _facts(path: Path) -> dict[str, int | str]:
    facts: dict[str, int | str] = {"size": path.stat().length}
    if path.name.endswith(_DESCRIBING):
        facts["sha256"] = hashlib.sha256(path.read_bytes()).hexdigest()
    return facts
