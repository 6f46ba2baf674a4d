"""A run as a job, and its state, read from the files in its folder."""

import dataclasses
import enum
import json
import os
import sys
import time
import traceback
from typing import Any

import tensorflow as tf

from vit_tf import config, config_values, errors, identity
from vit_tf.runs import checkpoint, run_directory
from vit_tf.runtime import filesystem


class State(enum.StrEnum):
    """The state of a job."""

    TO_DO = "to do"
    CUT_OFF = "cut off"  # begun, and will resume from its last checkpoint
    FAILED = "failed"  # tried again when the study is started again
    WAITING = "waiting"  # the run that it starts from is not finished, or stale
    ELSEWHERE = "running elsewhere"  # another process holds the run's lock
    STALE = "stale"  # of another config than the job's; never overwritten
    OTHER_CODE = "of other code"  # finished, under another commit
    DONE = "done"

    @property
    def finished(self) -> bool:
        """Returns whether there is a result."""
        return self in (State.DONE, State.OTHER_CODE)

    @property
    def ready(self) -> bool:
        """Returns whether a process may run the job now."""
        return self in (State.TO_DO, State.CUT_OFF, State.FAILED)


@dataclasses.dataclass(frozen=True)
class Job:
    """A run, and the run whose weights it starts from.

    Attributes:
        name: for messages; unique in a study.
        config: of the run; its start_from is replaced by `needs` where that is given.
            One that it has itself may be any run or .npz.
        folder: the run's folder.
        needs: the job whose weights it starts from, or only the folder of that run,
            whose config is then not checked.
    """

    name: str
    config: config.Config
    folder: str
    needs: "Job | str | None" = None

    @property
    def needed(self) -> str | None:
        """Returns the folder of the run that has to be finished first."""
        return self.needs.folder if isinstance(self.needs, Job) else self.needs

    @property
    def start(self) -> str | None:
        """Returns the run's folder or .npz whose weights it starts from."""
        return self.needed or self.config.start_from


@dataclasses.dataclass(frozen=True)
class Status:
    """The state of a job, with its reason for the user."""

    state: State
    why: str = ""

    def __str__(self) -> str:
        return f"{self.state}: {self.why}" if self.why else str(self.state)


def look(job: Job) -> Status:
    """Returns the state of a job, read from the files in its folder."""
    if why := _staleness(job):
        return Status(
            State.STALE, f"{why}; choose another folder or remove {job.folder}"
        )
    if (finished := result(job.folder)) is not None:
        if finished["commit"] == run_directory.commit():
            return Status(State.DONE)
        return Status(State.OTHER_CODE, f"commit {finished['commit'][:12]}")
    if run_directory.in_use(job.folder):
        return Status(State.ELSEWHERE)
    if why := _stale_start(job):
        return Status(State.WAITING, f"for {job.needed}, which is stale: {why}")
    if job.needed is not None and result(job.needed) is None:
        return Status(State.WAITING, f"for {job.needed}, to be finished first")
    if text := failure(job.folder):
        last = text.strip().splitlines()[-1]
        return Status(State.FAILED, f"{last[:300]} (see {failure_path(job.folder)})")
    if run_directory.read_rows(job.folder) or _saved(job):
        return Status(State.CUT_OFF)
    return Status(State.TO_DO)


def result(folder: str) -> dict[str, Any] | None:
    """Reads result.json of the run in a folder; None if it is not finished."""
    path = os.path.join(folder, "result.json")
    return json.loads(filesystem.read(path)) if tf.io.gfile.exists(path) else None


def configured(job: Job) -> config.Config:
    """Returns the job's config, with start_from as in its run's config.json, if begun.

    Folders move, and hosts mount them at different paths: only the last part of the
    path has to agree.
    """
    if job.start is None:
        return job.config
    theirs = begun_from(job.folder)
    same = theirs is not None and _last_name(theirs) == _last_name(job.start)
    return dataclasses.replace(job.config, start_from=theirs if same else job.start)


def begun_from(folder: str) -> str | None:
    """Returns start_from of the run in a folder; None where there is none."""
    try:
        begun = _begun(folder)
    except errors.UserError:  # `look` says so
        return None
    return begun and begun.start_from


def _begun(folder: str) -> config.Config | None:
    """Reads the config of the run in a folder; None where none was begun."""
    path = os.path.join(folder, "config.json")
    if not tf.io.gfile.exists(path):
        return None
    return config_values.from_json(filesystem.read(path))


def _last_name(path: str) -> str:
    return os.path.basename(os.path.normpath(path))


