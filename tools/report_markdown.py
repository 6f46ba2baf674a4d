"""RESULTS.md: the tables of all experiments, and what is missing in them."""

from collections.abc import Sequence

from tools import result_tables


def render(found: Sequence[result_tables.Section]) -> str:
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
