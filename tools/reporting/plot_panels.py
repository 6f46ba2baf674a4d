"""What an experiment's plots show: the paper's numbers, and ours where recorded."""

import functools
import json
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence

from tools import command
from tools.reporting import plot_svg, result_tables, results
from vit_tf import config, config_values
from vit_tf.studies import experiment_spec

# A curve is drawn with as many points at most, means of neighbours.
_CURVE_POINTS = 60

# The points of longer lines are not marked.
_MARKED = 24


def panels(
    section: result_tables.Section, plot: experiment_spec.Plot
) -> dict[str, plot_svg.Panel]:
    """Makes 'paper', 'small' -> its panel; who has no point has no panel."""
    made = {"paper": _panel(section, plot, "the paper", plot.y, _papers)}
    for scale in section.places:
        metric = plot.metric_at(scale)
        if metric is None:
            continue
        heading = section.experiment.table.columns.get(metric, metric)
        ours = _curves if plot.across is experiment_spec.X.EPOCHS else _ours
        # Not 'paper': that is who has the other panel.
        name = f"ours-{scale}"
        made[name] = _panel(section, plot, f"ours at {scale}", heading, ours, scale)
    return {who: panel for who, panel in made.items() if any(panel.lines.values())}


_Marks = Callable[..., Iterator[plot_svg.Mark]]


def _panel(section, plot, who: str, y: str, marks: _Marks, *where) -> plot_svg.Panel:
    lines = {
        name: list(marks(section, plot, name, points, *where))
        for name, points in plot.lines.items()
    }
    return plot_svg.Panel(
        title=f"{plot.name}: {who}",
        x=plot.x,
        y=y,
        lines=lines,
        log=plot.log,
        places=plot.places,
        joined=plot.joined,
        marked=max(map(len, lines.values()), default=0) <= _MARKED,
    )


def _papers(
    section: result_tables.Section,
    plot: experiment_spec.Plot,
    line: str,
    points: Sequence[experiment_spec.Point],
) -> Iterator[plot_svg.Mark]:
    """Returns the paper's points whose both numbers are known."""
    metric = plot.metric_at(experiment_spec.Scale.PAPER)
    for point in points:
        x, y = point.x_at(experiment_spec.Scale.PAPER), point.paper
        if y is None:
            names = point.cells_at(experiment_spec.Scale.PAPER)
            numbers = [section.experiment.cells[n].paper.get(metric) for n in names]
            y = statistics.fmean(numbers) if numbers and None not in numbers else None
        if x is not None and y is not None:
            yield _mark(section, plot, line, point, experiment_spec.Scale.PAPER, x, y)


def _ours(
    section: result_tables.Section,
    plot: experiment_spec.Plot,
    line: str,
    points: Sequence[experiment_spec.Point],
    scale: experiment_spec.Scale,
) -> Iterator[plot_svg.Mark]:
    """Returns our points: means over the seeds that all cells of a point have."""
    metric = plot.metric_at(scale)
    factor = result_tables.factor(section, metric)
    for point in points:
        names = point.cells_at(scale)
        of_seed = [
            {p.run.seed: p.entry for p in section.filled(name, scale)} for name in names
        ]
        seeds = sorted(set.intersection(*map(set, of_seed))) if names else []
        values = []
        for seed in seeds:
            measured = [results.value(entries[seed], metric) for entries in of_seed]
            if None not in measured:
                values.append(factor * statistics.fmean(value for value, _ in measured))
        if not values:
            continue
        x = point.x_at(scale)
        if plot.across is experiment_spec.X.COMPUTE:
            x = _exaflops(section, names[0], scale)
            if x is not None and plot.relative_to is not None:
                base = _exaflops(section, plot.relative_to, scale)
                x = None if base is None else x / base
        if x is not None:
            mean = results.mean_and_deviation(values)
            yield _mark(section, plot, line, point, scale, x, *mean)


def _mark(section, plot, line, point, scale, x, y: float, spread=None) -> plot_svg.Mark:
    more = "" if spread is None else f" ± {spread:.2g}"
    where = x if isinstance(x, str) else f"{x:.3g}"
    names = point.cells_at(scale)
    return plot_svg.Mark(
        x=plot.places.index(x) if plot.places else x,
        y=y,
        spread=spread,
        name=f"{point.name or line}: {y:.4g}{more} at {where}",
        link=f"#{result_tables.anchor(section, names[0])}" if names else "",
    )


def _curves(
    section: result_tables.Section,
    plot: experiment_spec.Plot,
    line: str,
    points: Sequence[experiment_spec.Point],
    scale: experiment_spec.Scale,
) -> Iterator[plot_svg.Mark]:
    """Computes the mean over the seeds of one cell's curves, which share their steps."""
    metric = plot.metric_at(scale)
    factor = result_tables.factor(section, metric)
    for point in points:
        for name in point.cells_at(scale):
            places = section.filled(name, scale)
            curves = [place.entry["curves"].get(metric, ()) for place in places]
            for spots in zip(*curves):
                x = spots[0][0] * _epochs_per_step(places[0].entry, point.x_at(scale))
                yield plot_svg.Mark(x, factor * statistics.fmean(y for _, y in spots))


