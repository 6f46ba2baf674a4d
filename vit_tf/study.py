"""Independent runs, each done once, by any number of processes that share a folder.

Nothing is kept beside the runs: what is left to do follows from their folders, and a
run's own lock decides who does it. So a study is started, stopped and continued by
the same command, from one process or from a hundred.
"""

import dataclasses
import enum
import json
import os
import sys
import time
import traceback
import uuid
from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from vit_tf import checkpoint, config, files, record, runtime, train

# How often a process that waits looks again.
WAIT_SECONDS = 10.0


class State(enum.StrEnum):
    """How far a job is."""

    TO_DO = "to do"
    CUT_OFF = "cut off"  # begun, and will go on from its last checkpoint
    FAILED = "failed"  # begun again when the study is
    WAITING = "waiting"  # the run that it starts from is not finished
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
        config: what is trained; its start_from is `needs` where that is given.
        folder: the run's folder.
        needs: the folder of the run whose weights it starts from.
    """

    name: str
    config: config.Config
    folder: str
    needs: str | None = None


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
        if found["commit"] == record.commit():
            return Status(State.DONE)
        return Status(State.OTHER_CODE, f"commit {found['commit'][:12]}")
    if record.in_use(job.folder):
        return Status(State.ELSEWHERE)
    if job.needs is not None and result(job.needs) is None:
        return Status(State.WAITING, f"for {job.needs}, to be finished first")
    if failure := _failure(job.folder):
        last = failure.strip().splitlines()[-1]
        return Status(State.FAILED, f"{last[:300]} (see {_failure_path(job.folder)})")
    if record.read_rows(job.folder) or _saved(job):
        return Status(State.CUT_OFF)
    return Status(State.TO_DO)


def result(folder: str) -> dict[str, Any] | None:
    """What the finished run in a folder gave; None if it is not finished."""
    path = os.path.join(folder, "result.json")
    return json.loads(files.read(path)) if tf.io.gfile.exists(path) else None


def run(job: Job, *, data_dir: str | None = None, **machine) -> dict[str, Any] | None:
    """Does one job, or goes on with it.

    Args:
        job: what to do.
        data_dir: where prepared data sets lie; None: the TFDS default.
        **machine: strategy, num_devices and tpu of `runtime.start`.

    Returns:
        What result.json holds, or None when a signal stopped the run early.

    Raises:
        config.Refused: the job cannot be done now, or failed. What any failure said
            is kept in the folder's failure.txt.
    """
    if machine.get("strategy") == runtime.Strategy.MULTI_WORKER:
        raise config.Refused(
            "--strategy=multi_worker: a job runs in one process; train a run over "
            "several hosts with tools.train"
        )
    status = look(job)
    if status.state.finished:
        return result(job.folder)
    if status.state == State.ELSEWHERE:
        raise record.InUse(f"{job.name}: another process is running it")
    if not status.state.ready:
        raise config.Refused(f"{job.name}: {status}")
    runtime.forget()
    record.commit()  # that of the code which is loaded now
    try:
        cfg = _config(job)
        started = runtime.start(cfg.train, **machine)
        _note_start(job)
        found = train.train(cfg, job.folder, machine=started, data_dir=data_dir)
    except record.InUse:
        raise
    except Exception:
        _note_failure(job)
        raise
    if found is not None and _failure(job.folder):
        tf.io.gfile.remove(_failure_path(job.folder))
    return found


def run_all(
    jobs: Sequence[Job],
    *,
    data_dir: str | None = None,
    index: int | None = None,
    wait: bool = False,
    **machine,
) -> list[dict[str, Any] | None]:
    """Does all jobs that are not done, or the one at `index`.

    Goes on after one that fails. Jobs that other processes run are left to them; a
    signal stops the study, and the same call goes on.

    Args:
        jobs: each after those it needs.
        data_dir: where prepared data sets lie; None: the TFDS default.
        index: the only one to do, by its place in `jobs`.
        wait: whether to stay until jobs that run elsewhere are finished.
        **machine: strategy, num_devices and tpu of `runtime.start`.

    Returns:
        A result for each job, or for the one at `index`; None where it is not
        finished.

    Raises:
        config.Refused: no such index; at the end, if jobs failed or are stale, or
            wait for such ones.
    """
    chosen = list(jobs) if index is None else [_at(jobs, index)]
    _Study(chosen).do(data_dir, wait, machine)
    return [result(job.folder) for job in chosen]


class _Study:
    """One process' way through the jobs."""

    def __init__(self, jobs: Sequence[Job]):
        self.total = len(jobs)
        self.own = {job.folder for job in jobs}
        self.left = dict(enumerate(jobs, 1))
        # Failures of before are tried again, those of others meanwhile are not.
        self.failed_before = {job.name: _failure(job.folder) for job in jobs}
        self.trouble: dict[str, Status] = {}
        self.seconds: list[float] = []

    def do(self, data_dir: str | None, wait: bool, machine: dict[str, Any]) -> None:
        while True:
            waiting = {}
            for number, job in list(self.left.items()):
                status = look(job)
                if self._is_over(number, job, status):
                    continue
                if status.state.ready:
                    if not self._does(number, job, data_dir, machine):
                        return
                    break  # look from the first again: more may be ready now
                waiting[job.name] = status
            else:
                if not (wait and self._hope(waiting)):
                    self._end(waiting)
                    return
                time.sleep(WAIT_SECONDS)

    def _is_over(self, number: int, job: Job, status: Status) -> bool:
        """Whether there is nothing to do for a job any more, and says why."""
        failure = _failure(job.folder)
        failed_meanwhile = failure and failure != self.failed_before[job.name]
        if status.state.finished:
            self._drop(number, str(status))
        elif status.state == State.STALE or (
            status.state == State.FAILED and failed_meanwhile
        ):
            self.trouble[job.name] = status
            self._drop(number, str(status))
        else:
            return False
        return True

    def _drop(self, number: int, what: str) -> None:
        job = self.left.pop(number)
        self._say(number, f"{job.name}: {what}")

    def _does(self, number: int, job: Job, data_dir, machine) -> bool:
        """Runs a job; False if a signal stopped it."""
        self._say(number, f"{job.name}: begins, in {job.folder}")
        began = time.monotonic()
        try:
            found = run(job, data_dir=data_dir, **machine)
        except record.InUse:  # taken between looking and starting
            return True
        except Exception as error:  # noqa: BLE001, the others shall go on
            said = str(error) if isinstance(error, config.Refused) else repr(error)
            said = f"{' '.join(said.split())[:300]} (see {_failure_path(job.folder)})"
            self.trouble[job.name] = Status(State.FAILED, said)
            self._drop(number, str(self.trouble[job.name]))
            return True
        if found is None:
            self._say(number, f"{job.name}: stopped; the same command goes on")
            return False
        self.seconds.append(time.monotonic() - began)
        del self.left[number]
        took, left = record.clock(self.seconds[-1]), len(self.left)
        mean = sum(self.seconds) / len(self.seconds)
        more = f"; {left} left, about {record.clock(mean * left)}" if left else ""
        self._say(number, f"{job.name}: done in {took}{more}")
        return True

    def _hope(self, waiting: dict[str, Status]) -> bool:
        """Whether another process may finish what this one waits for."""
        if any(status.state == State.ELSEWHERE for status in waiting.values()):
            return True
        starts = [job.needs for job in self.left.values() if job.needs]
        return any(
            record.in_use(start) or (start not in self.own and not _failure(start))
            for start in starts
        )

    def _end(self, waiting: dict[str, Status]) -> None:
        elsewhere = [n for n, s in waiting.items() if s.state == State.ELSEWHERE]
        if elsewhere:
            self._say(None, f"left to other processes: {', '.join(elsewhere)}")
        busy = {job.folder for job in self.left.values() if job.name in elsewhere}
        for job in self.left.values():
            if job.name in elsewhere:
                continue
            if job.needs in busy:
                busy.add(job.folder)
                self._say(None, f"{job.name}: {waiting[job.name]}")
            else:
                self.trouble[job.name] = waiting[job.name]
        if self.trouble:
            told = "; ".join(
                f"{name}: {status}" for name, status in self.trouble.items()
            )
            raise config.Refused(
                f"{len(self.trouble)} of {self.total} jobs not finished: {told}"
            )

    def _say(self, number: int | None, line: str) -> None:
        place = "study" if number is None else f"job {number} of {self.total}"
        print(f"{place}: {line}", file=sys.stderr, flush=True)


