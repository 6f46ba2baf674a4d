"""What an experiment file declares: its cells, and the layout of their results.

A file has CELLS, made by `cells`, a TABLE, and `get_config` for tools.train; the first
line of its docstring is the question. It may have PLOTS, a sequence of `Plot`, and
FINDINGS, a paragraph (see `Experiment`). `tools.run_experiment` runs its cells, and
`tools.report` renders what they gave.
"""

import dataclasses
import enum
import functools
import inspect
import re
import types
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from vit_tf import config, errors


class Scale(enum.StrEnum):
    """How large a cell's run is: data, length and size change, the comparison does not."""

    SMOKE = "smoke"  # a few steps, to see that it runs
    SMALL = "small"  # minutes to hours on two cores
    PAPER = "paper"  # the real thing, for whoever has the data and the devices


WITHOUT_SMALL = (Scale.SMOKE, Scale.PAPER)
REPEATED = {Scale.SMOKE: 1, Scale.SMALL: 3, Scale.PAPER: 3}  # as the paper's Table 2


@dataclasses.dataclass(frozen=True)
class Cell:
    """One place of an experiment's table: a config for each scale.

    Attributes:
        name: as in --config=FILE.py:NAME; also a part of file names.
        make: the config at a scale.
        starts_from: the cell of the same experiment whose run it starts from.
        start_given: whether it starts from weights that --start_from names.
        seeds: how many repetitions there are, or how many at each scale.
        same_as: 'EXPERIMENT:CELL', another experiment's cell that it is at scale
            `paper`, with the same config: there they share their runs, which nobody
            wants to pay for twice. If it starts from a cell, that one is shared too.
        paper: the paper's numbers, such as {'test/accuracy': 98.13}, in the
            column's unit.
        note: a remark for the reader of the table.
    """

    name: str
    make: Callable[[Scale], config.Config]
    starts_from: str | None = None
    start_given: bool = False
    seeds: int | Mapping[Scale, int] = 1
    same_as: str | None = None
    paper: Mapping[str, float] = dataclasses.field(default_factory=dict)
    note: str = ""

    def num_seeds(self, scale: Scale) -> int:
        """Returns the number of repetitions at a scale, maybe 0."""
        return self.seeds if isinstance(self.seeds, int) else self.seeds[scale]

    @property
    def recipe(self) -> str:
        """Returns the source of the recipe: the first line of `make`'s docstring."""
        make = self.make
        while isinstance(make, functools.partial):
            make = make.func
        return (inspect.getdoc(make) or "").partition("\n")[0]


@dataclasses.dataclass(frozen=True)
class Table:
    """How results are laid out: a row for each cell, a column for each metric.

    Attributes:
        columns: metrics such as 'test/accuracy', with their headings; one that
            ends in [%] shows hundredths.
        scales: the scales that the cells have.
    """

    columns: Mapping[str, str]
    scales: Sequence[Scale] = (Scale.SMOKE, Scale.SMALL)


class X(enum.StrEnum):
    """Where a point lies on the horizontal axis."""

    GIVEN = "given"  # at `Point.x`
    COMPUTE = "compute"  # at the exaFLOPs that its run, or its start's, took
    EPOCHS = "epochs"  # a curve over the epochs of the run
    PLACE = "place"  # at one of the names in `Plot.places`


@dataclasses.dataclass(frozen=True)
class Point:
    """A point of a line: one cell, or the mean over several.

    Attributes:
        cells: their names, always or at each scale.
        x: where it lies, always or at each scale: a number, or a name of
            `Plot.places`. At scale `paper` it is where the paper has it. None: it
            is computed, and the paper's point is not drawn. Of X.EPOCHS it is the
            number of images in an epoch, for runs whose length is not in epochs.
        paper: the paper's number; None: the mean of the cells' own, if all have one.
        name: what the point is called, such as 'ViT-L/16'; by default its line.
    """

    cells: Sequence[str] | Mapping[Scale, Sequence[str]]
    x: float | str | Mapping[Scale, float | str] | None = None
    paper: float | None = None
    name: str = ""

    def cells_at(self, scale: Scale) -> Sequence[str]:
        """Returns the cells at a scale, maybe none."""
        return _at(self.cells, scale) or ()

    def x_at(self, scale: Scale) -> float | str | None:
        """Returns where it lies at a scale."""
        return _at(self.x, scale)


