"""The page of all experiments: the paper's figures against ours, tables, runs, configs.

What is on it is gathered here; how it looks is in `tools/reporting/templates/`.
"""

import functools
import pathlib
import re
from collections.abc import Sequence
from typing import Any

import markupsafe

from tools.reporting import (
    findings,
    plot_panels,
    plot_svg,
    report_costs,
    result_configs,
    result_layouts,
    result_tables,
    speed_tables,
)
from vit_tf.inspection.pages import templates
from vit_tf.studies import experiment_spec

_TEMPLATES = pathlib.Path(__file__).parent / "templates"


def write(
    sections: Sequence[result_tables.Section],
    path: pathlib.Path,
    speeds: speed_tables.Speeds | None = None,
    *,
    planned: bool = True,
) -> pathlib.Path:
    """Writes the page, which needs no other file but for its links; gives its path.

    Args:
        sections: what it shows.
        path: the page.
        speeds: Figure 12, which has no cells.
        planned: also what runs at scale paper take: outlines of each model, a minute.
    """
    page = templates.render(
        _TEMPLATES,
        "results.html",
        title="vit_tf: results",
        plot_style=markupsafe.Markup(plot_svg.PAGE_STYLE),
        how_to_read=_emphasised(result_tables.HOW_TO_READ),
        experiments=[_experiment(section, planned) for section in sections],
        figure12=_speeds(speeds) if speeds else None,
        link=lambda to: result_tables.link(to, path.parent),
        seeds=result_tables.seeds,
        draw=lambda panel: plot_svg.draw(panel, styled=False),
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(page, "utf-8")
    return path


def _emphasised(text: str) -> markupsafe.Markup:
    """Turns Markdown's *words* and `words` into markup."""
    escaped = str(markupsafe.escape(text))
    slanted = re.sub(r"\*(\w+)\*", r"<i>\1</i>", escaped)
    return markupsafe.Markup(re.sub(r"`(\w+)`", r"<code>\1</code>", slanted))


def _speeds(speeds: speed_tables.Speeds) -> dict[str, Any]:
    """Collects Figure 12: two panels and two tables for each device."""
    return {
        "name": speed_tables.NAME,
        "question": speeds.question,
        "file": speeds.file,
        "state": speed_tables.state(speeds),
        "devices": [
            {
                "title": speed_tables.title(measured),
                "panels": list(speed_tables.panels(measured).values()),
                "tables": speed_tables.tables(path, measured),
            }
            for path, measured in speeds.measured.items()
        ],
        "command": speed_tables.COMMAND,
        "about": speeds.about,
    }


def _experiment(section: result_tables.Section, planned: bool) -> dict[str, Any]:
    """Collects what the template shows of an experiment; what is empty is not shown."""
    shown, summary, rest = result_layouts.folded(section)
    return {
        "name": section.experiment.name,
        "anchor": functools.partial(result_tables.anchor, section),
        "question": section.experiment.question,
        "file": section.file,
        "state": result_tables.state(section),
        "findings": findings.entries(section),
        "plots": [
            {
                "panels": list(plot_panels.panels(section, plot).values()),
                "caption": plot_panels.caption(section, plot),
            }
            for plot in section.experiment.plots
        ],
        "matrices": list(result_layouts.matrices(section).values()),
        "cells": _cells(section, shown),
        "rest": rest and {"summary": summary, "cells": _cells(section, rest)},
        "facts": result_tables.facts(section),
        "gaps": result_tables.gaps(section),
        "about": section.experiment.about,
        "costs": _costs(section, planned),
        "configs": [(scale, _configs(section, scale)) for scale in section.places],
        "curves": [
            panel
            for scale in section.places
            for panel in plot_panels.training_curves(section, scale)
        ],
    }


def _cells(section: result_tables.Section, rows: Sequence):
    """Headings and rows, without the columns that are empty in all of them."""
    if not rows:
        return None
    return result_layouts.without_empty(result_tables.heads(section), rows)


def _costs(section: result_tables.Section, planned: bool) -> list[tuple[str, Any]]:
    """Collects what recorded runs took, and what those at scale paper take."""
    tables = [("What recorded runs took.", report_costs.recorded(section))]
    if planned and experiment_spec.Scale.PAPER in section.places:
        sentence = "What each run at scale paper takes, computed (tools.plan has more)."
        tables.append((sentence, report_costs.planned(section)))
    return [(sentence, (heads, rows)) for sentence, (heads, rows) in tables if rows]


def _configs(section: result_tables.Section, scale: experiment_spec.Scale) -> list[str]:
    """Lists what differs from the defaults of `vit_tf/config.py`."""
    cells = [c for c in section.experiment.cells.values() if c.num_seeds(scale)]
    shared, own = result_configs.short(cells, scale)
    if len(own) == 1:
        return [f"{next(iter(own))}: {', '.join(shared)}"]
    lines = [f"all: {', '.join(shared)}"] if len(own) > 1 else []
    return lines + [f"{name}: {of}" for name, of in own.items()]
