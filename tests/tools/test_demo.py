"""The quickstart end to end at smoke scale, and the honesty of its page."""

import re

import numpy as np
import pytest

from tests.support import tiny, warm
from tools.reporting import demo_page
from vit_tf.inspection import plots, run_plots


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
    line = demo_page.verdict(_results(finetuned, scratch))
    assert said in line and "same 400 test images" in line


def test_the_verdict_admits_doubt():
    assert "intervals overlap" in demo_page.verdict(_results(0.76, 0.74))
    assert "do not overlap" in demo_page.verdict(_results(0.90, 0.60))


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


def test_the_demo_writes_one_page_that_needs_no_network(demo):
    workdir, said, _ = demo
    page = (workdir / "report.html").read_text()
    assert str(workdir / "report.html") in said
    pictures = re.findall(r'src="([^"]+)"', page)
    assert len(pictures) == 6
    for picture in pictures:
        data = (workdir / picture).read_bytes()
        assert data.startswith(b"\x89PNG") and len(data) > 5000
    assert "http" not in page
    assert page.count("<tr>") == 4, "a head and three runs"


def test_the_table_holds_the_results_with_their_counts(demo):
    workdir, *_ = demo
    page = (workdir / "report.html").read_text()
    for name, words in demo_page.RUNS.items():
        result = tiny.result(workdir / name)
        (metric,) = [m for m in result["metrics"] if m["name"] == "accuracy"]
        right = round(metric["value"] * metric["count"])
        assert f"<td>{words}</td><td>{100 * metric['value']:.1f} %</td>" in page
        assert f"<td>{right} of {metric['count']}</td>" in page
    assert (
        demo_page.verdict(
            {name: tiny.result(workdir / name) for name in demo_page.RUNS}
        )
        in page
    )


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
