"""Addresses of the processes of a run: TF_CONFIG and the meeting at the first."""

import json
import socket
import threading

import pytest

from vit_tf import errors
from vit_tf.runtime import cluster

TWO = {"worker": ["a:1", "b:2"]}


def _config(jobs=TWO, kind="worker", index=0):
    return json.dumps({"cluster": jobs, "task": {"type": kind, "index": index}})


def test_tf_config_is_read_and_written_back():
    found = cluster.parse(_config(index=1))
    assert found == cluster.Cluster(("a:1", "b:2"), 1)
    assert cluster.parse(found.to_text()) == found


def test_a_chief_is_the_first_worker():
    jobs = {"worker": ["b:2"], "chief": ["a:1"]}
    assert cluster.parse(_config(jobs, "chief")).index == 0
    assert cluster.parse(_config(jobs, "worker")).index == 1


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (None, "TF_CONFIG is not set"),
        ("{", "not JSON"),
        ("3", "TF_CONFIG: "),
        ("{}", "'cluster' is missing"),
        (json.dumps({"cluster": TWO}), "'task' is missing"),
        (json.dumps({"cluster": TWO, "task": {"type": "worker"}}), "'index' is miss"),
        (_config(index=2), "task 'worker' 2 is not one"),
        (_config(index="0"), "task 'worker' '0' is not one"),
        (_config({"worker": "a:1"}), "not a list"),
        (_config({"worker": ["a"]}), "'a' is not an address"),
        (_config({"worker": ["a:1", "a:1"]}), "the same address"),
        (_config(TWO | {"ps": ["c:3"]}), "job 'ps'"),
    ],
)
def test_a_malformed_tf_config_is_one_line(text, said):
    with pytest.raises(errors.UserError, match="TF_CONFIG") as caught:
        cluster.parse(text)
    assert said in str(caught.value) and "\n" not in str(caught.value)


def _free() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{probe.getsockname()[1]}"


def _meet(workers, *, patience=20.0):
    """What each (index, num_workers) found, or the line it was refused with."""
    coordinator, found = _free(), {}

    def run(place, index, num_workers):
        try:
            found[place] = cluster.rendezvous(
                coordinator, num_workers=num_workers, index=index, patience=patience
            )
        except errors.UserError as refusal:
            found[place] = str(refusal)

    threads = [
        threading.Thread(target=run, args=(i, *worker))
        for i, worker in enumerate(workers)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return found


def test_workers_meet_at_the_coordinator():
    found = _meet([(2, 3), (0, 3), (1, 3)])
    assert [found[i].index for i in range(3)] == [2, 0, 1]
    (addresses,) = {found[i].addresses for i in range(3)}
    assert len(set(addresses)) == 3
    assert all(a.startswith("127.0.0.1:") for a in addresses)


def test_a_worker_that_does_not_come_is_named():
    assert "workers [1] did not connect" in _meet([(0, 2)], patience=0.5)[0]
    assert "worker 0 does not answer" in _meet([(1, 2)], patience=0.5)[0]


def test_workers_that_disagree_are_refused_on_both_sides():
    found = _meet([(0, 2), (1, 3)])
    assert "--num_workers=3 at worker 1 and 2 at worker 0" in found[0]
    assert found[1] == found[0]
    found = _meet([(0, 3), (1, 3), (1, 3)], patience=5)
    assert "--worker_index=1: two workers have it" in found[0]


def test_wrong_flags_are_one_line():
    with pytest.raises(errors.UserError, match="need HOST:PORT"):
        cluster.rendezvous("here", num_workers=2, index=0)
    with pytest.raises(errors.UserError, match="--worker_index=2: need 0 to 1"):
        cluster.rendezvous("here:1", num_workers=2, index=2)
