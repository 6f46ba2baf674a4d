"""Whether a run's training step is a program that a TPU can run, and fits its memory.

`fit` compiles the step of our loop for a chip; `agreement` runs the same program on
virtual CPU devices and compares the weights with those of one device.
"""

import time
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tools.tpu import tpu_compiler, tpu_trace
from vit_tf import config, errors
from vit_tf.costs import flops
from vit_tf.data import (
    batches,
    catalog,
    mixup_cutmix,
)
from vit_tf.runtime import timing
from vit_tf.training import step, train_state

_ANY_LENGTH = 10_000_000  # examples of an epoch: a schedule has to end somewhere


def fit(
    cfg: config.Config,
    *,
    topology: str,
    replicas: int,
    num_classes: int | None = None,
    text_path: str | None = None,
) -> dict[str, Any]:
    """Returns what the TPU's compiler reports of the training step; see tpu_compiler.

    Args:
        cfg: its data set need not be prepared.
        topology: such as 'v3:2x2', four chips with eight devices.
        replicas: that share `data.batch_size`.
        num_classes: None: those of the data set.
        text_path: a file that receives the compiled program as text.

    Returns:
        What `tpu_compiler.compile_for` finds, and 'tflop_analytic', what the step
        needs at least: a ratio above 1 by much is memory bought by computing twice.
    """
    tpu_compiler.devices(topology)  # a wrong name is answered at once
    num_classes = num_classes or _num_classes(cfg)
    strategy = tpu_trace.TraceOnly(replicas)
    began = time.monotonic()
    state = _build(cfg, strategy, num_classes=num_classes)
    program = _program(cfg, strategy, state)
    traced = time.monotonic() - began
    macs = flops.forward_macs(state.model)
    per_replica = cfg.data.batch_size // replicas
    analytic = flops.exaflops(macs, images=per_replica) * 1e6
    report = tpu_compiler.compile_for(
        program.hlo, topology, replicas=replicas, text_path=text_path
    )
    if report["fits"]:
        report["tflop_analytic"] = analytic
        report["tflop_ratio"] = report["tflop"] / analytic
    return {
        "model": cfg.model.variant,
        "topology": topology,
        "replicas": replicas,
        "batch_per_replica": per_replica,
        "num_classes": num_classes,
        "precision": str(cfg.train.precision),
        **report,
        "trace_seconds": round(traced, 1),
        "versions": _versions(),
    }


def agreement(
    cfg: config.Config, *, replicas: int, num_classes: int | None = None
) -> dict[str, Any]:
    """Computes how far the replicas' step is from that of one device, on random images.

    Both start from the same weights, after the warm-up, and take one step.

    Returns:
        'largest_relative_difference' over all weights and slots, each relative to
        the largest number in it, 'where' it is, 'largest_difference_of_replicas',
        'loss' of both.
    """
    num_classes = num_classes or _num_classes(cfg)
    strategy = tpu_trace.TraceOnly(replicas)
    one_device = tf.distribute.get_strategy()
    there = _build(cfg, strategy, num_classes=num_classes)
    here = _build(cfg, one_device, num_classes=num_classes)
    for state in (here, there):
        _leave_nothing_zero(state)
        state.optimizer.iterations.assign(cfg.optim.warmup_steps)
        state.optimizer.start_average()
    before = {v.path: v.numpy() for v in _all_variables(here)}
    program = _program(cfg, strategy, there)
    batch = _batch(cfg, num_classes=num_classes)
    inputs = _inputs(program, batch, replicas)
    variables = [_read(handle) for handle in program.variables]
    results, updated = tpu_compiler.execute(program.hlo, inputs, variables)

    stream = iter(tf.data.Dataset.from_tensors(batch).repeat())
    mine = _steps(cfg, one_device, here)(stream, tf.constant(1))
    paths = {id(_handle(v)): v.path for v in _all_variables(there)}
    want = {v.path: v.numpy() for v in _all_variables(here)}
    worst, where, spread, moved = 0.0, "", 0.0, 0
    for position, parts in updated.items():
        path = paths[id(program.variables[position])]
        moved += not np.array_equal(before[path], want[path])
        spread = max(spread, *(_relative(part, parts[0]) for part in parts))
        if (difference := _relative(parts[0], want[path])) > worst:
            worst, where = difference, path
    unchanged = want.keys() - {paths[id(program.variables[p])] for p in updated}
    if [path for path in unchanged if not np.array_equal(before[path], want[path])]:
        raise ValueError(f"the replicas' step leaves out {sorted(unchanged)}")
    return {
        "model": cfg.model.variant,
        "replicas": replicas,
        "batch_per_replica": cfg.data.batch_size // replicas,
        "arrays_changed": moved,
        "largest_relative_difference": worst,
        "where": where,
        "largest_difference_of_replicas": spread,
        "loss": [float(results[0].ravel()[0]), float(mine["loss"][0])],
        "versions": _versions(),
    }


def _all_variables(state: train_state.TrainState) -> list[keras.Variable]:
    """Lists every variable that a step may change, with those of the optimizer."""
    own = state.objective.variables
    return [*state.model.variables, *own, *state.optimizer.variables]


