"""How an experiment file offers its cells: `--config=experiments/x.py:cell,scale`."""

import enum
from collections.abc import Callable, Iterable, Mapping

from vit_tf import config


class Scale(enum.StrEnum):
    """A scale changes data, length and size, never what is compared."""

    SMOKE = "smoke"  # a few steps, to see that it runs
    SMALL = "small"  # minutes to hours on two cores
    PAPER = "paper"  # the real thing, for whoever has the data and the devices


def select(
    cells: Mapping[str, Callable[[Scale], config.Config]],
    argument: str | None,
    scales: Iterable[Scale] = (Scale.SMOKE, Scale.SMALL),
) -> config.Config:
    """The config of 'cell' or 'cell,scale'; the scale is `small` if not given.

    Raises:
        config.Refused: no such cell or scale.
    """
    name, _, scale = (argument or "").partition(",")
    if name not in cells:
        raise config.Refused(
            f"--config=...:{name}: no such cell{config.nearest(name, cells)}"
        )
    names = [str(s) for s in scales]
    if scale and scale not in names:
        raise config.Refused(
            f"--config=...:{name},{scale}: no such scale{config.nearest(scale, names)}"
        )
    return cells[name](Scale(scale or Scale.SMALL))
