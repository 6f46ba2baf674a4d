"""Which devices the flags choose, and lines for those that are not there."""

import pytest

from tests.support import tiny, warm


def _refusal(tmp_path, *flags):
    arguments = tiny.command(tmp_path / "run", str(tmp_path))
    process = warm.start(*arguments, *flags)
    _, said = process.communicate()
    assert process.returncode == 2, said
    assert not (tmp_path / "run").exists()
    (line,) = said.strip().splitlines()
    return line


@pytest.mark.parametrize("name", ["local", "no-such-tpu"])
def test_without_a_tpu_one_line_says_so(tmp_path, name):
    line = _refusal(tmp_path, f"--tpu={name}")
    assert f"--tpu={name}: no TPU can be used from here" in line
    assert "tensorflow-tpu==2.20.0" in line


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--num_workers=2"], "needs --worker_index and --coordinator as well"),
        (["--tpu=local", "--strategy=one"], "--tpu: not with --strategy=one"),
        (
            ["--num_workers=2", "--worker_index=0", "--coordinator=a:1", "--tpu=x"],
            "one process drives a TPU",
        ),
        (["--strategy=multi_worker"], "TF_CONFIG is not set"),
        (["--strategy=multi_worker", "--num_devices=2"], "all devices of a host"),
    ],
)
def test_flags_that_do_not_go_together_are_one_line(tmp_path, monkeypatch, flags, said):
    monkeypatch.delenv("TF_CONFIG", raising=False)
    assert said in _refusal(tmp_path, *flags)
