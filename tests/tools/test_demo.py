"""The quickstart end to end at smoke scale, and the honesty of its page."""

import base64
import dataclasses
import html
import io
import json
import re
import shlex

import numpy as np
import pytest
from PIL import Image
from sklearn import datasets as sklearn_datasets
from sklearn import linear_model

from experiments import quickstart
from tests.support import browser, tiny, warm
from tools.reporting import demo_findings, demo_page, results
from vit_tf import config_values
from vit_tf.data import catalog
from vit_tf.data.builders import digits
from vit_tf.inspection import plots, run_plots
from vit_tf.studies import experiment_spec


def _results(finetuned, scratch, count=400):
    def of(value):
        metric = {"split": "test", "name": "accuracy", "value": value, "count": count}
        return {"metrics": [metric], "steps": 500}

    return {"finetune": of(finetuned), "scratch": of(scratch)}


@pytest.mark.parametrize(
    ("finetuned", "scratch", "said"),
    [
        (0.90, 0.60, "helped: 30.0 points better"),
        (0.60, 0.90, "did not help: 30.0 points worse"),
        (0.75, 0.75, "made no difference"),
    ],
)
def test_the_verdict_says_what_came_out(finetuned, scratch, said):
    line = demo_findings.verdict(_results(finetuned, scratch))
    assert said in line and "same 400 test images" in line


def test_the_verdict_admits_doubt():
    assert "intervals overlap" in demo_findings.verdict(_results(0.76, 0.74))
    assert "do not overlap" in demo_findings.verdict(_results(0.90, 0.60))


def _rows(accuracies):
    """metrics.jsonl of a run that was evaluated every 50 steps."""
    rows = [{"step": 1, "loss": 2.3}]
    for step, value in enumerate(accuracies, start=1):
        of = {"step": 50 * step, "split": "test", "count": 400}
        rows += [of | {"name": "accuracy", "value": value}]
        rows += [of | {"name": "loss", "value": 0.5}]
    return rows


@pytest.mark.parametrize(
    ("tuned", "scratch", "said"),
    [
        (
            (0.3, 0.8, 0.9, 0.95),
            (0.2, 0.4, 0.7, 0.9),
            (
                "reached the last accuracy of the one from scratch (90.0 %) after 150 "
                "of 200 steps. It was ahead by most at step 100: 80.0 % against 40.0 %."
            ),
        ),
        (
            (0.1, 0.3),
            (0.2, 0.4),
            (
                "did not reach the last accuracy of the one from scratch (40.0 %). It "
                "was ahead at none of the evaluations."
            ),
        ),
    ],
)
def test_the_head_start_is_counted_in_steps(tuned, scratch, said):
    rows = {"finetune": _rows(tuned), "scratch": _rows(scratch)}
    assert demo_findings.head_start(rows).endswith(said)


def test_one_evaluation_tells_no_head_start():
    assert (
        demo_findings.head_start({"finetune": _rows([1]), "scratch": _rows([0])}) == ""
    )


def test_the_best_method_is_named_even_if_it_is_not_ours():
    scores = {
        "ours": demo_findings.Score(0.80, 400),
        "nearest": demo_findings.Score(0.97, 400),
        "logistic": demo_findings.Score(0.96, 400),
    }
    said = demo_findings.best(scores)
    assert "read by nearest (388 of 400), but" in said
    assert said.endswith("overlaps with that of logistic.")
    del scores["logistic"]
    assert demo_findings.best(scores).endswith("overlaps with no other.")
    scores["ours"] = scores["nearest"]
    assert "read by ours and nearest (388 of 400)." in demo_findings.best(scores)


def test_recorded_means_are_of_all_seeds_or_not_shown(tmp_path):
    cells = {
        name: dataclasses.replace(cell, seeds=2)
        for name, cell in quickstart.CELLS.items()
    }
    scale = experiment_spec.Scale.SMALL
    runs = experiment_spec.runs(cells, scale)
    written = []
    for run in runs:
        start = None
        if run.starts_from:
            run.config.start_from = f"/runs/{run.starts_from}"
            before = next(r for r in runs if r.name == run.starts_from)
            start = _result_of(before, 0.8)
        found = _result_of(run, 0.9 + 0.02 * run.seed)
        entry = results.entry("quickstart", run, scale, found, [], start=start)
        written.append(results.write(str(tmp_path), entry))
    found = demo_findings.recorded(500, cells, tmp_path)
    assert found["finetune"] == found["scratch"] == "91.0 ± 1.4 %, 2 seeds"
    assert demo_findings.recorded(501, cells, tmp_path) == {}
    written[-1].unlink()
    assert demo_findings.recorded(500, cells, tmp_path) == {}


