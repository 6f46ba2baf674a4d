"""Every tool against what goes wrong: paths, numbers, full disks, signals.

A mistake or a machine's limit ends in one line and the exit code of
`tools/failures.py`, with no traceback, no stray file and nothing lost.
"""

import contextlib
import json
import os
import pathlib
import shutil
import signal
import subprocess
import time

import numpy as np
import PIL.Image
import pytest

from tests.support import tiny, warm

MISTAKE, TRY_AGAIN, INTERRUPTED, STOPPED = 2, 75, 130, 143

# What each tool needs to begin its work; {words} are places of the fixture `places`.
TOOLS = {
    "benchmark": ["--what=input", "--folder={images}"],
    "convert": ["--from={run}", "--to={out}/w.npz"],
    "demo": ["--scale=smoke", "--workdir={out}/demo"],
    "evaluate": [
        "--checkpoint={run}",
        "--dataset=digits",
        "--data_dir={data}",
        "--evaluators=accuracy",
        "--json={out}/report.json",
    ],
    "explore": ["--checkpoint={run}", "--images={images}", "--to={out}/explorer"],
    "export": ["--checkpoint={run}", "--to={out}/exports"],
    "plan": ["--experiment=tests/support/tiny_experiment.py", "--scale=smoke"],
    "predict": ["--checkpoint={run}", "--images={images}", "--to={out}/p.csv"],
    "predict_client": [
        "--server=localhost:1",
        "--images={images}",
        "--to={out}/p.csv",
        "--deadline=0.1",
    ],
    "prepare_data": [
        "--folder={photos}",
        "--name=photos",
        "--data_dir={out}/data",
    ],
    "report": [
        "--file={out}/results.md",
        "--results=experiments/results",
        "--html=",
    ],
    "run_experiment": [
        "--experiment=tests/support/tiny_experiment.py",
        "--scale=smoke",
        "--data_dir={data}",
        "--folder={out}/runs",
    ],
    "tpu_check": [
        "--config=tests/support/tiny_config.py",
        "--text={out}/text",
    ],
    "train": [
        "--config=tests/support/tiny_config.py",
        "--data_dir={data}",
        "--workdir={out}/run",
    ],
    "transfer": [
        "--start_from={run}",
        "--dataset=digits",
        "--data_dir={data}",
        "--workdir={out}/transfer",
        "--image_size=16",
        "--steps=2",
        "--config.data.batch_size=8",
    ],
    "visualize": ["--checkpoint={run}", "--what=filters", "--to={out}/figures"],
    "vtab": [
        "--start_from={run}",
        "--data_dir={data}",
        "--workdir={out}/vtab",
        "--linear",
        "--skip_missing",
    ],
}

# Paths that a tool reads, and those that it writes.
READ = {
    "benchmark": ["folder"],
    "convert": ["from"],
    "evaluate": ["checkpoint", "data_dir"],
    "explore": ["checkpoint", "images"],
    "export": ["checkpoint", "labels", "images"],
    "plan": ["experiment"],
    "predict": ["checkpoint", "images"],
    "predict_client": ["images"],
    "prepare_data": ["folder"],
    "report": ["results"],
    "run_experiment": ["experiment"],
    "tpu_check": ["config"],
    "train": ["config", "data_dir", "config.start_from"],
    "transfer": ["start_from", "dataset", "data_dir"],
    "visualize": ["checkpoint"],
    "vtab": ["start_from"],
}
WRITTEN = {
    "convert": "to",
    "demo": "workdir",
    "evaluate": "json",
    "explore": "to",
    "export": "to",
    "predict": "to",
    "predict_client": "to",
    "prepare_data": "data_dir",
    "report": "file",
    "run_experiment": "folder",
    "tpu_check": "text",
    "train": "workdir",
    "transfer": "workdir",
    "visualize": "to",
    "vtab": "workdir",
}

# String flags that name no path.
NO_PATHS = {
    *("coordinator", "dataset", "device", "label", "license", "model", "name"),
    *("only", "server", "signature", "split", "topology", "tpu", "variant"),
    "config",  # a path with an argument; tools.command expands it
}


