"""The page of all experiments: the paper's figures against ours, tables, runs, configs."""

import html
import pathlib
from collections.abc import Callable, Sequence

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
from vit_tf.studies import experiment_spec

_STYLE = """
:root { color-scheme: light dark; --ink: #222; --ground: #fff; --faint: #666;
        --link: #0060a8; --paper: #0072B21c; --gap: #D55E00 }
@media (prefers-color-scheme: dark) {
  :root { --ink: #ddd; --ground: #181818; --faint: #aaa; --link: #7cc4f5;
          --paper: #56B4E926; --gap: #FF8A3D } }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto;
       padding: 0 1rem; color: var(--ink); background: var(--ground) }
h1 { font-size: 1.6rem } h2 { font-size: 1.25rem; margin: 0 }
section { margin-top: 3rem; border-top: 1px solid #8886; padding-top: 1rem }
a { color: var(--link) } h2, td, code, li { overflow-wrap: anywhere }
.state, small, figcaption { color: var(--faint); font-size: .875rem }
.contents { padding-left: 1.2rem } .contents li { margin: .6rem 0 }
.wide { overflow-x: auto; margin: 1rem 0 }
table { border-collapse: collapse; font-size: .9rem }
th, td { padding: .3rem .6rem; border-bottom: 1px solid #8884; text-align: left;
         vertical-align: top }
th { font-weight: 600; min-width: 5.5rem } td { white-space: nowrap }
td.note { white-space: normal; min-width: 13rem; overflow-wrap: normal }
td small { display: block } sup { font-size: .7em; line-height: 1; white-space: nowrap }
tr:target { outline: 2px solid var(--link) }
.paper { background: var(--paper); font-style: italic } td.gap { color: var(--gap) }
p.gap, p.todo { border-left: 4px solid #8886; padding-left: .8rem; margin: 1rem 0 }
p.gap { border-color: var(--gap) }
.figures { display: flex; flex-wrap: wrap; gap: .5rem 1rem; margin: 1rem 0 }
figure { margin: 0 } .plot { max-width: 100%; height: auto; display: block }
.plot a { color: inherit } figcaption { margin: -.6rem 0 1.4rem }
code, pre { background: #8882; padding: 0 .2rem; font-size: .85rem }
pre { white-space: pre-wrap; overflow-wrap: anywhere; padding: .6rem }
details { margin: .5rem 0 } summary { cursor: pointer }
"""

# Words of more letters than this are broken into lines.
_WIDE = 30

_Entry = result_tables.Entry


