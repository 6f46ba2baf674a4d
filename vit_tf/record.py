"""A run's folder: config.json, metrics.jsonl, TensorBoard, result.json, progress.

config.json       what the run is, written before the first step
metrics.jsonl     a row per logged step and per evaluated number
checkpoints/      see checkpoint.py
tensorboard/      the same rows as curves
weights.npz       the final weights in the released layout
result.json       written last: its presence says that the run is finished
"""

import dataclasses
import json
import os
import pathlib
import platform
import subprocess
import sys
import time
from typing import Any, Self

import keras
import rich.progress
import tensorflow as tf

from vit_tf import config, files

# Fields of a row that depend on the clock; all others repeat exactly.
TIMING_FIELDS = ("images_per_second", "seconds")

# Without a terminal a line is printed at most this often.
_LINE_SECONDS = 10.0


class Run:
    """Opens or creates the folder of one run.

    Raises:
        config.Refused: the folder holds the run of another config.
    """

    def __init__(self, workdir: str, cfg: config.Config):
        self.workdir = workdir
        self.config = cfg
        self._lock = None
        tf.io.gfile.makedirs(workdir)
        self._claim()
        self._lock = _lock(workdir)
        self._writer = None

    def path(self, name: str) -> str:
        return os.path.join(self.workdir, name)

    def result(self) -> dict[str, Any] | None:
        """The result of the run if it is finished."""
        if not tf.io.gfile.exists(self.path("result.json")):
            return None
        return json.loads(files.read(self.path("result.json")))

    def rewind(self, step: int) -> None:
        """Drops the rows after `step`; they will be written again."""
        kept = [row for row in read_rows(self.workdir) if row["step"] <= step]
        text = "".join(json.dumps(row) + "\n" for row in kept)
        files.write_whole(self.path("metrics.jsonl"), text)

    def seconds(self) -> float:
        """Training seconds so far, over all the times this run was resumed."""
        rows = [row for row in read_rows(self.workdir) if "seconds" in row]
        return rows[-1]["seconds"] if rows else 0.0

    def write(self, row: dict[str, Any]) -> None:
        """Appends a row to metrics.jsonl and its numbers to TensorBoard."""
        files.append(self.path("metrics.jsonl"), json.dumps(row) + "\n")
        if self._writer is None:
            self._writer = tf.summary.create_file_writer(self.path("tensorboard"))
        with self._writer.as_default(step=row["step"]):
            if "split" in row:
                tf.summary.scalar(f"{row['split']}/{row['name']}", row["value"])
            else:
                for name, value in row.items():
                    if name != "step":
                        tf.summary.scalar(f"train/{name}", value)
        self._writer.flush()

    def finish(self, result: dict[str, Any]) -> None:
        """Writes result.json, after which the run counts as finished."""
        files.write_whole(self.path("result.json"), json.dumps(result, indent=2) + "\n")

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_) -> None:
        self.close()

    def _claim(self) -> None:
        path = self.path("config.json")
        if not tf.io.gfile.exists(path):
            files.write_whole(path, config.to_json(self.config))
            return
        theirs = config.from_json(files.read(path))
        differing = config.differences(theirs, self.config)
        if differing:
            more = f" and {len(differing) - 3} more" if len(differing) > 3 else ""
            raise config.Refused(
                f"--workdir={self.workdir} holds a run of another config "
                f"({'; '.join(differing[:3])}{more}): choose another folder or "
                "remove that one"
            )


def read_rows(workdir: str) -> list[dict[str, Any]]:
    """The rows of metrics.jsonl; a last line cut off by a kill is left out."""
    path = os.path.join(workdir, "metrics.jsonl")
    if not tf.io.gfile.exists(path):
        return []
    rows = []
    for line in files.read(path).split("\n"):
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return rows


def describe(cfg: config.Config, *, device: str, dataset: str) -> dict[str, Any]:
    """The part of a result that says what ran where."""
    return {
        "config": dataclasses.asdict(cfg),
        "fingerprint": config.fingerprint(cfg),
        "commit": _commit(),
        "dataset": dataset,
        "device": device,
        "versions": {
            "python": platform.python_version(),
            "tensorflow": tf.__version__,
            "keras": keras.__version__,
        },
    }


class Progress:
    """Live progress of a run: step, loss, rate and time left.

    A bar in a terminal, a line every few seconds elsewhere.
    """

    def __init__(self, name: str, *, first: int, total: int):
        self.name, self.first, self.total = name, first, total
        self._began: float | None = None
        self._printed = time.monotonic()
        self._bar = None
        if sys.stderr.isatty():
            self._bar = rich.progress.Progress(
                "{task.description}",
                rich.progress.BarColumn(),
                "{task.completed}/{task.total}",
                "{task.fields[state]}",
                rich.progress.TimeElapsedColumn(),
                rich.progress.TimeRemainingColumn(),
                console=rich.console.Console(stderr=True),
            )
            self._task = self._bar.add_task(
                name, total=total, completed=first, state=""
            )
            self._bar.start()

    def update(self, step: int, *, loss: float, rate: float) -> None:
        """Shows `step` done, with the loss and images per second."""
        state = f"loss {loss:.4f}  {rate:,.0f} images/s"
        if self._bar is not None:
            self._bar.update(self._task, completed=step, state=state)
            return
        now = time.monotonic()
        if self._began is None:  # the first call compiles: no measure of the rest
            self._began, self.first = now, step
            return
        if now - self._printed < _LINE_SECONDS and step < self.total:
            return
        self._printed = now
        left = (now - self._began) / max(1, step - self.first) * (self.total - step)
        self.say(f"step {step}/{self.total}  {state}  {clock(left)} left")

    def say(self, line: str) -> None:
        """Prints a line above the bar."""
        if self._bar is not None:
            self._bar.console.print(f"{self.name}: {line}", highlight=False)
        else:
            print(f"{self.name}: {line}", file=sys.stderr, flush=True)

    def close(self) -> None:
        if self._bar is not None:
            self._bar.stop()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_) -> None:
        self.close()


def clock(seconds: float) -> str:
    """Seconds as '1:02:03' or '2:03'."""
    minutes, seconds = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return (
        f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"
    )


def _commit() -> str:
    """The commit of this checkout, '+' if it was changed, or 'unknown'."""
    here = pathlib.Path(__file__).parent

    def git(*arguments):
        return subprocess.run(
            ["git", "-C", str(here), *arguments],
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()

    try:
        dirty = git("status", "--porcelain", "--untracked-files=no")
        return git("rev-parse", "HEAD") + ("+" if dirty else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def _lock(workdir: str) -> int | None:
    """Keeps a second process out of a local folder; freed when this one ends."""
    if "://" in workdir:
        return None
    try:
        import fcntl
    except ImportError:  # no such locks on this platform
        return None
    handle = os.open(os.path.join(workdir, ".lock"), os.O_CREAT | os.O_RDWR)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(handle)
        raise config.Refused(
            f"--workdir={workdir}: another process is writing to this run"
        ) from None
    return handle
