"""A folder of synsets, as tar files or folders: where each image lies, in an index.

ImageNet-21k is 21,841 tar files with 14 million images. They are listed once into a
database on disk, sorted by the hash that TFDS shuffles by; from then on any shard
reads its images by their place in the tar files, whoever works on it, and no process
ever holds more than one image. Reading jumps about: the tar files should not lie on a
tape or a single spinning disk.
"""

import contextlib
import dataclasses
import hashlib
import os
import pathlib
import posixpath
import re
import sqlite3
import tarfile
import time
from collections.abc import Iterator

from vit_tf import errors
from vit_tf.data.preparation import process_pool

_NAME = re.compile(r"n\d{8}")
_SORT_KIB = 2**18  # memory for sorting the list, which is several times larger
COMMIT_SECONDS = 1  # so much is listed again after a kill
_BLOCK = 512  # a tar file consists of blocks of this many bytes


@dataclasses.dataclass(frozen=True)
class Place:
    """Where an image file lies.

    Attributes:
        synset: such as n01440764.
        path: of the file in its synset.
        offset: in the synset's tar file; None for a file in a folder.
        size: in bytes.
        trouble: why it cannot be used, if that shows in the listing.
    """

    synset: str
    path: str
    offset: int | None
    size: int
    trouble: str | None = None

    @property
    def name(self) -> str:
        return f"{self.synset}/{self.path}"


def find(source: str) -> tuple[dict[str, pathlib.Path], list[str]]:
    """Lists a folder's synsets, sorted, with tar file or folder; and what is neither.

    Raises:
        errors.UserError: no such folder, no synset in it, or a synset twice.
    """
    root = pathlib.Path(source).expanduser()
    need = "need a folder of n01440764.tar and so on, or of folders n01440764 and so on"
    if not root.exists():
        raise errors.UserError(f"--source={source}: no such folder; {need}")
    if not root.is_dir():
        raise errors.UserError(f"--source={source}: is a file; {need}: unpack it first")
    images, others = {}, []
    for path in sorted(root.iterdir()):
        name = path.name if path.is_dir() else path.name.removesuffix(".tar")
        if not _NAME.fullmatch(name) or not (path.is_dir() or path.suffix == ".tar"):
            others.append(path.name)
        elif name in images:
            raise errors.UserError(
                f"--source={source}: holds {name} as a folder and as a tar file; "
                "remove one of them"
            )
        else:
            images[name] = path
    if not images:
        raise errors.UserError(f"--source={source}: no synsets in it; {need}")
    return dict(sorted(images.items())), others


def read_class_list(file: str) -> tuple[str, ...]:
    """Reads synsets of a text file in its order: the first word of each line.

    Raises:
        errors.UserError: no such file, a line that names no synset, or one twice.
    """
    try:
        lines = pathlib.Path(file).expanduser().read_text().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise errors.UserError(
            f"--class_list={file}: cannot be read: {error}"
        ) from None
    names: dict[str, None] = {}
    for number, line in enumerate(lines, 1):
        (word, *_) = line.split() or ("",)
        if not word:
            continue
        if not _NAME.fullmatch(word) or word in names:
            problem = "twice in the list" if word in names else "not a synset"
            raise errors.UserError(
                f"--class_list={file}: line {number}: {word!r} is {problem}; need one "
                "synset such as n01440764 a line"
            )
        names[word] = None
    if not names:
        raise errors.UserError(f"--class_list={file}: names no synset")
    return tuple(names)


