"""XLA programs from TensorFlow, compiled for a TPU that is not there, or run on CPUs.

JAX brings the way to libtpu, the TPU's compiler, which needs no TPU; no TensorFlow is
imported here.
"""

import collections
import contextlib
import dataclasses
import importlib.util
import os
import re
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from tools.tpu import private_apis
from vit_tf import errors

_INSTALL = "pip install -r requirements-tpu-check.txt"
_GIB = 2**30


@dataclasses.dataclass(frozen=True)
class Chip:
    """A generation of TPUs.

    Attributes:
        hbm_gib: memory that the compiler grants a device, measured.
        settings: for JAX's description of a topology.
    """

    hbm_gib: float
    settings: dict[str, Any] = dataclasses.field(default_factory=dict)


# A device is a core on v2 and v3, elsewhere a chip.
CHIPS = {
    "v2": Chip(7.48),
    "v3": Chip(15.48),
    "v4": Chip(30.75, {"chip_config_name": "megacore"}),
    "v5e": Chip(15.75),
    "v5p": Chip(95.74),
    "v6e": Chip(31.25),
}

_COLLECTIVES = "all-reduce|all-gather|reduce-scatter|all-to-all|collective-permute"


def require() -> None:
    """Refuses where JAX or libtpu is not installed; sets what they read at start."""
    missing = [n for n in ("jax", "libtpu") if importlib.util.find_spec(n) is None]
    if missing:
        raise errors.UserError(
            f"{' and '.join(missing)} not installed: `{_INSTALL}`, or `make tpu-check`"
        )
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    os.environ["TPU_SKIP_MDS_QUERY"] = "1"  # do not ask the cloud which TPU this is
    os.environ["ALLOW_MULTIPLE_LIBTPU_LOAD"] = "1"  # other processes may compile too


def devices(topology: str) -> Sequence[Any]:
    """Makes the devices of a topology such as 'v3:2x2'; see `CHIPS`."""
    kind, _, shape = topology.partition(":")
    if kind not in CHIPS:
        raise errors.UserError(
            f"--topology={topology}: no such chip{errors.nearest(kind, CHIPS)}"
        )
    if not re.fullmatch(r"[1-9]\d*x[1-9]\d*(x[1-9]\d*)?", shape):
        raise errors.UserError(
            f"--topology={topology}: chips are given as {kind}:2x2 or {kind}:2x2x1"
        )
    require()
    from jax.experimental import topologies

    settings = dict(CHIPS[kind].settings)
    if shape == "1x1":
        settings["chips_per_host_bounds"] = (1, 1, 1)
    try:
        topology_of = topologies.get_topology_desc(
            platform="tpu", topology_name=topology, **settings
        )
    except Exception as error:  # of many types, each for a name that it dislikes
        reason = " ".join(str(error).split())[:200]
        raise errors.UserError(f"--topology={topology}: {reason}") from error
    return topology_of.devices


def compile_for(
    hlo: bytes, topology: str, *, replicas: int, text_path: str | None = None
) -> dict[str, Any]:
    """Compiles one replica's program, and returns what the TPU's compiler reports.

    Args:
        hlo: the program.
        topology: see `devices`.
        replicas: that run it.
        text_path: a file that receives the compiled program as text.

    Returns:
        'fits'; 'hbm_limit_gib'; 'compile_seconds'. Where it fits: 'hbm_gib' (with
        its parts), 'tflop', 'traffic_gb' and 'collectives' of one step. Where it
        does not: 'refusal', the compiler's words.

    Raises:
        errors.UserError: no such topology, or fewer devices than replicas.
    """
    chips = devices(topology)
    if len(chips) < replicas:
        raise errors.UserError(
            f"--replicas={replicas}: {topology} has {len(chips)} devices"
        )
    import jax

    facts = {"hbm_limit_gib": CHIPS[topology.partition(":")[0]].hbm_gib}
    with private_apis.mlir_context():
        module = _module(hlo)
        began = time.monotonic()
        try:
            executable = private_apis.compile_module(
                module, chips[:replicas], only=True
            )
        except jax.errors.JaxRuntimeError as error:
            refusal = " ".join(str(error).split())[:300]
            facts |= {"fits": False, "refusal": refusal}
        else:
            text = executable.hlo_modules()[0].to_string()
            facts |= {"fits": True, **_describe(executable, text)}
            if text_path is not None:
                with open(text_path, "w") as file:
                    file.write(text)
        facts["compile_seconds"] = round(time.monotonic() - began, 1)
    return facts


def execute(
    hlo: bytes, inputs: Sequence[np.ndarray], variables: Sequence[np.ndarray]
) -> tuple[list[np.ndarray], dict[int, list[np.ndarray]]]:
    """Runs the program on virtual CPU devices, as many as there are replicas.

    Args:
        hlo: the program.
        inputs: each (replicas, ...): what every replica gets.
        variables: the same for all replicas.

    Returns:
        What the step returned, each (replicas, ...); and for each position in
        `variables` that was written, its new value in every replica.
    """
    require()
    import jax

    replicas = len(inputs[0])
    with contextlib.suppress(RuntimeError):  # JAX already runs, with enough or not
        jax.config.update("jax_num_cpu_devices", replicas)
        jax.config.update("jax_enable_x64", True)  # a step counter is int64
    cpus = jax.devices("cpu")
    if len(cpus) < replicas:
        raise RuntimeError(f"JAX runs with {len(cpus)} CPU devices, need {replicas}")
    cpus = cpus[:replicas]
    with private_apis.mlir_context():
        executable = private_apis.compile_module(
            _module(hlo, replicas), cpus, only=False
        )
    header = executable.hlo_modules()[0].to_string().split("\n", 1)[0]
    written = {
        int(parameter): int(result)
        for result, parameter in re.findall(r"\{(\d+)\}: \((\d+),", header)
    }
    arguments = [_spread(value, cpus) for value in inputs]
    arguments += [_spread([value] * replicas, cpus) for value in variables]
    raw = executable.execute_sharded(arguments).disassemble_into_single_device_arrays()
    results = [[np.asarray(part) for part in parts] for parts in raw]
    first = len(inputs)
    updated = {p - first: results[r] for p, r in written.items() if p >= first}
    plain = [r for i, r in enumerate(results) if i not in written.values()]
    return [np.stack(parts) for parts in plain], updated


