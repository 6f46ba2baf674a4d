"""Progress of long work: a bar in a terminal, a line every few seconds elsewhere."""

import sys
import time
from typing import Self

from rich import console, progress

from vit_tf.runtime import timing

# Without a terminal a line is printed at most this often: at first, and once the
# work has lasted for `_LONG_SECONDS`, so that the log of a day stays readable.
_LINE_SECONDS, _LATER_LINE_SECONDS, _LONG_SECONDS = 10.0, 60.0, 600.0


class Progress:
    """Shows how much of a long work is done, its rate and the time left.

    Nothing is shown when silent. The rate leaves out what came before the first
    call of `update` or `advance`: compiling, or filling a queue.

    Args:
        name: of the work, such as 'Writing images'; stands before every line.
        total: how much there is to do, in `unit`.
        done: how much of it an earlier run did.
        unit: 'step', 'image'; what is counted.
        silent: show nothing.
        shown: the console to write to; standard error if None.
    """

    def __init__(
        self,
        name: str,
        *,
        total: int,
        done: int = 0,
        unit: str = "image",
        silent: bool = False,
        shown: console.Console | None = None,
    ):
        self.name, self.total, self.done = name, total, done
        self.unit, self.silent = unit, silent
        self._console = shown or console.Console(file=sys.stderr, soft_wrap=True)
        self._first: tuple[float, int] | None = None  # time and amount then done
        self._began = self._printed = time.monotonic()
        self._bar = None
        if self._console.is_terminal and not silent:
            self._bar = progress.Progress(
                "{task.description}",
                progress.BarColumn(),
                "{task.completed}/{task.total}",
                "{task.fields[state]}",
                progress.TimeElapsedColumn(),
                progress.TimeRemainingColumn(),
                console=self._console,
            )
            self._task = self._bar.add_task(name, total=total, completed=done, state="")
            self._bar.start()

    def advance(self, more: int) -> None:
        """Counts `more` units as done; their rate is measured here."""
        self.update(self.done + more)

    def update(
        self, done: int, *, rate: float | None = None, loss: float | None = None
    ) -> None:
        """Shows that `done` units are done.

        Args:
            done: in all, with those of an earlier run.
            rate: images per second; None: units per second since the first call.
            loss: shown as it is.
        """
        now = time.monotonic()
        if self._first is None:
            self._first = now, done
        began, before = self._first
        speed = (done - before) / (now - began) if now > began else 0.0
        self.done = done
        state = "" if loss is None else f"loss {loss:.4f}  "
        if rate is not None:
            state += f"{rate:,.0f} images/s"
        elif speed:
            state += f"{speed:,.0f} {self.unit}s/s"
        if self._bar is not None:
            self._bar.update(self._task, completed=done, state=state)
            return
        later = now - self._began > _LONG_SECONDS
        wait = _LATER_LINE_SECONDS if later else _LINE_SECONDS
        if done == before or (now - self._printed < wait and done < self.total):
            return
        self._printed = now
        left = timing.format_seconds((self.total - done) / speed) if speed else "?"
        self.say(f"{self.unit} {done:,}/{self.total:,}  {state}  {left} left")

    def say(self, *lines: str) -> None:
        """Prints lines above the bar."""
        for line in () if self.silent else lines:
            if self._bar is not None:
                self._bar.console.print(f"{self.name}: {line}", highlight=False)
            else:
                # Not by the console, which wraps and colours: programs read logs.
                print(f"{self.name}: {line}", file=self._console.file, flush=True)

    def close(self) -> None:
        """Ends the display; the bar stays as it is."""
        if self._bar is not None:
            self._bar.stop()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_) -> None:
        self.close()
