"""A run to be done, and how far it is, by what lies in its folder."""

import dataclasses
import enum
import functools
import hashlib
import json
import os
import sys
import time
import traceback
from typing import Any

import tensorflow as tf

from vit_tf import config
from vit_tf.runs import checkpoint, run_directory
from vit_tf.runtime import filesystem


class State(enum.StrEnum):
    """How far a job is."""

    TO_DO = "to do"
    CUT_OFF = "cut off"  # begun, and will go on from its last checkpoint
    FAILED = "failed"  # begun again when the study is
    WAITING = "waiting"  # the run that it starts from is not finished, or stale
    ELSEWHERE = "running elsewhere"  # another process holds the run's lock
    STALE = "stale"  # of another config than the job's; never overwritten
    OTHER_CODE = "of other code"  # finished, under another commit
    DONE = "done"

    @property
    def finished(self) -> bool:
        return self in (State.DONE, State.OTHER_CODE)

    @property
    def ready(self) -> bool:
        return self in (State.TO_DO, State.CUT_OFF, State.FAILED)


@dataclasses.dataclass(frozen=True)
class Job:
    """A run to be done.

    Attributes:
        name: what it is called in lines for the user; unique in a study.
        config: what is trained; its start_from is `needs` where that is given. One
            that it has itself may be anybody's run or .npz.
        folder: the run's folder.
        needs: the job whose weights it starts from, or only the folder of that run,
            which is then taken as it is, whatever its config.
    """

    name: str
    config: config.Config
    folder: str
    needs: "Job | str | None" = None

    @property
    def needed(self) -> str | None:
        """The folder of the run that has to be finished before."""
        return self.needs.folder if isinstance(self.needs, Job) else self.needs

    @property
    def start(self) -> str | None:
        """Where the weights lie now that it starts from: a run's folder or an .npz."""
        return self.needed or self.config.start_from


@dataclasses.dataclass(frozen=True)
class Status:
    """The state of a job, and what there is to say of it."""

    state: State
    why: str = ""

    def __str__(self) -> str:
        return f"{self.state}: {self.why}" if self.why else str(self.state)


def look(job: Job) -> Status:
    """How far a job is, by what lies in its folder."""
    if why := _staleness(job):
        return Status(
            State.STALE, f"{why}; choose another folder or remove {job.folder}"
        )
    if (found := result(job.folder)) is not None:
        if found["commit"] == run_directory.commit():
            return Status(State.DONE)
        return Status(State.OTHER_CODE, f"commit {found['commit'][:12]}")
    if run_directory.in_use(job.folder):
        return Status(State.ELSEWHERE)
    if why := _stale_start(job):
        return Status(State.WAITING, f"for {job.needed}, which is stale: {why}")
    if job.needed is not None and result(job.needed) is None:
        return Status(State.WAITING, f"for {job.needed}, to be finished first")
    if said := failure(job.folder):
        last = said.strip().splitlines()[-1]
        return Status(State.FAILED, f"{last[:300]} (see {failure_path(job.folder)})")
    if run_directory.read_rows(job.folder) or _saved(job):
        return Status(State.CUT_OFF)
    return Status(State.TO_DO)


def result(folder: str) -> dict[str, Any] | None:
    """What the finished run in a folder gave; None if it is not finished."""
    path = os.path.join(folder, "result.json")
    return json.loads(filesystem.read(path)) if tf.io.gfile.exists(path) else None


def configured(job: Job) -> config.Config:
    """What the job trains, with its start as its run has it, if that was begun.

    Folders move, and hosts mount them at different places: the last name counts.
    """
    if job.start is None:
        return job.config
    theirs = begun_from(job.folder)
    same = theirs is not None and _last_name(theirs) == _last_name(job.start)
    return dataclasses.replace(job.config, start_from=theirs if same else job.start)


def begun_from(folder: str) -> str | None:
    """Where the run in a folder says that its weights came from; None: nowhere."""
    try:
        begun = _begun(folder)
    except config.Refused:  # `look` says so
        return None
    return begun and begun.start_from


def _begun(folder: str) -> config.Config | None:
    """The config of the run in a folder; None where none was begun."""
    path = os.path.join(folder, "config.json")
    if not tf.io.gfile.exists(path):
        return None
    return config.from_json(filesystem.read(path))


def _last_name(path: str) -> str:
    return os.path.basename(os.path.normpath(path))


