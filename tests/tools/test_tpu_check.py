"""The training step as a TPU's program: that it compiles, fits, and computes the same.

Run where libtpu is installed (requirements-tpu-check.txt, `make tpu-check`).
"""

import functools
import json
import subprocess

import pytest

from tests.support import extras, warm

NEEDS_LIBTPU = pytest.mark.needs("jax", "libtpu")


def _check(
    *arguments: str, prepare=None, **changes: object
) -> subprocess.CompletedProcess:
    """`python -m tools.tpu_check` on the tiny config, in a process of its own."""
    changed = {name.replace("__", "."): str(value) for name, value in changes.items()}
    return warm.run(
        "-m",
        "tools.tpu_check",
        "--config=tests/support/tiny_config.py",
        *arguments,
        *(f"--config.{k}={v}" for k, v in changed.items()),
        prepare=prepare,
    )


def _found(done: subprocess.CompletedProcess, code: int = 0) -> dict:
    assert done.returncode == code, done.stderr
    (line,) = done.stdout.splitlines()
    return json.loads(line)


def _refusal(done: subprocess.CompletedProcess) -> str:
    assert done.returncode == 2, done.stdout
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    return line


def test_without_libtpu_one_line_says_what_to_install():
    hide = functools.partial(extras.hide, "jax", "libtpu")
    line = _refusal(_check(prepare=hide))
    assert (
        "jax and libtpu not installed" in line and "requirements-tpu-check.txt" in line
    )


@NEEDS_LIBTPU
def test_the_step_compiles_with_one_all_reduce():
    found = _found(
        _check(
            "--topology=v3:2x2",
            "--replicas=8",
            train__precision="mixed_bfloat16",
            train__accumulation=2,
            train__steps_per_loop=4,
            model__dropout=0.1,
            data__mixup=0.2,
            data__batch_size=32,
            optim__polyak=0.99,
        )
    )
    assert found["fits"] and 0 < found["hbm_gib"] < 0.1 < found["hbm_limit_gib"]
    assert found["collectives"]["all-reduce"] == 1
    assert found["tflop"] > 0 and found["traffic_gb"] > 0
    assert (found["replicas"], found["batch_per_replica"]) == (8, 4)
    assert found["versions"].keys() == {
        "tensorflow",
        "keras",
        "jax",
        "jaxlib",
        "libtpu",
    }


@NEEDS_LIBTPU
def test_executed_by_eight_replicas_it_makes_the_step_of_one_device():
    found = _found(
        _check(
            "--execute",
            "--replicas=8",
            train__accumulation=2,
            data__batch_size=32,
            optim__polyak=0.99,
        )
    )
    # Every weight but the keys' biases; two moments and an average for each weight,
    # of the keys' biases none; the step counter.
    assert found["arrays_changed"] > 50
    assert found["largest_relative_difference"] < 1e-6, found["where"]
    assert found["largest_difference_of_replicas"] == 0
    assert found["loss"][0] == pytest.approx(found["loss"][1], rel=1e-6)


@NEEDS_LIBTPU
def test_what_does_not_fit_is_refused_in_the_compilers_words():
    found = _found(
        _check(
            "--topology=v2:2x2",
            "--replicas=8",
            data__batch_size=8 * 4096,
            data__image_size=128,
            model__width=256,
            model__num_heads=4,
        ),
        code=1,
    )
    assert not found["fits"] and found["hbm_limit_gib"] == 7.48
    assert "RESOURCE_EXHAUSTED" in found["refusal"]


@NEEDS_LIBTPU
@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--topology=v33:2x2"], ["v33:2x2", "did you mean v3"]),
        (["--topology=v3:two"], ["v3:two", "v3:2x2"]),
        (["--topology=v5p:7x7x7x7"], ["v5p:7x7x7x7"]),
        (["--topology=v3:2x2", "--replicas=16"], ["--replicas=16", "8 devices"]),
        (["--replicas=5"], ["data.batch_size=16", "not divisible by 5"]),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(arguments, words):
    line = _refusal(_check(*arguments))
    for word in words:
        assert word in line
