"""One function over many items, in several processes that end with their parent."""

import concurrent.futures
import contextlib
import multiprocessing
import os
import pickle
import signal
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import process
from multiprocessing import synchronize
from typing import Any

from vit_tf import errors

# Tasks handed out ahead for each process: enough that none waits for its next.
_AHEAD = 2


class Stopped(Exception):
    """Raised inside a task once nobody wants its result any more."""


def each(
    task: Callable[[Any], Any], items: Iterable, num_processes: int
) -> Iterator[Any]:
    """Yields results of `task(item)` as they come: in no particular order.

    Args:
        task: picklable if there are several processes; a long one should call
            `check_stop` now and then.
        items: what to call it with; taken a few at a time, so it may be long.
        num_processes: 1 works in this process. More are started afresh, because
            a process that runs TensorFlow cannot be forked.

    Raises:
        errors.UserError: a process was ended from outside.
        Exception: whatever a task raises; the other tasks are then stopped.
    """
    if num_processes == 1:
        yield from map(task, items)
        return
    context = multiprocessing.get_context("spawn")
    stop = context.Event()
    pool = concurrent.futures.ProcessPoolExecutor(
        num_processes,
        mp_context=context,
        initializer=_begin,
        initargs=(stop, pickle.dumps(task)),
    )
    try:
        yield from _results(pool, iter(items), _AHEAD * num_processes)
    except process.BrokenProcessPool as error:
        raise errors.UserError(
            "a worker process was ended from outside, perhaps for want of memory; run "
            "the same command again with a smaller --num_processes: it goes on from "
            "what is finished"
        ) from error
    finally:
        stop.set()
        pool.shutdown(cancel_futures=True)


def check_stop() -> None:
    """Ends a task whose result nobody wants any more.

    Raises:
        Stopped: for nobody to see.
    """
    if _stop is not None and _stop.is_set():
        raise Stopped


# Of this process, if it is a worker. The task can be large: it is sent once.
_stop: synchronize.Event | None = None
_task: Callable[[Any], Any] | None = None


def _run(item: Any) -> Any:
    assert _task is not None  # `_begin` has run
    return _task(item)


def _results(
    pool: concurrent.futures.Executor, items: Iterator, most: int
) -> Iterator[Any]:
    waiting = set()
    while True:
        while len(waiting) < most and (item := next(items, None)) is not None:
            waiting.add(pool.submit(_run, item))
        if not waiting:
            return
        done, waiting = concurrent.futures.wait(
            waiting, return_when=concurrent.futures.FIRST_COMPLETED
        )
        for future in done:
            yield future.result()


def _begin(stop: synchronize.Event, task: bytes) -> None:
    """Makes a fresh process a good worker."""
    global _stop, _task
    # Ctrl-C reaches every process of the terminal; the parent says what to do.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    with _quiet_stderr():
        _stop, _task = stop, pickle.loads(task)
        if "tensorflow" in sys.modules:  # not every task needs it
            import tensorflow as tf

            # The processes share the cores, and leave the accelerators alone.
            tf.config.threading.set_intra_op_parallelism_threads(1)
            tf.config.threading.set_inter_op_parallelism_threads(1)
            tf.config.set_visible_devices([], "GPU")


@contextlib.contextmanager
def _quiet_stderr() -> Iterator[None]:
    """Drops TensorFlow's start-up notices, which the parent has seen."""
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


def _end_with_parent() -> None:
    """Ends this process with its parent: one that is killed cannot stop its workers."""
    if parent := multiprocessing.parent_process():
        parent.join()
    os._exit(1)
