"""The package as somebody else's environment has it: outside the checkout."""

import ast
import importlib.util
import os
import pathlib
import re
import shutil
import subprocess
import sys
import sysconfig
import venv

import pytest

import vit_tf

ROOT = pathlib.Path(__file__).parents[1]

# What a user does first: make, fit, keep, load, predict.
FIRST_STEPS = """
import pathlib, sys
import vit_tf
assert "tensorflow" not in sys.modules and "keras" not in sys.modules
assert "site" in vit_tf.__file__, vit_tf.__file__
assert "ViT-B/16" in vit_tf.list_models()
import numpy as np
model = vit_tf.create("ViT-mu/16", num_classes=2, image_size=32)
pixels = np.random.default_rng(0).uniform(-1, 1, (4, 32, 32, 3)).astype("float32")
model.compile("sgd", "mse")
model.fit(pixels, np.zeros((4, 2)), verbose=0)
from vit_tf.models import npz_weights
np.savez("mine.npz", **npz_weights.released(model))
loaded = vit_tf.load("mine.npz")
image = np.zeros((40, 50, 3), np.uint8)
((name, score), (other, rest)), = loaded.predict(image)
assert {name, other} == {"0", "1"} and abs(score + rest - 1) < 1e-5
assert loaded.features([image, image]).shape == (2, 32)
print("first steps done")
"""


@pytest.fixture(scope="session")
def installed(once) -> pathlib.Path:
    """A folder `site` that holds what the wheel holds, and nothing else of ours."""

    def lay_out(folder):
        spec = importlib.util.spec_from_file_location("setup_py", ROOT / "setup.py")
        setup = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(setup)
        kinds = (".py", ".html", ".css", ".js", ".config", ".yaml", ".sh", ".typed")
        for name, place in setup.packages().items():
            home = folder / "site" / name.replace(".", "/")
            home.mkdir(parents=True, exist_ok=True)
            for path in (ROOT / place).iterdir():
                if path.suffix in kinds:
                    shutil.copy(path, home)

    return once("installed", lay_out) / "site"


def _python(site, *arguments, cwd, python=sys.executable):
    env = {**os.environ, "PYTHONPATH": str(site), "TF_CPP_MIN_LOG_LEVEL": "3"}
    return subprocess.run(  # noqa: PLW1510
        [python, *arguments], cwd=cwd, env=env, capture_output=True, text=True
    )


def test_first_steps_outside_of_the_checkout(installed, tmp_path):
    done = _python(installed, "-c", FIRST_STEPS, cwd=tmp_path)
    assert "first steps done" in done.stdout, done.stderr


def test_a_command_runs_a_config_file_given_by_path(installed, tmp_path, data_dir):
    mine = tmp_path / "mine.py"
    mine.write_text(
        "from experiments import quickstart\n"
        "def get_config(argument=None):\n"
        "    cfg = quickstart.get_config('scratch,smoke')\n"
        "    cfg.evals.splits = ()\n"
        "    return cfg\n"
    )
    done = _python(
        installed,
        "-m",
        "vit_tf.cli",
        "train",
        f"--config={mine}",
        "--workdir=run",
        f"--data_dir={data_dir}",
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "run" / "result.json").exists()


def test_every_tool_is_a_command(installed, tmp_path):
    done = _python(installed, "-m", "vit_tf.cli", "--help", cwd=tmp_path)
    assert done.returncode == 0 and done.stderr == ""
    named = set(re.findall(r"^  (\w+) ", done.stdout, re.MULTILINE))
    binaries = {
        path.stem
        for path in (ROOT / "tools").glob("*.py")
        if re.search(r"^    command.run\(main", path.read_text(), re.MULTILINE)
    }
    assert named == binaries >= {"train", "predict", "prepare_data", "demo"}
    wrong = _python(installed, "-m", "vit_tf.cli", "trian", cwd=tmp_path)
    assert wrong.returncode == 2
    assert (
        wrong.stderr
        == "error: trian: no such command (did you mean train?); see vit-tf --help\n"
    )
    bad = _python(installed, "-m", "vit_tf.cli", "prepare-data", "--lst", cwd=tmp_path)
    assert bad.returncode == 2 and "did you mean" in bad.stderr
    text = _python(installed, "-m", "vit_tf.cli", "predict", "--help", cwd=tmp_path)
    assert "vit-tf predict --checkpoint=" in text.stdout
    assert "python -m tools" not in text.stdout


def test_the_face_has_what_it_names_and_imports_nothing(tmp_path):
    code = (
        "import sys, io, warnings; before = set(sys.modules); import vit_tf\n"
        "new = {m.partition('.')[0] for m in set(sys.modules) - before}\n"
        "assert not new & {'tensorflow', 'keras', 'numpy', 'pydantic', 'absl'}, new\n"
        "assert set(vit_tf.__all__) <= set(dir(vit_tf))\n"
    )
    done = _python(ROOT, "-c", code, cwd=tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    for name in vit_tf.__all__:
        assert getattr(vit_tf, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'laod'"):
        vit_tf.laod  # noqa: B018


def test_checkers_see_the_same_names():
    """What is imported for type checkers is what is handed out."""
    tree = ast.parse((ROOT / "vit_tf" / "__init__.py").read_text())
    named = {
        alias.name
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert named | {"__version__"} == set(vit_tf.__all__)


def test_the_change_log_knows_this_version():
    assert f"## {vit_tf.__version__}" in (ROOT / "CHANGELOG.md").read_text()


def _but_code(folder, names):
    """What of the checkout is not copied."""
    top = pathlib.Path(folder) == ROOT
    return [n for n in names if n.startswith(".") or (top and n in ("runs", "build"))]


@pytest.mark.slow
def test_the_wheel_in_a_fresh_environment(tmp_path):
    """Built by pip, with its build tools from the index; dependencies from here."""
    home = tmp_path / "env"
    venv.create(home, with_pip=True)
    python = home / "bin" / "python"
    (site,) = home.glob("lib/python*/site-packages")
    (site / "borrowed.pth").write_text(sysconfig.get_paths()["purelib"] + "\n")
    source = shutil.copytree(ROOT, tmp_path / "source", ignore=_but_code)
    done = subprocess.run(  # noqa: PLW1510
        [python, "-m", "pip", "install", "--quiet", "--no-deps", source],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    first = _python("", "-c", FIRST_STEPS, cwd=tmp_path, python=python)
    assert "first steps done" in first.stdout, first.stderr
    command = subprocess.run(  # noqa: PLW1510
        [home / "bin" / "vit-tf", "convert", "--from=mine.npz", "--to=out.npz"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert command.returncode == 0, command.stderr
    assert (tmp_path / "out.npz").exists()
