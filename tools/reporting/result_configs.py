"""Configs of an experiment in short: what all cells share, and what each has of its own."""

from collections.abc import Mapping, Sequence

from vit_tf import config, config_values
from vit_tf.studies import experiment_spec


def short(
    cells: Sequence[experiment_spec.Cell], scale: experiment_spec.Scale
) -> tuple[list[str], Mapping[str, str]]:
    """Knobs that are not at their defaults, as 'optim.lr = 0.003'.

    Returns:
        Those that all cells share, and name of cell -> its own, in one line.
    """
    defaults = config_values.fields(config.Config())
    of_cell = {cell.name: config_values.fields(cell.make(scale)) for cell in cells}
    shared = {
        knob: value
        for knob, value in next(iter(of_cell.values()), {}).items()
        if all(of[knob] == value for of in of_cell.values())
    }
    own = {
        name: ", ".join(_changed(defaults, _without(of, shared)))
        for name, of in of_cell.items()
    }
    return _changed(defaults, shared), own


def _changed(defaults: Mapping, knobs: Mapping) -> list[str]:
    return [f"{k} = {v}" for k, v in knobs.items() if v != defaults[k]]


def _without(knobs: Mapping, shared: Mapping) -> Mapping:
    return {k: v for k, v in knobs.items() if k not in shared}
