"""The one place that touches process state: devices, strategy, XLA, signals."""

import contextlib
import dataclasses
import enum
import os
import signal
from collections.abc import Iterator

import keras
import tensorflow as tf

from vit_tf import config


class Strategy(enum.StrEnum):
    """How the devices of this process share a step."""

    AUTO = "auto"  # mirrored where there are several GPUs, else one
    ONE = "one"
    MIRRORED = "mirrored"  # all local GPUs, or N virtual CPU devices


@dataclasses.dataclass(frozen=True)
class Runtime:
    """What a run needs to know about the machine.

    Attributes:
        strategy: under whose scope variables are made and steps run.
        jit_compile: whether XLA compiles each replica's forward and backward.
        device: in words, for results: '4 virtual CPU devices'.
    """

    strategy: tf.distribute.Strategy
    jit_compile: bool
    device: str


def seed(number: int) -> None:
    """Makes what is drawn from now on, such as initial weights, repeatable."""
    keras.utils.set_random_seed(number)


def start(
    train: config.Train,
    *,
    strategy: Strategy = Strategy.AUTO,
    num_devices: int | None = None,
) -> Runtime:
    """Makes the kernels of this process deterministic and picks its devices.

    Args:
        train: its jit_compile is read.
        strategy: one device, or mirrored over several.
        num_devices: how many; None: all GPUs. Without a GPU this many virtual
            CPU devices are made, which has to happen before TensorFlow runs.

    Raises:
        config.Refused: devices that are not there.
    """
    # Needed for resuming bit for bit; kernels without a deterministic form fail.
    tf.config.experimental.enable_op_determinism()
    gpus = tf.config.list_physical_devices("GPU")
    if strategy == Strategy.AUTO:
        several = (num_devices or len(gpus)) > 1
        strategy = Strategy.MIRRORED if several else Strategy.ONE
    jit = {
        config.Jit.AUTO: bool(gpus),
        config.Jit.ON: True,
        config.Jit.OFF: False,
    }[train.jit_compile]
    if strategy == Strategy.ONE:
        if num_devices not in (None, 1):
            raise config.Refused(
                f"--num_devices={num_devices}: --strategy=one takes one device; "
                "use --strategy=mirrored"
            )
        kind = "GPU" if gpus else "CPU"
        return Runtime(tf.distribute.get_strategy(), jit, f"1 {kind}")
    if gpus:
        return _mirrored_gpus(len(gpus), num_devices, jit)
    return _mirrored_cpus(num_devices, jit)


def _mirrored_gpus(available: int, wanted: int | None, jit: bool) -> Runtime:
    wanted = wanted or available
    if wanted > available:
        raise config.Refused(
            f"--num_devices={wanted}: this machine has {available} GPUs"
        )
    names = [f"GPU:{i}" for i in range(wanted)]
    return Runtime(tf.distribute.MirroredStrategy(names), jit, f"{wanted} GPUs")


def _mirrored_cpus(wanted: int | None, jit: bool) -> Runtime:
    if wanted is None:
        raise config.Refused(
            "--strategy=mirrored: no GPU here; add --num_devices=N for N virtual "
            "CPU devices"
        )
    cpu = tf.config.list_physical_devices("CPU")[0]
    try:
        tf.config.set_logical_device_configuration(
            cpu, [tf.config.LogicalDeviceConfiguration()] * wanted
        )
    except RuntimeError:
        have = len(tf.config.list_logical_devices("CPU"))
        if have < wanted:
            raise config.Refused(
                f"--num_devices={wanted}: TensorFlow already runs with {have} CPU "
                "devices in this process"
            ) from None
    names = [f"CPU:{i}" for i in range(wanted)]
    strategy = tf.distribute.MirroredStrategy(
        # Plain sums in a fixed order; NCCL and friends are for GPUs.
        names,
        cross_device_ops=tf.distribute.ReductionToOneDevice(),
    )
    return Runtime(strategy, jit, f"{wanted} virtual CPU devices")


@dataclasses.dataclass
class StopRequest:
    """Becomes true when the process is asked to stop."""

    signal_name: str = ""

    def __bool__(self) -> bool:
        return bool(self.signal_name)


@contextlib.contextmanager
def stop_requests() -> Iterator[StopRequest]:
    """Turns SIGTERM and Ctrl-C into a request that the loop reads.

    A second signal of the same kind does what it always did.
    """
    request = StopRequest()
    previous = {}

    def ask(number, frame):
        del frame
        request.signal_name = signal.Signals(number).name
        signal.signal(number, previous[number])
        # Not print: the signal may have come in the middle of one.
        os.write(2, f"\n{request.signal_name}: saving, then stopping\n".encode())

    for number in (signal.SIGTERM, signal.SIGINT):
        if signal.getsignal(number) == signal.SIG_IGN:
            continue  # a shell's background job does not want Ctrl-C
        try:
            previous[number] = signal.signal(number, ask)
        except ValueError:  # not the main thread: the caller handles signals
            pass
    try:
        yield request
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
