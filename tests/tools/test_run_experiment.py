"""Experiments from the command line: lists, runs, records, and mistakes in a line."""

import dataclasses
import json
import os
import re
import signal
import subprocess
import textwrap
import time

import pytest

from experiments import table6_scaling, table7_adam_or_sgd, vtab
from tests.support import tiny, tiny_experiment, warm
from vit_tf import config
from vit_tf.studies import experiment_spec

TINY = "--experiment=tests/support/tiny_experiment.py"
QUICKSTART = "--experiment=experiments/quickstart.py"


def _run(*arguments):
    return warm.run("-m", "tools.run_experiment", *arguments)


@pytest.fixture(scope="module")
def study(tmp_path_factory, data_dir):
    """The tiny experiment at smoke: run, recorded, listed."""
    root = tmp_path_factory.mktemp("study")
    options = [
        TINY,
        "--scale=smoke",
        f"--folder={root / 'runs'}",
        f"--data_dir={data_dir}",
        f"--results={root / 'results'}",
    ]
    done = {
        "all": _run(*options, "--record"),
        "list": _run(*options, "--list"),
    }
    return root, done


def test_all_runs_are_done_and_said(study):
    _, done = study
    assert done["all"].returncode == 0, done["all"].stderr
    assert done["all"].stdout.count("3 steps on") == 3
    assert re.search(r"job 1 of 3: start.seed0: done in .*2 left", done["all"].stderr)


def test_the_list_shows_every_run(study):
    _, done = study
    text = re.sub("of other code: commit .*", "done", done["list"].stdout)
    lines = [re.split(r"  +", line) for line in text.splitlines()]
    assert lines == [
        ["index", "run", "seed", "length", "starts from", "status"],
        ["0", "start.seed0", "0", "3 steps", "-", "done"],
        ["1", "goes-on.seed0", "0", "3 steps", "start.seed0", "done"],
        ["2", "goes-on.seed1", "1", "3 steps", "start.seed0", "done"],
    ]


def test_repetitions_differ_by_their_seed_and_share_the_start(study):
    root, _ = study
    found = [tiny.result(root / "runs" / f"goes-on.seed{k}") for k in (0, 1)]
    assert [f["config"]["train"]["seed"] for f in found] == [0, 1]
    assert {f["config"]["start_from"] for f in found} == {f"{root}/runs/start.seed0"}
    assert found[0]["metrics"] != found[1]["metrics"]


def test_records_hold_the_place_and_no_path(study):
    root, _ = study
    paths = sorted((root / "results" / "tiny_experiment").iterdir())
    assert [path.name for path in paths] == [
        "goes-on.smoke.seed0.json",
        "goes-on.smoke.seed1.json",
        "start.smoke.seed0.json",
    ]
    assert all(str(root) not in path.read_text() for path in paths)
    found = json.loads(paths[1].read_text())
    place = [found[name] for name in ("experiment", "cell", "scale", "seed")]
    assert place == ["tiny_experiment", "goes-on", "smoke", 1]
    started = json.loads(paths[2].read_text())
    assert found["start"] == {
        "name": "start.seed0",
        "config": started["config"],
    }
    assert found["config"]["start_from"] is None
    ours = tiny.result(root / "runs" / "goes-on.seed1")
    assert (found["metrics"], found["commit"]) == (ours["metrics"], ours["commit"])
    assert [step for step, _ in found["curves"]["loss"]] == [1, 2, 3]


