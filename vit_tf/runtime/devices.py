"""The one place that touches process state: devices, strategy, XLA, seeds."""

import dataclasses
import enum
import gc
import logging
import os

import keras
import tensorflow as tf

from vit_tf import config, errors
from vit_tf.runtime import cluster, host_memory, multihost, private_apis

# How long to wait for workers to connect, and until a silent one counts as dead.
_START_SECONDS, _SILENCE_SECONDS = 300, 60


class Strategy(enum.StrEnum):
    """How devices share a step."""

    AUTO = "auto"  # mirrored where there are several GPUs, else one
    ONE = "one"
    MIRRORED = "mirrored"  # all local GPUs, or N virtual CPU devices
    MULTI_WORKER = "multi_worker"  # a process per host, each with all its GPUs
    TPU = "tpu"  # this process alone, for all hosts of the TPU


@dataclasses.dataclass(frozen=True)
class Runtime:
    """What a run needs to know about the machine.

    Attributes:
        strategy: under whose scope variables are made and steps run.
        jit_compile: whether XLA compiles each replica's forward and backward.
        device: named for results, such as '4 virtual CPU devices'.
        processes: those that run this together; by default only this one.
        memory: bytes that this process may take on the host's processors; None: on
            GPUs and TPUs, which say themselves when they are full.
    """

    strategy: tf.distribute.Strategy
    jit_compile: bool
    device: str
    processes: multihost.Processes = dataclasses.field(
        default_factory=multihost.Processes
    )
    memory: int | None = None

    @property
    def local_replicas(self) -> int:
        """Replicas of this process, which share the host's memory."""
        return self.strategy.num_replicas_in_sync // self.processes.count


def seed(number: int) -> None:
    """Seeds Python, NumPy and TensorFlow, so that initial weights are repeatable."""
    keras.utils.set_random_seed(number)


def forget() -> None:
    """Frees the variables and graphs of earlier runs of this process.

    TensorFlow keeps some 33 MiB for each compiled run even so, measured with two
    blocks of a ViT.
    """
    keras.backend.clear_session()
    gc.collect()
    # TensorFlow takes the steps of several runs for one function that retraces.
    logging.getLogger("tensorflow").addFilter(_no_retracing)


def _no_retracing(entry: logging.LogRecord) -> bool:
    return "triggered tf.function retracing" not in entry.getMessage()


def start(
    train: config.Train,
    *,
    strategy: Strategy = Strategy.AUTO,
    num_devices: int | None = None,
    workers: cluster.Cluster | None = None,
    tpu: str = "local",
    memory: int | None = None,
) -> Runtime:
    """Makes the kernels of this process deterministic and chooses its devices.

    Args:
        train: its jit_compile is read.
        strategy: one device, or mirrored over several.
        num_devices: how many; None: all GPUs. Without a GPU this many virtual
            CPU devices are made, which has to happen before TensorFlow runs.
        workers: the processes of `Strategy.MULTI_WORKER`; None: from TF_CONFIG.
        tpu: the TPU of `Strategy.TPU`: 'local', or a name or address.
        memory: bytes that this process may take on the host's processors; None: what
            the machine or its container has.

    Raises:
        errors.UserError: devices that are not there.
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
    if strategy != Strategy.MIRRORED and num_devices not in (None, 1):
        kind = "one device" if strategy == Strategy.ONE else "all devices of a host"
        raise errors.UserError(
            f"--num_devices={num_devices}: --strategy={strategy} takes {kind}; "
            "use --strategy=mirrored"
        )
    if strategy == Strategy.TPU:
        return _tpu(tpu)
    machine = _of_host(strategy, num_devices, workers, gpus=len(gpus), jit=jit)
    if gpus:
        return machine
    memory = host_memory.total_bytes() if memory is None else memory
    return dataclasses.replace(machine, memory=memory)


def _of_host(
    strategy: Strategy,
    num_devices: int | None,
    workers: cluster.Cluster | None,
    *,
    gpus: int,
    jit: bool,
) -> Runtime:
    """Returns this host's GPUs, or its processors where it has none."""
    if strategy == Strategy.MULTI_WORKER:
        workers = workers or cluster.parse(os.environ.get("TF_CONFIG"))
        return _multi_worker(workers, bool(gpus), jit)
    if strategy == Strategy.ONE:
        kind = "GPU" if gpus else "CPU"
        return Runtime(tf.distribute.get_strategy(), jit, f"1 {kind}")
    if gpus:
        return _mirrored_gpus(gpus, num_devices, jit)
    return _mirrored_cpus(num_devices, jit)


def _mirrored_gpus(available: int, wanted: int | None, jit: bool) -> Runtime:
    wanted = wanted or available
    if wanted > available:
        raise errors.UserError(
            f"--num_devices={wanted}: this machine has {available} GPUs"
        )
    names = [f"GPU:{i}" for i in range(wanted)]
    return Runtime(tf.distribute.MirroredStrategy(names), jit, f"{wanted} GPUs")


def _mirrored_cpus(wanted: int | None, jit: bool) -> Runtime:
    if wanted is None:
        raise errors.UserError(
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
            raise errors.UserError(
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


def _multi_worker(workers: cluster.Cluster, on_gpus: bool, jit: bool) -> Runtime:
    os.environ["TF_CONFIG"] = workers.to_text()
    private_apis.set_cluster_seconds(start=_START_SECONDS, silence=_SILENCE_SECONDS)
    kinds = tf.distribute.experimental.CommunicationImplementation
    try:
        strategy = tf.distribute.MultiWorkerMirroredStrategy(
            communication_options=tf.distribute.experimental.CommunicationOptions(
                implementation=kinds.AUTO if on_gpus else kinds.RING
            )
        )
    except (tf.errors.OpError, RuntimeError) as error:
        raise errors.UserError(
            f"worker {workers.index} at {workers.addresses[workers.index]}: cannot "
            f"form the cluster of {', '.join(workers.addresses)} "
            f"({' '.join(str(error).split())[:200]}); look for a port in use, or a "
            "worker that did not start"
        ) from error
    count = len(workers.addresses)
    each = strategy.num_replicas_in_sync // count
    kind = "GPU" if on_gpus else "CPU"
    return Runtime(
        strategy,
        jit,
        f"{count} workers x {each} {kind}{'s' if each > 1 else ''}",
        multihost.Processes(strategy, count=count, index=workers.index),
    )


def _tpu(name: str) -> Runtime:
    """Takes all chips of a TPU; of a pod slice too, with this the only Python process."""
    try:
        resolver = tf.distribute.cluster_resolver.TPUClusterResolver(tpu=name)
        if name != "local":
            tf.config.experimental_connect_to_cluster(resolver)
        tf.tpu.experimental.initialize_tpu_system(resolver)
        strategy = tf.distribute.TPUStrategy(resolver)
    # What TensorFlow raises with no TPU: NotFoundError where it was built without
    # TPU kernels, InternalError where it was not, URLError (an OSError) or ValueError
    # for a name that it cannot look up, IndexError for a TPU without chips.
    except (tf.errors.OpError, OSError, ValueError, IndexError) as error:
        raise errors.UserError(
            f"--tpu={name}: no TPU can be used from here "
            f"({type(error).__name__}: {' '.join(str(error).split())[:160]}); TPUs need "
            "tensorflow-tpu==2.20.0 with libtpu>=0.0.14,<=0.0.31 on a TPU VM, and "
            "--tpu=local there or the TPU's name; else leave --tpu out"
        ) from error
    count = strategy.num_replicas_in_sync
    # XLA compiles the whole step there, not only its gradients.
    return Runtime(strategy, False, f"{count} TPU cores")
