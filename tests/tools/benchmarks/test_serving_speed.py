"""Exports take turns with PyTorch, and say where their time goes."""

import sys

import pytest

from tests.support import tiny
from tools.benchmarks import serving_speed
from vit_tf import config
from vit_tf.serving import c_runtime

pytestmark = pytest.mark.skipif(
    not c_runtime.is_available(),
    reason="TensorFlow's C++ loader is known on Linux only",
)


@pytest.mark.slow
def test_every_export_is_measured_and_agrees():
    found = serving_speed.compare(
        tiny.make(), batches=(1, 3), rounds=2, torch_python=None, torch_script=""
    )
    names = {f"{name}, batch {n}" for name in serving_speed.EXPORTS for n in (1, 3)}
    assert set(found.rates) == names
    for rate in found.rates.values():
        assert 0 < rate.slowest <= rate.median <= rate.fastest
    assert found.agreement["export, float32"] == 0
    # Rounded, so not the same: the head has weights that tell images apart.
    assert 0 < found.agreement["export, bfloat16"] < 0.01
    assert any("MatMul" in name for name in found.seconds_by_op)


@pytest.mark.slow
def test_an_environment_without_pytorch_is_named(tmp_path):
    script = tmp_path / "script.py"
    script.write_text("raise ImportError('no module here')")
    with pytest.raises(
        config.Refused, match="no module here; name an interpreter with"
    ):
        serving_speed.compare(
            tiny.make(),
            batches=(1,),
            rounds=1,
            torch_python=sys.executable,
            torch_script=str(script),
        )
