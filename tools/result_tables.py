"""What the recorded results of an experiment say, as rows and lines of text."""

import dataclasses
import datetime
import pathlib
from collections.abc import Mapping, Sequence

from experiments import table
from tools import command, results

NOTHING = "–"

HOW_TO_READ = (
    "Columns marked *paper* hold the paper's own numbers, all others are ours, measured "
    "by runs of this code. A scale changes data, length and size, so ours compare with "
    "the paper's at scale `paper` only. ± is the sample standard deviation over the "
    "runs, which differ by their seed (one run alone has none); n counts the examples "
    "that each was evaluated on. A result is stale when its cell now gives another "
    "config; it is then left out."
)


@dataclasses.dataclass(frozen=True)
class Section:
    """An experiment and what is recorded of it.

    Attributes:
        experiment: what its file offers.
        file: that file.
        places: its runs at each scale that is reported.
    """

    experiment: table.Experiment
    file: str
    places: Mapping[table.Scale, Sequence[results.Place]]

    def filled(self, cell: str, scale: table.Scale) -> list[results.Place]:
        """The runs of a cell whose results hold."""
        return [
            place
            for place in self.places[scale]
            if place.run.cell.name == cell and place.filled
        ]


@dataclasses.dataclass(frozen=True)
class Gap:
    """What is missing or stale at a scale, and the command that fills it."""

    scale: table.Scale
    what: str
    command: str


def sections(folder: str, root: str) -> list[Section]:
    """Every experiment in `folder` that has cells, with its results below `root`."""
    found = []
    for path in sorted(pathlib.Path(folder).glob("*.py")):
        if "\nCELLS = " not in path.read_text():
            continue  # configs for tools.train, which no table reports
        experiment = command.load_experiment(str(path))
        places = {
            scale: results.places(experiment, scale, root)
            for scale in experiment.table.scales
            if scale != table.Scale.SMOKE  # a few steps say nothing
        }
        found.append(Section(experiment, path.as_posix(), places))
    return found


def summary(found: Sequence[Section]) -> tuple[list[str], list[list[str]]]:
    """Headings and rows: how many runs of each experiment are recorded."""
    scales = (table.Scale.SMALL, table.Scale.PAPER)
    rows = []
    for section in found:
        counts = [
            _counted(section.places[scale]) if scale in section.places else NOTHING
            for scale in scales
        ]
        rows.append([section.experiment.name, section.experiment.question, *counts])
    return ["experiment", "question", *(f"runs at {scale}" for scale in scales)], rows


def _counted(places: Sequence[results.Place]) -> str:
    stale = sum(bool(place.stale) for place in places)
    more = f", {stale} stale" if stale else ""
    return f"{sum(place.filled for place in places)} of {len(places)}{more}"


def heads(section: Section) -> list[str]:
    """Headings of the experiment's table."""
    found = ["cell", "scale", "runs"]
    for metric, heading in section.experiment.table.columns.items():
        found += [f"paper: {heading}"] * _has_paper(section, metric)
        found.append(f"ours: {heading}")
    return [*found, "note"]


def rows(section: Section) -> list[list[str]]:
    """A row for each cell and scale with results, one for a cell without any."""
    found = []
    for cell in section.experiment.cells.values():
        scales = [s for s in section.places if section.filled(cell.name, s)]
        for scale in scales or [None]:
            found.append(_row(section, cell, scale))
    return found


def _row(section: Section, cell: table.Cell, scale: table.Scale | None) -> list[str]:
    places = section.filled(cell.name, scale) if scale else []
    runs = f"{len(places)} of {cell.num_seeds(scale)}" if scale else NOTHING
    row = [cell.name, str(scale or NOTHING), runs]
    for metric, heading in section.experiment.table.columns.items():
        if _has_paper(section, metric):
            row.append(f"{cell.paper[metric]:g}" if metric in cell.paper else NOTHING)
        row.append(_ours(places, metric, percent=heading.endswith("[%]")))
    notes = [cell.note] * bool(cell.note)
    if cell.start_given and places:
        labels = sorted({results.start_label(place.entry) for place in places})
        mark = "DIFFERENT STARTS: " if len(labels) > 1 else "from "
        notes.append(f"{mark}{', '.join(label or 'no start' for label in labels)}")
    return [*row, "; ".join(notes)]


