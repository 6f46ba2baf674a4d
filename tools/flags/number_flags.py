"""Flags for numbers: each has a range, and 'nan' and 'inf' are in none."""

import math
from collections.abc import Callable
from typing import TypeVar

from absl import flags

flags.disclaim_key_flags()

_Number = TypeVar("_Number", int, float)

# Above what any machine of today could hold: more is a slip of the finger, which
# TensorFlow's C++ runtime answers with a crash or by not answering.
MAX_PIXELS = 16_384  # of an image's side
MAX_BATCH = 1_048_576
MAX_DEVICES = 256  # of one host
MAX_COUNT = 2**31 - 1


class _FloatParser(flags.FloatParser):
    """Parses a number in a range, which 'nan' is not."""

    def convert(self, argument: float | str) -> float:
        number = super().convert(argument)
        if not math.isfinite(number):
            raise ValueError("need a finite number")
        return number


def define_integer(
    name: str,
    default: int | None,
    help_text: str,
    *,
    lower: int = 1,
    upper: int = MAX_COUNT,
) -> flags.FlagHolder[int]:
    """Defines a flag for a whole number from `lower` to `upper`."""
    return flags.DEFINE_integer(
        name, default, help_text, lower_bound=lower, upper_bound=upper
    )


def define_float(
    name: str,
    default: float | None,
    help_text: str,
    *,
    lower: float,
    upper: float = 1e9,
) -> flags.FlagHolder[float]:
    """Defines a flag for a finite number from `lower` to `upper`."""
    parser = _FloatParser(lower_bound=lower, upper_bound=upper)
    return flags.DEFINE(
        parser, name, default, help_text, serializer=flags.ArgumentSerializer()
    )


class _NumbersParser(flags.ListParser):
    """Parses numbers with commas between."""

    def __init__(
        self, kind: Callable[[str], _Number], lower: float, upper: float, above: bool
    ):
        super().__init__()
        self.kind, self.lower, self.upper, self.above = kind, lower, upper, above

    def parse(self, argument: str | list) -> list:
        if argument is None or isinstance(argument, list):
            return argument
        parts = super().parse(argument)
        try:
            numbers = [self.kind(part) for part in parts]
        except ValueError:
            numbers = [self.kind(0), math.nan]
        inside = [
            (n > self.lower if self.above else n >= self.lower) and n <= self.upper
            for n in numbers
        ]
        if not numbers or not all(inside):
            raise ValueError(f"need {self._range()}, with commas between")
        return numbers

    def _range(self) -> str:
        """Returns in words which numbers are right."""
        words = "whole numbers" if self.kind is int else "numbers"
        positive = self.above or self.lower == 1
        bound = f"above {0 if self.lower == 1 else self.lower:g}"
        if not positive:
            bound = f"from {self.lower:g}"
        most = "" if self.upper >= 1e9 else f" up to {self.upper:,}"
        return f"{words} {bound}{most}"


def define_integers(
    name: str,
    default: list[int] | None,
    help_text: str,
    *,
    lower: int = 1,
    upper: int = MAX_COUNT,
) -> flags.FlagHolder[list[int]]:
    """Defines a flag for one or more whole numbers with commas between."""
    parser = _NumbersParser(int, lower, upper, above=False)
    return flags.DEFINE(
        parser, name, default, help_text, serializer=flags.ListSerializer(",")
    )


def define_floats(
    name: str,
    default: list[float] | None,
    help_text: str,
    *,
    above: float = 0.0,
    upper: float = 1e9,
) -> flags.FlagHolder[list[float]]:
    """Defines a flag for one or more numbers above a bound, with commas between."""
    parser = _NumbersParser(float, above, upper, above=True)
    return flags.DEFINE(
        parser, name, default, help_text, serializer=flags.ListSerializer(",")
    )
