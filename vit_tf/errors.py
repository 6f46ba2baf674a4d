"""UserError, the one kind of error that a user can mend, and hints for typos."""

import difflib
from collections.abc import Iterable


class UserError(ValueError):
    """Refuses an input in one line that names it and what to do.

    The library speaks of fields and values, such as `image_size=0: need 1 or more`;
    the command line tools put the dashes of a flag before a field of that name.

    Args:
        message: one line.
        field: the config field or parameter that is refused, where the line does not
            begin with it.
    """

    def __init__(self, message: str, *, field: str | None = None):
        super().__init__(message)
        self.field = field


class TryAgain(UserError):
    """Refuses for now: the same call may succeed later, with nothing changed.

    A scheduler may start it again: another worker died, or a store did not answer.
    """


def nearest(word: str, words: Iterable[str]) -> str:
    """Returns ' (did you mean X?)' for the closest of `words`, or a short list."""
    words = list(words)
    close = difflib.get_close_matches(word, words, n=1, cutoff=0.5)
    if close:
        return f" (did you mean {close[0]}?)"
    return f" (one of: {', '.join(words)})" if 0 < len(words) <= 12 else ""


def near_multiples(number: int, divisor: int) -> str:
    """Returns '192, 256' for 200 and 64: the positive multiples around a number."""
    below = number // divisor * divisor
    return ", ".join(str(size) for size in (below, below + divisor) if size)
