"""How long a run trains, has trained without its pauses, and how fast it goes."""

import contextlib
import math
import time
from collections.abc import Iterator

from vit_tf import config


def num_steps(train: config.Train, *, batch_size: int, num_examples: int) -> int:
    """Training steps of a run; a part of a step counts as none.

    Args:
        train: holds the length and its unit.
        batch_size: global batch size.
        num_examples: examples in one epoch of the training split.
    """
    examples = {
        config.Unit.STEPS: train.length * batch_size,
        config.Unit.EPOCHS: train.length * num_examples,
        config.Unit.EXAMPLES: train.length,
    }[train.unit]
    # The tiny term forgives lengths such as 0.7 epochs that floats round down.
    return max(1, math.floor(examples / batch_size + 1e-9))


def clock(seconds: float) -> str:
    """Seconds as '1:02:03' or '2:03'."""
    minutes, seconds = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return (
        f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"
    )


class Pace:
    """Seconds spent training, without evaluations and checkpoints."""

    def __init__(self, batch_size: int, *, seconds: float):
        self.batch_size = batch_size
        self.seconds = seconds
        self.rate = 0.0
        self._last = time.monotonic()
        self._steps, self._began = 0, seconds
        self._compiled = False

    def tick(self, steps: int) -> None:
        """Counts `steps` that ended now."""
        now = time.monotonic()
        self.seconds += now - self._last
        self._last = now
        self._steps += steps
        passed = max(self.seconds - self._began, 1e-9)
        self.rate = self._steps * self.batch_size / passed
        if not self._compiled:  # the rates after this one leave compilation out
            self._compiled = True
            self._steps, self._began = 0, self.seconds

    def row(self) -> dict[str, float]:
        """The timing fields of a row; the rate starts afresh after it."""
        found = {
            "images_per_second": round(self.rate, 1),
            "seconds": round(self.seconds, 3),
        }
        self._steps, self._began = 0, self.seconds
        return found

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        yield
        self._last = time.monotonic()
