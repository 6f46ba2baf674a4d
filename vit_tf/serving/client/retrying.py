"""Asks again what failed for a while: back-off with jitter, within one deadline."""

import dataclasses
import random
import threading
import time
from collections.abc import Callable
from typing import TypeVar

import tenacity

_T = TypeVar("_T")


class Passing(Exception):
    """A failure that may pass: the server is away, starting, or has too much to do.

    Args:
        reason: in one line.
        after_seconds: the server asks to wait so long.
    """

    def __init__(self, reason: str, *, after_seconds: float = 0.0):
        super().__init__(reason)
        self.after_seconds = after_seconds


class GaveUp(Exception):
    """It did not pass in time, or somebody asked to stop."""


@dataclasses.dataclass(frozen=True)
class Patience:
    """How long and how often something is tried.

    Attributes:
        deadline_seconds: for all tries together.
        first_seconds: the longest wait after the first failure; doubles with each.
        most_seconds: which the wait does not exceed.
    """

    deadline_seconds: float = 60.0
    first_seconds: float = 0.2
    most_seconds: float = 5.0


def call(
    attempt: Callable[[float], _T],
    patience: Patience,
    *,
    stop: threading.Event | None = None,
) -> _T:
    """Calls `attempt` until it succeeds.

    Args:
        attempt: gets the seconds that are left, raises `Passing` to be called again.
        patience: how long.
        stop: set by somebody else to end the waiting.

    Raises:
        GaveUp: with the last reason.
    """
    stop, limit = stop or threading.Event(), patience.deadline_seconds
    longest = tenacity.wait_exponential(
        multiplier=patience.first_seconds, max=patience.most_seconds
    )

    def wait(state: tenacity.RetryCallState) -> float:
        """Waits half to all of the longest: those that failed together come apart."""
        jittered = longest(state) * (0.5 + random.random() / 2)
        failure = state.outcome and state.outcome.exception()
        asked = failure.after_seconds if isinstance(failure, Passing) else 0.0
        return max(jittered, asked)

    tries = tenacity.Retrying(
        retry=tenacity.retry_if_exception_type(Passing),
        wait=wait,
        stop=tenacity.stop_before_delay(limit),
        sleep=tenacity.sleep_using_event(stop),
    )
    begun = time.monotonic()

    def try_once() -> _T:
        if stop.is_set() and tries.statistics["attempt_number"] > 1:
            raise GaveUp("stopped")
        return attempt(max(limit - (time.monotonic() - begun), 0.001))

    try:
        return tries(try_once)
    except tenacity.RetryError as error:
        failure, count = (
            error.last_attempt.exception(),
            error.last_attempt.attempt_number,
        )
        many = f"{count} tries" if count > 1 else "1 try"
        raise GaveUp(f"no answer within {limit:g} s and {many}: {failure}") from failure
