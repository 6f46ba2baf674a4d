"""What the recorded results of an experiment say, as rows and lines of text."""

import dataclasses
import datetime
import enum
import os
import pathlib
import urllib.parse
from collections.abc import Mapping, Sequence

from tools.reporting import results
from vit_tf.studies import experiment_files, experiment_spec

NOTHING = "–"

MISSING, STALE = "missing", "stale"

HOW_TO_READ = (
    "Columns marked *paper* hold the paper's own numbers; those marked *ours* were "
    "measured by runs of this code, and link to what each run recorded. A scale changes "
    "data, length and size, so ours compare with the paper's at scale `paper` only. ± is "
    "the sample standard deviation over the runs, which differ by their seed (one run "
    "alone has none), and the small links behind it are those runs, by seed; n counts the "
    "examples that each was evaluated on. A result is stale when its cell now gives "
    "another config; it is then left out."
)


class Kind(enum.StrEnum):
    """Whose an entry of a table is."""

    WORDS = "words"
    PAPER = "paper"
    OURS = "ours"
    GAP = "gap"  # ours, and not there


@dataclasses.dataclass(frozen=True)
class Entry:
    """What stands in a place of a table or a text.

    Attributes:
        text: what is read.
        kind: whose it is.
        sources: of OURS, the recorded results that it was computed from, by seed.
        metric: of OURS, what it is.
        detail: what belongs to it, such as '(n = 400)'.
    """

    text: str
    kind: Kind = Kind.WORDS
    sources: Sequence[pathlib.Path] = ()
    metric: str = ""
    detail: str = ""


@dataclasses.dataclass(frozen=True)
class Column:
    """A column of numbers: the paper's if it has no scale, else ours at a scale."""

    metric: str
    heading: str
    scale: experiment_spec.Scale | None

    @property
    def whose(self) -> str:
        return "paper" if self.scale is None else f"ours at {self.scale}"

    @property
    def head(self) -> str:
        return f"{self.whose}: {self.heading}"


@dataclasses.dataclass(frozen=True)
class Section:
    """An experiment and what is recorded of it.

    Attributes:
        experiment: what its file offers.
        file: that file.
        places: its runs at each scale that is reported.
    """

    experiment: experiment_spec.Experiment
    file: str
    places: Mapping[experiment_spec.Scale, Sequence[results.Place]]

    def filled(self, cell: str, scale: experiment_spec.Scale) -> list[results.Place]:
        """Returns the runs of a cell whose results hold."""
        return [
            place
            for place in self.places[scale]
            if place.run.cell.name == cell and place.filled
        ]


@dataclasses.dataclass(frozen=True)
class Gap:
    """What is missing or stale at a scale, and the command that fills it.

    Attributes:
        whole: whether nothing was run there.
    """

    scale: experiment_spec.Scale
    what: str
    command: str
    whole: bool = False


def sections(folder: str, root: str) -> list[Section]:
    """Collects every experiment in `folder` that has cells,
    with its results below `root`.
    """
    listed = []
    for path in sorted(pathlib.Path(folder).glob("*.py")):
        if "\nCELLS = " not in path.read_text():
            continue  # configs for tools.train, which no table reports
        experiment = experiment_files.load_experiment(str(path))
        places = {
            scale: results.places(experiment, scale, root)
            for scale in experiment.table.scales
            if scale != experiment_spec.Scale.SMOKE  # a few steps say nothing
        }
        listed.append(Section(experiment, path.as_posix(), places))
    return listed


def state(section: Section) -> str:
    """Says how much of an experiment is recorded, in a few words."""
    counts = []
    for scale, places in section.places.items():
        filled = sum(place.filled for place in places)
        stale = sum(bool(place.stale) for place in places)
        more = f", {stale} stale" if stale else ""
        if filled == len(places):
            counts.append(f"recorded at {scale}")
        elif filled or stale:
            counts.append(f"partly at {scale}: {filled} of {len(places)} runs{more}")
    if counts:
        return "; ".join(counts)
    numbers = any(cell.paper for cell in section.experiment.cells.values())
    return "the paper's numbers only" if numbers else "nothing yet"


def columns(section: Section) -> list[Column]:
    """Lists the columns that hold a number, those of a metric side by side."""
    listed = []
    for metric, heading in section.experiment.table.columns.items():
        if any(metric in cell.paper for cell in section.experiment.cells.values()):
            listed.append(Column(metric, heading, None))
        for scale, places in section.places.items():
            entries = [place.entry for place in places if place.filled]
            if any(results.value(entry, metric) is not None for entry in entries):
                listed.append(Column(metric, heading, scale))
    return listed


def heads(section: Section) -> list[str]:
    """Headings of the experiment's table."""
    return ["cell", *(column.head for column in columns(section)), "note"]


def rows(section: Section) -> list[list[Entry]]:
    """Lists a row for each cell, in the order of its experiment."""
    listed = []
    for cell in section.experiment.cells.values():
        numbers = [number(section, cell, column) for column in columns(section)]
        listed.append([Entry(cell.name), *numbers, Entry(_note(section, cell))])
    return listed


