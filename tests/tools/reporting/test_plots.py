"""Figures show the paper's numbers and ours where they belong, and nothing else."""

import dataclasses
import functools
import json
import re
import xml.etree.ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support import tiny_config
from tools.reporting import findings, plot_panels, plot_svg, result_tables, results
from vit_tf import config, config_values
from vit_tf.costs import flops
from vit_tf.studies import experiment_spec

SMALL, PAPER = experiment_spec.Scale.SMALL, experiment_spec.Scale.PAPER
METRIC = "test/accuracy"


def _make(scale, epochs=2.0, depth=1):
    del scale
    return tiny_config.make(
        train__length=epochs, train__unit=config.Unit.EPOCHS, model__depth=depth
    )


CELLS = experiment_spec.cells(
    experiment_spec.Cell("base", _make, seeds=2, paper={METRIC: 80.0}),
    experiment_spec.Cell(
        "base_tuned", _make, starts_from="base", seeds=2, paper={METRIC: 90.0}
    ),
    experiment_spec.Cell(
        "deep", functools.partial(_make, depth=3), seeds=2, paper={METRIC: 84.15}
    ),
)
TABLE = experiment_spec.Table(
    {METRIC: "accuracy [%]"}, scales=tuple(experiment_spec.Scale)
)
LINES = {
    "ViT": [
        experiment_spec.Point(["base"], {PAPER: 55.0, SMALL: 1.0}),
        experiment_spec.Point(["deep"], {PAPER: 224.0, SMALL: 2.0}, paper=70.0),
    ],
    "both": [experiment_spec.Point(["base", "base_tuned"], {PAPER: 60.0, SMALL: 3.0})],
}
PLOT = experiment_spec.Plot(
    "Figure 0", LINES, METRIC, x="size", y="the paper's accuracy"
)


def _entry(run, accuracy, steps=8):
    """A recorded result, as `results.entry` would give it."""
    return {
        "experiment": "drawn",
        "cell": run.cell.name,
        "scale": "small",
        "seed": run.seed,
        "start": run.starts_from
        and {
            "name": run.starts_from,
            "config": json.loads(config_values.to_json(CELLS["base"].make(SMALL)))
            | {"train": dataclasses.asdict(CELLS["base"].make(SMALL).train)},
        },
        "config": json.loads(config_values.to_json(run.config)),
        "steps": steps,
        "examples_seen": 6400 if run.starts_from else 64,
        "metrics": [
            {"split": "test", "name": "accuracy", "value": accuracy, "count": 400}
        ],
        "curves": {METRIC: [[4, accuracy / 2], [8, accuracy]]},
    }


def _section(tmp_path, plot=PLOT, accuracies=(), text=""):
    """The experiment with so many of its runs recorded, in their order."""
    runs = experiment_spec.runs(CELLS, SMALL)
    for run, accuracy in zip(runs, accuracies):
        found = _entry(run, accuracy)
        if run.starts_from:
            found["start"]["config"]["train"]["seed"] = run.seed
        results.write(str(tmp_path), found)
    experiment = experiment_spec.Experiment("drawn", "?", CELLS, TABLE, [plot], text)
    places = {SMALL: results.places(experiment, SMALL, str(tmp_path))}
    return result_tables.Section(experiment, "experiments/drawn.py", places)


ALL = (0.70, 0.72, 0.80, 0.82, 0.50, 0.50)  # two seeds of each cell


def test_the_papers_panel_has_its_numbers_where_the_paper_has_them(tmp_path):
    section = _section(tmp_path)
    assert list(plot_panels.panels(section, PLOT)) == ["paper"]
    panel = plot_panels.panels(section, PLOT)["paper"]
    spots = {name: [(m.x, m.y) for m in of] for name, of in panel.lines.items()}
    assert spots == {"ViT": [(55.0, 80.0), (224.0, 70.0)], "both": [(60.0, 85.0)]}
    assert (panel.x, panel.y) == ("size", "the paper's accuracy")
    said = plot_panels.caption(section, PLOT)
    assert said == "Ours: nothing is recorded yet at small."


def test_our_panel_has_means_over_seeds_and_says_what_is_missing(tmp_path):
    section = _section(tmp_path, accuracies=ALL)
    panel = plot_panels.panels(section, PLOT)["ours-small"]
    spots = {name: [(m.x, m.y) for m in of] for name, of in panel.lines.items()}
    assert spots == {
        "ViT": [(1.0, pytest.approx(71.0)), (2.0, pytest.approx(50.0))],
        "both": [(3.0, pytest.approx(76.0))],
    }
    deviation = panel.lines["ViT"][0].spread
    assert deviation == pytest.approx(100 * 0.02 / 2**0.5)
    assert panel.y == "accuracy [%]" and panel.title == "Figure 0: ours at small"
    assert not plot_panels.caption(section, PLOT)

    for path in tmp_path.rglob("base_tuned*"):
        path.unlink()
    section = _section(tmp_path)
    assert not plot_panels.panels(section, PLOT)["ours-small"].lines["both"]
    said = plot_panels.caption(section, PLOT)
    assert said.endswith("Ours at small: 2 of 3 points are recorded.")