def _leave_nothing_zero(state: train_state.TrainState) -> None:
    """Draws what is zero at the start, as it would be in the middle of a run.

    A head of zeros hides all other gradients, and an Adam that has seen nothing
    divides each gradient by itself, however much of it is rounding.
    """
    rng = np.random.default_rng(0)
    for variable in _all_variables(state):
        if variable.shape and not variable.numpy().any():
            variable.assign(0.1 * rng.uniform(0.5, 1.0, variable.shape))


def _num_classes(cfg: config.Config) -> int:
    row = catalog.DATASETS.get(cfg.data.name)
    if row is None or not row.num_classes:
        raise errors.UserError(
            f"data.name={cfg.data.name}: its classes are known once it is prepared; "
            "add --num_classes=N"
        )
    return row.num_classes


def _build(
    cfg: config.Config, strategy: tf.distribute.Strategy, *, num_classes: int
) -> train_state.TrainState:
    total = timing.num_steps(
        cfg.train, batch_size=cfg.data.batch_size, num_examples=_ANY_LENGTH
    )
    return train_state.build(
        cfg, num_classes=num_classes, total_steps=total, strategy=strategy
    )


def _steps(
    cfg: config.Config, strategy: tf.distribute.Strategy, state: train_state.TrainState
) -> tf.types.experimental.PolymorphicFunction:
    return step.build(
        state,
        data=cfg.data,
        train=cfg.train,
        optim=cfg.optim,
        strategy=strategy,
        jit_compile=False,  # on a TPU all of the replica's step is compiled
    )


def _program(
    cfg: config.Config, strategy: tpu_trace.TraceOnly, state: train_state.TrainState
) -> tpu_trace.Program:
    replicas = strategy.num_replicas_in_sync
    iterator = tf.data.IteratorSpec(_specs(cfg, cfg.data.batch_size // replicas))
    count = tf.TensorSpec((), tf.int32)
    steps = _steps(cfg, strategy, state)
    return tpu_trace.program(
        strategy, lambda: steps.get_concrete_function(iterator, count)
    )


def _specs(cfg: config.Config, rows: int) -> dict[str, tf.TensorSpec]:
    """Describes a training batch, as data/pipeline.py gives it."""
    size = cfg.data.image_size
    specs = {
        "image": tf.TensorSpec((rows, size, size, 3), tf.uint8),
        "label": tf.TensorSpec((rows,), tf.int32),
    }
    if mixup_cutmix.is_on(cfg.data):
        specs[mixup_cutmix.WEIGHT] = tf.TensorSpec((rows,), tf.float32)
    if cfg.data.cutmix:
        specs[mixup_cutmix.BOX] = tf.TensorSpec((rows, 4), tf.int32)
    return specs


def _batch(cfg: config.Config, *, num_classes: int) -> dict[str, np.ndarray]:
    """Makes noise as a global batch."""
    specs = _specs(cfg, cfg.data.batch_size)
    batch = batches.noise(cfg.data, num_classes=num_classes)
    if mixup_cutmix.WEIGHT in specs:
        batch[mixup_cutmix.WEIGHT] = np.full(
            specs[mixup_cutmix.WEIGHT].shape, 0.75, np.float32
        )
    if mixup_cutmix.BOX in specs:
        half = [0, 0, cfg.data.image_size // 2, cfg.data.image_size]
        batch[mixup_cutmix.BOX] = np.tile(np.int32(half), (cfg.data.batch_size, 1))
    return batch


def _inputs(program: tpu_trace.Program, batch, replicas: int) -> list[np.ndarray]:
    """Makes the program's inputs, (replicas, ...) each; no two
    parts of a batch look alike.
    """
    inputs = []
    for position, spec in enumerate(program.inputs):
        if position in program.replica_ids:
            inputs.append(np.arange(replicas, dtype=np.int32))
            continue
        cut = [v.reshape(replicas, -1, *v.shape[1:]) for v in batch.values()]
        (value,) = [
            v for v in cut if v.shape[1:] == tuple(spec.shape) and v.dtype == spec.dtype
        ]
        inputs.append(value)
    return inputs


def _handle(variable: keras.Variable):
    value = variable.value
    return value.values[0].handle if hasattr(value, "values") else value.handle


def _read(handle: tf.Tensor) -> np.ndarray:
    kind = handle._handle_data.shape_and_type[0].dtype
    return tf.raw_ops.ReadVariableOp(resource=handle, dtype=kind).numpy()


def _relative(got: np.ndarray, want: np.ndarray) -> float:
    """Computes the largest difference, as a share of the largest number wanted."""
    got, want = np.asarray(got, np.float64), np.asarray(want, np.float64)
    top = np.abs(want).max(initial=0.0)
    return float(np.abs(got - want).max(initial=0.0) / top) if top else 0.0


def _versions() -> dict[str, str]:
    ours = {"tensorflow": tf.__version__, "keras": keras.__version__}
    return ours | tpu_compiler.versions()