def write(
    found: Sequence[result_tables.Section],
    path: pathlib.Path,
    speeds: speed_tables.Speeds | None = None,
    *,
    planned: bool = True,
) -> pathlib.Path:
    """Writes the page, which needs no other file but for its links; gives its path.

    Args:
        found: what it shows.
        path: the page.
        speeds: Figure 12, which has no cells.
        planned: also what runs at scale paper take: outlines of each model, a minute.
    """
    body = "".join(_section(section, path.parent, planned) for section in found)
    listed = "".join(
        _listed(
            section.experiment.name,
            result_tables.state(section),
            section.experiment.question,
        )
        for section in found
    )
    if speeds is not None:
        body += _speeds(speeds, path.parent)
        listed += _listed(
            speed_tables.NAME, speed_tables.state(speeds), speeds.question
        )
    how = html.escape(result_tables.HOW_TO_READ)
    for whose in ("paper", "ours"):
        how = how.replace(f"*{whose}*", f"<i>{whose}</i>")
    how = how.replace("`paper`", "<code>paper</code>")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(
        f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>vit_tf: results</title><style>{_STYLE}{plot_svg.STYLE}</style></head><body>
<h1>Results of vit_tf</h1>
<p>{how} Links to runs and files lead into the checkout that the page was written in.</p>
<ul class="contents">{listed}</ul>
{body}</body></html>
""",
        "utf-8",
    )
    return path


def _listed(name: str, state: str, question: str) -> str:
    return (
        f'<li><a href="#{html.escape(name)}">{html.escape(name)}</a> '
        f'<span class="state">{html.escape(state)}</span><br>{html.escape(question)}</li>'
    )


def _speeds(speeds: speed_tables.Speeds, folder: pathlib.Path) -> str:
    """Figure 12: two panels and two tables for each device."""
    parts = [
        f'<section id="{speed_tables.NAME}"><h2>{speed_tables.NAME}</h2>',
        f"<p>{html.escape(speeds.question)}</p>",
        f'<p class="state"><a href="{result_tables.link(speeds.file, folder)}">',
        f"{speeds.file}</a>: {html.escape(speed_tables.state(speeds))}</p>",
    ]
    for path, found in speeds.measured.items():
        panels = speed_tables.panels(found).values()
        drawn = "".join(plot_svg.draw(panel, styled=False) for panel in panels)
        caption = html.escape(speed_tables.title(found))
        parts.append(f'<p>{caption}</p><div class="figures">{drawn}</div>')
        parts += [_table(*of, folder) for of in speed_tables.tables(path, found)]
    parts.append(
        f'<p class="todo">one device more<br><code>{speed_tables.COMMAND}</code></p>'
    )
    about = _folded("About this experiment", f"<pre>{html.escape(speeds.about)}</pre>")
    return "".join([*parts, about, "</section>\n"])


def _section(
    section: result_tables.Section, folder: pathlib.Path, planned: bool
) -> str:
    name = html.escape(section.experiment.name)
    pieces = [_piece(entry, folder) for entry in findings.entries(section)]
    facts = [f"<li>{html.escape(line)}</li>" for line in result_tables.facts(section)]
    gaps = [
        f'<p class="{"todo" if gap.whole else "gap"}">'
        f"{html.escape(f'{gap.scale}: {gap.what}')}<br>"
        f"<code>{html.escape(gap.command)}</code></p>"
        for gap in result_tables.gaps(section)
    ]
    return "".join(
        [
            f'<section id="{name}"><h2>{name}</h2>',
            f"<p>{html.escape(section.experiment.question)}</p>",
            f'<p class="state"><a href="{result_tables.link(section.file, folder)}">',
            f"{html.escape(section.file)}</a>: ",
            f"{html.escape(result_tables.state(section))}</p>",
            f"<p>{''.join(pieces)}</p>" if pieces else "",
            *(_plot(section, plot) for plot in section.experiment.plots),
            *_cells(section, folder),
            f"<ul>{''.join(facts)}</ul>" if facts else "",
            *gaps,
            _folded("About this experiment", _about(section)),
            _folded("Runs and their cost", _costs(section, folder, planned)),
            _folded("Configs", _configs(section)),
            _folded("Training curves", _curves(section)),
            "</section>\n",
        ]
    )


def _piece(entry: _Entry, folder: pathlib.Path) -> str:
    return f"<span{_class(entry)}>{_text(entry, folder)}</span>"


def _plot(section: result_tables.Section, plot: experiment_spec.Plot) -> str:
    panels = plot_panels.panels(section, plot).values()
    drawn = "".join(plot_svg.draw(panel, styled=False) for panel in panels)
    caption = html.escape(plot_panels.caption(section, plot))
    return (
        f'<figure><div class="figures">{drawn}</div>'
        + f"<figcaption>{caption}</figcaption>" * bool(caption)
        + "</figure>"
    )


def _cells(section: result_tables.Section, folder: pathlib.Path) -> list[str]:
    """The table; folded away if it is long, and before it what it says in short."""
    heads = result_tables.heads(section)

    def named(row: Sequence[_Entry]) -> str:
        return f' id="{html.escape(result_tables.anchor(section, row[0].text))}"'

    def drawn(rows: Sequence[Sequence[_Entry]]) -> str:
        kept = result_layouts.without_empty(heads, rows)
        return _table(*kept, folder, named) if rows else ""

    shown, summary, rest = result_layouts.folded(section)
    return [
        *(_table(*of, folder) for of in result_layouts.matrices(section).values()),
        drawn(shown),
        _folded(summary, drawn(rest)),
    ]


def _table(
    heads: Sequence[str],
    rows: Sequence[Sequence[_Entry]],
    folder: pathlib.Path,
    named: Callable[[Sequence[_Entry]], str] = lambda row: "",
) -> str:
    """Columns of the paper's numbers look different, and say so."""
    marks = [' class="paper"' * head.startswith("paper:") for head in heads]
    head = "".join(f"<th{m}>{html.escape(text)}</th>" for m, text in zip(marks, heads))
    lines = []
    for row in rows:
        cells = [f"<td{_class(e)}>{_text(e, folder)}</td>" for e in row]
        lines.append(f"<tr{named(row)}>{''.join(cells)}</tr>")
    return (
        f'<div class="wide"><table><thead><tr>{head}</tr></thead>'
        f"<tbody>{''.join(lines)}</tbody></table></div>"
    )


def _class(entry: _Entry) -> str:
    if entry.kind is result_tables.Kind.WORDS:
        return ' class="note"' if len(entry.text) > _WIDE else ""
    metric = f' data-metric="{html.escape(entry.metric)}"' * bool(entry.metric)
    return f' class="{entry.kind}"{metric}'


def _text(entry: _Entry, folder: pathlib.Path) -> str:
    """Its text; one run is behind the number, several stand behind it by seed."""
    text = html.escape(entry.text)
    detail = f" <small>{html.escape(entry.detail)}</small>" * bool(entry.detail)
    if len(entry.sources) == 1:
        link = html.escape(result_tables.link(entry.sources[0], folder))
        return f'<a href="{link}">{text}</a>{detail}'
    runs = " − ".join(
        " ".join(
            f'<a href="{html.escape(result_tables.link(path, folder))}">{seed}</a>'
            for seed, path in cell
        )
        for cell in result_tables.seeds(entry)
    )
    return f"{text}" + f" <sup>{runs}</sup>" * bool(runs) + detail


def _folded(summary: str, body: str) -> str:
    if not body:
        return ""
    return f"<details><summary>{html.escape(summary)}</summary>{body}</details>"


def _about(section: result_tables.Section) -> str:
    about = section.experiment.about
    return f"<pre>{html.escape(about)}</pre>" if about else ""


def _costs(section: result_tables.Section, folder: pathlib.Path, planned: bool) -> str:
    """What recorded runs took, and what those at scale paper take."""
    tables = [("What recorded runs took.", report_costs.recorded(section))]
    if planned and experiment_spec.Scale.PAPER in section.places:
        said = "What each run at scale paper takes, computed (tools.plan has more)."
        tables.append((said, report_costs.planned(section)))
    return "".join(
        f"<p>{said}</p>{_table(heads, rows, folder)}"
        for said, (heads, rows) in tables
        if rows
    )


def _configs(section: result_tables.Section) -> str:
    """What differs from the defaults of `vit_tf/config.py`, at each scale."""
    parts = []
    for scale in section.places:
        cells = [c for c in section.experiment.cells.values() if c.num_seeds(scale)]
        shared, own = result_configs.short(cells, scale)
        lines = [f"all: {', '.join(shared)}"] if len(own) > 1 else []
        lines += [f"{name}: {of}" for name, of in own.items()]
        if len(own) == 1:
            lines = [f"{next(iter(own))}: {', '.join(shared)}"]
        items = "".join(f"<li>{html.escape(line)}</li>" for line in lines)
        parts.append(f"<p>At {scale}; knobs not named are at their defaults.</p>")
        parts.append(f"<ul>{items}</ul>")
    return "".join(parts)


def _curves(section: result_tables.Section) -> str:
    panels = [
        panel
        for scale in section.places
        for panel in plot_panels.training_curves(section, scale)
    ]
    drawn = "".join(plot_svg.draw(panel, styled=False) for panel in panels)
    return f'<div class="figures">{drawn}</div>' if drawn else ""