@dataclasses.dataclass(frozen=True)
class Index:
    """The places of all images, in the order of the split.

    Attributes:
        path: of the database.
        homes: tar file or folder of each synset.
        salt: name of the split; TFDS hashes it with the name of the image.
    """

    path: pathlib.Path
    homes: dict[str, pathlib.Path] = dataclasses.field(repr=False)
    salt: str

    def build(self, num_processes: int) -> Iterator[str]:
        """Lists what is not listed yet; gives the synsets as they are done.

        Raises:
            errors.UserError: a damaged tar file, a synset that has changed since the
                images were sorted, no space.
        """
        with _open(self.path, write=True) as database:
            database.executescript(_TABLES)
            database.execute(f"PRAGMA cache_size = -{_SORT_KIB}")
            sorted_already = database.execute("SELECT * FROM sorted").fetchone()
            known = dict(database.execute("SELECT synset, state FROM homes"))
            states = {name: _state(path) for name, path in self.homes.items()}
            stale = [n for n, state in known.items() if states.get(n) != state]
            fresh = known.keys() - stale
            todo = [name for name in self.homes if name not in fresh]
            if sorted_already and (stale or todo):
                raise errors.UserError(
                    f"{(stale or todo)[0]} has changed or moved since its images were "
                    f"listed; remove {self.path.parent} to begin again"
                )
            for name in stale:
                _forget(database, name)
            yield from fresh
            if sorted_already:
                return
            homes = [(name, self.homes[name]) for name in todo]
            committed = time.monotonic()
            for name, places in process_pool.each(list_synset, homes, num_processes):
                self.add(database, name, states[name], places)
                # Each commit waits for the disk: 20,000 of them are ten minutes.
                if time.monotonic() - committed > COMMIT_SECONDS:
                    database.commit()
                    committed = time.monotonic()
                yield name
            database.executescript(_SORT)

    def count(self) -> tuple[int, int, dict[str, int]]:
        """Counts images, their bytes, and the images of each synset that has any."""
        with _open(self.path) as database:
            homes = database.execute("SELECT synset, images, bytes FROM homes")
            per_synset = {name: counts for name, *counts in homes}
        images, size = (
            sum(counts[i] for counts in per_synset.values()) for i in (0, 1)
        )
        return images, size, {name: n for name, (n, _) in per_synset.items() if n}

    def places(self, first: int, last: int) -> Iterator[Place]:
        """Yields the places of images number `first` to `last - 1`."""
        with _open(self.path) as database:
            query = (
                "SELECT synset, path, offset, size, trouble FROM images "
                "WHERE rowid > ? AND rowid <= ? ORDER BY rowid"
            )
            for synset, path, *rest in database.execute(query, (first, last)):
                # What is not UTF-8 is in trouble anyway and only needs a name.
                yield Place(synset, path.decode("utf-8", "backslashreplace"), *rest)

    def read(self, place: Place) -> bytes:
        """Reads the bytes of an image file; one in a folder may have been mended since.

        Raises:
            errors.UserError: cannot be read, or the tar file has become shorter.
        """
        home = self.homes[place.synset]
        path = home / place.path if place.offset is None else home
        try:
            if place.offset is None:
                return path.read_bytes()
            with path.open("rb") as file:
                file.seek(place.offset)
                content = file.read(place.size)
        except OSError as error:
            raise errors.UserError(f"cannot read {path}: {error.strerror}") from error
        if len(content) != place.size:
            raise errors.UserError(
                f"{path} has changed since its images were listed; remove "
                f"{self.path.parent} to begin again"
            )
        return content

    def add(
        self,
        database: sqlite3.Connection,
        name: str,
        state: str,
        places: list[Place],
    ) -> None:
        """Enters a synset. Committed in between only, so all of it or nothing."""
        rows = (
            (
                hashlib.md5(f"{self.salt}{name}/".encode() + path).digest(),
                name,
                path,
                place.offset,
                place.size,
                place.trouble,
            )
            for place in places
            for path in (os.fsencode(place.path),)
        )
        database.executemany("INSERT INTO listed VALUES (?, ?, ?, ?, ?, ?)", rows)
        counts = len(places), sum(place.size for place in places)
        database.execute(
            "INSERT INTO homes VALUES (?, ?, ?, ?)", (name, state, *counts)
        )


