"""`--what=figure12`: the file goes on, is whole, and mistakes are one line.

The measuring itself, tested in test_throughput.py, is replaced by numbers here.
"""

import dataclasses
import json
import os
import subprocess
import sys

import pytest

from experiments import figure12_speed
from tests.support import warm
from tools.benchmarks import throughput
from tools.reporting import plot_svg, speed_tables

_CODE = """
import runpy, sys
from tools.benchmarks import throughput

def measure(model, size, settings):
    if size == 384:
        raise KeyboardInterrupt
    found = throughput.Point(model, size, size, rates_end="out of memory")
    if size != 512:
        found.images_per_second, found.batch_size = 1e6 / size, 8
        found.largest_batch, found.largest_how = 10**6 // size**2, "told"
    return found

throughput.measure = measure
sys.argv = ["tools.benchmark", "--what=figure12", *ARGUMENTS]
runpy.run_module("tools.benchmark", run_name="__main__")
"""


def _run(path, *arguments: str, env=()):
    flags = [f"--json={path}", *arguments]
    code = _CODE.replace("ARGUMENTS", repr(flags))
    return warm.run("-c", code, env=env)


def _sizes(path) -> list[int]:
    return [point["image_size"] for point in json.loads(path.read_text())["points"]]


def test_a_half_written_file_is_gone_on_with(tmp_path):
    path = tmp_path / "found" / "cpu.json"
    path.parent.mkdir()
    cut = _run(path, "--models=ViT-B/32", "--sizes=64,128,384,224")
    assert cut.returncode == 130 and "interrupted" in cut.stderr
    assert _sizes(path) == [64, 128]  # whole, and of all that was done
    rest = _run(path, "--models=ViT-B/32", "--sizes=64,128,224", "--growth=4")
    assert rest.returncode == 0, rest.stderr
    first, second, *_ = rest.stdout.splitlines()
    assert first == f"2 of 3 points are in {path}"
    assert second.startswith("ViT-B/32 at 224: 4,464.3 images/s at batch 8, largest")
    assert second.endswith("; 0:00 left") and _sizes(path) == [64, 128, 224]
    found = json.loads(path.read_text())
    assert (found["kind"], found["backend"]) == ("cpu", "tensorflow")
    assert found["settings"]["dtype"] == "float32" and found["memory_bytes"] > 1e8
    assert found["settings"]["growth"] == 2 and "settings" not in found["points"][0]
    assert found["points"][2]["settings"] == {"growth": 4}
    assert {"python", "keras", "tensorflow"} == set(found["versions"])
    for measure in ("images_per_second", "largest_batch"):
        assert "</svg>" in path.with_suffix(f".{measure}.svg").read_text()
    assert not list(path.parent.glob("*.unfinished"))


def test_what_did_not_run_is_tried_again(tmp_path):
    path = tmp_path / "cpu.json"
    for _ in range(2):
        done = _run(path, "--models=R50x1", "--sizes=512,64")
        assert "R50x1 at 512: no batch ran (out of memory)" in done.stdout
        assert sorted(_sizes(path)) == [64, 512]
    assert "1 of 2 points are in" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["--models=ViT-B32"], "did you mean ViT-B/32?"),
        (["--models=ViT-B/32", "--sizes=16"], "needs 32 pixels at least"),
        (["--sizes=64,big"], "--sizes=64,big: need whole numbers above 0"),
        (["--dtype=int8"], "dtype"),
        (["--what=figure13"], "what"),
    ],
)
def test_mistakes_are_answered_in_a_line(arguments, line, tmp_path):
    done = _run(tmp_path / "cpu.json", *arguments)
    assert done.returncode == 2 and line in done.stderr
    assert len(done.stderr.splitlines()) == 1 and not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("{", "not a file of --what=figure12"),
        ("[]", "not a file of --what=figure12"),
        ('{"what": "figure12", "device": "H100", "backend": "jax"}', "holds 'H100'"),
    ],
)
def test_other_files_are_left_alone(text, line, tmp_path):
    path = tmp_path / "other.json"
    path.write_text(text)
    done = _run(path, "--models=ViT-B/32", "--sizes=64")
    assert done.returncode == 2 and line in done.stderr
    assert path.read_text() == text and len(done.stderr.splitlines()) == 1


def test_another_dtype_goes_into_another_file(tmp_path):
    path = tmp_path / "cpu.json"
    assert _run(path, "--models=ViT-B/32", "--sizes=64").returncode == 0
    done = _run(path, "--models=ViT-B/32", "--sizes=64", "--dtype=bfloat16")
    assert done.returncode == 2 and "holds float32, this is bfloat16" in done.stderr


def test_a_backend_that_cannot_is_refused():
    done = subprocess.run(
        [sys.executable, "-m", "tools.benchmark", "--what=figure12"],
        cwd=warm.ROOT,
        env=os.environ | {"KERAS_BACKEND": "torch"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2 and len(done.stderr.splitlines()) == 1
    assert "KERAS_BACKEND=torch: --what=figure12 takes tensorflow or jax" in done.stderr


RECORDED = sorted((warm.ROOT / "experiments/results/figure12_speed").glob("*.json"))


@pytest.mark.skipif(not RECORDED, reason="nothing is recorded of Figure 12")
def test_what_is_recorded_can_be_drawn():
    fields = {field.name for field in dataclasses.fields(throughput.Point)}
    for path in RECORDED:
        found = json.loads(path.read_text())
        assert found["what"] == "figure12" and found["device"] and found["versions"]
        for point in found["points"]:
            assert fields <= point.keys() and point["model"] in figure12_speed.MODELS
            for _, median, slowest, fastest in point["rates"]:
                assert 0 < slowest <= median <= fastest
        for measure, panel in speed_tables.panels(found).items():
            marks = [mark for line in panel.lines.values() for mark in line]
            assert len(marks) == sum(p[measure] is not None for p in found["points"])
            # As many hollow ones as lower bounds, and each says so.
            bounds = sum("at least" in mark.name for mark in marks)
            assert (
                plot_svg.draw(panel).count(
                    'fill="none" stroke="currentColor" ' + 'stroke-width="1.5"'
                )
                == bounds
            )
            assert bounds == sum(mark.hollow for mark in marks)