def test_a_stale_result_is_not_drawn_and_the_caption_counts_it(tmp_path):
    _section(tmp_path, accuracies=ALL)
    for path in tmp_path.rglob("deep*"):
        entry = json.loads(path.read_text())
        entry["config"]["optim"]["lr"] = 0.5
        path.write_text(json.dumps(entry))
    section = _section(tmp_path)
    lines = plot_panels.panels(section, PLOT)["ours-small"].lines
    assert [mark.x for mark in lines["ViT"]] == [1.0]
    said = plot_panels.caption(section, PLOT)
    assert said == "Ours at small: 2 of 3 points are recorded."


def test_compute_is_that_of_pretraining_and_may_be_relative(tmp_path):
    lines = {
        "ViT": [experiment_spec.Point(["base_tuned"]), experiment_spec.Point(["deep"])]
    }
    plot = dataclasses.replace(
        PLOT, lines=lines, across=experiment_spec.X.COMPUTE, log=True
    )
    section = _section(tmp_path, plot, ALL)
    first, second = plot_panels.panels(section, plot)["ours-small"].lines["ViT"]
    expected = [
        flops.exaflops(
            flops.count(cfg.model, image_size=cfg.data.image_size).macs, images=64
        )
        for cfg in (_make(SMALL), _make(SMALL, depth=3))
    ]
    assert [first.x, second.x] == pytest.approx(expected)
    assert "paper" not in plot_panels.panels(section, plot)  # it gave no x

    plot = dataclasses.replace(plot, relative_to="base")
    first, second = plot_panels.panels(section, plot)["ours-small"].lines["ViT"]
    assert [first.x, second.x] == pytest.approx([1.0, expected[1] / expected[0]])


def test_curves_run_over_epochs(tmp_path):
    lines = {
        "CLS": [experiment_spec.Point(["base"])],
        "GAP": [experiment_spec.Point(["deep"])],
    }
    plot = dataclasses.replace(PLOT, lines=lines, across=experiment_spec.X.EPOCHS)
    section = _section(tmp_path, plot, ALL[:2])
    panel = plot_panels.panels(section, plot)["ours-small"]
    spots = [(mark.x, pytest.approx(mark.y)) for mark in panel.lines["CLS"]]
    assert spots == [(1.0, 35.5), (2.0, 71.0)]  # epochs, mean of two seeds
    said = plot_panels.caption(section, plot)
    assert said.endswith("Ours at small: 1 of 2 lines are recorded.")


def test_epochs_of_runs_in_steps_follow_from_the_images_of_an_epoch(tmp_path):
    section = _section(tmp_path, accuracies=ALL[:1])
    (place,) = [place for place in section.places[SMALL] if place.entry]
    place.entry["config"]["train"]["unit"] = "steps"
    lines = {"CLS": [experiment_spec.Point(["base"], {SMALL: 32})]}
    plot = dataclasses.replace(PLOT, lines=lines, across=experiment_spec.X.EPOCHS)
    panel = plot_panels.panels(section, plot)["ours-small"]
    assert [mark.x for mark in panel.lines["CLS"]] == [2.0, 4.0]  # 16 images a step
    lines = {"CLS": [experiment_spec.Point(["base"])]}
    plot = dataclasses.replace(plot, lines=lines)
    with pytest.raises(ValueError, match="drawn, base: its length is in steps"):
        plot_panels.panels(section, plot)


def test_places_stand_in_their_order(tmp_path):
    points = [
        experiment_spec.Point(["deep"], "1-D"),
        experiment_spec.Point(["base"], "none"),
    ]
    plot = dataclasses.replace(
        PLOT,
        lines={"stem": points},
        across=experiment_spec.X.PLACE,
        places=("none", "1-D"),
    )
    section = _section(tmp_path, plot)
    marks = plot_panels.panels(section, plot)["paper"].lines["stem"]
    assert [mark.x for mark in marks] == [1, 0]
    assert ">none</text>" in plot_svg.draw(plot_panels.panels(section, plot)["paper"])


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"metric": "accurcy"}, "no column accurcy"),
        ({"lines": {"a": [experiment_spec.Point(["bse"], 1.0)]}}, "no cell bse .*base"),
        ({"lines": {"a": [experiment_spec.Point(["base"])]}}, "lie nowhere"),
        ({"relative_to": "dep"}, "no cell dep"),
        ({"across": experiment_spec.X.PLACE, "places": ("none",)}, "not among"),
    ],
)
def test_a_plot_of_what_is_not_there_is_refused(changes, said):
    plot = dataclasses.replace(PLOT, **changes)
    with pytest.raises(ValueError, match=said):
        experiment_spec.Experiment("drawn", "?", CELLS, TABLE, [plot])