def versions() -> dict[str, str]:
    """Returns the versions of what compiled."""
    import importlib.metadata

    return {n: importlib.metadata.version(n) for n in ("jax", "jaxlib", "libtpu")}


def _spread(values, cpus):
    """Spreads one value for each device to the array that `execute_sharded` takes."""
    import jax
    from jax.sharding import Mesh, NamedSharding, PartitionSpec

    sharding = NamedSharding(Mesh(np.array(cpus), ("replica",)), PartitionSpec())
    parts = [jax.device_put(np.asarray(v), d) for v, d in zip(values, cpus)]
    return jax.make_array_from_single_device_arrays(parts[0].shape, sharding, parts)


def _describe(executable, text: str) -> dict[str, Any]:
    memory, cost = executable.get_compiled_memory_stats(), executable.cost_analysis()
    cost = cost[0] if isinstance(cost, list) else cost
    parts = {
        "arguments": memory.argument_size_in_bytes,
        # Results that take the place of arguments need no memory of their own.
        "results": memory.output_size_in_bytes - memory.alias_size_in_bytes,
        "temporaries": memory.temp_size_in_bytes,
        "code": memory.generated_code_size_in_bytes,
    }
    names = re.findall(rf" ({_COLLECTIVES})(?:-start)?\(", text)
    return {
        "hbm_gib": round(sum(parts.values()) / _GIB, 3),
        "hbm_parts_gib": {name: round(n / _GIB, 3) for name, n in parts.items()},
        "tflop": cost.get("flops", 0.0) / 1e12,
        "traffic_gb": cost.get("bytes accessed", 0.0) / 1e9,
        "collectives": dict(collections.Counter(names)),
    }


def _module(hlo: bytes, replicas: int | None = None):
    """Rewrites the program as StableHLO, with what is
    particular to its origin replaced.
    """
    from jaxlib.mlir import ir

    module = ir.Module.parse(private_apis.hlo_to_stablehlo(hlo))
    _replace(module, "mhlo.copy", lambda op: op.operands[0])
    _replace(module, "stablehlo.custom_call", _all_to_all)
    if replicas is None:
        _replace_generators(module)
    else:
        attribute = ir.IntegerAttr.get(ir.IntegerType.get_signless(32), replicas)
        module.operation.attributes["mhlo.num_replicas"] = attribute
    module.operation.verify()
    return module


def _replace(module, name: str, by: Callable) -> None:
    """Puts the value `by(operation)` in the place of each operation `name`."""
    for operation in _every(module, name):
        if (value := by(operation)) is not None:
            operation.results[0].replace_all_uses_with(value)
            operation.erase()


def _every(module, name: str) -> list:
    from jaxlib.mlir import ir

    operations = []

    def visit(operation):
        if operation.name == name:
            operations.append(operation.operation)
        return ir.WalkResult.ADVANCE

    module.operation.walk(visit)
    return operations


def _all_to_all(call):
    """Writes the all-to-all that a custom call of tpu_trace stands for."""
    from jaxlib.mlir import ir

    if "tf_all_to_all" not in str(call.attributes["call_target_name"]):
        return None
    setting = ir.StringAttr(call.attributes["backend_config"]).value
    split, join, number = (int(part) for part in setting.split(","))
    whole = ir.IntegerType.get_signless(64)
    groups = np.arange(number, dtype=np.int64).reshape(1, number)
    return ir.Operation.create(
        "stablehlo.all_to_all",
        results=[call.results[0].type],
        operands=[call.operands[0]],
        attributes={
            "split_dimension": ir.IntegerAttr.get(whole, split),
            "concat_dimension": ir.IntegerAttr.get(whole, join),
            "split_count": ir.IntegerAttr.get(whole, number),
            "replica_groups": ir.DenseIntElementsAttr.get(groups),
        },
        ip=ir.InsertionPoint(call),
    ).result


def _replace_generators(module) -> None:
    """Replaces random bits by the chip's own generator, which
    TensorFlow asks for on a TPU.

    Lowered on a CPU it asks for Philox, whose state is one number longer.
    """
    from jaxlib.mlir import ir

    for old in _every(module, "stablehlo.rng_bit_generator"):
        if "PHILOX" not in str(old.attributes["rng_algorithm"]):
            continue
        place = ir.InsertionPoint(old)
        bounds = {"start_indices": 0, "limit_indices": 2, "strides": 1}
        unsigned = ir.IntegerType.get_unsigned(64)
        state = ir.Operation.create(
            "stablehlo.slice",
            results=[ir.RankedTensorType.get([2], unsigned)],
            operands=[old.operands[0]],
            attributes={n: ir.DenseI64ArrayAttr.get([v]) for n, v in bounds.items()},
            ip=place,
        )
        default = ir.Attribute.parse("#stablehlo<rng_algorithm DEFAULT>")
        new = ir.Operation.create(
            "stablehlo.rng_bit_generator",
            results=[state.result.type, old.results[1].type],
            operands=[state.result],
            attributes={"rng_algorithm": default},
            ip=place,
        )
        old.results[1].replace_all_uses_with(new.results[1])
        old.results[0].replace_all_uses_with(old.operands[0])
        old.erase()
