"""What a run's training step costs besides time: memory, start-up, talk of replicas.

Each configuration is measured in a process of its own, because the peak of a
process's memory never falls again.
"""

import dataclasses
import multiprocessing
import resource
import sys
import time
from collections.abc import Iterator, Mapping

import tensorflow as tf

from tools.benchmarks import programs
from vit_tf import config, config_values
from vit_tf.data import batches
from vit_tf.runtime import devices
from vit_tf.training import step, train_state

_MIB = 2**20


@dataclasses.dataclass(frozen=True)
class Footprint:
    """One configuration's training step on one device.

    Attributes:
        peak_mib: memory of the process at its highest, above its highest before, when
            TensorFlow was imported: 0 for models of a few MiB. Of a GPU only what the
            host holds.
        first_step_seconds: from the config to the end of the first step: building
            the model, tracing, compiling, computing.
        traces: how often the step function was traced in three calls; 1 is right.
        all_reduces: calls that a step makes to sum over replicas.
        reduced_mib: what they sum.
    """

    peak_mib: float
    first_step_seconds: float
    traces: int
    all_reduces: int
    reduced_mib: float


def compare(cfg: config.Config, *, num_classes: int) -> dict[str, Footprint]:
    """Measures the run as configured, with two micro-batches,
    with remat, and with both.
    """
    halves, remat = _changed(cfg, accumulation=2), _changed(cfg, remat=True)
    return measure(
        {
            "as configured": cfg,
            "train.accumulation=2": halves,
            "model.remat=true": remat,
            "both": _changed(remat, accumulation=2),
        },
        num_classes=num_classes,
    )


def measure(
    configs: Mapping[str, config.Config], *, num_classes: int
) -> dict[str, Footprint]:
    """Measures one after the other, each in a fresh process."""
    fresh = multiprocessing.get_context("spawn")
    footprints = {}
    for name, cfg in configs.items():
        with fresh.Pool(1) as pool:
            footprints[name] = pool.apply(
                _measure, (config_values.to_json(cfg), num_classes)
            )
    return footprints


def _changed(cfg: config.Config, *, accumulation=None, remat=None) -> config.Config:
    copy = config_values.from_json(config_values.to_json(cfg))
    copy.train.accumulation = accumulation or copy.train.accumulation
    copy.model.remat = copy.model.remat if remat is None else remat
    return copy


def _measure(text: str, num_classes: int) -> Footprint:
    cfg = config_values.from_json(text)
    machine = devices.start(cfg.train, strategy=devices.Strategy.ONE)
    # Allocators and thread pools of the runtime are there before the count begins.
    tf.matmul(tf.ones((64, 64)), tf.ones((64, 64))).numpy()
    before, began = _peak_mib(), time.monotonic()
    state = train_state.build(
        cfg, num_classes=num_classes, total_steps=10**6, strategy=machine.strategy
    )
    steps = step.build(
        state,
        data=cfg.data,
        train=cfg.train,
        optim=cfg.optim,
        strategy=machine.strategy,
        jit_compile=machine.jit_compile,
    )
    noise = batches.noise(cfg.data, num_classes=num_classes)
    stream = iter(tf.data.Dataset.from_tensors(noise).repeat())
    steps(stream, tf.constant(1))["loss"].numpy()
    first = time.monotonic() - began
    for count in (1, 2):
        steps(stream, tf.constant(count))["loss"].numpy()
    peak = _peak_mib() - before
    reduced = _reductions(cfg, num_classes, stream)
    return Footprint(
        peak_mib=peak,
        first_step_seconds=first,
        traces=steps.experimental_get_tracing_count(),
        all_reduces=len(reduced),
        reduced_mib=sum(reduced) / _MIB,
    )


class _Counting(tf.distribute.CrossDeviceOps):
    """Sums over replicas, and keeps the bytes that each call sums."""

    def __init__(self):
        super().__init__()
        self.sizes: list[int] = []
        self._sum = tf.distribute.ReductionToOneDevice()

    def batch_reduce(self, reduce_op, value_destination_pairs, options=None):
        """Notes what one call sums, and sums it."""
        values = [
            tf.nest.flatten(v, expand_composites=True)[0]
            for v, _ in value_destination_pairs
        ]
        self.sizes.append(sum(v.shape.num_elements() * v.dtype.size for v in values))
        return self._sum.batch_reduce(reduce_op, value_destination_pairs, options)


def _reductions(cfg: config.Config, num_classes: int, stream: Iterator) -> list[int]:
    """Traces the step with several replicas: the bytes of each sum over them."""
    counting = _Counting()
    strategy = tf.distribute.MirroredStrategy(["CPU:0"], cross_device_ops=counting)
    state = train_state.build(
        cfg, num_classes=num_classes, total_steps=10**6, strategy=strategy
    )
    steps = step.build(
        state,
        data=cfg.data,
        train=cfg.train,
        optim=cfg.optim,
        strategy=strategy,
        jit_compile=False,
    )
    steps.get_concrete_function(stream, tf.constant(1))
    return counting.sizes


def _peak_mib() -> float:
    # On Linux ru_maxrss begins with the parent's peak.
    if (highest := programs.peak_bytes()) is not None:
        return highest / _MIB
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (_MIB if sys.platform == "darwin" else 1024)
