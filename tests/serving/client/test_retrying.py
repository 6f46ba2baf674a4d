"""Back-off: waits grow, jitter, end at the deadline, and are cut short when told."""

import random
import threading
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vit_tf.serving.client import retrying

_USUAL = retrying.Patience()


class _Clock:
    """Time that passes only where somebody waits; it is the event that ends waits too."""

    def __init__(self):
        self.now, self.waits = 0.0, []

    def __call__(self):
        return self.now

    def is_set(self):
        return False

    def wait(self, timeout):
        self.waits.append(timeout)
        self.now += timeout
        return False


def _call(failures, patience=_USUAL, draw=0.0, after=0.0, costs=0.0):
    """Fails so often, then succeeds: the waits, and the seconds left in each try."""
    clock, left = _Clock(), []

    def attempt(seconds):
        left.append(seconds)
        clock.now += costs
        if len(left) <= failures:
            raise retrying.Passing(f"failure {len(left)}", after_seconds=after)
        return "done"

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(time, "monotonic", clock)
        patch.setattr(random, "random", lambda: draw)
        assert retrying.call(attempt, patience, stop=clock) == "done"
    return clock.waits, left


def test_waits_double_up_to_a_most_and_are_jittered():
    patience = retrying.Patience(60, first_seconds=1, most_seconds=5)
    assert _call(5, patience)[0] == [0.5, 1, 2, 2.5, 2.5]
    assert _call(5, patience, draw=0.5)[0] == [0.75, 1.5, 3, 3.75, 3.75]


@given(failures=st.integers(1, 200), draw=st.floats(0, 1, exclude_max=True))
def test_a_wait_is_between_half_and_all_of_the_longest(failures, draw):
    patience = retrying.Patience(1e9, first_seconds=0.2, most_seconds=5)
    waits, _ = _call(failures, patience, draw=draw)
    assert len(waits) == failures
    for number, wait in enumerate(waits):
        longest = min(5, 0.2 * 2.0**number)
        assert longest / 2 - 1e-9 <= wait <= longest


def test_each_try_gets_what_is_left():
    patience = retrying.Patience(10, first_seconds=2, most_seconds=5)
    _, left = _call(2, patience, costs=1)
    assert left == [10, 8, 5]  # less 1 to try and 1 to wait; then 1 and 2


def test_the_server_may_ask_for_a_longer_wait():
    assert _call(2, after=7)[0] == [7, 7]


def test_no_wait_goes_beyond_the_deadline():
    patience = retrying.Patience(6, first_seconds=2, most_seconds=5)
    with pytest.raises(retrying.GaveUp, match="within 6 s and 3 tries: failure 3"):
        _call(9, patience, costs=1)  # 1, wait 1, 1, wait 2, 1: nothing is left
    with pytest.raises(retrying.GaveUp, match="1 try"):
        _call(9, patience, after=6)


def test_waiting_stops_when_told():
    stop, tries = threading.Event(), []

    def attempt(_):
        tries.append(1)
        threading.Timer(0.05, stop.set).start()
        raise retrying.Passing("busy")

    patience = retrying.Patience(600, first_seconds=500, most_seconds=500)
    with pytest.raises(retrying.GaveUp, match="stopped"):
        retrying.call(attempt, patience, stop=stop)
    assert tries == [1]


def test_other_errors_are_not_tried_again():
    tries = []

    def attempt(_):
        tries.append(1)
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        retrying.call(attempt, retrying.Patience())
    assert tries == [1]
