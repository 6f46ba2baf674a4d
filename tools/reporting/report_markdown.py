"""RESULTS.md: figures and tables of all experiments, and what is missing in them."""

import pathlib
from collections.abc import Mapping, Sequence

from tools.reporting import (
    findings,
    plot_panels,
    plot_svg,
    result_layouts,
    result_tables,
    speed_tables,
)

_Row = Sequence[result_tables.Entry]


def render(
    sections: Sequence[result_tables.Section],
    folder: pathlib.Path,
    speeds: speed_tables.Speeds | None = None,
) -> str:
    """Renders the whole of RESULTS.md, to lie in `folder` beside `figures`."""
    listed = [
        [
            result_tables.Entry(
                f"[{section.experiment.name}](#{section.experiment.name})"
            ),
            result_tables.Entry(section.experiment.question),
            result_tables.Entry(result_tables.state(section)),
        ]
        for section in sections
    ]
    if speeds is not None:
        name, state = speed_tables.NAME, speed_tables.state(speeds)
        row = [f"[{name}](#{name})", speeds.question, state]
        listed.append([result_tables.Entry(text) for text in row])
    parts = [
        "# Results\n",
        (
            "Rendered by `python -m tools.report` from `experiments/results/`; do not edit. "
            "The same command writes a page with each run, its config and its curves, "
            "`runs/report/index.html`.\n"
        ),
        f"{result_tables.HOW_TO_READ}\n",
        _table(["experiment", "question", "state"], listed, folder),
    ]
    for section in sections:
        parts += _section(section, folder)
    parts += _speeds(speeds, folder) if speeds is not None else []
    return "\n".join(parts)


def figures(
    sections: Sequence[result_tables.Section],
    folder: pathlib.Path,
    speeds: speed_tables.Speeds | None = None,
) -> Mapping[pathlib.Path, str]:
    """Draws what `render` refers to: path -> SVG."""
    drawn: dict[str, plot_svg.Panel] = {}
    for section in sections:
        for plot in section.experiment.plots:
            drawn |= _drawn(section, plot)
    for path, measured in speeds.measured.items() if speeds is not None else ():
        drawn |= _drawn_speeds(path, measured)
    return {folder / name: plot_svg.draw(panel) for name, panel in drawn.items()}


def _drawn_speeds(path: pathlib.Path, measured) -> dict[str, plot_svg.Panel]:
    return {
        f"figures/{speed_tables.NAME}/{path.stem}.{measure}.svg": panel
        for measure, panel in speed_tables.panels(measured).items()
    }


def _speeds(speeds: speed_tables.Speeds, folder: pathlib.Path) -> list[str]:
    file = result_tables.link(speeds.file, folder)
    parts = [
        f"## {speed_tables.NAME}\n",
        f"{speeds.question} ([{speeds.file}]({file}))\n",
    ]
    for path, measured in speeds.measured.items():
        drawn = _drawn_speeds(path, measured)
        link = result_tables.link(path, folder)
        parts += [
            f"[{speed_tables.title(measured)}]({link})\n",
            "".join(f"![{p.title}]({name})\n" for name, p in drawn.items()),
        ]
        parts += [_table(*of, folder) for of in speed_tables.tables(path, measured)]
    return [*parts, f"* one device more:\n  `{speed_tables.COMMAND}`\n"]


def _drawn(section: result_tables.Section, plot) -> dict[str, plot_svg.Panel]:
    """Lists 'figures/EXPERIMENT/figure-5-imagenet.paper.svg' -> its panel."""
    words = "".join(c if c.isalnum() else " " for c in plot.name.lower()).split()
    return {
        f"figures/{section.experiment.name}/{'-'.join(words)}.{who}.svg": panel
        for who, panel in plot_panels.panels(section, plot).items()
    }


def _section(section: result_tables.Section, folder: pathlib.Path) -> list[str]:
    file = result_tables.link(section.file, folder)
    parts = [
        f"## {section.experiment.name}\n",
        f"{section.experiment.question} ([{section.file}]({file}))\n",
    ]
    pieces = [_entry(entry, folder) for entry in findings.entries(section)]
    parts += [f"{''.join(pieces)}\n"] * bool(pieces)
    for plot in section.experiment.plots:
        drawn = _drawn(section, plot)
        caption = plot_panels.caption(section, plot)
        images = "".join(f"![{p.title}]({name})\n" for name, p in drawn.items())
        parts += [images] * bool(images)
        parts += [f"{caption}\n"] * bool(caption)
    parts += [_table(*of, folder) for of in result_layouts.matrices(section).values()]
    shown, summary, rest = result_layouts.folded(section)
    heads = result_tables.heads(section)
    if shown:
        parts.append(_table(*result_layouts.without_empty(heads, shown), folder))
    if rest:
        parts += [
            f"<details><summary>{summary}</summary>\n",
            _table(*result_layouts.without_empty(heads, rest), folder),
            "</details>\n",
        ]
    lines = [f"* {line}\n" for line in result_tables.facts(section)]
    for gap in result_tables.gaps(section):
        lines.append(f"* {gap.scale}: {gap.what}:\n  `{gap.command}`\n")
    return parts + ["".join(lines)] * bool(lines)


def _table(heads: Sequence[str], rows: Sequence[_Row], folder: pathlib.Path) -> str:
    lines = [[_escaped(head) for head in heads], ["---"] * len(heads)]
    lines += [[_entry(entry, folder) for entry in row] for row in rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _entry(entry: result_tables.Entry, folder: pathlib.Path) -> str:
    """Writes an entry; one run is behind the number, several stand behind it by seed."""
    text, detail = (
        _escaped(entry.text),
        f" {_escaped(entry.detail)}" * bool(entry.detail),
    )
    if len(entry.sources) == 1:
        return f"[{text}]({result_tables.link(entry.sources[0], folder)}){detail}"
    runs = " − ".join(
        " ".join(f"[{seed}]({result_tables.link(path, folder)})" for seed, path in cell)
        for cell in result_tables.seeds(entry)
    )
    return f"{text}{detail}" + f" <sup>{runs}</sup>" * bool(runs)


def _escaped(text: str) -> str:
    return text.replace("|", "\\|")