def _finished(folder, cfg):
    """A run's folder as one that has trained leaves it."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(config.to_json(cfg))
    found = {
        "config": dataclasses.asdict(cfg),
        "commit": "0" * 40,
        "dataset": "d 1.0.0",
    }
    found |= {"device": "1 CPU", "versions": {}, "metrics": [], "train_seconds": 1.0}
    found |= dict.fromkeys(("parameters", "steps", "examples_seen"), 1)
    (folder / "result.json").write_text(json.dumps(found))


def test_nothing_starts_from_a_stale_run(tmp_path):
    _finished(tmp_path / "start.seed0", tiny.make(train__length=3, optim__lr=1))
    options = [TINY, "--scale=smoke", f"--folder={tmp_path}"]
    why = f"waiting: for {tmp_path}/start.seed0, which is stale: its run has optim.lr"
    assert _run(*options, "--list").stdout.count(why) == 2
    for choice in ("--index=1", "--only=goes-on"):
        done = _run(*options, choice, "--wait")
        assert done.returncode == 2 and why in done.stderr, done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["start.seed0"]


def test_the_list_takes_the_starts_that_runs_began_with(tmp_path):
    first, second, *_ = experiment_spec.runs(vtab.CELLS, experiment_spec.Scale.SMALL)
    first.config.start_from = second.config.start_from = "/elsewhere/w.npz"
    second.config.optim.lr = 77.0
    for run in (first, second):
        _finished(tmp_path / run.name, run.config)
    options = ["--experiment=experiments/vtab.py", f"--folder={tmp_path}", "--list"]
    _, one, two, three, *_ = _run(*options).stdout.splitlines()
    assert "--start_from  of other code" in one
    assert "stale: its run has optim.lr: 77.0 against" in two
    assert "start_from:" not in two and three.endswith("--start_from  to do")
    _, one, *_ = _run(*options, "--start_from=runs/w.npz").stdout.splitlines()
    assert "of other code" in one
    _, one, *_ = _run(*options, "--start_from=other.npz").stdout.splitlines()
    assert "stale: its run has start_from: /elsewhere/w.npz against other.npz" in one


def test_results_are_recorded_with_what_was_given(tmp_path):
    run, *_ = experiment_spec.runs(vtab.CELLS, experiment_spec.Scale.SMALL)
    done = {}
    for name in ("w.npz", "other.npz"):
        weights = tmp_path / name
        weights.write_text(name)
        folder = tmp_path / f"from {name}"
        run.config.start_from = str(weights)
        _finished(folder / run.name, run.config)
        noted = {"name": name, "size": len(name), "sha256": name * 9}
        (folder / run.name / "start.json").write_text(json.dumps(noted))
        weights.unlink()  # nothing to compare with any more
        done[name] = _run(
            *("--experiment=experiments/vtab.py", f"--folder={folder}", "--record"),
            *(f"--only={run.cell.name}", f"--start_from={weights}"),
            f"--results={tmp_path / 'results'}",
        )
    assert done["w.npz"].returncode == 0, done["w.npz"].stderr
    (path,) = (tmp_path / "results").rglob("*.json")
    assert json.loads(path.read_text())["start"]["sha256"] == "w.npz" * 9
    assert done["other.npz"].returncode == 2
    said = done["other.npz"].stderr.strip().splitlines()[-1]
    assert said.startswith(f"error: --record: {path} holds the result from w.npz")


def test_a_run_that_another_experiment_did_is_not_done_again(tmp_path):
    """Its folder is looked for where that experiment's runs lie."""
    name = "R50x1_7.seed0"
    theirs, *_ = [
        run
        for run in experiment_spec.runs(
            table6_scaling.CELLS, experiment_spec.Scale.PAPER
        )
        if run.name == name
    ]
    _finished(tmp_path / "table6_scaling" / "paper" / name, theirs.config)
    options = ["--experiment=experiments/table7_adam_or_sgd.py", "--scale=paper"]
    options += ["--list", f"--runs={tmp_path}"]
    rows = {
        line.split()[1]: line for line in _run(*options).stdout.splitlines() if line
    }
    assert len(rows) == 1 + len(experiment_spec.runs(table7_adam_or_sgd.CELLS, "paper"))
    done = rows["R50x1_adam.seed0"]
    assert "of other code" in done and "(shared with table6_scaling)" in done
    assert rows["R50x1_adam_cifar10.seed2"].endswith(
        "to do (shared with table6_scaling)"
    )
    assert rows["R152x2_adam.seed0"].endswith("to do (shared with table6_scaling)")
    assert rows["R50x1_sgd.seed0"].endswith("to do")
    alone = _run(*options, f"--folder={tmp_path / 'own'}").stdout
    assert "of other code" not in alone  # what has a folder of its own shares none


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (
            ["--experiment=experiments/quikstart.py"],
            "experiments/quikstart.py (did you mean experiments/quickstart.py?)",
        ),
        (
            ["--experiment=experiments/pretrain.py"],
            "use python -m tools.train --config=experiments/pretrain.py",
        ),
        ([QUICKSTART, "--only=scrach"], "no such cell (did you mean scratch?)"),
        ([QUICKSTART, "--index=9"], "has 9 runs at this scale, 0 to 8"),
        ([QUICKSTART, "--index=1", "--only=scratch"], "give one of them"),
        ([QUICKSTART, "--scale=paper"], "quickstart offers smoke, small"),
        (
            [QUICKSTART, "--config.optim.lr=1", "--record", "--folder=x"],
            "overridden runs are not the experiment's, so they are not recorded",
        ),
        ([QUICKSTART, "--config.optim.lr=1"], "add --folder=PATH"),
        ([QUICKSTART, "--config.optim.lrr=1"], "(did you mean optim.lr?)"),
        ([QUICKSTART, "--config.train.seed=1"], "each repetition has its own"),
        ([QUICKSTART, "--start_from=x.npz"], "no cell of quickstart starts from"),
        (["--experiment=experiments/vtab.py"], "--start_from is missing: caltech101"),
    ],
)
def test_mistakes_are_one_line(arguments, said):
    done = _run(*arguments)
    assert done.returncode == 2
    (line,) = done.stderr.strip().splitlines()
    assert line.startswith("error: ") and said in line
    assert not (tiny.ROOT / "x").exists()


