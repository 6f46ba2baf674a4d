"""The plan of an experiment: figures, commands, refusals."""

import json

import pytest

from tests.support import warm


def _plan(*arguments: str):
    done = warm.run("-m", "tools.plan", *arguments)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def masked() -> str:
    return _plan("--experiment=appendix_b12_masked_patch", "--device=v3-8")


def test_a_table_of_cells_with_totals_and_commands(masked):
    rows = {line.split()[0]: line.split() for line in masked.splitlines() if line}
    # A million steps of 4096 images, 17.56 GMAC each: 431.6 exaFLOPs.
    assert rows["pretrain"][3:6] == ["jft300m", "1,000,000", "432"]
    assert rows["finetune"][3:5] == ["imagenet2012", "20,000"]
    assert rows["all"][1:3] == ["14", "5,333,835"]
    assert "TPUv3-core-days" in masked and "NOT checked" in masked
    assert "0.386 of 4 x 123 TFLOP/s" in masked
    assert "Data: at least " in masked  # nobody knows the bytes of JFT-300M
    recipes = masked.partition("Recipes:")[2].partition("Commands")[0]
    assert "(6 in all): Pre-trains by masked patch prediction (B.1.2)" in recipes
    commands = masked.partition("Commands")[2].split("\n")
    wanted = ["--folder=PATH --name=jft300m", "--dataset=imagenet2012", "--scale=paper"]
    for want, line in zip(wanted, commands[1:], strict=False):
        assert want in line
    assert "--tpu=local" in commands[3]


def test_json_has_the_same_and_days_follow_from_it():
    found = json.loads(
        _plan(
            "--experiment=experiments/appendix_b12_masked_patch.py",
            "--device=h100x8",
            "--utilisation=0.5",
            "--json",
        )
    )
    runs = {run["name"]: run for run in found["runs"]}
    assert found["experiment"] == "appendix_b12_masked_patch"
    assert found["utilisation"] == 0.5 and found["peak_tflops"] == 8 * 989
    total = sum(run["exaflops"] for run in found["runs"])
    assert found["total"]["exaflops"] == pytest.approx(total)
    days = total * 1e18 / (8 * 989e12 * 0.5 * 86400)
    assert found["total"]["days"] == pytest.approx(days)
    # B.1.2's fine-tuning: ViT-B/16 at 384 pixels, 20,000 steps of 512.
    images = 20_000 * 512
    assert runs["finetune"]["exaflops"] == pytest.approx(
        6 * 55.48e9 * images / 1e18, rel=1e-3
    )
    assert any("--strategy=mirrored" in line for line in found["commands"])


def test_a_batch_that_does_not_divide_is_said():
    cell = "experiments/pretrain.py:ViT-B/16,imagenet2012"
    said = _plan(f"--config={cell}", "--device=h100x3")
    assert "each of 3 replicas at a time, NOT a whole number: training refuses" in said


def test_one_config_with_overrides_and_a_slice_of_a_pod():
    found = _plan(
        "--config=experiments/pretrain.py:ViT-L/16,imagenet21k",
        "--config.train.length=30",
        "--device=v3-32",
    )
    assert "103,607" in found  # 30 epochs but for 51,200 images
    assert "python -m tools.train --config=experiments/pretrain.py:ViT-L/16" in found
    assert "--tpu=NAME" in found and "--source=PATH" in found


def test_seeds_are_counted_and_a_given_start_is_asked_for():
    found = _plan("--experiment=vtab", "--device=a100")
    total = [line for line in found.splitlines() if line.startswith("all")]
    assert total[0].split()[1:3] == ["57", "142,500"]
    assert "--start_from=PATH" in found and "--strategy" not in found


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["--experiment=vtap"], "did you mean vtab?"),
        (["--experiment=vtab", "--device=v3_8"], "did you mean v3-8?"),
        (["--experiment=vtab", "--utilisation=38"], "need a share up to 1"),
        (["--experiment=cifar10_small"], "--scale=paper: cifar10_small offers"),
        ([], "need --experiment=NAME"),
        (
            ["--experiment=vtab", "--config=experiments/pretrain.py"],
            "one of them",
        ),
        (
            ["--config=experiments/finetune.py:photos", "--config.data.name=phottos"],
            "--num_examples=N",
        ),
    ],
)
def test_mistakes_are_answered_in_a_line(arguments, line):
    done = warm.run("-m", "tools.plan", *arguments)
    assert done.returncode == 2 and done.stdout == ""
    assert line in done.stderr and len(done.stderr.splitlines()) == 1
