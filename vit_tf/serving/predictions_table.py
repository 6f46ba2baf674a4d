"""The table of predictions, as CSV or JSON lines, that goes on where it was cut off.

A row for every image, in the columns file, class_1, score_1, ..., error. Rows stand
in the file once they are whole; what a killed process left of one is cut away by the
next, which skips the images that have their row.
"""

import csv
import fcntl
import io
import json
import os
from collections.abc import Iterable
from typing import Self

from vit_tf import config
from vit_tf.serving import predictions

KINDS = (".csv", ".jsonl")
_DIGITS = 7  # of a score: as many as float32 has


class Table:
    """The file, opened for more rows; a context manager.

    Attributes:
        done: the images that have their row already.

    Args:
        path: ends in .csv or .jsonl.
        top: classes of a row.

    Raises:
        config.Refused: another ending; no such folder; a file that holds something
            else, or rows of another number of classes; another process writes it.
    """

    def __init__(self, path: str, top: int):
        check_name(path)
        self.path = path
        self.columns = ["file"]
        for number in range(1, top + 1):
            self.columns += [f"class_{number}", f"score_{number}"]
        self.columns.append("error")
        self._is_csv = path.endswith(".csv")
        try:
            # Unbuffered, so that what a full disk refused is not tried again by close.
            self._file = open(path, "ab+", buffering=0)  # noqa: SIM115
        except OSError as error:
            raise config.Refused(f"--to={path}: {error.strerror}") from None
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self.done = self._resume()
        except BlockingIOError:
            self._file.close()
            raise config.Refused(
                f"--to={path}: another process is writing it; name another file"
            ) from None
        except BaseException:
            self._file.close()
            raise

    def write(self, rows: Iterable[tuple[str, predictions.Answer]]) -> None:
        """Adds a row for each image.

        Raises:
            config.Refused: the disk is full, or the like.
        """
        lines = b"".join(self._line(self._cells(name, said)) for name, said in rows)
        try:
            left = memoryview(lines)
            while left:
                left = left[self._file.write(left) :]
        except OSError as error:
            raise config.Refused(
                f"cannot write {self.path}: {error.strerror}; free some space or mend "
                "the permissions, then run the same command again"
            ) from None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_) -> None:
        self._file.close()

    def _cells(self, name: str, said: predictions.Answer) -> dict[str, str | float]:
        cells: dict[str, str | float] = dict.fromkeys(self.columns, "")
        cells["file"], cells["error"] = name, said.error
        for number, (of, score) in enumerate(zip(said.classes, said.scores), 1):
            cells[f"class_{number}"] = of
            cells[f"score_{number}"] = float(f"{score:.{_DIGITS}g}")
        if len(cells) > len(self.columns):
            raise ValueError(f"{name}: {len(said.classes)} classes in {self.columns}")
        return cells

    def _line(self, cells: dict[str, str | float]) -> bytes:
        if not self._is_csv:
            return (json.dumps(cells) + "\n").encode()
        return _csv_line(cells.values())

    def _resume(self) -> set[str]:
        """Reads the rows that are there, and cuts off what is not one."""
        self._file.seek(0)
        content = self._file.read()
        if not content:
            if self._is_csv:
                self._file.write(_csv_line(self.columns))
            return set()
        read = self._read_csv if self._is_csv else self._read_lines
        done, end = read(content)
        self._file.truncate(end)
        return done

    def _read_csv(self, content: bytes) -> tuple[set[str], int]:
        lines = content.splitlines(keepends=True)
        header = _csv_line(self.columns)
        if lines[0] != header:
            if len(lines) == 1 and header.startswith(content):
                self._file.truncate(0)  # cut off within the header
                self._file.write(header)
                return set(), len(header)
            raise config.Refused(
                f"--to={self.path}: begins with other columns than "
                f"{header.decode().strip()}; name another file, or the same --top"
            )
        decoded = [line.decode("utf-8", "surrogateescape") for line in lines]
        rows = csv.reader(decoded)
        next(rows)
        done, whole = set(), 1
        for row in rows:
            last = rows.line_num == len(lines)
            if len(row) != len(self.columns) or not lines[-1].endswith(b"\n") and last:
                if not last:
                    self._refuse_line(rows.line_num)
                break
            done.add(row[0])
            whole = rows.line_num
        return done, sum(map(len, lines[:whole]))

    def _read_lines(self, content: bytes) -> tuple[set[str], int]:
        end = content.rfind(b"\n") + 1
        done = set()
        for number, line in enumerate(content[:end].splitlines(), 1):
            try:
                row = json.loads(line)
            except ValueError:
                row = None
            if not isinstance(row, dict) or list(row) != self.columns:
                self._refuse_line(number)
            done.add(row["file"])
        return done, end

    def _refuse_line(self, number: int) -> None:
        raise config.Refused(
            f"--to={self.path}: line {number} is no row of {len(self.columns)} columns "
            f"(file, class_1, ...); name another file, or the same --top"
        )


def check_name(path: str) -> None:
    """Refuses a file that cannot become the table, before anything is loaded.

    Raises:
        config.Refused: another ending; no such folder.
    """
    if not path.endswith(KINDS):
        raise config.Refused(f"--to={path}: need a file that ends in .csv or .jsonl")
    if not os.path.isdir(os.path.dirname(path) or "."):
        raise config.Refused(f"--to={path}: no such folder; make it first")


def _csv_line(cells: Iterable[str | float]) -> bytes:
    """A row; names that are not UTF-8 as the bytes that they are."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\r\n").writerow(cells)  # quotes these two
    line = text.getvalue().removesuffix("\r\n") + "\n"
    return line.encode("utf-8", "surrogateescape")
