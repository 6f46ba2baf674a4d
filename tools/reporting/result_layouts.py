"""How an experiment's table is laid out: what is in short, what is folded away."""

from collections.abc import Sequence

from tools.reporting import result_tables
from vit_tf.studies import experiment_spec

# A table of more rows shows first those with a number of ours.
_SHORT = 14

# A matrix of more columns is turned.
_WIDE = 8

_Rows = list[list[result_tables.Entry]]
Matrix = tuple[list[str], _Rows]  # headings, rows


def folded(section: result_tables.Section) -> tuple[_Rows, str, _Rows]:
    """Rows to show, and if there are many: what the other rows are, and they."""
    rows = result_tables.rows(section)
    if len(rows) <= _SHORT:
        return rows, "", []
    shown = matrices(section)
    apart = [
        i
        for i, c in enumerate(result_tables.columns(section), 1)
        if c.scale not in shown
    ]
    ours = [
        row
        for row in rows
        if any(row[i].kind is result_tables.Kind.OURS for i in apart)
    ]
    rest = [row for row in rows if row not in ours]
    summary = f"{len(rest)} cells without a result of ours"
    if shown:
        summary = f"The other {len(rest)} cells"
    return ours, summary if ours else f"All {len(rows)} cells", rest


def matrices(
    section: result_tables.Section,
) -> dict[experiment_spec.Scale | None, Matrix]:
    """Arranges the paper's numbers, or ours at a scale, as models by
    what was asked of them.

    A row is a cell that others start from, a column what a name such as
    'MODEL_cifar10' adds to that of its start. There are none where cells are not
    named so.
    """
    made = {}
    for scale in (None, *section.places):
        of_scale = [
            column for column in result_tables.columns(section) if column.scale == scale
        ]
        matrix = _matrix(section, of_scale)
        if matrix is not None:
            made[scale] = matrix
    return made


def _matrix(
    section: result_tables.Section, of_scale: Sequence[result_tables.Column]
) -> Matrix | None:
    numbers: dict[str, dict[tuple[str, str], result_tables.Entry]] = {}
    for cell in section.experiment.cells.values():
        row, target = _transfer(cell)
        for column in of_scale:
            entry = result_tables.number(section, cell, column)
            if entry.text != result_tables.NOTHING:
                numbers.setdefault(row, {})[target, column.heading] = entry
    rows = {row: of for row, of in numbers.items() if any(t for t, _ in of)}
    keys = list(dict.fromkeys(key for of in rows.values() for key in of))
    if len(rows) < 2 or len(keys) < 2:
        return None
    kinds = {heading for _, heading in keys}
    heads = [", ".join(filter(None, key)) for key in keys]
    corner = of_scale[0].whose
    if len(kinds) == 1:
        heads, corner = [target for target, _ in keys], of_scale[0].head
    nothing = result_tables.Entry(result_tables.NOTHING)
    lines = [
        [result_tables.Entry(row), *(of.get(k, nothing) for k in keys)]
        for row, of in rows.items()
    ]
    table = [corner, *heads], lines
    return table if len(heads) <= _WIDE else _turned(*table)


def _turned(heads: Sequence[str], rows: _Rows) -> Matrix:
    """Turns a table so that models are columns."""
    names = [row[0].text for row in rows]
    lines = [
        [result_tables.Entry(head), *(row[i] for row in rows)]
        for i, head in enumerate(heads[1:], 1)
    ]
    return [heads[0], *names], lines


def _transfer(cell: experiment_spec.Cell) -> tuple[str, str]:
    """Splits 'ViT-L-16_cifar10', which starts from 'ViT-L-16', into
    ('ViT-L-16', 'cifar10').
    """
    start = f"{cell.starts_from}_"
    if cell.name.startswith(start):
        return cell.starts_from, cell.name[len(start) :]
    return cell.name, ""


def without_empty(
    heads: Sequence[str], rows: Sequence[Sequence[result_tables.Entry]]
) -> tuple[list[str], _Rows]:
    """Returns a table without its empty columns."""
    kept = [
        i
        for i in range(len(heads))
        if any(row[i].text not in ("", result_tables.NOTHING) for row in rows)
    ]
    return [heads[i] for i in kept], [[row[i] for i in kept] for row in rows]
