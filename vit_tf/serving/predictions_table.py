"""The table of predictions, as CSV or JSON lines, that goes on where it was cut off.

A row for every image, in the columns file, class_1, score_1, ..., error; of JSON lines
without those that are empty. Rows stand in the file once they are whole; what a killed
process left of one is cut away by the next, which skips the images that have their row.
What made the rows stands beside the table in TABLE.made_by.json: rows of another model
or of other settings are never added to them.

A text that a spreadsheet would take for a formula gets an apostrophe in front of it in
CSV, as spreadsheets write it themselves.
"""

import csv
import functools
import io
import json
import os
import typing
from collections.abc import Iterable, Sequence
from typing import Self, TypeAlias

from vit_tf import errors, identity
from vit_tf.runtime import file_lock
from vit_tf.serving import predictions

KINDS = (".csv", ".jsonl")
RECORD = ".made_by.json"  # the end of the name of the file beside the table
_DIGITS = 7  # of a score: as many as float32 has
_FORMULAS = ("=", "+", "-", "@", "\t", "\r", "\n")  # what a formula begins with

_Cells: TypeAlias = dict[str, str | float]


class Table:
    """The file, opened for more rows; a context manager.

    Args:
        path: ends in .csv or .jsonl.
        top: classes of a row.
        made_by: what the rows follow from.
        overwrite: whether a table that something else has made is replaced.

    Raises:
        errors.UserError: another ending; no such folder; a file that holds something
            else, rows of another number of classes, or rows that something else has
            made; another process writes it.
    """

    def __init__(
        self,
        path: str,
        top: int,
        made_by: identity.Identity,
        *,
        overwrite: bool = False,
    ):
        check_name(path)
        self.path = path
        self.columns = ["file"]
        for number in range(1, top + 1):
            self.columns += [f"class_{number}", f"score_{number}"]
        self.columns.append("error")
        self._is_csv = path.endswith(".csv")
        self._folder = os.getcwd()  # what relative names in the table start from
        self._done: set[str] = set()
        try:
            # Unbuffered, so that what a full disk refused is not tried again by close.
            self._file = open(path, "ab+", buffering=0)  # noqa: SIM115
        except OSError as error:
            raise errors.UserError(f"--to={path}: {error.strerror}") from None
        try:
            if not file_lock.try_lock(self._file):
                raise errors.UserError(
                    f"--to={path}: another process is writing it; name another file"
                )
            self._open(made_by, overwrite)
        except BaseException:
            self._file.close()
            raise

    def split(self, paths: Sequence[str]) -> tuple[list[str], int]:
        """Returns the images that have no row yet, and how many have one.

        Of several names of one image the first counts.
        """
        here = os.getcwd()
        places = {_place(path, here): path for path in reversed(paths)}
        left = [path for place, path in places.items() if place not in self._done]
        return left[::-1], len(places) - len(left)

    def write(self, rows: Iterable[tuple[str, predictions.Prediction]]) -> None:
        """Adds a row for each image.

        Raises:
            errors.UserError: the disk is full, or the like.
        """
        lines = b"".join(self._line(self._cells(name, answer)) for name, answer in rows)
        try:
            left = memoryview(lines)
            while left:
                left = left[self._file.write(left) :]
        except OSError as error:
            raise errors.UserError(
                f"cannot write {self.path}: {error.strerror}; free some space or mend "
                "the permissions, then run the same command again"
            ) from None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_) -> None:
        self._file.close()

    def _open(self, made_by: identity.Identity, overwrite: bool) -> None:
        """Reads the rows that are there, or begins the table."""
        self._file.seek(0)
        content = self._file.read()
        record = _read_record(self.path)
        before, folder = record or (None, self._folder)
        fits = before is not None and not before.differences(made_by)
        if content and overwrite and not fits:
            if record is None and not content.startswith((b"file,", b'{"file":')):
                raise errors.UserError(
                    f"--to={self.path}: is no table of predictions; name another file"
                )
            self._file.truncate(0)
            content = b""
        if not content:
            _write_record(self.path, made_by, self._folder)
            if self._is_csv:
                self._file.write(_csv_line(self.columns))
            return
        names, end = (self._read_csv if self._is_csv else self._read_lines)(content)
        identity.refuse_other(
            f"--to={self.path}",
            before,
            made_by,
            remedy="name another file, or --overwrite makes it anew",
        )
        self._file.truncate(end)
        self._folder = folder
        self._done = {_place(name, folder) for name in names}

    def _cells(self, path: str, answer: predictions.Prediction) -> _Cells:
        # Names of a table that was begun in another folder would mean other files.
        here = os.getcwd()
        name = path if here == self._folder else os.path.join(here, path)
        cells: _Cells = {"file": name}
        for number, (of, score) in enumerate(zip(answer.classes, answer.scores), 1):
            cells[f"class_{number}"] = of
            cells[f"score_{number}"] = float(f"{score:.{_DIGITS}g}")
        if answer.error:
            cells["error"] = answer.error
        if not cells.keys() <= set(self.columns):
            raise ValueError(f"{path}: {len(answer.classes)} classes in {self.columns}")
        return cells

    def _line(self, cells: _Cells) -> bytes:
        if not self._is_csv:
            return (json.dumps(cells) + "\n").encode()
        return _csv_line([cells.get(column, "") for column in self.columns])

    def _read_csv(self, content: bytes) -> tuple[list[str], int]:
        """Returns the names in the whole rows, and the bytes that these take."""
        lines = content.splitlines(keepends=True)
        header = _csv_line(self.columns)
        if lines[0] != header:
            if len(lines) == 1 and header.startswith(content):
                self._file.truncate(0)  # cut off within the header
                self._file.write(header)
                return [], len(header)
            raise errors.UserError(
                f"--to={self.path}: begins with other columns than "
                f"{header.decode().strip()}; name another file, or the same --top"
            )
        decoded = [line.decode("utf-8", "surrogateescape") for line in lines]
        rows = csv.reader(decoded)
        next(rows)
        names, whole = [], 1
        for row in rows:
            last = rows.line_num == len(lines)
            if len(row) != len(self.columns) or not lines[-1].endswith(b"\n") and last:
                if not last:
                    self._refuse_line(rows.line_num)
                break
            names.append(_without_escape(row[0]))
            whole = rows.line_num
        return names, sum(map(len, lines[:whole]))

    def _read_lines(self, content: bytes) -> tuple[list[str], int]:
        """Returns the same of JSON lines."""
        end = content.rfind(b"\n") + 1
        names, known = [], set(self.columns)
        for number, line in enumerate(content[:end].splitlines(), 1):
            try:
                row = json.loads(line)
            except ValueError:
                row = None
            if not isinstance(row, dict) or not row.keys() <= known:
                self._refuse_line(number)
            if not isinstance(row.get("file"), str) or len(row) < 2:
                self._refuse_line(number)
            names.append(row["file"])
        return names, end

    def _refuse_line(self, number: int) -> typing.NoReturn:
        raise errors.UserError(
            f"--to={self.path}: line {number} is no row of {len(self.columns)} columns "
            f"(file, class_1, ...); name another file, or the same --top"
        )