def _result_of(run, accuracy):
    metric = {"split": "test", "name": "accuracy", "value": accuracy, "count": 400}
    return {
        "config": json.loads(config_values.to_json(run.config)),
        "metrics": [metric],
        "steps": 500,
        "commit": "0" * 40,
        "dataset": "digits 1.0.0",
        "device": "1 CPU",
        "versions": {},
        "parameters": 1,
        "examples_seen": 1,
        "train_seconds": 1.0,
    }


def test_wilson_interval_has_known_values():
    # 81 of 263: a worked example of Newcombe (1998), table I: 0.2553 to 0.3662.
    low, high = run_plots.wilson_interval(81 / 263, 263)
    assert low == pytest.approx(0.2553, abs=1e-4)
    assert high == pytest.approx(0.3662, abs=1e-4)
    assert run_plots.wilson_interval(0.0, 10)[0] == 0.0
    assert run_plots.wilson_interval(1.0, 10)[1] == pytest.approx(1.0)


def test_similarity_tiles_stand_where_their_patch_does():
    grid = 3
    tiles = plots.tiles(np.arange(81.0).reshape(9, 9), grid)
    assert tiles.shape == (11, 11)
    np.testing.assert_array_equal(tiles[:3, :3].ravel(), np.arange(9))  # patch 0
    np.testing.assert_array_equal(tiles[4:7, 8:11].ravel(), np.arange(45, 54))
    assert np.isnan(tiles[3]).all() and np.isnan(tiles[:, 7]).all()


def _draw_few_shapes():
    from vit_tf.data.builders import shapes

    shapes.SPLIT_SIZES = {"train": 200, "validation": 100, "test": 200}


@pytest.fixture(scope="module")
def demo(once):
    """The folder of the demo, what it printed, and what it told of its progress."""

    def run(folder):
        arguments = ("--scale=smoke", f"--workdir={folder / 'demo'}")
        process = warm.start("-m", "tools.demo", *arguments, prepare=_draw_few_shapes)
        said = process.communicate()
        assert process.returncode == 0, said
        for name, text in zip(("stdout", "stderr"), said):
            (folder / name).write_text(text)

    folder = once("demo", run)
    return folder / "demo", *((folder / n).read_text() for n in ("stdout", "stderr"))


@pytest.fixture(scope="module")
def page(demo):
    return (demo[0] / "report.html").read_text()


def test_the_demo_writes_one_page_that_needs_nothing_else(demo, page):
    workdir, said, _ = demo
    assert str(workdir / "report.html") in said
    sources = re.findall(r'src="([^"]+)"', page)
    for source in sources:
        kind, data = source.split(",")
        assert kind == "data:image/png;base64"
        Image.open(io.BytesIO(base64.b64decode(data))).load()
    # Two of each class of two sets, two of positions, and the mistakes.
    assert len(sources) == 2 * 20 + 2 + len(_said_mistakes(page))
    assert not re.search(r"href=\"(?!data:)|url\(|@import|<script", page)
    assert (workdir / "figures" / "positions.png").stat().st_size > 5000


def _said_mistakes(page):
    return re.findall(r"says (\w+), is (\w+)<br>", page)


def _words(markup):
    """The text of a piece of HTML in one line."""
    return " ".join(html.unescape(re.sub(r"<[^>]+>", " ", markup)).split())


def test_the_table_holds_the_results_with_their_counts(demo, page):
    workdir, *_ = demo
    found = {name: tiny.result(workdir / name) for name in demo_page.RUNS}
    rows = [_words(row) for row in re.findall(r"<tr>.*?</tr>", page, re.DOTALL)]
    for name, words in demo_page.RUNS.items():
        score = demo_findings.score(found[name])
        said = f"{words} {100 * score.accuracy:.1f} % {score.right} of {score.count} "
        (row,) = [row for row in rows if row.startswith(said)]
        assert f"{found[name]['config']['data']['image_size']} px" in row
    assert demo_findings.verdict(found) in _words(page)
    assert "one run with one seed" in _words(page)


