"""Asks again what failed for a while: back-off with jitter, within one deadline."""

import dataclasses
import random
import threading
import time
from collections.abc import Callable
from typing import TypeVar

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
    """It did not pass in time, or somebody said to stop."""


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

    def wait_seconds(self, failures: int, draw: float) -> float:
        """The wait after so many failures: between half and all of the longest.

        Clients that failed together come back apart.

        Args:
            draw: a number in [0, 1).
        """
        # 2**60 outlasts any deadline and does not overflow.
        longest = self.first_seconds * 2.0 ** min(failures - 1, 60)
        return min(longest, self.most_seconds) * (0.5 + draw / 2)


def call(
    attempt: Callable[[float], _T],
    patience: Patience,
    *,
    stop: threading.Event | None = None,
    clock: Callable[[], float] = time.monotonic,
    draw: Callable[[], float] = random.random,
) -> _T:
    """Calls `attempt` until it succeeds.

    Args:
        attempt: gets the seconds that are left, raises `Passing` to be called again.
        patience: how long.
        stop: set by somebody else to end the waiting.
        clock: seconds.
        draw: the jitter, in [0, 1).

    Raises:
        GaveUp: with the last reason.
    """
    stop = stop or threading.Event()
    begun, failures = clock(), 0
    while True:
        left = patience.deadline_seconds - (clock() - begun)
        try:
            return attempt(max(left, 0.001))
        except Passing as failure:
            failures += 1
            wait = max(patience.wait_seconds(failures, draw()), failure.after_seconds)
            left = patience.deadline_seconds - (clock() - begun)
            tries = f"{failures} tries" if failures > 1 else "1 try"
            if wait >= left:
                raise GaveUp(
                    f"no answer within {patience.deadline_seconds:g} s and {tries}: "
                    f"{failure}"
                ) from failure
        if stop.wait(wait):
            raise GaveUp("stopped")