@pytest.fixture(scope="module")
def places(tmp_path_factory, evaluated, data_dir) -> dict[str, str]:
    """Where good and bad things lie, by name."""
    root = tmp_path_factory.mktemp("places")
    for folder in ("images", "photos/a", "photos/b", "empty", "föld er/ü"):
        (root / folder).mkdir(parents=True)
    draws = np.random.default_rng(0)
    for place in ("images", "photos/a", "photos/b"):
        for number in range(3 if place == "images" else 12):
            pixels = draws.integers(0, 255, (20, 20, 3), np.uint8)
            PIL.Image.fromarray(pixels).save(root / place / f"{number}.png")
    (root / "file").write_text("no weights")
    return {
        "root": str(root),
        "run": str(evaluated),
        "data": data_dir,
        "images": str(root / "images"),
        "photos": str(root / "photos"),
        "out": str(root / "out"),
        "missing": str(root / "not" / "there"),
        "file": str(root / "file"),
        "below": str(root / "file" / "below"),
        "empty": str(root / "empty"),
        "unicode": str(root / "föld er" / "ü"),
        "long": str(root / ("n" * 300)),
        "store": "gs://a-bucket-that-nobody-has/there",
        "nobody": "~nobody_of_that_name/there",
        "blank": " ",
    }


def _arguments(tool, places, **changed):
    """The tool's arguments with some flags changed or added."""
    flags = [text.format(**places) for text in TOOLS[tool]]
    given = {name.replace("__", "."): value for name, value in changed.items()}
    kept = [f for f in flags if f[2:].partition("=")[0] not in given]
    return [*kept, *(f"--{name}={value}" for name, value in given.items())]


def _run(tool, arguments, **options):
    env = {"NO_GCE_CHECK": "true"}  # which would wait for a server of Google's cloud
    env |= options.pop("env", {})
    return warm.run("-m", f"tools.{tool}", *arguments, env=env, timeout=120, **options)


def _check_one_line(done, *codes):
    lines = done.stderr.strip().splitlines()
    errors = [line for line in lines if line.startswith("error: ")]
    assert "Traceback" not in done.stderr, done.stderr
    assert done.returncode in codes, (done.returncode, done.stderr)
    assert len(errors) == 1 and lines[-1] == errors[0], done.stderr
    return errors[0]


def _files(*folders):
    """Every file with its size, to see that nothing came or went."""
    return {
        (str(path), path.stat().st_size)
        for folder in folders
        for path in pathlib.Path(folder).rglob("*")
        if path.is_file() and path.name != ".lock"  # empty, and stays beside a run
    }


def test_every_binary_is_in_the_table():
    found = {
        path.stem
        for path in (tiny.ROOT / "tools").glob("*.py")
        if "command.run(" in path.read_text() and path.stem != "command"
    }
    assert found == TOOLS.keys()


_DESCRIBE = """
import importlib, json, sys
from absl import flags
module = importlib.import_module("tools." + sys.argv[1])
from tools import failures
from tools.flags import path_flags
described = {}
for name in failures.own_flags():
    parser = flags.FLAGS[name].parser
    described[name] = {
        "parsers": [kind.__name__ for kind in type(parser).__mro__],
        "range": [getattr(parser, "lower_bound", None), getattr(parser, "upper_bound", None)],
        "help": flags.FLAGS[name].help or "",
    }
print(json.dumps(described))
"""


@pytest.fixture(scope="module")
def flags_of():
    """The flags of each tool: parser, range, help."""
    described = {}
    for tool in TOOLS:
        done = warm.run("-c", _DESCRIBE, tool)
        assert done.returncode in (0, None), done.stderr
        described[tool] = json.loads(done.stdout)
    return described


@pytest.mark.parametrize("tool", TOOLS)
def test_flags_have_a_type_that_refuses(tool, flags_of):
    """Paths have one type, numbers a range; a plain text is known to be no path."""
    for name, flag in flags_of[tool].items():
        kinds = flag["parsers"]
        assert flag["help"], f"--{name} has no help"
        if "IntegerParser" in kinds or "FloatParser" in kinds:
            assert None not in flag["range"], f"--{name} has no range"
        if kinds[0] == "ArgumentParser":
            assert name in NO_PATHS, f"--{name}: use path_flags, or add it to NO_PATHS"


