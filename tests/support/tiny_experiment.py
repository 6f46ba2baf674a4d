"""Two chained cells of seconds: what can a run learn in three steps?"""

from tests.support import tiny_config
from vit_tf.studies import experiment_spec


def _cell(scale: experiment_spec.Scale):
    return tiny_config.make(
        train__length=3 if scale == experiment_spec.Scale.SMOKE else 4
    )


CELLS = experiment_spec.cells(
    experiment_spec.Cell(
        "start",
        _cell,
        seeds={experiment_spec.Scale.SMOKE: 1, experiment_spec.Scale.SMALL: 2},
        paper={"test/accuracy": 98.5},
        note="from random weights",
    ),
    experiment_spec.Cell("goes-on", _cell, starts_from="start", seeds=2),
)
TABLE = experiment_spec.Table(
    columns={"test/accuracy": "accuracy [%]", "test/loss": "loss"}
)


def get_config(argument: str | None = None):
    """The config of a cell, and a scale."""
    return experiment_spec.select(CELLS, argument, TABLE.scales)
