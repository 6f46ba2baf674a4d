"""Two real processes on loopback, each with one device, train one run."""

import json
import os
import signal
import socket
import time

import numpy as np
import pytest

from tests.support import closeness, tiny, warm
from vit_tf.runs import checkpoint, run_directory
from vit_tf.training import loop

# What processes could change: clipping that bites, accumulation, decay, the average.
CHANGES = {
    "optim__polyak": 0.9,
    "optim__clip_norm": 0.1,
    "train__accumulation": 2,
    "train__length": 10,
    "train__checkpoint_every_steps": 5,
    "evals__batch_size": 24,
    "evals__every_steps": 5,
    "evals__few_shot__datasets": "digits",
    "evals__few_shot__shots": 5,
    "evals__few_shot__num_seeds": 1,
}


def _start(workdirs, data_dir, *, configs=({}, {}), **changes):
    """Starts a worker for each folder, which are one folder but in one test."""
    ports = []
    for _ in workdirs:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            ports.append(probe.getsockname()[1])
    addresses = [f"127.0.0.1:{port}" for port in ports]
    workers = []
    for index, (workdir, own) in enumerate(zip(workdirs, configs)):
        task = {"type": "worker", "index": index}
        text = json.dumps({"cluster": {"worker": addresses}, "task": task})
        arguments = tiny.command(workdir, data_dir, **CHANGES | changes | own)
        arguments.append("--strategy=multi_worker")
        workers.append(warm.start(*arguments, env={"TF_CONFIG": text}))
    return workers


def _finish(workers, codes=(0, 0)):
    """Waits for the workers; what each wrote to stderr."""
    said = [worker.communicate(timeout=300)[1] for worker in workers]
    assert tuple(w.returncode for w in workers) == codes, said
    return said


@pytest.fixture(scope="module")
def alone(tmp_path_factory, data_dir):
    """The same run on one device of this process."""
    workdir = tmp_path_factory.mktemp("alone")
    machine = tiny.one_device()
    loop.train(tiny.make(**CHANGES), str(workdir), machine=machine, data_dir=data_dir)
    return workdir


def _assert_same_run(workdir, alone):
    closeness.assert_close_state(tiny.newest_state(workdir), tiny.newest_state(alone))
    ours, theirs = tiny.rows(workdir), tiny.rows(alone)
    assert [r["step"] for r in ours] == [r["step"] for r in theirs]
    for row, other in zip(ours, theirs):
        if row.get("name") == "accuracy":
            assert row == other
        elif "split" in row:
            assert row["count"] == other["count"]
            np.testing.assert_allclose(row["value"], other["value"], rtol=1e-5)
    assert tiny.result(workdir)["device"] == "2 workers x 1 CPU"


def test_two_processes_take_the_steps_of_one_device(tmp_path, data_dir, alone):
    norms = [r["gradient_norm"] for r in tiny.rows(alone) if "gradient_norm" in r]
    assert max(norms) > 0.1, "the clip never bit"
    said = _finish(_start([tmp_path, tmp_path], data_dir))
    assert "test accuracy" in said[0] and "test accuracy" not in said[1]
    _assert_same_run(tmp_path, alone)
    assert not list(tmp_path.glob(".hosts_*"))


def _wait_for_step(workdir, step, *, saved=0):
    """Until the row of `step` is there, and a whole checkpoint if one is wanted."""
    until = time.monotonic() + 200
    while time.monotonic() < until:
        found = run_directory.read_rows(str(workdir))
        steps = checkpoint.saved_steps(str(workdir / "checkpoints"))
        if found and found[-1]["step"] >= step and max(steps, default=0) >= saved:
            return
        time.sleep(0.005)
    raise AssertionError(f"step {step} was never reached")


@pytest.mark.slow
@pytest.mark.parametrize("victim", [0, 1])
def test_a_dead_worker_stops_the_other_and_both_resume(
    tmp_path, data_dir, alone, victim
):
    workers = _start([tmp_path, tmp_path], data_dir)
    _wait_for_step(tmp_path, 6, saved=5)
    workers[victim].send_signal(signal.SIGKILL)
    killed = time.monotonic()
    _, said = workers[1 - victim].communicate(timeout=150)
    assert workers[1 - victim].returncode == 75, said
    assert time.monotonic() - killed < 120
    workers[victim].communicate()
    line = said.strip().splitlines()[-1]
    assert line.startswith(f"error: worker {1 - victim} of 2 stops: ")
    assert "died or cannot be reached" in line and "Traceback" not in said
    said = _finish(_start([tmp_path, tmp_path], data_dir))
    assert "resumed at step 5" in said[0]
    _assert_same_run(tmp_path, alone)


@pytest.mark.slow
@pytest.mark.parametrize("asked", [0, 1])
def test_a_signal_to_one_worker_saves_and_stops_all(tmp_path, data_dir, alone, asked):
    changes = {"train__checkpoint_every_steps": 10}
    workers = _start([tmp_path, tmp_path], data_dir, **changes)
    _wait_for_step(tmp_path, 3)
    workers[asked].send_signal(signal.SIGTERM)
    said = _finish(workers, (143, 143))
    assert "saved at step" in said[0] and "Traceback" not in "".join(said)
    assert not (tmp_path / "result.json").exists(), "it ended before the signal"
    assert len(os.listdir(tmp_path / "checkpoints")) == 1
    said = _finish(_start([tmp_path, tmp_path], data_dir, **changes))
    assert "resumed at step" in said[0]
    _assert_same_run(tmp_path, alone)


@pytest.mark.slow
def test_workers_that_do_not_belong_together_are_refused(tmp_path, data_dir):
    one = tmp_path / "one"
    other = ({}, {"optim__lr": 0.5})
    for said in _finish(_start([one, one], data_dir, configs=other), (2, 2)):
        assert "worker 1 has another config than worker 0" in said
        assert "optim.lr: 0.003 against 0.5" in said
    for said in _finish(_start([one, tmp_path / "two"], data_dir), (2, 2)):
        assert "worker 1 does not see the folder" in said
    assert not (one / "config.json").exists()
