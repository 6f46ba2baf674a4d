"""Independent runs, each done once, by any number of processes that share a folder.

Nothing is kept beside the runs: what is left to do follows from their folders, and a
run's own lock decides who does it. So a study is started, stopped and continued by
the same command, from one process or from a hundred.
"""

import re
import sys
import time
from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from vit_tf import errors
from vit_tf.runs import run_directory
from vit_tf.runtime import devices, signals, timing
from vit_tf.studies import job_state, training

# So that callers need to know this module only.
Job = job_state.Job
State = job_state.State
Status = job_state.Status
look, result = job_state.look, job_state.result
begun_from, noted_start = job_state.begun_from, job_state.noted_start

# How often a process that waits looks again.
WAIT_SECONDS = 10.0


def run(
    job: Job, *, data_dir: str | None = None, **machine: Any
) -> dict[str, Any] | None:
    """Runs one job, or resumes it.

    Args:
        job: the run.
        data_dir: where prepared data sets lie; None: the TFDS default.
        **machine: strategy, num_devices and tpu of `devices.start`.

    Returns:
        The contents of result.json, or None when a signal stopped the run early.

    Raises:
        errors.UserError: the job cannot run now, or failed. The traceback of any
            failure is kept in the folder's failure.txt.
    """
    if machine.get("strategy") == devices.Strategy.MULTI_WORKER:
        raise errors.UserError(
            "--strategy=multi_worker: a job runs in one process; train a run over "
            "several hosts with tools.train"
        )
    status = look(job)
    if status.state.finished:
        return result(job.folder)
    if status.state == State.ELSEWHERE:
        raise run_directory.InUse(f"{job.name}: another process is running it")
    if not status.state.ready:
        raise errors.UserError(f"{job.name}: {status}")
    devices.forget()
    # Cached now: files may change while it trains, the code in memory does not.
    run_directory.commit()
    try:
        cfg = job_state.configured(job)
        started = devices.start(cfg.train, **machine)
        job_state.note_start(job)
        trained = training.train(cfg, job.folder, machine=started, data_dir=data_dir)
    except run_directory.InUse:
        raise
    except Exception:
        job_state.note_failure(job)
        raise
    if trained is not None and job_state.failure(job.folder):
        tf.io.gfile.remove(job_state.failure_path(job.folder))
    return trained


def run_all(
    jobs: Sequence[Job],
    *,
    data_dir: str | None = None,
    index: int | None = None,
    wait: bool = False,
    followed_by: int = 0,
    **machine: Any,
) -> list[dict[str, Any] | None]:
    """Runs all jobs that are not done, or the one at `index`.

    Goes on after one that fails. Jobs that other processes run are left to them; a
    signal stops the study, and the same call resumes it.

    Args:
        jobs: each after those it needs.
        data_dir: where prepared data sets lie; None: the TFDS default.
        index: the only one to run, by its place in `jobs`.
        wait: whether to stay until jobs that run elsewhere are finished.
        followed_by: runs of about the same length that the caller starts afterwards,
            which the time left counts too.
        **machine: strategy, num_devices and tpu of `devices.start`.

    Returns:
        A result for each job, or for the one at `index`; None where it is not
        finished.

    Raises:
        errors.UserError: no such index; at the end, if jobs failed or are stale, or
            wait for such ones.
    """
    chosen = list(jobs) if index is None else [_at(jobs, index)]
    with signals.noting_interrupts() as interrupted:
        _Study(chosen, interrupted, followed_by).do(data_dir, wait, machine)
    return [result(job.folder) for job in chosen]


