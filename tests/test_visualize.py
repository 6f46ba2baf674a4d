"""Contact sheets: the pictures that the streams give, on paper."""

import pathlib

import matplotlib.image
import numpy as np
import warm

from tools import figures


def _run(*arguments):
    return warm.run("-m", "tools.visualize", *arguments)


def test_a_sheet_holds_every_image(tmp_path):
    colours = np.linspace(0.1, 0.9, 11)
    images = np.ones((11, 4, 4, 3)) * colours[:, None, None, None]
    path = tmp_path / "deep" / "sheet.png"
    figures.contact_sheet(images, ["name"] * 11, path, title="title")
    pixels = matplotlib.image.imread(path)[..., 0]
    for colour in colours:  # as eight bits keep it
        assert (np.abs(pixels - colour) < 1 / 255).sum() > 100


def test_both_streams_are_drawn(tmp_path, data_dir):
    done = _run(
        "--config=tests/tiny_config.py",
        f"--data_dir={data_dir}",
        f"--to={tmp_path}",
        "--number=6",
    )
    assert done.returncode == 0, done.stderr
    for name in ("training.png", "evaluation.png"):
        assert matplotlib.image.imread(tmp_path / name).shape[1] > 300
        assert str(tmp_path / name) in done.stdout


def test_a_runs_masked_patches_are_drawn(tmp_path, masked, data_dir):
    done = _run(
        "--what=masked_patches",
        f"--checkpoint={masked}",
        f"--data_dir={data_dir}",
        f"--to={tmp_path}",
        "--number=3",
    )
    assert done.returncode == 0, done.stderr
    path = tmp_path / "masked_patches.png"
    assert matplotlib.image.imread(path).shape[0] > 300
    assert str(path) in done.stdout


def test_mistakes_are_one_line(data_dir):
    done = _run("--config=tests/tiny_config.py", "--what=date")
    assert done.returncode == 2 and done.stderr.strip().count("\n") == 0
    done = _run("--what=masked_patches")
    assert done.returncode == 2 and "--checkpoint is missing" in done.stderr
    done = _run(
        "--config=tests/tiny_config.py",
        "--config.data.batch_size=7",
        "--config.data.mixup=0.5",
        f"--data_dir={data_dir}",
    )
    assert done.returncode == 2 and "mix pairs" in done.stderr
    done = _run(
        "--config=tests/tiny_config.py",
        "--config.data.name=nowhere",
        f"--data_dir={data_dir}",
    )
    assert done.returncode == 2 and "nowhere" in done.stderr
    assert not pathlib.Path("figures").exists()