def _epochs_per_step(entry: Mapping, images: float | None) -> float:
    train = entry["config"]["train"]
    if train["unit"] == config.Unit.EPOCHS:
        return train["length"] / entry["steps"]
    if images is None:
        raise ValueError(
            f"{entry['experiment']}, {entry['cell']}: its length is in {train['unit']}; "
            "give the images of an epoch as x of its point"
        )
    return entry["config"]["data"]["batch_size"] / images


def _exaflops(
    section: result_tables.Section, cell: str, scale: experiment_spec.Scale
) -> float | None:
    """Computes what the pre-training of a cell took: its start's, or
    if it has none its own.
    """
    cell = section.experiment.cells[cell].starts_from or cell
    places = section.filled(cell, scale)
    if not places:
        return None
    entry = places[0].entry
    model = json.dumps(entry["config"]["model"])
    image_size = entry["config"]["data"]["image_size"]
    return _exaflops_of(model, image_size, entry["examples_seen"])


@functools.cache
def _exaflops_of(model: str, image_size: int, images: int) -> float:
    command.load_tensorflow()  # builds a model: seconds, and notices
    from vit_tf.costs import flops

    cfg = config_values.from_json(json.dumps({"model": json.loads(model)}))
    return flops.exaflops(
        flops.count(cfg.model, image_size=image_size).macs, images=images
    )


def training_curves(
    section: result_tables.Section, scale: experiment_spec.Scale, *, per_panel: int = 6
) -> list[plot_svg.Panel]:
    """Lists every curve with more than one point; runs on the same data share a panel."""
    curves: dict[tuple[str, str], list[tuple[str, list[plot_svg.Mark]]]] = {}
    for place in section.places[scale]:
        if not place.filled:
            continue
        data = place.entry["config"]["data"]["name"]
        for name, points in place.entry["curves"].items():
            if len(points) > 1:  # evaluated at the end only: it is in the table
                marks = [plot_svg.Mark(x, y) for x, y in _thinned(points)]
                curves.setdefault((data, name), []).append((place.run.name, marks))
    return [
        plot_svg.Panel(
            title=f"{data}, {scale}",
            x="training step",
            y="training loss [nats]" if name == "loss" else name,
            lines=dict(runs[first : first + per_panel]),
            marked=False,
        )
        for (data, name), runs in curves.items()
        for first in range(0, len(runs), per_panel)
    ]


def _thinned(points: Sequence[Sequence[float]]) -> list[tuple[float, float]]:
    size = -(-len(points) // _CURVE_POINTS)
    groups = [points[i : i + size] for i in range(0, len(points), size)]
    return [
        (statistics.fmean(x for x, _ in group), statistics.fmean(y for _, y in group))
        for group in groups
    ]


def caption(section: result_tables.Section, plot: experiment_spec.Plot) -> str:
    """Says what to know of a figure, and which numbers are not there; mostly nothing."""
    shown = panels(section, plot)
    parts = [plot.note] * bool(plot.note)
    if "paper" not in shown:
        parts.append("The paper prints no numbers for this figure.")
    if len(shown) == ("paper" in shown):
        scales = [scale for scale in section.places if plot.metric_at(scale)]
        parts.append(f"Ours: nothing is recorded yet at {' or '.join(scales)}.")
    for who, panel in shown.items():
        scale = who.removeprefix("ours-")
        if who == "paper":
            continue
        marks = [mark for marks in panel.lines.values() for mark in marks]
        drawn, unit = len(marks), "points"
        points = [point for line in plot.lines.values() for point in line]
        if plot.across is experiment_spec.X.EPOCHS:
            drawn, unit = sum(map(bool, panel.lines.values())), "lines"
            points = [line[0] for line in plot.lines.values() if line]
        offered = sum(_offered(section, plot, point, scale) for point in points)
        if drawn < offered:
            parts.append(f"Ours at {scale}: {drawn} of {offered} {unit} are recorded.")
    return " ".join(parts)


def _offered(
    section, plot: experiment_spec.Plot, point: experiment_spec.Point, scale: str
) -> bool:
    """Returns whether a point's runs are to be had at a scale."""
    scale = experiment_spec.Scale(scale)
    cells = [section.experiment.cells[name] for name in point.cells_at(scale)]
    run = bool(cells) and all(cell.num_seeds(scale) for cell in cells)
    given = plot.across in (experiment_spec.X.COMPUTE, experiment_spec.X.EPOCHS)
    return run and (given or point.x_at(scale) is not None)
