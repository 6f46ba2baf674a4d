"""FINDINGS of an experiment, with the numbers that they ask for."""

from collections.abc import Iterator

from tools.reporting import result_tables, results
from vit_tf.studies import experiment_spec


def entries(section: result_tables.Section) -> list[result_tables.Entry]:
    """Yields the paragraph in pieces: words, the paper's
    numbers, and ours at scale small.
    """
    text, pieces, end = section.experiment.findings, [], 0
    for asked in experiment_spec.NUMBER.finditer(text):
        pieces.append(result_tables.Entry(text[end : asked.start()]))
        paper, cell, other, metric = asked.groups()
        number = _papers if paper else _ours
        pieces.append(number(section, [cell, other] if other else [cell], metric))
        end = asked.end()
    return [entry for entry in [*pieces, result_tables.Entry(text[end:])] if entry.text]


def _papers(
    section: result_tables.Section, names: list[str], metric: str
) -> result_tables.Entry:
    numbers = [section.experiment.cells[name].paper.get(metric) for name in names]
    if None in numbers:
        raise ValueError(f"FINDINGS: the paper has no {metric} of {' or '.join(names)}")
    if len(numbers) == 1:
        return result_tables.Entry(f"{numbers[0]:g}", result_tables.Kind.PAPER)
    # To six digits: 84.15 - 77.91 is 6.24, not 6.2400000000000091.
    return result_tables.Entry(
        f"{numbers[0] - numbers[1]:+.6g}", result_tables.Kind.PAPER
    )


def _ours(
    section: result_tables.Section, names: list[str], metric: str
) -> result_tables.Entry:
    """Computes a mean over seeds, or the difference of two."""
    places = [section.filled(name, experiment_spec.Scale.SMALL) for name in names]
    values = [list(_values(of, metric)) for of in places]
    if not all(values):
        return result_tables.Entry(f"({result_tables.MISSING})", result_tables.Kind.GAP)
    times = result_tables.factor(section, metric)
    text = result_tables.mean_text(values[0], times)
    if len(names) == 2:
        means = [results.mean_and_deviation(of)[0] for of in values]
        text = f"{times * (means[0] - means[1]):+.{2 if times == 100 else 4}f}"
    sources = [place.path for of in places for place in of]
    return result_tables.Entry(text, result_tables.Kind.OURS, sources, metric)


def _values(places, metric: str) -> Iterator[float]:
    for place in places:
        value_and_count = results.value(place.entry, metric)
        if value_and_count is not None:
            yield value_and_count[0]
