"""Tables say what is recorded, no more: paper's numbers apart, gaps with commands."""

import html.parser
import json
import os
import pathlib
import re
import statistics
import urllib.parse

import pytest

from experiments import quickstart
from tests.support import browser, tiny, tiny_experiment
from tools.reporting import (
    report_costs,
    report_markdown,
    report_page,
    result_configs,
    result_layouts,
    result_tables,
    results,
    speed_tables,
)
from vit_tf import config, config_values, errors
from vit_tf.recipes import paper
from vit_tf.studies import experiment_spec

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def _result(run, accuracy, **changes):
    def of(name, value):
        return {"split": "test", "name": name, "value": value, "count": 400}

    return {
        "config": json.loads(config_values.to_json(run.config)),
        "commit": COMMIT,
        "dataset": "digits 1.0.0",
        "device": "1 CPU",
        "versions": {"python": "3.11", "tensorflow": "2.21.0", "keras": "3.15.1"},
        "parameters": 1,
        "steps": 4,
        "examples_seen": 64,
        "train_seconds": 61.5,
        "metrics": [of("accuracy", accuracy), of("loss", 0.5)],
    } | changes


ROWS = [{"step": k, "loss": 3.0 - k / 2, "seconds": 1.0} for k in range(1, 5)]


@pytest.fixture
def recorded(tmp_path):
    """Three of the four tiny runs at small, recorded."""
    runs = experiment_spec.runs(tiny_experiment.CELLS, experiment_spec.Scale.SMALL)
    for run, accuracy in zip(runs[:3], (0.90, 0.92, 0.97)):
        start = None
        if run.starts_from:
            run.config.start_from = f"/somewhere/{run.starts_from}"
            start = _result(runs[0], 0.9)
        found = results.entry(
            "tiny",
            run,
            experiment_spec.Scale.SMALL,
            _result(run, accuracy),
            ROWS,
            start=start,
        )
        results.write(str(tmp_path), found)
    return tmp_path


def _section(root, cells=tiny_experiment.CELLS):
    question = "What can be learned in three steps | or four?"
    experiment = experiment_spec.Experiment(
        "tiny", question, cells, tiny_experiment.TABLE
    )
    scale = experiment_spec.Scale.SMALL
    places = {scale: results.places(experiment, scale, str(root))}
    return result_tables.Section(experiment, "experiments/tiny.py", places)


def test_rows_hold_means_deviations_counts_and_the_papers_numbers(recorded):
    section = _section(recorded)
    assert result_tables.heads(section) == [
        "cell",
        "paper: accuracy [%]",
        "ours at small: accuracy [%]",
        "ours at small: loss",
        "note",
    ]
    first, second = result_tables.rows(section)
    texts = [f"{entry.text} {entry.detail}".strip() for entry in first]
    assert texts[:2] == ["start", "98.5"]
    assert texts[2:4] == ["91.00 ± 1.41 (n = 400)", "0.5000 ± 0.0000 (n = 400)"]
    assert (second[1].text, second[2].text) == ("–", "97.00")
    assert second[2].detail == "(n = 400), 1 of 2 runs"
    assert result_tables.state(section) == "partly at small: 3 of 4 runs"


def _transfers(number):
    """Models, each transferred to so many sets; two metrics of the first."""
    make = tiny_experiment.CELLS["start"].make
    found = []
    for start in ("a", "b"):
        found.append(experiment_spec.Cell(start, make, paper={"test/loss": 0.5}))
        found += [
            experiment_spec.Cell(
                f"{start}_to{k}", make, starts_from=start, paper={"test/accuracy": k}
            )
            for k in range(number)
        ]
    return experiment_spec.cells(*found)


def test_transfers_are_a_matrix_of_models_and_sets(tmp_path):
    section = _section(tmp_path, _transfers(3))
    ((heads, rows),) = result_layouts.matrices(section).values()
    assert heads == ["paper", "loss", *(f"to{k}, accuracy [%]" for k in range(3))]
    assert [[entry.text for entry in row] for row in rows] == [
        ["a", "0.5", "0", "1", "2"],
        ["b", "0.5", "0", "1", "2"],
    ]
    ((heads, rows),) = result_layouts.matrices(
        _section(tmp_path, _transfers(9))
    ).values()
    assert heads == ["paper", "a", "b"] and len(rows) == 10
    assert [entry.text for entry in rows[-1]] == ["to8, accuracy [%]", "8", "8"]


