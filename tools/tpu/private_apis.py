"""Every private name of a library that `tools/tpu` uses, with the reason.

Public interfaces compile for devices that are there. To trace and compile a TPU's
program where there is none takes the parts below, which the pins of
requirements-tpu-check.txt hold still. JAX is imported where it is asked for: it need
not be installed to trace.
"""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

# XLA's collectives as operations: TPU kernels are not in TensorFlow's usual wheel.
from tensorflow.compiler.tf2xla.ops import gen_xla_ops as xla_ops

# TPUStrategy asks its devices at once; only its base classes take others.
from tensorflow.python.distribute.tpu_strategy import TPUExtended, TPUStrategyV2
from tensorflow.python.tpu import tpu_function as _tpu_function
from tensorflow.python.tpu.ops import tpu_ops
from tensorflow.python.tpu.tpu_system_metadata import TPUSystemMetadata

# What a graph's tensor is when it comes from outside of all graphs.
EagerTensor, FuncGraph = tf.__internal__.EagerTensor, tf.__internal__.FuncGraph

__all__ = [
    "EagerTensor",
    "FuncGraph",
    "TPUExtended",
    "TPUStrategyV2",
    "TPUSystemMetadata",
    "xla_ops",
]


def number_of_shards() -> int:
    """Returns the replicas of the TPU computation that is being traced."""
    return _tpu_function.get_tpu_context().number_of_shards


@contextlib.contextmanager
def replacing_collectives(
    *, cross_replica_sum: Callable[..., Any], all_to_all: Callable[..., Any]
) -> Iterator[None]:
    """Puts other functions in the place of TensorFlow's two TPU collectives.

    TPUStrategy calls them by their module, and offers no place to put others.
    """
    before = tpu_ops.cross_replica_sum, tpu_ops.all_to_all
    tpu_ops.cross_replica_sum, tpu_ops.all_to_all = cross_replica_sum, all_to_all
    try:
        yield
    finally:
        tpu_ops.cross_replica_sum, tpu_ops.all_to_all = before


@contextlib.contextmanager
def mlir_context() -> Iterator[None]:
    """Enters a context that knows the dialects of JAX's programs."""
    from jax._src.interpreters import mlir
    from jaxlib.mlir import ir

    with mlir.make_ir_context(), ir.Location.unknown():
        yield


def hlo_to_stablehlo(hlo: bytes) -> bytes:
    """Converts a serialized HLO module, for which JAX has no public function."""
    from jax._src.lib import _jax

    return _jax.mlir.hlo_to_stablehlo(hlo)


def compile_module(module: Any, chosen: Sequence[Any], *, only: bool) -> Any:
    """Compiles a StableHLO module.

    JAX's public way begins with a function in Python; this module is TensorFlow's.

    Args:
        module: of `jaxlib.mlir`.
        chosen: devices, one for each replica.
        only: compiles and does not load, for devices that are not there.
    """
    from jax._src import compiler
    from jax._src.lib import _jax

    options = compiler.get_compile_options(
        num_replicas=len(chosen),
        num_partitions=1,
        device_assignment=np.array([d.id for d in chosen]).reshape(-1, 1),
    )
    client, where = chosen[0].client, _jax.DeviceList(tuple(chosen))
    if only:
        return client.compile(module, executable_devices=where, compile_options=options)
    return client.compile_and_load(module, where, options)