def _at(jobs: Sequence[Job], index: int) -> Job:
    if not 0 <= index < len(jobs):
        raise config.Refused(
            f"--index={index}: there are {len(jobs)} jobs, 0 to {len(jobs) - 1}; "
            "--list shows them"
        )
    return jobs[index]


def _config(job: Job) -> config.Config:
    """What the job trains, with its start as its run has it, if that was begun.

    Folders move, and hosts mount them at different places: the last name counts.
    """
    if job.needs is None:
        return job.config
    begun = _begun(job.folder)
    theirs = (begun and begun.start_from) or ""
    same = _last_name(theirs) == _last_name(job.needs)
    return dataclasses.replace(job.config, start_from=theirs if same else job.needs)


def _begun(folder: str) -> config.Config | None:
    """The config of the run in a folder; None where none was begun."""
    path = os.path.join(folder, "config.json")
    if not tf.io.gfile.exists(path):
        return None
    return config.from_json(files.read(path))


def _last_name(path: str) -> str:
    return os.path.basename(path.rstrip("/"))


def _staleness(job: Job) -> str:
    """What tells the run in the folder from the job's; empty if nothing does."""
    try:
        theirs = _begun(job.folder)
    except config.Refused as error:
        return f"{job.folder}/config.json cannot be read ({error})"
    if theirs is None:
        return ""
    found = config.differences(theirs, _config(job))
    if found:
        more = f" and {len(found) - 3} more" if len(found) > 3 else ""
        return f"its run has {'; '.join(found[:3])}{more}"
    noted = os.path.join(job.folder, "start.json")
    if job.needs is None or not tf.io.gfile.exists(noted):
        return ""
    began, now = json.loads(files.read(noted)), _start(job.needs)
    if now is None or "config" not in began:
        return ""
    # Configs and not fingerprints: a knob that is new since then has its default.
    differing = config.differences(_apart(began["config"]), _apart(now["config"]))
    if differing:
        return f"it started from {job.needs} when that had {'; '.join(differing[:3])}"
    return ""


