"""How far a long preparation is: a bar on a terminal, a line a minute in a log."""

import contextlib
import datetime
import time
from collections.abc import Callable, Iterator

from rich import console, progress, text

LOG_SECONDS = 60
# Shards take minutes each, so the rate is that of the whole run, nearly.
_RATE_SECONDS = 3600


class _Rate(progress.ProgressColumn):
    def render(self, task: progress.Task) -> text.Text:
        return text.Text(f"{task.speed:,.0f}/s" if task.speed else "", style="dim")


@contextlib.contextmanager
def watch(
    what: str, total: int, *, done: int = 0, shown: console.Console | None = None
) -> Iterator[Callable[[int], None]]:
    """Shows how much is done, the rate and the time left.

    Args:
        what: what is going on: 'Writing images'.
        total: how much there is to do, in whatever unit.
        done: how much of it an earlier run has done.
        shown: where; standard error if None.

    Yields:
        a function to call with how much more is done.
    """
    shown = shown or console.Console(stderr=True)
    if not shown.is_terminal:
        yield _Log(what, total, done, shown)
        return
    columns = (
        progress.TextColumn("{task.description}"),
        progress.BarColumn(),
        progress.MofNCompleteColumn(),
        _Rate(),
        progress.TimeRemainingColumn(),
    )
    with progress.Progress(
        *columns,
        console=shown,
        transient=True,
        speed_estimate_period=_RATE_SECONDS,
    ) as bar:
        task = bar.add_task(what, total=total, completed=done)
        yield lambda more: bar.advance(task, more)


class _Log:
    """Prints a line when the last one is old enough."""

    def __init__(self, what: str, total: int, done: int, shown: console.Console):
        self.what, self.total, self.done, self.shown = what, total, done, shown
        self.before, self.begun = done, time.monotonic()
        self.last = self.begun

    def __call__(self, more: int) -> None:
        self.done += more
        now = time.monotonic()
        if now - self.last < LOG_SECONDS or self.done == self.before:
            return
        self.last = now
        rate = (self.done - self.before) / (now - self.begun)
        left = datetime.timedelta(seconds=round((self.total - self.done) / rate))
        line = (
            f"{self.what}: {self.done:,} of {self.total:,}, {rate:,.0f}/s, {left} left"
        )
        self.shown.print(line, highlight=False, soft_wrap=True)
