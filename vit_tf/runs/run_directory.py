"""A run's folder: config.json, metrics.jsonl, TensorBoard, result.json.

config.json       what the run is, written before the first step
data.json         which data it began with
metrics.jsonl     a row per logged step and per evaluated number
checkpoints/      see checkpoint.py
tensorboard/      the same rows as curves
weights.npz       the final weights in the released layout
objective.npz     what a self-supervised objective learned besides, see checkpoint.py
pictures/         masked patches for TensorBoard, the last as masked_patches.png
result.json       written last: its presence says that the run is finished
"""

import contextlib
import dataclasses
import functools
import json
import os
import pathlib
import platform
import subprocess
from collections.abc import Mapping
from typing import Any, Self

import keras
import tenacity
import tensorflow as tf

from vit_tf import config, config_values, errors
from vit_tf.runtime import file_lock, filesystem

# Fields of a row that depend on the clock; all others repeat exactly.
TIMING_FIELDS = ("images_per_second", "seconds")

_SMALLER_IS_BETTER = ("loss", "nll", "ece")

# Files that only the process with the lock writes.
_OWN_FILES = ("config.json", "data.json", "metrics.jsonl", "result.json")

# A lock that is held is asked for again: somebody may only have looked at it.
_LOCK_TRIES, _LOCK_SECONDS = 3, 0.05


class InUse(errors.UserError):
    """Another process is writing to the run."""


class RunDirectory:
    """Opens or creates the folder of one run.

    The folder belongs to a config from `begin` on; input that is refused before
    the first step leaves it free for the corrected config.

    Raises:
        errors.UserError: the folder holds the run of another config, another
            process writes to it, or it cannot be made.

    Args:
        workdir: the folder; any path of tf.io.gfile.
        cfg: what the run is.
        writes: false in the processes that train with the one that writes: they
            read what is there and leave it alone.
    """

    def __init__(self, workdir: str, cfg: config.Config, *, writes: bool = True):
        self.workdir = workdir
        self.config = cfg
        self.writes = writes
        self._writer = self._lock = None
        if not writes:
            return
        with filesystem.refusing(workdir):
            tf.io.gfile.makedirs(workdir)
            self._lock = _lock(workdir)
        try:
            self._check_owner()
        except BaseException:
            self.close()
            raise

    def path(self, name: str) -> str:
        return os.path.join(self.workdir, name)

    def result(self) -> dict[str, Any] | None:
        """Returns the result of the run if it is finished."""
        if not tf.io.gfile.exists(self.path("result.json")):
            return None
        return read_result(self.workdir)

    def begin(self, step: int, *, data: dict[str, Any]) -> None:
        """Claims the folder and drops the rows that will be written again.

        Those are the rows after `step` and the evaluation of `step`, which may
        have been cut off between two numbers.

        Args:
            step: where the run goes on; 0 at its start.
            data: what must not change while a run is resumed.

        Raises:
            errors.UserError: the data are not those that the run began with.
        """
        if not self.writes:
            return
        commit()  # kept from now on, as the checkout may change while it trains
        if step:
            self._check_data(data)
        filesystem.remove_unfinished(self.workdir, _OWN_FILES)
        filesystem.write_whole(
            self.path("config.json"), config_values.to_json(self.config)
        )
        filesystem.write_whole(
            self.path("data.json"), json.dumps(data, indent=2) + "\n"
        )
        kept = [
            row
            for row in read_rows(self.workdir)
            if row["step"] < step or (row["step"] == step and "split" not in row)
        ]
        text = "".join(json.dumps(row) + "\n" for row in kept)
        filesystem.write_whole(self.path("metrics.jsonl"), text)
        self._close_curves()
        with filesystem.refusing(self.path("tensorboard")):
            filesystem.remove(self.path("tensorboard"))
            for row in kept:
                self._draw(row)

    def seconds(self) -> float:
        """Counts the training seconds so far, over all the times this run was resumed."""
        rows = [row for row in read_rows(self.workdir) if "seconds" in row]
        return rows[-1]["seconds"] if rows else 0.0

    def write(self, row: dict[str, Any]) -> None:
        """Appends a row to metrics.jsonl and its numbers to TensorBoard."""
        if not self.writes:
            return
        filesystem.append(self.path("metrics.jsonl"), json.dumps(row) + "\n")
        with filesystem.refusing(self.path("tensorboard")):
            self._draw(row).flush()

    def finish(self, result: dict[str, Any]) -> None:
        """Writes result.json, after which the run counts as finished."""
        if not self.writes:
            return
        filesystem.write_whole(
            self.path("result.json"), json.dumps(result, indent=2) + "\n"
        )

    def close(self) -> None:
        self._close_curves()
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_) -> None:
        self.close()

    def _close_curves(self) -> None:
        if self._writer is not None:
            # What a full disk left unwritten is in metrics.jsonl all the same.
            with contextlib.suppress(tf.errors.OpError):
                self._writer.close()
            self._writer = None

    def _draw(self, row: dict[str, Any]) -> tf.summary.SummaryWriter:
        """Adds a row's numbers to the TensorBoard curves; returns their writer."""
        if self._writer is None:
            self._writer = tf.summary.create_file_writer(self.path("tensorboard"))
        with self._writer.as_default(step=row["step"]):
            if "split" in row:
                tf.summary.scalar(f"{row['split']}/{row['name']}", row["value"])
            else:
                for name in row.keys() - {"step"}:
                    tf.summary.scalar(f"train/{name}", row[name])
        return self._writer

    def _check_data(self, data: dict[str, Any]) -> None:
        began = read_data(self.workdir)
        changed = [
            f"{name} {began.get(name)} against {data[name]}"
            for name in data
            if name in began and began[name] != data[name]
        ]
        if changed:
            raise errors.UserError(
                f"--workdir={self.workdir}: the data changed since this run began "
                f"({'; '.join(changed)[:300]}), so it cannot go on exactly; choose "
                "another folder"
            )

    def _check_owner(self) -> None:
        path = self.path("config.json")
        if not tf.io.gfile.exists(path):
            return
        try:
            theirs = config_values.from_json(filesystem.read(path))
        except errors.UserError as error:
            raise errors.UserError(
                f"{path} cannot be read ({error}); put back the config of this run, or "
                "choose another workdir"
            ) from None
        differing = config_values.differences(
            theirs, self.config, ignore=config_values.NEUTRAL
        )
        if differing:
            more = f" and {len(differing) - 3} more" if len(differing) > 3 else ""
            raise errors.UserError(
                f"--workdir={self.workdir} holds a run of another config "
                f"({'; '.join(differing[:3])}{more}): choose another folder or "
                "remove that one"
            )