def _documented_script():
    """What the container of the Kubernetes example runs."""
    text = (tiny.ROOT / "docs" / "experiments.md").read_text("utf-8")
    lines = text.split("        args:\n        - |\n")[1].split("        resources:")[0]
    return textwrap.dedent(lines)


@pytest.mark.parametrize(("code", "signalled"), [(0, False), (2, False), (143, True)])
def test_the_container_passes_sigterm_on(tmp_path, code, signalled):
    stub = tmp_path / "python"
    loop = "touch ready; while true; do sleep 0.05; done" if signalled else ""
    stub.write_text(
        "#!/bin/bash\ntrap 'touch saved; exit 143' TERM\n"
        f'echo "$@" > arguments\n{loop}\nexit {code}\n'
    )
    stub.chmod(0o755)
    env = os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    env["JOB_COMPLETION_INDEX"] = "7"
    process = subprocess.Popen(
        ["bash", "-c", _documented_script()], cwd=tmp_path, env=env
    )
    if signalled:
        while not (tmp_path / "ready").exists():
            time.sleep(0.05)
        process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=60) == code
    assert (tmp_path / "saved").exists() == signalled
    assert "--index=7 --wait" in (tmp_path / "arguments").read_text()


@pytest.mark.parametrize("cell", ["start", "goes-on"])
def test_a_run_of_tools_train_stands_for_one_of_the_list(tmp_path, cell):
    """With the overrides that docs/experiments.md names, and not without them."""
    cfg = tiny_experiment.get_config(cell)
    cfg.train.seed = 1
    if cell == "goes-on":
        cfg.start_from = str(tmp_path / "start.seed1")
    _finished(tmp_path / f"{cell}.seed1", cfg)
    lines = _run(TINY, f"--folder={tmp_path}", "--list").stdout.splitlines()
    (line,) = [line for line in lines if re.match(rf"\d+ +{cell}\.seed1 ", line)]
    assert "of other code" in line