def _staleness(job: Job) -> str:
    """What tells the run in the folder from the job's; empty if nothing does."""
    try:
        theirs = _begun(job.folder)
    except config.Refused as error:
        return f"{job.folder}/config.json cannot be read ({error})"
    if theirs is None:
        return ""
    found = config.differences(theirs, configured(job))
    if found:
        more = f" and {len(found) - 3} more" if len(found) > 3 else ""
        return f"its run has {'; '.join(found[:3])}{more}"
    if why := _changed_start(job):
        return why
    why = _stale_start(job)
    return f"its start {job.needed} is stale: {why}" if why else ""


def _stale_start(job: Job) -> str:
    """What tells the run that the job starts from from what it should be."""
    if not isinstance(job.needs, Job):
        return ""
    status = look(job.needs)
    return status.why if status.state == State.STALE else ""


def _changed_start(job: Job) -> str:
    """What tells the job's start from what it was when the job began."""
    began = noted_start(job.folder)
    if job.start is None or began is None:
        return ""
    try:
        now = _identity(job.start)
    except (tf.errors.OpError, OSError):  # out of reach, which training will say
        return ""
    found = _changes(began, now) if now is not None else []
    if not found:
        return ""
    return f"it started from {job.start} when that had {'; '.join(found[:3])}"


def _changes(began: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """Lines 'size: 12 against 13' that tell two starts apart, as far as both say."""
    if "config" in began and "config" in now:
        # Configs and not fingerprints: a knob that is new since then has its default.
        return config.differences(_apart(began["config"]), _apart(now["config"]))
    if ("config" in began) != ("config" in now):
        kinds = ["a config" if "config" in start else "none" for start in (began, now)]
        return [" against ".join(kinds)]
    return [
        f"{name}: {str(began[name])[:12]} against {str(now[name])[:12]}"
        for name in ("size", "sha256")
        if name in began and name in now and began[name] != now[name]
    ]


def _identity(start: str) -> dict[str, Any] | None:
    """What tells a start from others; None while there is none.

    Of a run its config, of a file its size and, where it is on this machine, a hash of
    what is in it.
    """
    name = _last_name(start)
    if tf.io.gfile.isdir(start):
        found = result(start)
        return None if found is None else {"name": name, "config": found["config"]}
    if not tf.io.gfile.exists(start):
        return None
    size = tf.io.gfile.stat(start).length
    if "://" in start:
        return {"name": name, "size": size}
    digest = _digest(os.path.abspath(start), size, os.stat(start).st_mtime_ns)
    return {"name": name, "size": size, "sha256": digest}


@functools.cache
def _digest(path: str, size: int, changed: int) -> str:
    """SHA-256 of a file, read again when its size or its time has changed."""
    del size, changed
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _apart(cfg: dict[str, Any]) -> config.Config:
    """A config without the place where its own start lies."""
    return config.from_json(json.dumps(cfg | {"start_from": None}))


def noted_start(folder: str) -> dict[str, Any] | None:
    """What `note_start` noted in a folder; None if nothing."""
    path = os.path.join(folder, "start.json")
    return json.loads(filesystem.read(path)) if tf.io.gfile.exists(path) else None


def note_start(job: Job) -> None:
    """Notes in the folder which weights the run starts from, while it may.

    Several processes may do so at once, before one of them has the lock: they write
    the same.
    """
    if job.start is None or _saved(job):
        return
    with filesystem.reading(job.start):
        found = _identity(job.start)
    if found is None:  # as training will say
        return
    path = os.path.join(job.folder, "start.json")
    with filesystem.refusing(path):
        tf.io.gfile.makedirs(job.folder)
    filesystem.write_whole(path, json.dumps(found) + "\n")


def _saved(job: Job) -> list[int]:
    return checkpoint.saved_steps(os.path.join(job.folder, "checkpoints"))


def failure_path(folder: str) -> str:
    return os.path.join(folder, "failure.txt")


def failure(folder: str) -> str:
    path = failure_path(folder)
    return filesystem.read(path) if tf.io.gfile.exists(path) else ""


def note_failure(job: Job) -> None:
    """Keeps the traceback of the error that is being handled."""
    text = f"{time.strftime('%Y-%m-%d %H:%M:%S %z')}\n{traceback.format_exc()}"
    try:  # the folder is not there yet if its config was refused
        with filesystem.refusing(job.folder):
            tf.io.gfile.makedirs(job.folder)
        filesystem.write_whole(failure_path(job.folder), text)
    except config.Refused as refusal:  # a full disk, say: the study goes on
        print(f"{job.name}: {refusal}", file=sys.stderr, flush=True)