def test_rows_without_ours_are_folded_away_but_none_is_lost(tmp_path):
    make = tiny_experiment.CELLS["start"].make
    cells = experiment_spec.cells(
        *(experiment_spec.Cell(f"c{k}", make) for k in range(16))
    )
    run = experiment_spec.runs(cells, experiment_spec.Scale.SMALL)[3]
    found = results.entry(
        "tiny", run, experiment_spec.Scale.SMALL, _result(run, 0.5), ROWS
    )
    results.write(str(tmp_path), found)
    section = _section(tmp_path, cells)
    shown, summary, rest = result_layouts.folded(section)
    assert [row[0].text for row in shown] == ["c3"]
    assert summary == "15 cells without a result of ours"
    assert [row[0].text for row in rest] == [c for c in cells if c != "c3"]
    assert {row[1].text for row in rest} == {"missing"}
    (gap,) = result_tables.gaps(section)
    assert gap.what.count(".seed0") == 15


def test_configs_in_short_say_all_that_is_not_at_its_default():
    cells = list(tiny_experiment.CELLS.values())
    shared, own = result_configs.short(cells, experiment_spec.Scale.SMALL)
    cfg = cells[0].make(experiment_spec.Scale.SMALL)
    defaults = config_values.fields(config.Config())
    assert shared == [
        f"{knob} = {value}"
        for knob, value in config_values.fields(cfg).items()
        if value != defaults[knob]
    ]
    assert own == {"start": "", "goes-on": ""}

    def longer(scale):
        del scale
        return tiny.make(train__length=5)

    _, own = result_configs.short(
        [*cells, experiment_spec.Cell("longer", longer)], experiment_spec.Scale.SMALL
    )
    assert (
        own["longer"] == "train.length = 5.0" and own["start"] == "train.length = 4.0"
    )


def test_planned_costs_are_those_of_the_paper_scale(tmp_path):
    def make(scale):
        del scale
        return paper.pretrain("ViT-B/32", "jft300m")

    section = _section(
        tmp_path, experiment_spec.cells(experiment_spec.Cell("B-32", make))
    )
    _, ((cell, runs, steps, _, exaflops, _),) = report_costs.planned(section)
    assert (cell.text, runs.text, steps.text) == ("B-32", "1", "517,822")
    assert 55 <= float(exaflops.text) < 57  # Table 6: 55


def test_what_is_missing_has_its_command(recorded):
    (gap,) = result_tables.gaps(_section(recorded))
    assert gap.what == "missing: goes-on.seed1"
    assert gap.command == (
        "python -m tools.run_experiment --experiment=experiments/tiny.py "
        "--scale=small --only=goes-on --record"
    )


def test_a_changed_cell_makes_its_results_and_what_starts_from_them_stale(recorded):
    def changed(scale):
        cfg = tiny_experiment.CELLS["start"].make(scale)
        cfg.optim.lr = 0.5
        return cfg

    cells = experiment_spec.cells(
        experiment_spec.Cell("start", changed, seeds=2),
        tiny_experiment.CELLS["goes-on"],
    )
    section = _section(recorded, cells)
    stale = [gap.what for gap in result_tables.gaps(section)]
    assert stale == [
        "missing: goes-on.seed1",
        "stale: start.seed0 (optim.lr: 0.003 against 0.5)",
        "stale: start.seed1 (optim.lr: 0.003 against 0.5)",
        "stale: goes-on.seed0 (its start start.seed0 had optim.lr: 0.003 against 0.5)",
    ]
    assert result_tables.state(section) == "partly at small: 0 of 4 runs, 3 stale"
    assert not [c for c in result_tables.columns(section) if c.scale]
    column = result_tables.Column(
        "test/accuracy", "accuracy", experiment_spec.Scale.SMALL
    )
    for cell in cells.values():
        entry = result_tables.number(section, cell, column)
        assert (entry.text, entry.kind) == ("stale", result_tables.Kind.GAP)


def test_a_knob_that_is_new_since_then_makes_nothing_stale(recorded):
    for path in recorded.rglob("*.json"):
        found = json.loads(path.read_text())
        for cfg in (found["config"], (found["start"] or {}).get("config")):
            if cfg is not None:
                del cfg["optim"]["polyak"]
        path.write_text(json.dumps(found))
    state = result_tables.state(_section(recorded))
    assert state == "partly at small: 3 of 4 runs"


def test_facts_say_what_ran_where(recorded):
    (line,) = result_tables.facts(_section(recorded))
    assert line == (
        "small: 3 runs on 1 CPU, 0:03:04 of training in all; data digits 1.0.0; "
        "keras 3.15.1, python 3.11, tensorflow 2.21.0; commit 0123456789ab"
    )


