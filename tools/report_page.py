"""The page of all experiments: their tables, and the curves of their runs."""

import base64
import html
import pathlib
import tempfile
from collections.abc import Mapping, Sequence

from tools import figures, result_tables

# Curves of more runs than this cannot be told apart: they go to another panel.
_RUNS_IN_PANEL = 6

_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto;
       padding: 0 1rem; color: #222; background: #fff }
h1 { font-size: 1.6rem } h2 { font-size: 1.25rem; margin-top: 2.5rem }
.wide { overflow-x: auto }
table { border-collapse: collapse; font-size: .92rem }
th, td { padding: .3rem .7rem; border-bottom: 1px solid #8884; text-align: left;
         vertical-align: top }
th { white-space: nowrap }
.paper { background: #0072B222; font-style: italic }
.gap { border-left: 4px solid #D55E00; padding-left: .8rem }
.curves { display: flex; flex-wrap: wrap; gap: 1rem }
figure { margin: 0; flex: 1 1 18rem; max-width: 28rem }
img { width: 100%; background: #fff } figcaption { font-size: .9rem; color: #666 }
code { background: #8882; padding: 0 .2rem; overflow-wrap: anywhere }
@media (prefers-color-scheme: dark) {
  body { color: #ddd; background: #181818 } figcaption { color: #aaa }
  .paper { background: #56B4E933 } }
"""


def write(found: Sequence[result_tables.Section], path: pathlib.Path) -> pathlib.Path:
    """Writes the page, which needs no other file, and returns its path."""
    body = "".join(_section(section) for section in found)
    how = html.escape(result_tables.HOW_TO_READ).replace("*paper*", "<i>paper</i>")
    how = how.replace("`paper`", "<code>paper</code>")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(
        f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>vit_tf: results</title><style>{_STYLE}</style></head><body>
<h1>Results of vit_tf</h1>
<p>{how}</p>
{_table(*result_tables.summary(found))}
{body}</body></html>
""",
        "utf-8",
    )
    return path


def _section(section: result_tables.Section) -> str:
    facts = "".join(
        f"<li>{html.escape(line)}</li>" for line in result_tables.facts(section)
    )
    gaps = "".join(
        f'<p class="gap">{html.escape(f"{gap.scale}: {gap.what}")}<br>'
        f"<code>{html.escape(gap.command)}</code></p>"
        for gap in result_tables.gaps(section)
    )
    curves = "".join(
        _figure(title, name, runs) for (title, name), runs in _panels(section).items()
    )
    return (
        f"<h2>{html.escape(section.experiment.name)}</h2>"
        f"<p>{html.escape(section.experiment.question)} "
        f"(<code>{html.escape(section.file)}</code>)</p>"
        f"{_table(result_tables.heads(section), result_tables.rows(section))}"
        f'<div class="curves">{curves}</div><ul>{facts}</ul>{gaps}\n'
    )


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Columns of the paper's numbers look different, and say so."""
    marks = [' class="paper"' if head.startswith("paper:") else "" for head in heads]
    head = "".join(
        f"<th{mark}>{html.escape(text)}</th>" for mark, text in zip(marks, heads)
    )
    body = "".join(
        "<tr>"
        + "".join(
            f"<td{mark}>{html.escape(text)}</td>" for mark, text in zip(marks, row)
        )
        + "</tr>"
        for row in rows
    )
    return (
        f'<div class="wide"><table><thead><tr>{head}</tr></thead>'
        f"<tbody>{body}</tbody></table></div>"
    )


def _panels(section: result_tables.Section) -> Mapping[tuple[str, str], dict]:
    """(title, curve's name) -> run -> its rows; runs on the same data share one."""
    found: dict[tuple[str, str], dict] = {}
    for scale, places in section.places.items():
        for place in places:
            if not place.filled:
                continue
            data = place.entry["config"]["data"]["name"]
            for name, points in place.entry["curves"].items():
                if len(points) < 2:  # evaluated at the end only: it is in the table
                    continue
                rows = [{"step": step, name: value} for step, value in points]
                number = 1
                while len(found.get((_title(data, scale, number), name), ())) >= (
                    _RUNS_IN_PANEL
                ):
                    number += 1
                panel = found.setdefault((_title(data, scale, number), name), {})
                panel[place.run.name] = rows
    return found


def _title(data: str, scale: str, number: int) -> str:
    return f"{data}, {scale}" + (f" ({number})" if number > 1 else "")


def _figure(title: str, name: str, runs: Mapping[str, Sequence]) -> str:
    with tempfile.TemporaryDirectory() as folder:
        drawn = pathlib.Path(folder) / "curve.svg"
        label = "training loss [nats]" if name == "loss" else name
        figures.curves({title: runs}, drawn, name=name, label=label)
        data = base64.b64encode(drawn.read_bytes()).decode()
    caption = html.escape(f"{label} on {title}: {', '.join(runs)}")
    return (
        f'<figure><img src="data:image/svg+xml;base64,{data}" alt="{caption}">'
        f"<figcaption>{caption}</figcaption></figure>"
    )
