"""Two chained cells of seconds: what can a run learn in three steps?"""

from experiments import table
from tests import tiny_config


def _cell(scale: table.Scale):
    return tiny_config.make(train__length=3 if scale == table.Scale.SMOKE else 4)


CELLS = table.cells(
    table.Cell(
        "start",
        _cell,
        seeds={table.Scale.SMOKE: 1, table.Scale.SMALL: 2},
        paper={"test/accuracy": 98.5},
        note="from random weights",
    ),
    table.Cell("goes-on", _cell, starts_from="start", seeds=2),
)
TABLE = table.Table(columns={"test/accuracy": "accuracy [%]", "test/loss": "loss"})


def get_config(argument: str | None = None):
    """The config of a cell, and a scale."""
    return table.select(CELLS, argument, TABLE.scales)
