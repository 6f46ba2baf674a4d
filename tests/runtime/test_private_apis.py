"""Private names of libraries stand in two files, each with its reason, and are there."""

import ast
import pathlib

import pytest
import tensorflow as tf

from vit_tf.runtime import private_apis

ROOT = pathlib.Path(__file__).parents[2]
ALLOWED = {"vit_tf/runtime/private_apis.py", "tools/tpu/private_apis.py"}
OTHERS = {"vit_tf", "tools", "experiments", "tests", "__future__"}


def _private(name):
    """The names in a file that belong to others and are not for us."""
    for node in ast.walk(ast.parse((ROOT / name).read_text())):
        if isinstance(node, ast.Import):
            modules = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            modules = [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Attribute) and node.attr == "__internal__":
            modules = ["tf.__internal__"]
        else:
            continue
        for module in modules:
            parts = module.split(".")
            if parts[0] in OTHERS:
                continue
            hidden = any(part.startswith("_") for part in parts)
            inner = module.startswith(
                ("keras.src", "tensorflow.python", "tensorflow.co", "unittest")
            )
            if hidden or inner:
                yield module


def test_private_names_stand_in_their_files_only():
    for top in ("vit_tf", "tools"):
        for path in (ROOT / top).rglob("*.py"):
            name = path.relative_to(ROOT).as_posix()
            names = list(_private(name))
            assert bool(names) == (name in ALLOWED), f"{name} uses {names}"


def test_a_cluster_is_told_its_patience():
    context = private_apis.eager_context.context()
    before = context.configure_coordination_service
    try:
        private_apis.set_cluster_seconds(start=7, silence=3)
        settings = context.configure_coordination_service.keywords
        assert settings == {
            "cluster_register_timeout_in_ms": 7000,
            "heartbeat_timeout_in_ms": 3000,
        }
        assert callable(before)
    finally:
        context.configure_coordination_service = before


def test_the_names_for_tracing_a_tpu_are_there():
    from tools.tpu import private_apis as of_tpu

    assert issubclass(of_tpu.TPUStrategyV2, tf.distribute.Strategy)
    assert all(getattr(of_tpu, name) is not None for name in of_tpu.__all__)
    marker = object()
    with of_tpu.replacing_collectives(cross_replica_sum=marker, all_to_all=marker):
        assert of_tpu.tpu_ops.cross_replica_sum is marker
    assert of_tpu.tpu_ops.cross_replica_sum is not marker


@pytest.mark.needs("jax", "libtpu")
def test_the_names_for_compiling_for_a_tpu_are_there():
    from tools.tpu import private_apis as of_tpu

    with of_tpu.mlir_context():
        pass
    from jax._src import compiler
    from jax._src.lib import _jax

    assert callable(compiler.get_compile_options)
    assert callable(_jax.mlir.hlo_to_stablehlo) and _jax.DeviceList