@pytest.mark.parametrize("where", [{"dataset": "/home/me/photos 1.0.0"}, "start_from"])
def test_paths_of_a_machine_are_not_recorded(tmp_path, where):
    run = experiment_spec.runs(tiny_experiment.CELLS, experiment_spec.Scale.SMALL)[0]
    if where == "start_from":
        run.config.start_from = "/home/me/ViT-B_16.npz"
        found = results.entry(
            "tiny", run, experiment_spec.Scale.SMALL, _result(run, 0.5), ROWS
        )
        assert found["start"] == {"name": "ViT-B_16.npz"}
        assert "/home" not in results.write(str(tmp_path), found).read_text()
        return
    found = results.entry(
        "tiny", run, experiment_spec.Scale.SMALL, _result(run, 0.5, **where), ROWS
    )
    with pytest.raises(errors.UserError, match="dataset is '/home/me/photos 1.0.0'"):
        results.write(str(tmp_path), found)
    assert not list(tmp_path.iterdir())


GIVEN = experiment_spec.cells(
    experiment_spec.Cell(
        "a", tiny_experiment.CELLS["start"].make, start_given=True, seeds=2
    ),
    experiment_spec.Cell(
        "b", tiny_experiment.CELLS["start"].make, start_given=True, note="B"
    ),
)


def _record_given(root, index, name, digest=None, cells=GIVEN):
    """Records a run that began with weights which the user named."""
    run = experiment_spec.runs(cells, experiment_spec.Scale.SMALL)[index]
    run.config.start_from = f"/somewhere/{name}"
    noted = None if digest is None else {"name": name, "size": 1, "sha256": digest}
    result = _result(run, 0.5)
    scale = experiment_spec.Scale.SMALL
    found = results.entry("tiny", run, scale, result, ROWS, start=noted)
    return results.write(str(root), found, start_given=True)


def test_tables_name_given_starts_and_mark_different_ones(tmp_path):
    for index in range(3):
        _record_given(tmp_path, index, "w.npz", "01234567" * 8)
    section = _section(tmp_path, GIVEN)
    label = "w.npz (sha256 01234567)"
    notes = [row[-1].text for row in result_tables.rows(section)]
    assert notes == [f"from {label}", f"B; from {label}"]
    assert result_tables.facts(section)[1:] == [f"small: started from {label}"]

    for path in tmp_path.rglob("a.small.seed1.json"):
        path.unlink()
    _record_given(tmp_path, 1, "other.npz")
    section = _section(tmp_path, GIVEN)
    first, second = (row[-1].text for row in result_tables.rows(section))
    assert first == f"DIFFERENT STARTS: other.npz, {label}"
    assert second == f"B; from {label}"
    (line,) = result_tables.facts(section)[1:]
    assert line.startswith("small: DIFFERENT STARTS, so the rows do not compare: ")
    assert line.endswith(f": other.npz: a; {label}: a, b")


def test_results_of_another_start_replace_only_stale_ones(tmp_path):
    path = _record_given(tmp_path, 0, "w.npz")
    _record_given(tmp_path, 0, "w.npz", "0" * 64)  # the same, and now its content
    before = path.read_text()
    for name, digest in (("other.npz", None), ("w.npz", "1" * 64)):
        with pytest.raises(errors.UserError) as refusal:
            _record_given(tmp_path, 0, name, digest)
        said = str(refusal.value)
        assert "holds the result from w.npz (sha256 00000000)" in said
        assert f"this one is from {name}" in said and "remove that file" in said
        assert path.read_text() == before

    def changed(scale):
        return tiny.make(train__length=4, optim__lr=1)

    cells = experiment_spec.cells(experiment_spec.Cell("a", changed, start_given=True))
    _record_given(tmp_path, 0, "other.npz", cells=cells)
    assert json.loads(path.read_text())["start"]["name"] == "other.npz"


def test_a_metric_at_a_step_is_read_from_the_curve():
    found = {
        "metrics": [{"split": "test", "name": "accuracy", "value": 0.9, "count": 400}],
        "curves": {"test/accuracy": [[50, 0.25], [100, 0.5], [600, 0.9]]},
    }
    assert results.value(found, "test/accuracy") == (0.9, 400)
    assert results.value(found, "test/accuracy@100") == (0.5, 400)
    assert results.value(found, "accuracy@50") == (0.25, 400)
    assert results.value(found, "test/accuracy@75") is None
    assert results.value(found, "test/loss@100") is None