def number(section: Section, cell: experiment_spec.Cell, column: Column) -> Entry:
    """Returns a cell's number in a column, or what is there instead."""
    metric = column.metric
    if column.scale is None:
        if metric not in cell.paper:
            return Entry(NOTHING)
        return Entry(_papers(section, cell.paper[metric], metric), Kind.PAPER)
    places = section.places[column.scale]
    of_cell = [place for place in places if place.run.cell.name == cell.name]
    filled = section.filled(cell.name, column.scale)
    if not of_cell:  # not run at this scale
        return Entry(NOTHING)
    if not filled:
        stale = any(place.stale for place in of_cell)
        return Entry(STALE if stale else MISSING, Kind.GAP)
    values = [results.value(place.entry, metric) for place in filled]
    if None in values:
        return Entry(NOTHING)
    counts = sorted({count for _, count in values})
    text = mean_text([value for value, _ in values], factor(section, metric))
    detail = f"(n = {', '.join(map(str, counts))})"
    if len(filled) < len(of_cell):
        detail += f", {len(filled)} of {len(of_cell)} runs"
    return Entry(text, Kind.OURS, [place.path for place in filled], metric, detail)


def _papers(section: Section, value: float, metric: str) -> str:
    """Writes as many digits as any of the paper's numbers in the column has: 99.00."""
    cells = section.experiment.cells.values()
    numbers = [f"{cell.paper[metric]:g}" for cell in cells if metric in cell.paper]
    return f"{value:.{max(len(n.partition('.')[2]) for n in numbers)}f}"


def factor(section: Section, metric: str) -> int:
    """Returns 100 for a metric whose heading says that it is shown in hundredths."""
    return 100 if section.experiment.table.columns[metric].endswith("[%]") else 1


def mean_text(values: Sequence[float], times: int) -> str:
    """Writes '87.31 ± 0.42' over the runs."""
    mean, deviation = results.mean_and_deviation(values)
    digits = 2 if times == 100 else 4
    text = f"{times * mean:.{digits}f}"
    return text if deviation is None else f"{text} ± {times * deviation:.{digits}f}"


def link(to: pathlib.Path | str, folder: pathlib.Path) -> str:
    """Returns where a file lies, seen from a document in `folder`."""
    path = pathlib.Path(os.path.relpath(to, folder)).as_posix()
    return urllib.parse.quote(path, safe="/@+=")


def seeds(entry: Entry) -> list[list[tuple[str, pathlib.Path]]]:
    """Lists (seed, recorded result) for each cell that a number is computed from."""
    entries_of: dict[str, list[tuple[str, pathlib.Path]]] = {}
    for path in entry.sources:  # CELL.small.seed2.json
        cell, _, number = path.stem.rpartition(".seed")
        entries_of.setdefault(cell, []).append((number, path))
    return list(entries_of.values())


def anchor(section: Section, cell: str) -> str:
    """Returns the name of a cell's row in the page."""
    return f"{section.experiment.name}.{cell}"


def _note(section: Section, cell: experiment_spec.Cell) -> str:
    notes = [cell.note] * bool(cell.note)
    for scale in section.places if cell.start_given else ():
        places = section.filled(cell.name, scale)
        labels = sorted({results.start_label(place.entry) for place in places})
        if labels:
            mark = "DIFFERENT STARTS: " if len(labels) > 1 else "from "
            notes.append(f"{mark}{', '.join(label or 'no start' for label in labels)}")
    return "; ".join(notes)


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


def _starts(scale: experiment_spec.Scale, places: Sequence[results.Place]) -> list[str]:
    """Names the given start of a table in a line, or warns that there are several."""
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
    """Shortens a hash to twelve digits; '+' says that the checkout was changed."""
    return commit[:12] + ("+" if commit.endswith("+") else "")


def _all(texts) -> str:
    return ", ".join(sorted(set(texts)))


def gaps(section: Section) -> list[Gap]:
    """Lists what is missing or stale, with the command that fills it."""
    lines = []
    for scale, places in section.places.items():
        if missing := [place for place in places if place.entry is None]:
            everything = len(missing) == len(places)
            what = "all" if everything else ", ".join(p.run.name for p in missing)
            command = _command(section, scale, missing)
            lines.append(Gap(scale, f"missing: {what}", command, everything))
        for place in places:
            if place.stale:
                lines.append(
                    Gap(
                        scale,
                        f"stale: {place.run.name} ({place.stale})",
                        _command(section, scale, [place]),
                    )
                )
    return lines


def _command(
    section: Section, scale: experiment_spec.Scale, places: Sequence[results.Place]
) -> str:
    cells = {place.run.cell.name: place.run.cell for place in places}
    only = f" --only={next(iter(cells))}" if len(cells) == 1 else ""
    given = any(cell.start_given for cell in cells.values())
    return (
        f"python -m tools.run_experiment --experiment={section.file} --scale={scale}"
        f"{only}{' --start_from=FILE.npz' if given else ''} --record"
    )