def list_synset(home: tuple[str, pathlib.Path]) -> tuple[str, list[Place]]:
    """Lists a synset: its name, and the places of all its files.

    Raises:
        errors.UserError: the tar file is damaged, or something cannot be read.
    """
    name, path = home
    try:
        places = list(_walk(name, path) if path.is_dir() else _list_tar(name, path))
    except (tarfile.TarError, OSError) as error:
        kind = "is a damaged tar file" if path.is_file() else "cannot be read"
        raise errors.UserError(f"{path} {kind}: {error}; get it again") from None
    return name, places


# Columns: hash is what TFDS shuffles by; `images` is `listed` in that order, so that
# an image's rowid is its place in the split, from 1.
_TABLES = """
CREATE TABLE IF NOT EXISTS homes (synset PRIMARY KEY, state, images, bytes);
CREATE TABLE IF NOT EXISTS listed (hash, synset, path, offset, size, trouble);
CREATE TABLE IF NOT EXISTS sorted (done);
"""
_SORT = """
BEGIN;
CREATE TABLE images AS
    SELECT synset, path, offset, size, trouble FROM listed ORDER BY hash, rowid;
DELETE FROM listed;
INSERT INTO sorted VALUES (1);
COMMIT;
"""


def _forget(database: sqlite3.Connection, name: str) -> None:
    with database:
        database.execute("DELETE FROM listed WHERE synset = ?", (name,))
        database.execute("DELETE FROM homes WHERE synset = ?", (name,))


@contextlib.contextmanager
def _open(path: pathlib.Path, *, write: bool = False) -> Iterator[sqlite3.Connection]:
    """Opens a connection that is closed at the end, with errors in one line."""
    # Readers take no locks, which not every network file system knows.
    mode = "rwc" if write else "ro&immutable=1"
    address = f"{path.absolute().as_uri()}?mode={mode}"
    try:
        with contextlib.closing(sqlite3.connect(address, uri=True)) as database:
            yield database
    except sqlite3.Error as error:
        raise errors.UserError(
            f"the list of images {path}: {error}; it needs some GB there and, while "
            "sorting, in $TMPDIR"
        ) from error


def _state(home: pathlib.Path) -> str:
    """Changes when a tar file or the list of a folder does."""
    known = home.stat()
    return f"{home} {known.st_size if home.is_file() else 0} {known.st_mtime_ns}"


def _walk(name: str, folder: pathlib.Path) -> Iterator[Place]:
    """Yields every file below a synset's folder, in the order of their paths."""

    def refuse(error: OSError) -> None:
        raise error

    for parent, folders, names in os.walk(folder, onerror=refuse):
        folders.sort()
        for file in sorted(names):
            process_pool.check_stop()
            path = pathlib.Path(parent, file)
            inner = path.relative_to(folder).as_posix()
            trouble = _trouble(inner) or (None if path.is_file() else "not a file")
            yield Place(
                name, inner, None, 0 if trouble else path.stat().st_size, trouble
            )


def _list_tar(name: str, path: pathlib.Path) -> Iterator[Place]:
    """Yields every file in a synset's tar file, in the order they lie there."""
    seen, end = set(), 0
    # "r:" because a place in a compressed file could not be jumped to.
    with tarfile.open(path, "r:") as tar:
        for member in tar:
            process_pool.check_stop()
            stored = member.size if member.isreg() else 0
            end = member.offset_data + -(-stored // _BLOCK) * _BLOCK
            if member.isdir():
                continue
            inner = posixpath.normpath(member.name).lstrip("/").removeprefix(f"{name}/")
            trouble = _trouble(inner)
            if not member.isreg() or member.issparse():
                trouble = "not a plain file"
            elif inner in seen:
                trouble = "a file of this name comes before it in the tar file"
            seen.add(inner)
            yield Place(name, inner, member.offset_data, member.size, trouble)
    with path.open("rb") as file:
        file.seek(end)
        # tarfile takes a header it cannot read for the end of the file.
        if file.read(_BLOCK) != bytes(_BLOCK):
            raise tarfile.ReadError(f"broken off or altered at byte {end:,}")


def _trouble(path: str) -> str | None:
    try:
        path.encode()
    except UnicodeEncodeError:
        return "file name is not UTF-8"
    return None