def test_curves_are_thinned_to_means():
    rows = [{"step": k, "loss": float(k)} for k in range(1, 1002)]
    rows.append({"step": 1001, "split": "test", "name": "accuracy", "value": 0.5})
    curves = results.collect_curves(rows)
    assert len(curves["loss"]) <= results.MAX_POINTS
    assert curves["loss"][0] == [6, 3.5] and curves["loss"][-1][0] == 1001
    assert curves["test/accuracy"] == [[1001, 0.5]]


def test_markdown_keeps_its_columns(recorded):
    text = report_markdown.render([_section(recorded)], recorded)
    tables = re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE)
    for found in tables:
        bars = {len(re.findall(r"(?<!\\)\|", line)) for line in found.splitlines()}
        assert len(bars) == 1
    assert len(tables) == 2
    assert "[97.00](tiny/goes-on.small.seed0.json) (n = 400), 1 of 2 runs" in text


def test_the_page_needs_no_other_file_and_marks_the_papers_numbers(recorded):
    path = report_page.write([_section(recorded)], recorded / "page" / "index.html")
    page = path.read_text("utf-8")
    assert [p.name for p in path.parent.iterdir()] == ["index.html"]
    assert not re.search(r"\ssrc=|url\(|@import|<script|<link(?! rel=\"icon\")", page)
    assert page.count("<svg") == 1  # the loss of three runs
    assert '<td class="paper">98.5</td>' in page
    assert "91.00 ± 1.41 <sup><a href=" in page
    assert "--only=goes-on" in page and 'name="viewport"' in page


def test_the_committed_results_are_rendered_from_the_recorded_ones():
    """No number in RESULTS.md is typed: `python -m tools.report` writes it again."""
    found = result_tables.sections("experiments", results.ROOT)
    folder = pathlib.Path("experiments")
    committed = (folder / "RESULTS.md").read_text("utf-8")
    said = "run python -m tools.report"
    speeds = speed_tables.load(results.ROOT)
    assert report_markdown.render(found, folder, speeds) == committed, said
    drawn = report_markdown.figures(found, folder, speeds)
    assert set((folder / "figures").rglob("*.svg")) == set(drawn), said
    for figure, text in drawn.items():
        assert figure.read_text("utf-8") == text, f"{figure}: {said}"


def _speeds(root):
    """Figure 12 of two models on a device, one point of which failed."""
    points = [
        {
            "model": model,
            "image_size": size,
            "images_per_second": rate,
            "faster_at_least": False,
            "largest_batch": batch,
            "at_least": more,
        }
        for model, size, rate, batch, more in (
            ("ViT-B/32", 64, 1234.56, 4096, False),
            ("ViT-B/32", 224, 98.7, None, False),
            ("R50x1", 64, 500.0, 2048, True),
        )
    ]
    path = root / "figure12_speed" / "one_cpu.json"
    path.parent.mkdir()
    settings, versions = {"dtype": "float32"}, {"keras": "3.15.1"}
    found = {"device": "1 CPU", "settings": settings, "versions": versions}
    path.write_text(json.dumps(found | {"points": points}))
    return speed_tables.load(str(root))


def test_figure_12_is_shown_with_links_and_gaps(tmp_path):
    speeds = _speeds(tmp_path)
    path = report_page.write([], tmp_path / "page" / "index.html", speeds)
    shown = _Links(path.read_text("utf-8")).ours
    assert [one["text"] for one in shown] == [
        "500.0",
        "1,234.6",
        "98.7",
        "≥ 2,048",
        "4,096",
    ]
    for one in shown:
        assert len(set(_recomputed(one, path.parent))) == 1
    ((rate, batch),) = [
        speed_tables.panels(f).values() for f in speeds.measured.values()
    ]
    assert [mark.y for mark in rate.lines["ViT-B/32"]] == [1234.56, 98.7]
    assert [mark.x for mark in batch.lines["ViT-B/32"]] == [64]
    text = report_markdown.render([], tmp_path, speeds)
    assert "| ViT-B/32 | [1,234.6](figure12_speed/one_cpu.json) | missing |" in text
    figures = report_markdown.figures([], tmp_path, speeds)
    assert [figure.name for figure in figures] == [
        "one_cpu.images_per_second.svg",
        "one_cpu.largest_batch.svg",
    ]