def test_findings_are_filled_with_what_is_recorded(tmp_path):
    text = (
        f"Deep gives {{deep:{METRIC}}}, {{deep minus base:{METRIC}}} more than base; "
        f"the paper {{paper deep:{METRIC}}} ({{paper deep minus base:{METRIC}}})."
    )
    section = _section(tmp_path, accuracies=ALL, text=text)
    found = findings.entries(section)
    assert "".join(entry.text for entry in found) == (
        "Deep gives 50.00 ± 0.00, -21.00 more than base; the paper 84.15 (+4.15)."
    )
    assert len(found[3].sources) == 4
    for path in tmp_path.rglob("deep*"):
        path.unlink()
    found = findings.entries(_section(tmp_path, text=text))
    assert found[1].text == "(missing)" and found[1].kind == result_tables.Kind.GAP


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("It gave 79.9 %.", "79.9 is typed"),
        ("It gave {depe:test/accuracy}.", "no cell depe"),
        ("It gave {deep:loss}.", "no column loss"),
    ],
)
def test_findings_of_what_is_not_there_are_refused(text, said):
    with pytest.raises(ValueError, match=said):
        experiment_spec.Experiment("drawn", "?", CELLS, TABLE, findings=text)


def _numbers(text):
    return [float(n) for n in re.findall(r"-?\d+\.?\d*", text)]


_FINITE = st.floats(-1e6, 1e6).filter(lambda v: v == 0 or abs(v) > 1e-6)


@given(
    st.lists(st.tuples(st.floats(1e-9, 1e9), _FINITE, st.floats(0, 1e3)), min_size=1),
    st.booleans(),
    st.booleans(),
)
def test_everything_is_drawn_inside_of_the_axes(spots, log, log_y):
    if log_y:
        spots = [(x, abs(y) + 1e-6, 0.0) for x, y, _ in spots]
    marks = [plot_svg.Mark(x, y, spread) for x, y, spread in spots]
    panel = plot_svg.Panel("t", "x", "y", {"a & <b>": marks}, log=log, log_y=log_y)
    text = plot_svg.draw(panel)
    root = xml.etree.ElementTree.fromstring(text)
    _, _, width, height = map(float, root.get("viewBox").split())
    for group in root.iter("{http://www.w3.org/2000/svg}g"):
        place = group.get("transform")
        if place:
            x, y = _numbers(place)[:2]
            assert 0 <= x <= width and 0 <= y <= height
    assert text == plot_svg.draw(panel)


@given(_FINITE, st.floats(1e-3, 1e3))
def test_ticks_are_round_even_and_within(low, size):
    high = low + size * max(1.0, abs(low) * 1e-3)
    ticks = plot_svg.linear_ticks(low, high)
    values = [value for value, _ in ticks]
    assert 3 <= len(values) <= 9
    assert low - 1e-6 * size <= values[0] and values[-1] <= high + 1e-6 * size
    assert len({text for _, text in ticks}) == len(ticks)
    for value, text in ticks:
        assert float(text) == pytest.approx(value)


def test_a_logarithm_of_nothing_is_refused():
    panel = plot_svg.Panel("t", "x", "y", {"a": [plot_svg.Mark(0.0, 1.0)]}, log=True)
    with pytest.raises(ValueError, match="logarithmic"):
        plot_svg.draw(panel)


def test_levels_cross_the_plot_where_they_belong_and_are_in_the_legend():
    lines = {"ours": [plot_svg.Mark(0, 10.0), plot_svg.Mark(100, 60.0)]}
    levels = {"<theirs>": 90.0, "half": 35.0}
    panel = plot_svg.Panel("title", "step", "accuracy [%]", lines, levels=levels)
    drawing = plot_svg.draw(panel)
    root = xml.etree.ElementTree.fromstring(drawing)
    space = "{http://www.w3.org/2000/svg}"
    paths = {
        path[0].text: re.fullmatch(r"M\d+ ([\d.]+)H\d+", path.get("d"))
        for path in root.iter(f"{space}path")
        if len(path)
    }
    heights = {name: float(found[1]) for name, found in paths.items()}
    assert heights.keys() == levels.keys()
    # Between the two marks of 10 and 60, and above both: up is a smaller y.
    places = re.findall(r'translate\([\d.]+ ([\d.]+)\)"><title>', drawing)
    low, high = map(float, places)
    assert heights["half"] == pytest.approx((low + high) / 2, abs=0.2)
    assert heights["<theirs>"] == pytest.approx(high + 0.6 * (high - low), abs=0.2)
    texts = [text.text for text in root.iter(f"{space}text")]
    assert {"ours", "<theirs>", "half"} <= set(texts)