def read_result(workdir: str) -> dict[str, Any]:
    """Returns the result of a finished run.

    Raises:
        errors.UserError: result.json cannot be read, or is damaged.
    """
    remedy = "remove it and train again: the run goes on at its last checkpoint"
    return filesystem.read_json(os.path.join(workdir, "result.json"), remedy)


def read_data(workdir: str) -> dict[str, Any]:
    """Returns the facts of the data that a run began with.

    Raises:
        errors.UserError: data.json cannot be read, or is damaged.
    """
    remedy = "put it back from a backup, or train again in another folder"
    return filesystem.read_json(os.path.join(workdir, "data.json"), remedy)


def read_rows(workdir: str) -> list[dict[str, Any]]:
    """Returns the rows of metrics.jsonl; a last line cut off by a kill is left out.

    Raises:
        errors.UserError: any other line is damaged: what stands below it would be lost.
    """
    path = os.path.join(workdir, "metrics.jsonl")
    if not tf.io.gfile.exists(path):
        return []
    rows = []
    lines = filesystem.read(path).split("\n")
    for number, line in enumerate(lines, start=1):
        try:
            row = json.loads(line)
        except json.JSONDecodeError:
            row = None
        if isinstance(row, dict) and isinstance(row.get("step"), int):
            rows.append(row)
        elif number < len(lines):  # a whole line ends with a newline
            raise errors.UserError(
                f"{path}: line {number} is damaged; mend or remove that line (the "
                "run's weights and checkpoints do not depend on it)"
            )
    return rows


def metric(result: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Returns the first number of that name in a run's result."""
    return next(row for row in result["metrics"] if row["name"] == name)


def best_step(workdir: str, metric: str, steps: list[int]) -> int | None:
    """Returns which of the steps has the best number, such as 'test/accuracy', so far.

    The highest, or the lowest of a loss; the earlier one of equals; None where no
    step was evaluated.
    """
    split, _, name = metric.rpartition("/")
    scores: dict[int, float] = {
        row["step"]: -row["value"] if name in _SMALLER_IS_BETTER else row["value"]
        for row in read_rows(workdir)
        if row.get("split") == split and row["name"] == name and row["step"] in steps
    }
    return max(sorted(scores), key=lambda step: scores[step], default=None)


def describe(cfg: config.Config, *, device: str, dataset: str) -> dict[str, Any]:
    """Returns the part of a result that says what ran where."""
    return {
        "config": dataclasses.asdict(cfg),
        "fingerprint": config_values.fingerprint(cfg),
        "dataset": dataset,
        **circumstances(device),
    }


def circumstances(device: str) -> dict[str, Any]:
    """Returns the commit, the device and the versions of a result."""
    return {
        "commit": commit(),
        "device": device,
        "versions": {
            "python": platform.python_version(),
            "tensorflow": tf.__version__,
            "keras": keras.__version__,
        },
    }


@functools.cache
def commit() -> str:
    """Returns the commit of this checkout, '+' if it was changed, or 'unknown'."""
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


def in_use(workdir: str) -> bool:
    """Returns whether a process is writing to the run; never known, so False, on gs://."""
    path = os.path.join(workdir, ".lock")
    if not os.path.exists(path):
        return False
    # Shared, so that those who look do not see each other.
    with open(path, "rb") as handle:
        try:
            return not file_lock.try_lock(handle, shared=True)
        except OSError:
            return True


def _lock(workdir: str) -> int | None:
    """Keeps a second process out of a local folder; freed when this one ends."""
    if "://" in workdir:
        return None
    handle = os.open(os.path.join(workdir, ".lock"), os.O_CREAT | os.O_RDWR)
    tries = tenacity.Retrying(  # `in_use` holds it for a moment
        retry=tenacity.retry_if_result(lambda locked: not locked)
        | tenacity.retry_if_exception_type(OSError),
        wait=tenacity.wait_fixed(_LOCK_SECONDS),
        stop=tenacity.stop_after_attempt(_LOCK_TRIES),
    )
    try:
        tries(file_lock.try_lock, handle)
        return handle
    except tenacity.RetryError:
        os.close(handle)
        raise InUse(
            f"--workdir={workdir}: another process is writing to this run"
        ) from None