@pytest.mark.parametrize("tool", TOOLS)
def test_help_shows_the_flags_and_ends_well(tool, flags_of):
    done = _run(tool, ["--help"])
    assert done.returncode == 0 and done.stderr == ""
    assert f"python -m tools.{tool} --" in done.stdout, "no example"
    for name in flags_of[tool]:
        assert f"--{name}" in done.stdout or f"--[no]{name}" in done.stdout


def _bad_reads():
    for tool, names in READ.items():
        for name in names:
            for kind in (
                "missing",
                "file",
                "below",
                "long",
                "store",
                "nobody",
                "blank",
            ):
                yield pytest.param(tool, name, kind, id=f"{tool}-{name}-{kind}")


@pytest.mark.parametrize(("tool", "name", "kind"), _bad_reads())
def test_a_bad_path_to_read_is_one_line(tool, name, kind, places):
    before = _files(places["root"], places["run"])
    arguments = _arguments(tool, places, **{name.replace(".", "__"): places[kind]})
    done = _run(tool, arguments)
    _check_one_line(done, MISTAKE, TRY_AGAIN)
    assert _files(places["root"], places["run"]) == before


@pytest.mark.parametrize("kind", ["file", "below", "long", "nobody", "blank"])
@pytest.mark.parametrize("tool", WRITTEN)
def test_a_bad_path_to_write_is_refused_before_work(tool, kind, places):
    value = places[kind]
    if kind == "file" and WRITTEN[tool] in ("to", "json", "file", "text"):
        value = places["empty"]  # a folder in a file's place
        if tool in ("explore", "export", "visualize"):
            value = places["file"]
    if tool.startswith("predict") and kind != "blank":
        value += ".csv"
        if kind == "file":
            os.makedirs(value, exist_ok=True)
    before = _files(places["root"])
    done = _run(tool, _arguments(tool, places, **{WRITTEN[tool]: value}))
    if tool == "tpu_check" and "libtpu" in done.stderr:
        pytest.skip("needs libtpu")
    line = _check_one_line(done, MISTAKE)
    assert f"--{WRITTEN[tool]}" in line
    assert done.stdout == "" and _files(places["root"]) == before


@contextlib.contextmanager
def _mounted(folder, options):
    """A small disk; the test is skipped where none can be mounted."""
    folder.mkdir()
    made = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
    if os.geteuid() or not shutil.which("mount"):
        pytest.skip("needs root, to mount a small disk")
    if subprocess.run(made, check=False, capture_output=True).returncode:
        pytest.skip("no disk can be mounted here")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_disk_that_is_read_only_or_full_is_said_before_work(tmp_path, places):
    with (
        _mounted(tmp_path / "ro", "size=64k,ro") as read_only,
        _mounted(tmp_path / "full", "size=64k") as full,
    ):
        with contextlib.suppress(OSError), open(full / "fill", "wb") as file:
            file.write(bytes(100_000))
        for tool, name in WRITTEN.items():
            for disk, word in ((read_only, "permission"), (full, "no space")):
                arguments = _arguments(tool, places | {"out": str(disk)})
                done = _run(tool, arguments)
                if tool == "tpu_check" and "libtpu" in done.stderr:
                    continue
                line = _check_one_line(done, MISTAKE)
                assert word in line and f"--{name}={disk}" in line
        assert [path.name for path in full.iterdir()] == ["fill"]


# How many bytes of disk each has until it fills up in the middle of its work.
FILLED = {
    "convert": 16,
    "explore": 8,
    "export": 64,
    "prepare_data": 8,
    "train": 64,
    "visualize": 8,
}


@pytest.mark.parametrize("tool", FILLED)
def test_a_disk_that_fills_up_leaves_nothing_half_done(tool, tmp_path, places):
    with _mounted(tmp_path / "disk", f"size={FILLED[tool]}k") as disk:
        done = _run(tool, _arguments(tool, places | {"out": str(disk)}))
        line = _check_one_line(done, MISTAKE)
        assert "space" in line.lower() and "free some" in line
        left = [path.name for path in disk.rglob("*") if path.is_file()]
        assert not [n for n in left if n in ("weights.npz", "w.npz", "index.html")]
        assert not [n for n in left if n in ("saved_model.pb", "dataset_info.json")]


