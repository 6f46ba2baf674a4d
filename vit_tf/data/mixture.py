"""Several data sets as one training stream, mixed by whole weights.

`photos*3+scans` takes three rows of photos for every row of scans, in every batch
alike: which set a row comes from follows from its place in the batch alone, so a
mixed stream is a pure function of (seed, step) as those of its sets are.
"""

import dataclasses
import re

import numpy as np

from vit_tf import errors
from vit_tf.data import catalog, data_source

_PART = re.compile(r"^(.+?)(?:\*([1-9]\d*))?$")


# Compared by identity, as sources are.
@dataclasses.dataclass(frozen=True, eq=False)
class Mixture:
    """Sets with the same classes, and how many rows of each make one period.

    Attributes:
        sources: the sets; the first gives names and evaluation splits.
        weights: whole numbers, one for each.
    """

    sources: tuple[data_source.Source, ...]
    weights: tuple[int, ...]

    @property
    def pattern(self) -> list[int]:
        """Returns the set of each row of a period, spread evenly."""
        places = [
            ((i + 0.5) / weight, part)
            for part, weight in enumerate(self.weights)
            for i in range(weight)
        ]
        return [part for _, part in sorted(places)]

    def rows_of(self, part: int, rows: int) -> int:
        """Returns how many of `rows`, a multiple of the period, one set gives."""
        return rows // sum(self.weights) * self.weights[part]

    def check(self, rows: int, what: str) -> None:
        """Refuses a number of rows that holds no whole periods."""
        period = sum(self.weights)
        if rows % period:
            raise errors.UserError(
                f"{what}={rows}: not a multiple of the {period} rows of one period of "
                f"the mixture {self}; near: {errors.near_multiples(rows, period)}"
            )

    def __str__(self) -> str:
        parts = zip(self.sources, self.weights)
        return "+".join(s.name if w == 1 else f"{s.name}*{w}" for s, w in parts)


def of(source: data_source.Source | Mixture) -> Mixture:
    """Wraps a single set as a mixture of itself."""
    return source if isinstance(source, Mixture) else Mixture((source,), (1,))


def weights_of(name: str) -> dict[str, int]:
    """Parses `NAME*WEIGHT+NAME...` to {name: weight}; opens nothing.

    Raises:
        errors.UserError: not of that form, or a set twice.
    """
    matches = [_PART.match(part.strip()) for part in name.split("+")]
    parts = [match for match in matches if match and "*" not in match[1]]
    if len(parts) < len(matches):
        raise errors.UserError(
            f"data.name={name}: need NAME, or NAME*WEIGHT+NAME with whole weights"
        )
    weights = {part[1]: int(part[2] or 1) for part in parts}
    if len(weights) < len(parts):
        raise errors.UserError(
            f"data.name={name}: names a set twice; give it a larger weight"
        )
    return weights


def open_all(name: str, data_dir: str | None = None) -> Mixture:
    """Opens `NAME`, or `NAME*WEIGHT+NAME...`; each as `datasets.open_source`.

    Raises:
        errors.UserError: what `open_source` refuses; a set twice; other classes.
    """
    weights = weights_of(name)
    sources = tuple(catalog.open_source(of, data_dir=data_dir) for of in weights)
    first = sources[0]
    for other in sources[1:]:
        if other.class_names != first.class_names:
            ours, theirs = len(first.class_names), len(other.class_names)
            raise errors.UserError(
                f"data.name={name}: {first.name} and {other.name} have other classes "
                f"({ours} and {theirs}); a mixture needs the same, in the same order"
            )
    return Mixture(sources, tuple(weights.values()))


def seed_of(seed: int, part: int) -> int:
    """Returns the seed of one set's order; equally long sets have different orders."""
    if part == 0:
        return seed
    return int(np.random.SeedSequence([seed, part]).generate_state(1)[0] >> 1)