@dataclasses.dataclass(frozen=True)
class Plot:
    """One panel of a figure, in the paper's axes and words.

    It is drawn with the paper's numbers, and once more with ours for each scale that
    has results.

    Attributes:
        name: the paper's, such as 'Figure 5, ImageNet'.
        lines: what the legend tells apart -> its points, in the paper's order.
        metric: what is drawn, always or at each scale: a column of the table, or of
            X.EPOCHS a curve. Ours is labelled with the column's heading.
        x, y: the paper's labels of its axes, with units.
        across: where points lie.
        log: whether the horizontal axis is logarithmic.
        places: the names along the axis of X.PLACE, in order.
        joined: whether the points of a line are joined.
        relative_to: of X.COMPUTE, the cell whose compute is 1.
        note: what to know of the paper's figure, such as where its numbers are from.
    """

    name: str
    lines: Mapping[str, Sequence[Point]]
    metric: str | Mapping[Scale, str]
    x: str
    y: str
    across: X = X.GIVEN
    log: bool = False
    places: Sequence[str] = ()
    joined: bool = True
    relative_to: str | None = None
    note: str = ""

    def metric_at(self, scale: Scale) -> str | None:
        """Returns the metric that is drawn at a scale."""
        return _at(self.metric, scale)


@dataclasses.dataclass(frozen=True)
class Run:
    """One run of an experiment at a scale.

    Attributes:
        index: its place among the experiment's runs; starts come first.
        name: CELL.seedK, which names its folder.
        cell: what it repeats.
        seed: which repetition it is, and the config's train.seed, and the seed of
            its subset if it has one.
        config: what is trained.
        starts_from: the name of the run whose weights it starts from.
        shared: the other experiment and its run that this is, if it is one.
    """

    index: int
    name: str
    cell: Cell
    seed: int
    config: config.Config
    starts_from: str | None = None
    shared: tuple[str, str] | None = None


@dataclasses.dataclass(frozen=True)
class Experiment:
    """An experiment file's declarations.

    Attributes:
        name: the file's, without .py.
        question: the first line of its docstring.
        cells: CELLS.
        table: TABLE.
        plots: PLOTS.
        findings: FINDINGS: results in words, and the limits of the scale. Numbers are
            placeholders, filled in from the results of scale `small`: '{CELL:METRIC}' is a cell's
            value, '{CELL minus CELL:METRIC}' a difference, '{paper CELL:METRIC}' the
            paper's number.
        about: the rest of its docstring.
    """

    name: str
    question: str
    cells: Mapping[str, Cell]
    table: Table
    plots: Sequence[Plot] = ()
    findings: str = ""
    about: str = ""

    def __post_init__(self):
        """Raises ValueError for a plot or a finding of a missing cell or column."""
        for plot in self.plots:
            _check_plot(self, plot)
        typed = re.search(r"\d+\.\d+", NUMBER.sub("", self.findings))
        if typed:
            raise ValueError(
                f"FINDINGS: {typed[0]} is typed; use the placeholder {{CELL:METRIC}}"
            )
        for _, *names, metric in NUMBER.findall(self.findings):
            _check_names(self, "FINDINGS", filter(None, names), [metric])


# A placeholder in FINDINGS: (of the paper, cell, cell to subtract, metric).
NUMBER = re.compile(r"\{(paper )?([\w@+=-]+)(?: minus ([\w@+=-]+))?:([^{}]+)\}")


def _at(given: Any, scale: Scale) -> Any:
    """Returns the value of a scale, where values differ by scale."""
    return given.get(scale) if isinstance(given, Mapping) else given


def _every(given: Any) -> list:
    """Returns the values of all scales."""
    return list(given.values()) if isinstance(given, Mapping) else [given]


def _check_plot(experiment: Experiment, plot: Plot) -> None:
    points = [point for line in plot.lines.values() for point in line]
    names = [name for of in points for cells_ in _every(of.cells) for name in cells_]
    names += [plot.relative_to] if plot.relative_to else []
    _check_names(experiment, plot.name, names, _every(plot.metric))
    for point in points:
        given = _every(point.x)
        if plot.across is X.PLACE and not set(given) <= set(plot.places):
            raise ValueError(f"{plot.name}: {point.x} is not among {plot.places}")
        if plot.across is X.GIVEN and None in given:
            raise ValueError(f"{plot.name}: {point.cells} lie nowhere: give x")


def _check_names(
    experiment: Experiment, where: str, cells: Iterable[str], metrics: Iterable[str]
) -> None:
    for name in cells:
        if name not in experiment.cells:
            near = errors.nearest(name, experiment.cells)
            raise ValueError(f"{where}: no cell {name}{near}")
    for metric in metrics:
        if metric not in experiment.table.columns:
            near = errors.nearest(metric, experiment.table.columns)
            raise ValueError(f"{where}: no column {metric}{near}")


def cells(*listed: Cell) -> Mapping[str, Cell]:
    """Returns the cells of an experiment by name, each after the one it starts from.

    Raises:
        ValueError: a name twice, or not fit for a file; a start that does not come
            before, is given as well, or is not shared though the cell is.
    """
    named: dict[str, Cell] = {}
    for cell in listed:
        if not re.fullmatch(r"[\w@+=-]+", cell.name):
            raise ValueError(f"cell {cell.name!r}: need letters, digits, _ @ + = -")
        if cell.name in named:
            raise ValueError(f"two cells named {cell.name}")
        if cell.starts_from is not None and cell.starts_from not in named:
            raise ValueError(
                f"cell {cell.name} starts from {cell.starts_from}: no such cell before it"
            )
        if cell.starts_from is not None and cell.start_given:
            raise ValueError(f"cell {cell.name} has two starts")
        if cell.same_as is not None:
            _check_shared(cell, named)
        named[cell.name] = cell
    return types.MappingProxyType(named)


