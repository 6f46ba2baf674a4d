"""What happens every n steps of a run, and at which steps the loop stops for it."""

import dataclasses
from collections.abc import Iterable
from typing import Protocol


@dataclasses.dataclass(frozen=True)
class Every:
    """The steps after which something is due.

    Attributes:
        steps: due after every so many steps; None: not while training.
        total: the last step of the run.
        at_end: whether it is due after the last step as well.
    """

    steps: int | None
    total: int
    at_end: bool = True

    def __contains__(self, step: int) -> bool:
        """Returns whether it is due after `step` steps; never before the first."""
        if step == self.total and self.at_end:
            return True
        return self.steps is not None and step > 0 and step % self.steps == 0

    def after(self, step: int) -> int:
        """Returns the first step after `step` at which the loop has to stop."""
        if self.steps is None:
            return self.total
        return min(self.total, step - step % self.steps + self.steps)


class Hook(Protocol):
    """Something that the loop calls after steps: an evaluation, a drawing.

    A hook changes nothing that training reads, and replaces what an interrupted run
    left of the same step, because a resumed run calls it again.

    Attributes:
        when: the steps after which it is called.
    """

    when: Every

    def __call__(self, step: int) -> list[str]:
        """Acts after `step` steps; returns lines for the user."""
        ...


def next_stop(step: int, schedules: Iterable[Every]) -> int:
    """Returns the first step after `step` at which any of the schedules stops."""
    return min(schedule.after(step) for schedule in schedules)
