"""Contact sheets of the streams, and the figures of a stored model, by command."""

import pathlib

import matplotlib.image
import numpy as np

from tests.support import warm
from tools import visualize
from vit_tf.inspection import figures, run_plots


def _run(*arguments):
    return warm.run("-m", "tools.visualize", *arguments)


def test_a_sheet_holds_every_image(tmp_path):
    colours = np.linspace(0.1, 0.9, 11)
    images = np.ones((11, 4, 4, 3)) * colours[:, None, None, None]
    path = tmp_path / "deep" / "sheet.png"
    run_plots.contact_sheet(images, ["name"] * 11, path, title="title")
    pixels = matplotlib.image.imread(path)[..., 0]
    for colour in colours:  # as eight bits keep it
        assert (np.abs(pixels - colour) < 1 / 255).sum() > 100


def test_both_streams_are_drawn(tmp_path, data_dir):
    done = _run(
        "--config=tests/support/tiny_config.py",
        f"--data_dir={data_dir}",
        f"--to={tmp_path}",
        "--number=6",
    )
    assert done.returncode == 0, done.stderr
    for name in ("training.png", "evaluation.png"):
        assert matplotlib.image.imread(tmp_path / name).shape[1] > 300
        assert str(tmp_path / name) in done.stdout


def test_the_figures_of_a_model_are_written(tmp_path, evaluated, data_dir):
    done = _run(
        f"--checkpoint={evaluated}",
        "--what=rollout,probes",
        "--images=digits",
        f"--data_dir={data_dir}",
        "--max_images=10",
        "--number=3",
        f"--to={tmp_path / 'to'}",
    )
    assert done.returncode == 0, done.stderr
    for name in ("rollout", "probes"):
        for kind in ("png", "svg", "npz"):
            path = tmp_path / "to" / f"{name}.{kind}"
            assert path.stat().st_size > 200 and str(path) in done.stdout
    with np.load(tmp_path / "to" / "rollout.npz") as arrays:
        assert arrays["rollout"].shape == (10, 2, 2)  # all that were measured
        assert arrays["images"].shape == (3, 16, 16, 3)  # those that were drawn
    assert "left out" not in done.stdout
    assert visualize.MODEL_FIGURES == figures.NAMES


def test_what_is_left_out_is_said(tmp_path, evaluated):
    done = _run(f"--checkpoint={evaluated}", "--what=all", f"--to={tmp_path}")
    assert done.returncode == 0, done.stderr
    assert "left out: rollout: needs images: name them with --images" in done.stdout
    assert (tmp_path / "position.svg").exists()
    done = _run(f"--checkpoint={evaluated}", "--what=rollout", f"--to={tmp_path}")
    assert done.returncode == 2 and "rollout: needs images" in done.stderr


def test_a_runs_masked_patches_are_drawn(tmp_path, masked, data_dir):
    done = _run(
        "--what=masked_patches",
        f"--checkpoint={masked}",
        f"--data_dir={data_dir}",
        f"--to={tmp_path}",
        "--number=3",
    )
    assert done.returncode == 0, done.stderr
    paths = [tmp_path / f"masked_patches.{kind}" for kind in ("png", "svg", "npz")]
    assert done.stdout.split() == [str(path) for path in paths]
    assert matplotlib.image.imread(paths[0]).shape[0] > 300
    with np.load(paths[2]) as arrays:
        assert set(arrays) == {"image", "corrupted", "predicted", "target"}
        assert arrays["predicted"].shape == (3, 16, 16, 3)


def test_mistakes_are_one_line(data_dir):
    done = _run("--what=position")
    assert done.returncode == 2 and "--checkpoint is missing" in done.stderr
    done = _run("--config=tests/support/tiny_config.py", "--what=date")
    assert done.returncode == 2 and "did you mean data?" in done.stderr
    assert done.stderr.strip().count("\n") == 0
    done = _run("--what=masked_patches")
    assert done.returncode == 2 and "--checkpoint is missing" in done.stderr
    done = _run("--what=masked_patches", "--checkpoint=runs/a", "--images=photos")
    assert done.returncode == 2 and "--images: --what=masked_patches" in done.stderr
    done = _run(
        "--config=tests/support/tiny_config.py",
        "--config.data.batch_size=7",
        "--config.data.mixup=0.5",
        f"--data_dir={data_dir}",
    )
    assert done.returncode == 2 and "mix pairs" in done.stderr
    done = _run(
        "--config=tests/support/tiny_config.py",
        "--config.data.name=nowhere",
        f"--data_dir={data_dir}",
    )
    assert done.returncode == 2 and "nowhere" in done.stderr
    assert not pathlib.Path("figures").exists()