class _Study:
    """The jobs as one process works through them."""

    def __init__(
        self,
        jobs: Sequence[Job],
        interrupted: signals.StopRequest,
        followed_by: int = 0,
    ):
        self.interrupted, self.followed_by = interrupted, followed_by
        self.total = len(jobs)
        self.own = {job.folder for job in jobs}
        self.left = dict(enumerate(jobs, 1))
        # Failures of before are tried again, those of others meanwhile are not.
        self.failed_before = {job.name: job_state.failure(job.folder) for job in jobs}
        self.trouble: dict[str, Status] = {}
        self.seconds: list[float] = []
        self.lines_shown: set[str] = set()

    def do(self, data_dir: str | None, wait: bool, machine: dict[str, Any]) -> None:
        while True:
            if self.interrupted:
                raise KeyboardInterrupt
            waiting = {}
            for number, job in list(self.left.items()):
                status = look(job)
                if self._is_over(number, job, status):
                    continue
                if status.state.ready:
                    if not self._run(number, job, data_dir, machine):
                        return
                    break  # look from the first again: more may be ready now
                waiting[job.name] = status
            else:
                if not (wait and self._hope(waiting)):
                    self._end(waiting)
                    return
                self._say_once(waiting)
                time.sleep(WAIT_SECONDS)

    def _is_over(self, number: int, job: Job, status: Status) -> bool:
        """Returns whether a job needs no more work here, and prints why."""
        failure = job_state.failure(job.folder)
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

    def _drop(self, number: int, reason: str) -> None:
        job = self.left.pop(number)
        self._say(number, f"{job.name}: {reason}")

    def _run(
        self, number: int, job: Job, data_dir: str | None, machine: dict[str, Any]
    ) -> bool:
        """Runs a job; returns False if a signal stopped it."""
        self._say(number, f"{job.name}: begins, in {job.folder}")
        began = time.monotonic()
        try:
            outcome = run(job, data_dir=data_dir, **machine)
        except run_directory.InUse:  # taken between looking and starting
            return True
        except Exception as error:  # noqa: BLE001, the others shall go on
            text = str(error) if isinstance(error, errors.UserError) else repr(error)
            line = " ".join(text.split())[:300]
            path = job_state.failure_path(job.folder)
            self.trouble[job.name] = Status(State.FAILED, f"{line} (see {path})")
            self._drop(number, str(self.trouble[job.name]))
            return True
        if outcome is None:
            self._say(number, f"{job.name}: stopped; the same command resumes it")
            return False
        self.seconds.append(time.monotonic() - began)
        del self.left[number]
        took = timing.format_seconds(self.seconds[-1])
        self._say(number, f"{job.name}: done in {took}{self._time_left()}")
        return True

    def _time_left(self) -> str:
        """Returns how many runs are left and about how long they take, or nothing."""
        own, later = len(self.left), self.followed_by
        if not own + later:
            return ""
        mean = sum(self.seconds) / len(self.seconds)
        time_left = timing.format_seconds(mean * (own + later))
        final = f" and {later} final" if later else ""
        return f"; {own}{final} left, about {time_left}"

    def _hope(self, waiting: dict[str, Status]) -> bool:
        """Returns whether another process may finish what this one waits for."""
        if any(status.state == State.ELSEWHERE for status in waiting.values()):
            return True
        return any(self._may_finish(job) for job in self.left.values() if job.needed)

    def _may_finish(self, job: Job) -> bool:
        """Returns whether another process may finish the run that a job starts from."""
        if job.needed is None:
            return False
        if isinstance(job.needs, Job) and look(job.needs).state == State.STALE:
            return False
        if run_directory.in_use(job.needed):
            return True
        return job.needed not in self.own and not job_state.failure(job.needed)

    def _say_once(self, waiting: dict[str, Status]) -> None:
        """Prints what is waited for, once; it may be a run that nobody has started."""
        for job in self.left.values():
            line = f"{job.name}: {waiting[job.name]}"
            if line in self.lines_shown:
                continue
            self.lines_shown.add(line)
            start, more = job.needed, ""
            # Whether a run on remote storage is in use cannot be seen from here.
            elsewhere = start and start not in self.own and "://" not in start
            if start and elsewhere and not run_directory.in_use(start):
                more = (
                    "; no process seems to run it now: start it too, or stop this one"
                )
            self._say(None, f"{line}{more}")

    def _end(self, waiting: dict[str, Status]) -> None:
        elsewhere = [n for n, s in waiting.items() if s.state == State.ELSEWHERE]
        if elsewhere:
            self._say(None, f"left to other processes: {', '.join(elsewhere)}")
        busy: set[str | None] = {
            job.folder for job in self.left.values() if job.name in elsewhere
        }
        for job in self.left.values():
            if job.name in elsewhere:
                continue
            if job.needed in busy:
                busy.add(job.folder)
                self._say(None, f"{job.name}: {waiting[job.name]}")
            else:
                self.trouble[job.name] = waiting[job.name]
        if self.trouble:
            raise errors.UserError(
                f"{len(self.trouble)} of {self.total} jobs not finished: "
                f"{_summary(self.trouble)}"
            )

    def _say(self, number: int | None, line: str) -> None:
        place = "study" if number is None else f"job {number} of {self.total}"
        print(f"{place}: {line}", file=sys.stderr, flush=True)


def _summary(trouble: dict[str, Status]) -> str:
    """Returns the reasons why jobs are not finished, each with the jobs that share it."""
    jobs_of: dict[str, list[str]] = {}
    for name, status in trouble.items():
        reason = re.sub(r" \(see [^()]*\)$", "", str(status))
        jobs_of.setdefault(reason, []).append(name)
    parts = []
    for names in jobs_of.values():
        more = f" and {len(names) - 3} more" if len(names) > 3 else ""
        parts.append(f"{', '.join(names[:3])}{more}: {trouble[names[0]]}")
    return "; ".join(parts)


def _at(jobs: Sequence[Job], index: int) -> Job:
    if not 0 <= index < len(jobs):
        raise errors.UserError(
            f"--index={index}: there are {len(jobs)} jobs, 0 to {len(jobs) - 1}; "
            "--list shows them"
        )
    return jobs[index]
