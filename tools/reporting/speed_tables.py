"""Figure 12 as it was measured: images per second and the largest batch, by device."""

import dataclasses
import json
import pathlib
from collections.abc import Mapping
from typing import Any

from experiments import figure12_speed
from tools.reporting import plot_svg, result_tables

NAME = "figure12_speed"
COMMAND = (
    "python -m tools.benchmark --what=figure12 "
    f"--json=experiments/results/{NAME}/NAME.json"
)

# What was measured -> the paper's words for it, with our unit.
_MEASURES = {
    "images_per_second": "Peak inference speed [images/s]",
    "largest_batch": "Largest batch size",
}
# What says that it is a lower bound: time, or the limit of a batch, ran out first.
_AT_LEAST = {"images_per_second": "faster_at_least", "largest_batch": "at_least"}


@dataclasses.dataclass(frozen=True)
class Speeds:
    """What is recorded of it.

    Attributes:
        question: the first line of the experiment's docstring.
        about: the rest.
        file: of the experiment.
        measured: recorded file -> what it holds, by `tools.benchmark`.
    """

    question: str
    about: str
    file: str
    measured: Mapping[pathlib.Path, Mapping[str, Any]]


def load(root: str) -> Speeds:
    """Reads everything recorded below `root`."""
    question, _, about = (figure12_speed.__doc__ or "").partition("\n")
    paths = sorted((pathlib.Path(root) / NAME).glob("*.json"))
    measured = {path: json.loads(path.read_text()) for path in paths}
    return Speeds(question, about.strip(), f"experiments/{NAME}.py", measured)


def state(speeds: Speeds) -> str:
    """Says where it was measured, in a few words."""
    devices = [content["device"] for content in speeds.measured.values()]
    return f"measured on {', '.join(devices)}" if devices else "nothing yet"


def title(content: Mapping[str, Any]) -> str:
    """Names the device, what computed there and in which numbers."""
    versions = ", ".join(f"{k} {v}" for k, v in content["versions"].items())
    text = f"{content['device']}, {content['settings']['dtype']}; {versions}"
    if any(point[bound] for point in content["points"] for bound in _AT_LEAST.values()):
        text += "; hollow and ≥: at least, a limit of time or batch ended the search"
    return text


def panels(content: Mapping[str, Any]) -> dict[str, plot_svg.Panel]:
    """Makes 'images_per_second', 'largest_batch' -> its panel,
    if anything was measured.
    """
    drawn = {}
    models, sizes = _grid(content)
    for measure, label in _MEASURES.items():
        lines = {
            model: [
                _mark(point, measure)
                for size in sizes
                if (point := _point(content, model, size)) and point[measure]
            ]
            for model in models
        }
        if any(lines.values()):
            drawn[measure] = plot_svg.Panel(
                title=f"Figure 12: ours on {content['device']}",
                x="Input size [px]",
                y=label,
                lines=lines,
                log_y=True,
            )
    return drawn


def tables(
    path: pathlib.Path, content: Mapping[str, Any]
) -> list[tuple[list[str], list[list[result_tables.Entry]]]]:
    """Makes a table for each measure: a row for each model, a column for each size."""
    models, sizes = _grid(content)
    return [
        (
            [label, *(f"{size} px" for size in sizes)],
            [
                [result_tables.Entry(model)]
                + [_entry(path, content, model, size, measure) for size in sizes]
                for model in models
            ],
        )
        for measure, label in _MEASURES.items()
    ]


def _entry(path, content, model: str, size: int, measure: str) -> result_tables.Entry:
    point = _point(content, model, size)
    if point is None or point[measure] is None:
        return result_tables.Entry(result_tables.MISSING, result_tables.Kind.GAP)
    value = point[measure]
    text = f"{value:,.1f}" if measure == "images_per_second" else f"{value:,}"
    if point[_AT_LEAST[measure]]:
        text = f"≥ {text}"
    return result_tables.Entry(
        text, result_tables.Kind.OURS, [path], f"{model}@{size}@{measure}"
    )


def _mark(point: Mapping[str, Any], measure: str) -> plot_svg.Mark:
    size, value, bound = point["image_size"], point[measure], point[_AT_LEAST[measure]]
    more = "at least " if bound else ""
    name = f"{point['model']} at {size}: {more}{value:,.0f}"
    return plot_svg.Mark(size, value, name=name, hollow=bound)


def _grid(content: Mapping[str, Any]) -> tuple[list[str], list[int]]:
    """Lists the paper's models and sizes, and what was measured besides."""
    models = [*figure12_speed.MODELS, *(p["model"] for p in content["points"])]
    sizes = {*figure12_speed.SIZES, *(p["image_size"] for p in content["points"])}
    return list(dict.fromkeys(models)), sorted(sizes)


def _point(content, model: str, size: int) -> Mapping[str, Any] | None:
    for point in content["points"]:
        if (point["model"], point["image_size"]) == (model, size):
            return point
    return None
