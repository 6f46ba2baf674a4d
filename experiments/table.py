"""How an experiment file offers its cells: `--config=experiments/x.py:cell,scale`."""

import enum
from collections.abc import Callable, Mapping

from vit_tf import config


class Scale(enum.StrEnum):
    """A scale changes data, length and size, never what is compared."""

    SMOKE = "smoke"  # a few steps, to see that it runs
    SMALL = "small"  # minutes to hours on two cores


def select(
    cells: Mapping[str, Callable[[Scale], config.Config]], argument: str | None
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
    scales = [str(s) for s in Scale]
    if scale and scale not in scales:
        raise config.Refused(
            f"--config=...:{name},{scale}: no such scale{config.nearest(scale, scales)}"
        )
    return cells[name](Scale(scale or Scale.SMALL))
