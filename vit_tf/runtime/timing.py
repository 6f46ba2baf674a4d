"""The length of a run in steps, and the time and rate of its steps without pauses."""

import contextlib
import math
import time
from collections.abc import Iterator

from vit_tf import config


def num_steps(train: config.Train, *, batch_size: int, num_examples: int) -> int:
    """Returns the training steps of a run; a part of a step does not count.

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


def format_seconds(seconds: float) -> str:
    """Formats seconds as '1:02:03' or '2:03'."""
    minutes, seconds = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return (
        f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"
    )


class StepTimer:
    """Measures seconds spent training, without evaluations and checkpoints.

    Args:
        batch_size: global; images of a step.
        seconds: that earlier parts of the run have trained.
    """

    def __init__(self, batch_size: int, *, seconds: float):
        self.batch_size = batch_size
        self.seconds = seconds
        self.rate = 0.0
        self._last = time.monotonic()
        self._steps, self._began = 0, seconds
        self._compiled = False

    def tick(self, steps: int) -> None:
        """Counts `steps` steps that ended now."""
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
        """Returns the timing fields of a row; the next rate starts from here."""
        fields = {
            "images_per_second": round(self.rate, 1),
            "seconds": round(self.seconds, 3),
        }
        self._steps, self._began = 0, self.seconds
        return fields

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Leaves the time of the body out."""
        yield
        self._last = time.monotonic()
