"""Requests to stop: SIGTERM and Ctrl-C, read by the loop between two steps."""

import contextlib
import dataclasses
import os
import signal
from collections.abc import Iterator


@dataclasses.dataclass
class StopRequest:
    """Becomes true when the process is asked to stop.

    Attributes:
        signal_name: such as 'SIGTERM'; empty until a signal arrives.
    """

    signal_name: str = ""

    def __bool__(self) -> bool:
        return bool(self.signal_name)

    def sentence(self, done: int) -> str:
        """Returns the line for the user once the last step is saved."""
        return (
            f"{self.signal_name or 'asked to stop'}: saved at step {done}; the same "
            "command goes on from there"
        )


_noted = StopRequest()  # the interrupt that `noting_interrupts` noted


@contextlib.contextmanager
def noting_interrupts() -> Iterator[StopRequest]:
    """Notes Ctrl-C, which interrupts as ever, for every `stop_requests` inside.

    Python drops what is raised in a `__del__`, and TensorFlow runs thousands of them
    when a model is freed: a study would go on as if nobody had asked it to stop.
    """
    previous = signal.getsignal(signal.SIGINT)

    def note(number, frame):
        _noted.signal_name = signal.Signals(number).name
        previous(number, frame)

    try:
        if callable(previous):  # else ignored, as in a shell's background
            signal.signal(signal.SIGINT, note)
    except ValueError:  # not the main thread: the caller handles signals
        previous = None
    try:
        yield _noted
    finally:
        _noted.signal_name = ""
        if callable(previous):
            signal.signal(signal.SIGINT, previous)


@contextlib.contextmanager
def stop_requests() -> Iterator[StopRequest]:
    """Turns SIGTERM and Ctrl-C into a request that the loop reads.

    A second signal of the same kind does what it always did.
    """
    request = StopRequest(_noted.signal_name)
    previous = {}

    def ask(number, frame):
        del frame
        request.signal_name = signal.Signals(number).name
        signal.signal(number, previous[number])
        # Not print: the signal may have come in the middle of one.
        os.write(2, f"\n{request.signal_name}: saving, then stopping\n".encode())

    for number in (signal.SIGTERM, signal.SIGINT):
        if signal.getsignal(number) == signal.SIG_IGN:
            continue  # a shell's background job does not want Ctrl-C
        try:
            previous[number] = signal.signal(number, ask)
        except ValueError:  # not the main thread: the caller handles signals
            pass
    try:
        yield request
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
