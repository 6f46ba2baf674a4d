"""Flags of the tools that train many runs: where data lie, on what the runs train."""

from typing import Any

from absl import flags

DATA_DIR = flags.DEFINE_string(
    "data_dir",
    None,
    "Where prepared data sets lie; by default $TFDS_DATA_DIR or ~/tensorflow_datasets.",
)
WAIT = flags.DEFINE_bool(
    "wait", False, "Stay until runs of other processes, that others need, are finished."
)
_STRATEGY = flags.DEFINE_enum(
    "strategy",
    "auto",
    ["auto", "one", "mirrored"],
    "auto: all local GPUs, else one device. mirrored: over --num_devices.",
)
_NUM_DEVICES = flags.DEFINE_integer(
    "num_devices", None, "Devices that a run uses; all GPUs by default.", lower_bound=1
)
_TPU = flags.DEFINE_string(
    "tpu", None, "'local' on a TPU VM, or the TPU's name: runs on that TPU."
)


def chosen() -> dict[str, Any]:
    """The arguments of `runtime.start` that the flags stand for."""
    from vit_tf.runtime import devices

    return {
        "strategy": devices.Strategy("tpu" if _TPU.value else _STRATEGY.value),
        "num_devices": _NUM_DEVICES.value,
        "tpu": _TPU.value or "local",
    }