def _staleness(job: Job) -> str:
    """Returns how the run in the folder differs from the job; empty if it does not."""
    try:
        theirs = _begun(job.folder)
    except errors.UserError as error:
        return f"{job.folder}/config.json cannot be read ({error})"
    if theirs is None:
        return ""
    different = config_values.differences(theirs, configured(job))
    if different:
        more = f" and {len(different) - 3} more" if len(different) > 3 else ""
        return f"its run has {'; '.join(different[:3])}{more}"
    if why := _changed_start(job):
        return why
    why = _stale_start(job)
    return f"its start {job.needed} is stale: {why}" if why else ""


def _stale_start(job: Job) -> str:
    """Returns how the run that the job starts from differs from its own job."""
    if not isinstance(job.needs, Job):
        return ""
    status = look(job.needs)
    return status.why if status.state == State.STALE else ""


def _changed_start(job: Job) -> str:
    """Returns how the weights that the job starts from changed since it began."""
    began = noted_start(job.folder)
    if job.start is None or began is None:
        return ""
    try:
        now = _identity(job.start)
    except (tf.errors.OpError, OSError):  # out of reach, which training will say
        return ""
    changes = _changes(began, now) if now is not None else []
    if not changes:
        return ""
    return f"it started from {job.start} when that had {'; '.join(changes[:3])}"


def _changes(began: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """Compares what is noted of both starts; lines such as 'size: 12 against 13'."""
    if "config" in began and "config" in now:
        # Configs and not fingerprints: a field added since then has its default.
        return config_values.differences(_apart(began["config"]), _apart(now["config"]))
    if ("config" in began) != ("config" in now):
        kinds = ["a config" if "config" in start else "none" for start in (began, now)]
        return [" against ".join(kinds)]
    return [
        f"{name}: {str(began[name])[:12]} against {str(now[name])[:12]}"
        for name in ("size", "sha256")
        if name in began and name in now and began[name] != now[name]
    ]


def _identity(start: str) -> dict[str, Any] | None:
    """Returns what identifies the weights of a start; None while there are none.

    Of a run its config, of a file its size and, where it is on this machine, the
    SHA-256 of its content.
    """
    name = _last_name(start)
    if tf.io.gfile.isdir(start):
        finished = result(start)
        if finished is None:
            return None
        return {"name": name, "config": finished["config"]}
    if not tf.io.gfile.exists(start):
        return None
    size = tf.io.gfile.stat(start).length
    if "://" in start:
        return {"name": name, "size": size}
    return {"name": name, "size": size, "sha256": identity.digest_file(start)}


def _apart(cfg: dict[str, Any]) -> config.Config:
    """Returns a config without the path of its own start."""
    return config_values.from_json(json.dumps(cfg | {"start_from": None}))


def noted_start(folder: str) -> dict[str, Any] | None:
    """Reads what `note_start` wrote into a folder; None if nothing."""
    path = os.path.join(folder, "start.json")
    return json.loads(filesystem.read(path)) if tf.io.gfile.exists(path) else None


def note_start(job: Job) -> None:
    """Writes which weights the run starts from, until its first checkpoint.

    Several processes may do so at once, before one of them has the lock: they write
    the same.
    """
    if job.start is None or _saved(job):
        return
    with filesystem.reading(job.start):
        start = _identity(job.start)
    if start is None:  # training will refuse it with a better message
        return
    path = os.path.join(job.folder, "start.json")
    with filesystem.refusing(path):
        tf.io.gfile.makedirs(job.folder)
    filesystem.write_whole(path, json.dumps(start) + "\n")


def _saved(job: Job) -> list[int]:
    """Returns the steps of the run's checkpoints."""
    return checkpoint.saved_steps(os.path.join(job.folder, "checkpoints"))


def failure_path(folder: str) -> str:
    """Returns the path of the file that keeps the traceback of a failure."""
    return os.path.join(folder, "failure.txt")


def failure(folder: str) -> str:
    """Reads the traceback of the run's last failure; empty if it has none."""
    path = failure_path(folder)
    return filesystem.read(path) if tf.io.gfile.exists(path) else ""


def note_failure(job: Job) -> None:
    """Writes the traceback of the error that is being handled into the folder."""
    text = f"{time.strftime('%Y-%m-%d %H:%M:%S %z')}\n{traceback.format_exc()}"
    try:  # the folder is not there yet if its config was refused
        with filesystem.refusing(job.folder):
            tf.io.gfile.makedirs(job.folder)
        filesystem.write_whole(failure_path(job.folder), text)
    except errors.UserError as refusal:  # a full disk, say: the study goes on
        print(f"{job.name}: {refusal}", file=sys.stderr, flush=True)
