"""Renders experiments/RESULTS.md, and a page, from the recorded results.

python -m tools.report
python -m tools.report --html=runs/report/index.html

No number is typed: a test renders the file again and compares.
"""

import pathlib
from collections.abc import Sequence

from absl import flags

from tools import command, result_tables, results
from vit_tf import config

_FILE = flags.DEFINE_string(
    "file", "experiments/RESULTS.md", "The Markdown file to write."
)
_RESULTS = flags.DEFINE_string("results", results.ROOT, "Where results are recorded.")
_HTML = flags.DEFINE_string(
    "html", None, "Also write a page there, such as index.html."
)


def main() -> None:
    if not pathlib.Path("experiments").is_dir():
        raise config.Refused("experiments: no such folder; start this in the project's")
    found = result_tables.sections("experiments", _RESULTS.value)
    pathlib.Path(_FILE.value).write_text(markdown(found))
    print(_FILE.value)
    if _HTML.value is not None:
        from tools import report_page

        print(report_page.write(found, pathlib.Path(_HTML.value)))


def markdown(found: Sequence[result_tables.Section]) -> str:
    """The whole of RESULTS.md."""
    parts = [
        "# Results\n",
        "Rendered by `python -m tools.report` from `experiments/results/`; do not edit.\n",
        f"{result_tables.HOW_TO_READ}\n",
        _table(*result_tables.summary(found)),
    ]
    for section in found:
        parts += [
            f"## {section.experiment.name}\n",
            f"{section.experiment.question} (`{section.file}`)\n",
            _table(result_tables.heads(section), result_tables.rows(section)),
        ]
        lines = [f"* {line}\n" for line in result_tables.facts(section)]
        for gap in result_tables.gaps(section):
            lines.append(f"* {gap.scale}: {gap.what}:\n  `{gap.command}`\n")
        if lines:
            parts.append("".join(lines))
    return "\n".join(parts)


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [heads, ["---"] * len(heads), *rows]
    cells = [[text.replace("|", "\\|") for text in line] for line in lines]
    return "".join(f"| {' | '.join(line)} |\n" for line in cells)


if __name__ == "__main__":
    command.run(main)
