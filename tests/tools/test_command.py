"""The command line: mistakes are one line on stderr and exit code 2."""

import subprocess
import sys

import pytest

from tests.support import tiny, warm


def _run(*arguments, tool="tools.train"):
    return subprocess.run(
        [sys.executable, "-m", tool, *arguments],
        check=False,
        cwd=tiny.ROOT,
        capture_output=True,
        text=True,
    )


QUICKSTART = "--config=experiments/quickstart.py:pretrain"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (
            [QUICKSTART, "--config.optim.lrr=1", "--workdir=x"],
            "--config.optim.lrr: no such field (did you mean optim.lr?)",
        ),
        (
            [QUICKSTART, "--config.optim.lr=fast", "--workdir=x"],
            "--config.optim.lr=fast: Input should be a valid number",
        ),
        (
            [QUICKSTART, "--config.data.batch_size=-3", "--workdir=x"],
            "--config.data.batch_size=-3: Input should be greater than 0",
        ),
        (
            ["--config=experiments/quickstart.py:pretrian", "--workdir=x"],
            "no such cell (did you mean pretrain?)",
        ),
        (
            ["--config=experiments/quickstart.py:pretrain,smal", "--workdir=x"],
            "no such scale (did you mean small?)",
        ),
        (
            ["--config=experiments/quikstart.py:pretrain", "--workdir=x"],
            "(did you mean experiments/quickstart.py?)",
        ),
        (["--config=README.md", "--workdir=x"], "is not a Python file"),
        (["--config=vit_tf/config.py", "--workdir=x"], "defines no get_config()"),
        (["--workdir=x"], "--config is missing"),
        ([QUICKSTART], "--workdir must have a value"),
        ([QUICKSTART, "--wrkdir=x"], "--wrkdir: no such flag (did you mean workdir?)"),
        ([QUICKSTART, "--workdir=x", "more"], "unexpected argument 'more'"),
        ([QUICKSTART, "--workdir=x", "--config.optim.lr"], "needs a value"),
    ],
)
def test_mistakes_are_one_line(arguments, said):
    done = _run(*arguments)
    assert done.returncode == 2
    assert said in done.stderr
    assert done.stderr.strip().count("\n") == 0, done.stderr
    assert not (tiny.ROOT / "x").exists()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--config.data.image_size=30"], "data.image_size=30|image size 30"),
        (["--config.data.name=shaps"], "did you mean shapes?"),
        (["--config.data.name=cifar10"], "tools.prepare_data --dataset=cifar10"),
        (["--config.evals.splits=tset"], "tset"),
        (["--config.start_from=nowhere.npz"], "start_from=nowhere.npz"),
        (["--config.train.accumulation=3"], "data.batch_size=16"),
        (["--num_devices=2", "--strategy=one"], "--strategy=mirrored"),
        (["--strategy=mirrored"], "--num_devices=N"),
    ],
)
def test_bad_input_found_later_is_one_line_too(arguments, said, data_dir, tmp_path):
    command = tiny.command(tmp_path / "run", data_dir)
    done = warm.run(*command, *arguments)
    assert done.returncode == 2, done.stderr
    (line,) = done.stderr.strip().splitlines()
    assert line.startswith("error: ")
    assert any(part in line for part in said.split("|")), line


def test_tensorflow_starts_without_a_word(data_dir, tmp_path):
    """The same from a cold start, which imports it."""
    workdir = f"--workdir={tmp_path / 'run'}"
    where = ("--config=tests/support/tiny_config.py", workdir, f"--data_dir={data_dir}")
    done = _run(*where, "--config.model.variant=ViT-Q/16")
    assert done.returncode == 2
    (line,) = done.stderr.strip().splitlines()
    assert line.startswith("error: ") and "ViT-Q/16" in line


@pytest.mark.slow
def test_mirrored_over_virtual_devices(data_dir, tmp_path):
    """`--num_devices` is enough; the loop is the same."""
    command = tiny.command(tmp_path, data_dir, train__length=3)
    done = warm.run(*command, "--num_devices=2")
    assert done.returncode == 0, done.stderr
    assert tiny.result(tmp_path)["device"] == "2 virtual CPU devices"


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("return config.Config(optim=config.Optim(lrr=1))", "lrr: Unexpected keyword"),
        ("return 3", "get_config() gave int"),
        ("return config.Config(", "SyntaxError"),
        ("return len(3)", "TypeError"),
    ],
)
def test_mistakes_in_a_config_file_are_one_line(tmp_path, body, said):
    path = tmp_path / "mine.py"
    path.write_text(
        f"from vit_tf import config\n\n\ndef get_config(argument=None):\n    {body}\n"
    )
    done = _run(f"--config={path}", f"--workdir={tmp_path / 'x'}")
    assert done.returncode == 2
    (line,) = done.stderr.strip().splitlines()
    assert str(path) in line and said in line


def test_tools_without_a_config_do_not_swallow_overrides():
    done = _run("--config.train.length=10", tool="tools.demo")
    assert done.returncode == 2 and "config.train.length" in done.stderr


def test_another_keras_backend_is_refused(monkeypatch):
    monkeypatch.setenv("KERAS_BACKEND", "jax")
    done = _run(QUICKSTART, "--workdir=x")
    assert done.returncode == 2
    assert done.stderr.strip() == (
        "error: KERAS_BACKEND=jax: the tools train and evaluate with TensorFlow; "
        "unset it"
    )


def test_overrides_may_stand_apart():
    from tools import command

    rest, found = command.split_overrides(
        ["train", "--config.optim.lr", "3", "--workdir=x", "-config.data.flip=no"]
    )
    assert rest == ["train", "--workdir=x"]
    assert found == [("optim.lr", "3"), ("data.flip", "no")]