def of_recipe(
    recipe: Callable[..., config.Config], *arguments: Any, **settings: Any
) -> Callable[[Scale], config.Config]:
    """Returns a cell's `make`: the recipe at scale `paper`, else its `smoke`."""

    @functools.wraps(recipe)  # whose docstring says what it follows
    def make(scale: Scale) -> config.Config:
        cfg = recipe(*arguments, **settings)
        return cfg if scale == Scale.PAPER else smoke(cfg)

    return make


def smoke(cfg: config.Config) -> config.Config:
    """Shrinks a run to two steps of a tiny model of its kind on shapes at 32 pixels.

    What experiments compare stays: losses, rules, schedules, augmentation, positions,
    pooling, heads.
    """
    model, data, train = cfg.model, cfg.data, cfg.train
    variant = re.sub(r"^R\d*\+ViT-\w+/\d+$", "R8+ViT-mu/8", model.variant)
    variant = re.sub(r"^(Axial-)?ViT-\w+/\d+$", r"\1ViT-mu/8", variant)
    model.variant = re.sub(r"^R\d+x\d+$", "R14x1", variant)
    data.name, data.split, data.image_size, data.batch_size = "shapes", "train", 32, 4
    cfg.optim.warmup_steps = 1
    train.length, train.unit = 2, config.Unit.STEPS
    train.precision, train.steps_per_loop = config.Precision.FLOAT32, 1
    train.log_every_steps = train.checkpoint_every_steps = 1
    cfg.evals.splits, cfg.evals.batch_size = ("test[:64]",), 64
    cfg.evals.few_shot.datasets = ()
    return cfg


def named(*parts: str) -> str:
    """Joins the parts of a cell's name: 'ViT-L-16_cifar10'."""
    return "_".join(parts).replace("/", "-")


def runs(all_cells: Mapping[str, Cell], scale: Scale) -> list[Run]:
    """Returns every run of the cells at a scale, each after the run it starts from.

    Repetition k starts from repetition k, or from the first where there are fewer.
    """
    unrolled: list[Run] = []
    for cell in all_cells.values():
        for seed in range(cell.num_seeds(scale)):
            cfg = cell.make(scale)
            cfg.train.seed = seed
            if cfg.data.subset.amount is not None:  # cells of a seed share examples
                cfg.data.subset.seed = seed
            start = None
            if cell.starts_from is not None:
                repeated = seed < all_cells[cell.starts_from].num_seeds(scale)
                start = _run_name(cell.starts_from, seed if repeated else 0)
            name = _run_name(cell.name, seed)
            shared = None
            if cell.same_as is not None and scale == Scale.PAPER:
                other, _, theirs = cell.same_as.partition(":")
                shared = other, _run_name(theirs, seed)
            unrolled.append(Run(len(unrolled), name, cell, seed, cfg, start, shared))
    return unrolled


def select(
    all_cells: Mapping[str, Cell],
    argument: str | None,
    scales: Sequence[Scale] = (Scale.SMOKE, Scale.SMALL),
) -> config.Config:
    """Returns the config of 'cell' or 'cell,scale'.

    The scale is `small` if not given, or `paper` where there is no `small`, be it of
    the whole table or of this cell.

    Raises:
        errors.UserError: no such cell or scale, or not of this cell.
    """
    name, _, scale = (argument or "").partition(",")
    if name not in all_cells:
        raise errors.UserError(
            f"--config=...:{name}: no such cell{errors.nearest(name, all_cells)}"
        )
    names = [str(s) for s in scales]
    if scale and scale not in names:
        raise errors.UserError(
            f"--config=...:{name},{scale}: no such scale{errors.nearest(scale, names)}"
        )
    cell = all_cells[name]
    there = [s for s in scales if cell.num_seeds(s)]
    usual = Scale.SMALL if Scale.SMALL in there else Scale.PAPER
    if (chosen := Scale(scale or usual)) not in there:
        raise errors.UserError(
            f"--config=...:{name},{chosen}: this cell is at scale {' or '.join(there)} only"
        )
    return cell.make(chosen)


def _check_shared(cell: Cell, before: Mapping[str, Cell]) -> None:
    """Refuses a shared cell whose start is not shared."""
    if not re.fullmatch(r"\w+:[\w@+=-]+", cell.same_as or ""):
        raise ValueError(f"cell {cell.name}: same_as is no EXPERIMENT:CELL")
    start = cell.starts_from
    if cell.start_given or (start is not None and before[start].same_as is None):
        raise ValueError(f"cell {cell.name} is shared, but not what it starts from")


def _run_name(cell: str, seed: int) -> str:
    return f"{cell}.seed{seed}"
