"""What recorded runs took, and what those at scale paper would take, as tables."""

import datetime

from tools import command
from tools.reporting import result_tables
from vit_tf import errors
from vit_tf.studies import experiment_spec

_CLASSES = 1000

_Entry = result_tables.Entry
_Table = tuple[list[str], list[list[_Entry]]]


def recorded(section: result_tables.Section) -> _Table:
    """Lists each run with what it recorded and took."""
    rows = []
    for scale, places in section.places.items():
        for place in places:
            if not place.filled:
                continue
            entry = place.entry
            seconds = datetime.timedelta(seconds=round(entry["train_seconds"]))
            run = f"{place.run.name}, {scale}"
            texts = [
                f"{entry['parameters']:,}",
                f"{entry['steps']:,}",
                f"{entry['examples_seen']:,}",
                str(seconds),
                entry["device"],
            ]
            rows.append([_Entry(run, sources=[place.path]), *map(_Entry, texts)])
    heads = ["run", "parameters", "steps", "examples seen", "training time", "device"]
    return heads, rows


def planned(section: result_tables.Section) -> _Table:
    """Lists each cell at scale paper, computed from its config: of one of its runs."""
    command.load_tensorflow()  # outlines of the models: seconds
    from vit_tf.costs import budget

    rows = []
    for cell in section.experiment.cells.values():
        number = cell.num_seeds(experiment_spec.Scale.PAPER)
        if not number:
            continue
        texts = [str(number)]
        try:
            # Heads are not counted; with the same one, cells share an outline.
            estimated = budget.estimate(
                cell.make(experiment_spec.Scale.PAPER), num_classes=_CLASSES
            )
        except errors.UserError as refusal:
            texts += [result_tables.NOTHING] * 3 + [str(refusal)]
        else:
            days = estimated.core_days(budget.UTILISATION)
            texts += [
                f"{estimated.steps:,}",
                f"{estimated.images:,}",
                _short(estimated.exaflops),
                _short(days),
            ]
        rows.append(list(map(_Entry, [cell.name, *texts])))
    heads = ["cell", "runs", "steps", "examples seen", "exaFLOPs"]
    share = f"TPUv3-core-days at {budget.UTILISATION:.2f} of the peak"
    return [*heads, share], rows


def _short(value: float) -> str:
    """Writes three digits, without an exponent."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
