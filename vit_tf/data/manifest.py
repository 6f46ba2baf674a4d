"""What a prepared set was made of: a line for each image file, and one hash of all.

A set that is prepared again is asked whether its files and settings are still those:
the count of files alone would not see a relabelled image.
"""

import dataclasses
import hashlib
import json
import os
import pathlib
from collections.abc import Iterable, Mapping, Sequence
from concurrent import futures

FILE = "manifest.jsonl"  # in the prepared set's folder


@dataclasses.dataclass(frozen=True)
class Entry:
    """One image file.

    Attributes:
        path: in the folder.
        split: that it went to.
        class_name: its class.
        size: in bytes.
        changed: time of its last change, in nanoseconds.
        sha256: of its content.
    """

    path: str
    split: str
    class_name: str
    size: int
    changed: int
    sha256: str


def describe(
    folder: pathlib.Path, files: Mapping[str, Sequence[tuple[str, str]]]
) -> list[Entry]:
    """Reads every file once: its size, time and SHA-256.

    Args:
        folder: where the files lie.
        files: for each split (path in the folder, class).
    """
    every = [(path, split, name) for split, of in files.items() for path, name in of]
    with futures.ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:
        return list(pool.map(lambda one: _entry(folder, *one), every))


def _entry(folder: pathlib.Path, path: str, split: str, class_name: str) -> Entry:
    stat = (folder / path).stat()
    digest = _sha256(folder / path)
    return Entry(path, split, class_name, stat.st_size, stat.st_mtime_ns, digest)


def _sha256(path: pathlib.Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digest(entries: Iterable[Entry], settings: Mapping[str, object]) -> str:
    """Computes one SHA-256 of all files with their places, and of the settings."""
    rows = sorted((e.path, e.split, e.class_name, e.sha256) for e in entries)
    text = json.dumps([rows, dict(settings)], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def write(entries: Iterable[Entry]) -> bytes:
    """Writes the entries as JSON lines."""
    return "".join(json.dumps(dataclasses.asdict(e)) + "\n" for e in entries).encode()


def read(content: str) -> list[Entry]:
    """Reads what `write` wrote.

    Raises:
        ValueError: it is damaged.
    """
    try:
        return [Entry(**json.loads(line)) for line in content.splitlines()]
    except TypeError as error:
        raise ValueError(str(error)) from error


def differences(
    before: Iterable[Entry],
    folder: pathlib.Path,
    files: Mapping[str, Sequence[tuple[str, str]]],
) -> list[str]:
    """Compares a folder with what a set was prepared from; a phrase for each kind.

    Only files whose size is the same and whose time is another are read.
    """
    known = {entry.path: entry for entry in before}
    now = {path: (split, name) for split, of in files.items() for path, name in of}
    changed = [
        path
        for path in known.keys() & now.keys()
        if _has_changed(folder / path, known[path])
    ]
    moved = [
        path
        for path in known.keys() & now.keys()
        if (known[path].split, known[path].class_name) != now[path]
    ]
    kinds = {
        "new": now.keys() - known.keys(),
        "gone": known.keys() - now.keys(),
        "changed": changed,
        "in another split or class": moved,
    }
    return [
        f"{len(paths):,} {kind} (such as {min(paths)})"
        for kind, paths in kinds.items()
        if paths
    ]


def _has_changed(path: pathlib.Path, known: Entry) -> bool:
    stat = path.stat()
    if stat.st_size != known.size:
        return True
    return stat.st_mtime_ns != known.changed and _sha256(path) != known.sha256


def repeated(entries: Iterable[Entry]) -> list[list[Entry]]:
    """Groups files of equal content that lie in more than one split."""
    groups: dict[str, list[Entry]] = {}
    for entry in entries:
        groups.setdefault(entry.sha256, []).append(entry)
    return [group for group in groups.values() if len({e.split for e in group}) > 1]
