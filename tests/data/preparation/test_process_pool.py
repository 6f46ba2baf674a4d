"""Workers: every result, and an end when something ends too early."""

import os
import pathlib
import signal
import subprocess
import sys
import time

import pytest

from vit_tf import config
from vit_tf.data.preparation import process_pool

ROOT = pathlib.Path(__file__).parents[3]


def _nap(seconds: float) -> float:
    for _ in range(round(seconds * 100)):
        process_pool.check_stop()
        time.sleep(0.01)
    return seconds


def _die(item: int) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _pid(item: int) -> tuple[int, int]:
    return item, os.getpid()


def _fail(item: int) -> None:
    raise config.Refused(f"item {item}")


@pytest.mark.parametrize("processes", [1, 2])
def test_every_item_has_its_result(processes):
    results = list(process_pool.each(_pid, range(20), processes))
    assert sorted(item for item, _ in results) == list(range(20))
    here = {pid == os.getpid() for _, pid in results}
    assert here == {processes == 1}


@pytest.mark.parametrize("processes", [1, 2])
def test_a_failure_reaches_the_caller(processes):
    with pytest.raises(config.Refused, match="item 3"):
        list(process_pool.each(_fail, [3], processes))


def test_items_are_taken_a_few_at_a_time():
    taken = []
    results = process_pool.each(_pid, (taken.append(i) or i for i in range(1000)), 2)
    next(results)
    assert len(taken) < 10
    results.close()


def test_a_killed_worker_is_one_line():
    with pytest.raises(config.Refused, match="worker process was ended"):
        list(process_pool.each(_die, range(3), 2))


def test_workers_stop_when_nobody_wants_their_results():
    results = process_pool.each(_nap, [0.01, 300, 300, 300], 2)
    assert next(results) == 0.01
    begun = time.monotonic()
    results.close()
    assert time.monotonic() - begun < 30


_PARENT = """
import os, signal
from tests.data.preparation import test_process_pool
from vit_tf.data.preparation import process_pool
for item in process_pool.each(test_process_pool._nap, [0.01, 300, 300], 2):
    print(item, flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_workers_end_with_a_parent_that_is_killed():
    """Their standard output closes when the last of them has ended."""
    parent = subprocess.run(
        [sys.executable, "-c", _PARENT],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        timeout=100,
        check=False,
    )
    assert parent.returncode == -signal.SIGKILL and parent.stdout == b"0.01\n"