class _Links(html.parser.HTMLParser):
    """Every link and name of a page, and what it shows of ours."""

    def __init__(self, page: str):
        super().__init__()
        self.links, self.names, self.ours, self._open = [], set(), [], None
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        found = dict(attrs)
        self.names |= {found["id"]} if "id" in found else set()
        if tag in ("td", "span") and found.get("class") == "ours":
            self._open = {"tag": tag, "metric": found["data-metric"]}
            self._open |= {"text": "", "links": []}
            self.ours.append(self._open)
        if tag == "a":
            self.links.append(found["href"])
            if self._open:
                self._open["links"].append(found["href"])

    def handle_endtag(self, tag):
        if self._open and tag == self._open["tag"]:
            self._open = None

    def handle_data(self, data):
        if self._open:
            self._open["text"] += data


def _recomputed(shown, folder) -> tuple[str, str]:
    """What is shown of ours, and it again from the files that it links to."""
    of_cell = {}
    for link in shown["links"]:
        entry = json.loads((folder / urllib.parse.unquote(link)).read_text())
        if "points" in entry:  # Figure 12
            model, size, measure = shown["metric"].split("@")
            (value,) = (
                point[measure]
                for point in entry["points"]
                if (point["model"], str(point["image_size"])) == (model, size)
            )
            exact = f"{value:,.1f}" if isinstance(value, float) else f"{value:,}"
            return shown["text"].removeprefix("≥ "), exact
        found = results.value(entry, shown["metric"])[0]
        of_cell.setdefault(entry["cell"], []).append(found)
    number = re.match(r"[+-]?[\d.]+(?: ± [\d.]+)?", shown["text"])[0]
    digits = len(number.split(" ")[0].partition(".")[2])
    times = 100 if digits == 2 else 1
    means = [statistics.fmean(values) for values in of_cell.values()]
    if len(means) == 2:
        return number, f"{times * (means[0] - means[1]):+.{digits}f}"
    text = f"{times * means[0]:.{digits}f}"
    values = next(iter(of_cell.values()))
    if len(values) > 1:
        text += f" ± {times * statistics.stdev(values):.{digits}f}"
    return number, text


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """The page of all that is recorded, where `python -m tools.report` puts it."""
    root = tmp_path_factory.mktemp("checkout")
    (root / "experiments").symlink_to(tiny.ROOT / "experiments")
    before = os.getcwd()
    os.chdir(root)
    try:
        found = result_tables.sections("experiments", results.ROOT)
        path = root / "runs" / "report" / "index.html"
        speeds = speed_tables.load(results.ROOT)
        return report_page.write(found, path, speeds, planned=False)
    finally:
        os.chdir(before)


def test_every_link_leads_to_a_file_or_a_place_of_the_page(page):
    found = _Links(page.read_text("utf-8"))
    assert len(found.links) > 50
    for link in map(urllib.parse.unquote, found.links):
        if link.startswith("#"):
            assert link[1:] in found.names, link
        else:
            assert (page.parent / link).is_file(), link


def test_every_number_of_ours_is_in_the_results_it_links_to(page):
    shown = _Links(page.read_text("utf-8")).ours
    assert len(shown) > 20
    for one in shown:
        number, recomputed = _recomputed(one, page.parent)
        assert number == recomputed, one


def test_every_link_of_the_markdown_leads_to_a_file():
    folder = tiny.ROOT / "experiments"
    text = (folder / "RESULTS.md").read_text("utf-8")
    links = re.findall(r"\]\(([^)#][^)]*)\)", text)
    assert len(links) > 40
    for link in links:
        assert (folder / urllib.parse.unquote(link)).is_file(), link


@pytest.mark.needs("chromium")
@pytest.mark.parametrize("width", [390, 1200])
def test_nothing_of_the_page_is_wider_than_the_window(page, width):
    with browser.Browser(browser.find()) as window:
        window.open(page.as_uri(), width=width, dark=width == 390, phone=width == 390)
        window.value("document.querySelectorAll('details').forEach(d => d.open = true)")
        window.settle()
        assert window.value("document.documentElement.scrollWidth") <= width
        assert not window.errors
        assert window.requests == [page.as_uri()]


def test_recorded_results_are_where_their_experiment_looks_for_them():
    known = set(speed_tables.load(results.ROOT).measured)
    for section in result_tables.sections("experiments", results.ROOT):
        known |= {p.path for places in section.places.values() for p in places}
    assert set(pathlib.Path(results.ROOT).rglob("*.json")) <= known


def test_the_quickstart_is_recorded():
    for section in result_tables.sections("experiments", results.ROOT):
        if section.experiment.name == "quickstart":
            rows = result_tables.rows(section)
            assert [row[0].text for row in rows] == list(quickstart.CELLS)
            assert result_tables.state(section) == "recorded at small"