def test_shapes_and_digits_do_not_share_a_plot(page):
    (accuracy,) = re.findall(
        r"<svg(?:(?!<svg).)*Held-out digits.*?</svg>", page, re.DOTALL
    )
    assert "fine-tuned" in accuracy and "nearest neighbour" in accuracy
    assert "shapes" not in accuracy


def test_every_mistake_says_what_it_is_and_they_are_all_counted(demo, page):
    score = demo_findings.score(tiny.result(demo[0] / "finetune"))
    wrong = score.count - score.right
    assert f"{wrong} of {score.count} held-out digits" in _words(page)
    pairs = _said_mistakes(page)
    assert len(pairs) == min(24, wrong)
    assert all(says != truth for says, truth in pairs)


def test_simple_methods_learn_from_the_same_digits(demo):
    """Against scikit-learn's own copy, whose 17 grey levels are not rounded to 256."""
    data = catalog.open_source("digits", data_dir=str(demo[0] / "data"))
    found = demo_findings.baselines(data)
    known = sklearn_datasets.load_digits()
    rows = digits.split_rows(known.target)
    pixels, labels = known.data / 16, known.target
    fitted = linear_model.LogisticRegression(max_iter=5000)
    fitted.fit(pixels[rows["train"]], labels[rows["train"]])
    want = fitted.score(pixels[rows["test"]], labels[rows["test"]])
    assert found["logistic regression"].accuracy == pytest.approx(want, abs=0.01)
    distance = np.linalg.norm(
        pixels[rows["test"]][:, None] - pixels[rows["train"]], axis=-1
    )
    nearest = labels[rows["train"]][distance.argmin(axis=1)]
    want = np.mean(nearest == labels[rows["test"]])
    assert found["nearest neighbour"].accuracy == pytest.approx(want, abs=0.01)
    assert {score.count for score in found.values()} == {400}


def test_the_next_command_works_as_it_stands(demo, page):
    """The one that looks into the fine-tuned model."""
    found = re.findall(r"<pre><code>(.*?)</code>", page, re.DOTALL)
    # A shell joins a line that ends in a backslash with the next one.
    commands = [html.unescape(command).replace("\\\n", " ") for command in found]
    tools = [shlex.split(command)[2] for command in commands]
    assert tools == [
        f"tools.{name}" for name in ("prepare_data", "transfer", "explore", "export")
    ]
    found = warm.run(*shlex.split(commands[2])[1:])
    assert found.returncode == 0, found.stderr
    assert (demo[0] / "explorer" / "index.html").exists()


@pytest.mark.skipif(browser.find() is None, reason="no Chromium here")
@pytest.mark.parametrize("width", [390, 1200])
def test_nothing_is_cut_off_or_hidden_on_any_screen(demo, width):
    page = demo[0] / "report.html"
    with browser.Browser(browser.find()) as window:
        window.open(page.as_uri(), width=width, dark=width == 390, phone=width == 390)
        window.value("document.querySelectorAll('details').forEach(d => d.open = true)")
        window.settle()
        assert window.value("document.documentElement.scrollWidth") <= width
        inside = (
            "[...document.querySelectorAll('td, img, svg, pre')].every(e => {"
            "const box = e.getBoundingClientRect();"
            "return box.width > 0 && box.left >= 0 && box.right <= innerWidth})"
        )
        assert window.value(inside)
        # Letters of a drawing, as many pixels tall as they are shown.
        size = (
            "Math.min(...[...document.querySelectorAll('svg')].map(e => "
            "11 * e.getBoundingClientRect().width / e.viewBox.baseVal.width))"
        )
        assert window.value(size) >= 10.5
        assert not window.errors
        assert not [r for r in window.requests[1:] if not r.startswith("data:")]


def test_transfer_is_at_twice_the_resolution_from_the_first_run(demo):
    workdir, _, told = demo
    sizes = {
        name: tiny.result(workdir / name)["config"]["data"]["image_size"]
        for name in demo_page.RUNS
    }
    assert sizes["finetune"] == sizes["scratch"] == 2 * sizes["pretrain"]
    assert "resized from 4x4 to 8x8" in told
    starts = [
        tiny.result(workdir / name)["config"]["start_from"]
        for name in ("finetune", "scratch")
    ]
    assert starts == [str(workdir / "pretrain"), None]
