"""Figure 12 as it was measured: images per second and the largest batch, by device."""

import dataclasses
import json
import pathlib
from collections.abc import Mapping
from typing import Any

from experiments import figure12_speed
from tools import plot_svg, result_tables

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
    """Everything recorded below `root`."""
    question, _, about = (figure12_speed.__doc__ or "").partition("\n")
    paths = sorted((pathlib.Path(root) / NAME).glob("*.json"))
    measured = {path: json.loads(path.read_text()) for path in paths}
    return Speeds(question, about.strip(), f"experiments/{NAME}.py", measured)


def state(speeds: Speeds) -> str:
    """Where it was measured, in a few words."""
    devices = [found["device"] for found in speeds.measured.values()]
    return f"measured on {', '.join(devices)}" if devices else "nothing yet"


def title(found: Mapping[str, Any]) -> str:
    """The device, what computed there and in which numbers."""
    versions = ", ".join(f"{k} {v}" for k, v in found["versions"].items())
    return f"{found['device']}, {found['settings']['dtype']}; {versions}"


def panels(found: Mapping[str, Any]) -> dict[str, plot_svg.Panel]:
    """'images_per_second', 'largest_batch' -> its panel, if anything was measured."""
    drawn = {}
    for measure, label in _MEASURES.items():
        lines = {
            model: [
                plot_svg.Mark(size, value, name=f"{model} at {size}: {value:,.0f}")
                for size in figure12_speed.SIZES
                if (value := _value(found, model, size, measure))
            ]
            for model in figure12_speed.MODELS
        }
        if any(lines.values()):
            drawn[measure] = plot_svg.Panel(
                title=f"Figure 12: ours on {found['device']}",
                x="Input size [px]",
                y=label,
                lines=lines,
                log_y=True,
            )
    return drawn


def tables(
    path: pathlib.Path, found: Mapping[str, Any]
) -> list[tuple[list[str], list[list[result_tables.Entry]]]]:
    """A table for each measure: a row for each model, a column for each size."""
    return [
        (
            [label, *(f"{size} px" for size in figure12_speed.SIZES)],
            [
                [result_tables.Entry(model)]
                + [
                    _entry(path, found, model, size, measure)
                    for size in figure12_speed.SIZES
                ]
                for model in figure12_speed.MODELS
            ],
        )
        for measure, label in _MEASURES.items()
    ]


def _entry(path, found, model: str, size: int, measure: str) -> result_tables.Entry:
    value = _value(found, model, size, measure)
    if value is None:
        return result_tables.Entry(result_tables.MISSING, result_tables.Kind.GAP)
    text = f"{value:,.1f}" if measure == "images_per_second" else f"{value:,}"
    if _point(found, model, size)[_AT_LEAST[measure]]:
        text = f"≥ {text}"
    return result_tables.Entry(
        text, result_tables.Kind.OURS, [path], f"{model}@{size}@{measure}"
    )


def _value(found, model: str, size: int, measure: str) -> float | None:
    point = _point(found, model, size)
    return None if point is None else point[measure]


def _point(found, model: str, size: int) -> Mapping[str, Any] | None:
    for point in found["points"]:
        if (point["model"], point["image_size"]) == (model, size):
            return point
    return None