def _has_paper(section: Section, metric: str) -> bool:
    return any(metric in cell.paper for cell in section.experiment.cells.values())


def _ours(places: Sequence[results.Place], metric: str, *, percent: bool) -> str:
    """'87.31 ± 0.42 (n = 400)': over the runs; n is of each."""
    if not places:
        return "missing"
    found = [results.value(place.entry, metric) for place in places]
    if None in found:
        return NOTHING
    mean, deviation = results.mean_and_deviation([value for value, _ in found])
    digits, factor = (2, 100) if percent else (4, 1)
    text = f"{factor * mean:.{digits}f}"
    if deviation is not None:
        text += f" ± {factor * deviation:.{digits}f}"
    counts = sorted({count for _, count in found})
    return f"{text} (n = {', '.join(map(str, counts))})"


def facts(section: Section) -> list[str]:
    """Lines that say what ran where, by scale."""
    lines = []
    for scale, places in section.places.items():
        entries = [place.entry for place in places if place.filled]
        if not entries:
            continue
        seconds = round(sum(entry["train_seconds"] for entry in entries))
        versions = {f"{k} {v}" for e in entries for k, v in e["versions"].items()}
        lines.append(
            f"{scale}: {len(entries)} runs on {_all(e['device'] for e in entries)}, "
            f"{datetime.timedelta(seconds=seconds)} of training in all; data "
            f"{_all(e['dataset'] for e in entries)}; {_all(versions)}; commit "
            f"{_all(_short(e['commit']) for e in entries)}"
        )
        lines += _starts(scale, places)
    return lines


def _starts(scale: table.Scale, places: Sequence[results.Place]) -> list[str]:
    """A line that names the given start of a table, or warns that there are several."""
    cells: dict[str, set[str]] = {}
    for place in places:
        if place.filled and place.run.cell.start_given:
            label = results.start_label(place.entry) or "no start"
            cells.setdefault(label, set()).add(place.run.cell.name)
    if len(cells) < 2:
        return [f"{scale}: started from {label}" for label in cells]
    named = "; ".join(f"{label}: {_all(of)}" for label, of in sorted(cells.items()))
    return [f"{scale}: DIFFERENT STARTS, so the rows do not compare: {named}"]


def _short(commit: str) -> str:
    """Twelve digits; '+' says that the checkout was changed."""
    return commit[:12] + ("+" if commit.endswith("+") else "")


def _all(texts) -> str:
    return ", ".join(sorted(set(texts)))


def gaps(section: Section) -> list[Gap]:
    """What is missing or stale, with the command that fills it."""
    found = []
    for scale, places in section.places.items():
        if missing := [place for place in places if place.entry is None]:
            everything = len(missing) == len(places)
            what = "all" if everything else ", ".join(p.run.name for p in missing)
            found.append(
                Gap(scale, f"missing: {what}", _command(section, scale, missing))
            )
        for place in places:
            if place.stale:
                found.append(
                    Gap(
                        scale,
                        f"stale: {place.run.name} ({place.stale})",
                        _command(section, scale, [place]),
                    )
                )
    return found


def _command(
    section: Section, scale: table.Scale, places: Sequence[results.Place]
) -> str:
    cells = {place.run.cell.name: place.run.cell for place in places}
    only = f" --only={next(iter(cells))}" if len(cells) == 1 else ""
    given = any(cell.start_given for cell in cells.values())
    return (
        f"python -m tools.run_experiment --experiment={section.file} --scale={scale}"
        f"{only}{' --start_from=FILE.npz' if given else ''} --record"
    )