def _start(folder: str) -> dict[str, Any] | None:
    """What identifies the run in a folder as a start; None if it is not finished."""
    found = result(folder)
    if found is None:
        return None
    return {"name": _last_name(folder), "config": found["config"]}


def _apart(cfg: dict[str, Any]) -> config.Config:
    """A config without the place where its own start lies."""
    return config.from_json(json.dumps(cfg | {"start_from": None}))


def _note_start(job: Job) -> None:
    """Notes in the folder which run its weights come from, while they may.

    Several processes may do so at once, before one of them has the lock: they write
    the same, each to a file of its own that then takes the place.
    """
    if job.needs is None or _saved(job):
        return
    path = os.path.join(job.folder, "start.json")
    own = f"{path}.{uuid.uuid4().hex}"
    with files.refusing(path):
        tf.io.gfile.makedirs(job.folder)
        with tf.io.gfile.GFile(own, "w") as file:
            file.write(json.dumps(_start(job.needs)) + "\n")
        tf.io.gfile.rename(own, path, overwrite=True)


def _saved(job: Job) -> list[int]:
    return checkpoint.saved_steps(os.path.join(job.folder, "checkpoints"))


def _failure_path(folder: str) -> str:
    return os.path.join(folder, "failure.txt")


def _failure(folder: str) -> str:
    path = _failure_path(folder)
    return files.read(path) if tf.io.gfile.exists(path) else ""


def _note_failure(job: Job) -> None:
    """Keeps the traceback of the error that is being handled."""
    text = f"{time.strftime('%Y-%m-%d %H:%M:%S %z')}\n{traceback.format_exc()}"
    try:  # the folder is not there yet if its config was refused
        with files.refusing(job.folder):
            tf.io.gfile.makedirs(job.folder)
        files.write_whole(_failure_path(job.folder), text)
    except config.Refused as refusal:  # a full disk, say: the study goes on
        print(f"{job.name}: {refusal}", file=sys.stderr, flush=True)