def test_results_are_shown_though_they_cannot_be_kept(tmp_path, places):
    every = "accuracy,top5_accuracy,class_accuracy,nll,ece"  # more than 4 KiB of JSON
    with _mounted(tmp_path / "disk", "size=4k") as disk:
        arguments = _arguments(
            "evaluate", places | {"out": str(disk)}, evaluators=every
        )
        done = _run("evaluate", arguments)
        _check_one_line(done, MISTAKE)
        assert "accuracy" in done.stdout and "400" in done.stdout
        assert not list(disk.iterdir())


def test_a_home_folder_is_expanded(tmp_path, places):
    (tmp_path / "photos").symlink_to(places["photos"])
    arguments = ["--folder=~/photos", "--name=photos", "--data_dir=~/data"]
    done = _run("prepare_data", arguments, env={"HOME": str(tmp_path)})
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "data" / "image_folder" / "photos").is_dir()
    assert not (tiny.ROOT / "~").exists()
    assert str(tmp_path / "data") in done.stdout.partition("Next:")[2]


NUMBERS = ["nan", "inf", "-1", "1e400", "", "one"]


@pytest.mark.parametrize("tool", TOOLS)
def test_numbers_out_of_range_are_one_line(tool, places, flags_of):
    """One command a tool: the first bad flag is said; all are tried in turn."""
    numbers = [
        name
        for name, flag in flags_of[tool].items()
        if {"IntegerParser", "FloatParser", "_NumbersParser"} & set(flag["parsers"])
    ]
    before = _files(places["root"])
    for place, name in enumerate(numbers):
        value = NUMBERS[place % len(NUMBERS)]
        done = _run(tool, _arguments(tool, places, **{name: value}))
        assert f"--{name}={value}" in _check_one_line(done, MISTAKE)
    assert _files(places["root"]) == before


@pytest.mark.parametrize(
    "flag",
    [
        "--config.data.min_crop_area=1e-300",
        "--config.data.image_size=100000",
        "--config.data.image_size=0",
        "--config.evals.batch_size=1000000000",
        "--config.train.length=1e18",
        "--config.train.length=nan",
        "--config.optim.lr=-1",
        "--config=tools/train.py",
        "--config=README.md",
        "--coordinator=localhost:1",
        "--num_devices=1000000",
        "--num_devices=0",
        "--tpu=",
    ],
)
def test_what_once_ended_in_a_traceback_is_one_line(flag, places):
    before = _files(places["root"])
    name, _, value = flag[2:].partition("=")
    arguments = _arguments("train", places, **{name.replace(".", "__"): value})
    assert f"--{name}" in _check_one_line(_run("train", arguments), MISTAKE)
    assert _files(places["root"]) == before


@pytest.mark.parametrize(
    ("number", "code"),
    [(signal.SIGTERM, STOPPED), (signal.SIGINT, INTERRUPTED)],
    ids=lambda value: str(value),
)
def test_a_stopped_run_says_so_to_a_scheduler(number, code, tmp_path, places):
    run = tmp_path / "run"
    arguments = _arguments("train", places, workdir=run, config__train__length=100_000)
    process = warm.start("-m", "tools.train", *arguments)
    metrics = run / "metrics.jsonl"
    deadline = time.monotonic() + 100
    while not metrics.exists() or not metrics.stat().st_size:
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(number)
    _, errors = process.communicate(100)
    assert process.returncode == code, errors
    assert "the same command goes on from there" in errors
    assert "Traceback" not in errors


def test_the_config_of_a_run_can_be_given(tmp_path, places):
    config = os.path.join(places["run"], "config.json")
    arguments = _arguments("train", places, config=config, workdir=tmp_path / "run")
    done = _run("train", [*arguments, "--config.data.split=trian"])
    line = _check_one_line(done, MISTAKE)
    assert "trian" in line  # the config was read: its data set is looked into