def check_name(path: str) -> None:
    """Refuses a file that cannot become the table, before anything is loaded.

    Raises:
        errors.UserError: another ending; no such folder.
    """
    if not path.endswith(KINDS):
        raise errors.UserError(f"--to={path}: need a file that ends in .csv or .jsonl")
    if not os.path.isdir(os.path.dirname(path) or "."):
        raise errors.UserError(f"--to={path}: no such folder; make it first")


def _csv_line(cells: Iterable[str | float]) -> bytes:
    """Returns a row; names that are not UTF-8 stay the bytes that they are."""
    text = io.StringIO()
    escaped = [_escape(cell) if isinstance(cell, str) else cell for cell in cells]
    csv.writer(text, lineterminator="\r\n").writerow(escaped)  # quotes these two
    line = text.getvalue().removesuffix("\r\n") + "\n"
    return line.encode("utf-8", "surrogateescape")


def _escape(text: str) -> str:
    """Returns the text as one that no spreadsheet computes."""
    return f"'{text}" if _is_formula(text) else text


def _without_escape(text: str) -> str:
    """Returns what `_escape` got."""
    return text[1:] if text.startswith("'") and _is_formula(text) else text


def _is_formula(text: str) -> bool:
    # Apostrophes in front count too, so that an escape can be told from a name.
    return text.lstrip("'").startswith(_FORMULAS)


def _place(name: str, folder: str) -> str:
    """Returns where an image is, however its path is written.

    A link to an image is an image of its own: folders of links are data sets.
    """
    parent, base = os.path.split(os.path.join(folder, name))
    return os.path.join(_real_folder(parent), base)


@functools.lru_cache(maxsize=4096)
def _real_folder(path: str) -> str:
    return os.path.realpath(path)


def _read_record(path: str) -> tuple[identity.Identity | None, str] | None:
    """Reads what made a table, and the folder of its relative names."""
    try:
        with open(path + RECORD, encoding="utf-8") as file:
            content = json.load(file)
        return identity.Identity.from_json(content["made_by"]), str(content["folder"])
    except (OSError, ValueError, TypeError, KeyError):
        return None  # as good as none: `identity.refuse_other` says so


def _write_record(path: str, made_by: identity.Identity, folder: str) -> None:
    record = {"made_by": made_by.to_json(), "folder": folder}
    unfinished = f"{path}{RECORD}.unfinished"
    try:
        with open(unfinished, "w", encoding="utf-8") as file:
            file.write(json.dumps(record, indent=2) + "\n")
        os.replace(unfinished, path + RECORD)
    except OSError as error:
        raise errors.UserError(
            f"cannot write {path}{RECORD}: {error.strerror}"
        ) from None
