"""Flags that say on which devices work is done, and of which processes it is part."""

import typing
from collections.abc import Sequence

from absl import flags

from tools.flags import number_flags
from vit_tf import errors

if typing.TYPE_CHECKING:
    from vit_tf.runtime import cluster, devices

flags.disclaim_key_flags()

_STRATEGIES = {
    "auto": "auto: all local GPUs, else one device.",
    "one": "",
    "mirrored": "mirrored: over --num_devices.",
    "multi_worker": "multi_worker: this is one of several processes, see TF_CONFIG or "
    "--num_workers.",
    "tpu": "",
}


class Choice(typing.TypedDict):
    """Arguments of `vit_tf.runtime.devices.start`."""

    strategy: "devices.Strategy"
    num_devices: int | None
    tpu: str
    memory: int | None


def define_num_devices() -> flags.FlagHolder[int]:
    """Defines --num_devices."""
    return number_flags.define_integer(
        "num_devices",
        None,
        "Devices to use; all GPUs by default. Without a GPU: as many virtual CPU "
        "devices.",
        upper=number_flags.MAX_DEVICES,
    )


def define_memory() -> flags.FlagHolder[float]:
    """Defines --memory."""
    return number_flags.define_float(
        "memory",
        None,
        "GiB that this process may take on the host's processors; work that is "
        "estimated to take more is refused before it begins. Default: what the machine "
        "or its container has.",
        lower=0.1,
        upper=1e6,
    )


def memory_bytes(holder: flags.FlagHolder[float]) -> int | None:
    """Returns --memory in bytes, None where it was not given."""
    return None if holder.value is None else round(holder.value * 2**30)


class DeviceFlags:
    """Defines --strategy, --num_devices, --tpu and --memory; called, reads them.

    Args:
        strategies: those of `devices.Strategy` that may be named.
    """

    def __init__(self, strategies: Sequence[str] = ("auto", "one", "mirrored")):
        explained = [_STRATEGIES[name] for name in strategies if _STRATEGIES[name]]
        self._strategy = flags.DEFINE_enum(
            "strategy", "auto", list(strategies), " ".join(explained)
        )
        self._num_devices = define_num_devices()
        self._tpu = flags.DEFINE_string(
            "tpu", None, "'local' on a TPU VM, or the TPU's name: trains on that TPU."
        )
        self._memory = define_memory()
        self._forced: list[tuple[str, str]] = []

    def __call__(self) -> Choice:
        from vit_tf.runtime import devices

        return {
            "strategy": devices.Strategy(self.check()),
            "num_devices": self._num_devices.value,
            "tpu": "local" if self._tpu.value is None else self._tpu.value,
            "memory": memory_bytes(self._memory),
        }

    def force(self, strategy: str, *, why: str) -> None:
        """Says that the flag `why`, which was given, stands for a strategy."""
        self._forced.append((strategy, why))

    def check(self) -> str:
        """Returns --strategy, or the one that other flags stand for.

        Raises:
            errors.UserError: flags that stand for different ones, or a blank --tpu.
        """
        forced = list(self._forced)
        if self._tpu.value is not None:
            if not self._tpu.value.strip():
                raise errors.UserError(
                    "--tpu is blank: name 'local' on a TPU VM, or the TPU's name"
                )
            forced.append(("tpu", "tpu"))
        for kind, why in forced:
            if self._strategy.value not in ("auto", kind):
                raise errors.UserError(
                    f"--{why}: not with --strategy={self._strategy.value}"
                )
        if len(forced) > 1:
            raise errors.UserError(
                f"--tpu: not with --{forced[0][1]}, one process drives a TPU"
            )
        return forced[0][0] if forced else self._strategy.value


class WorkerFlags:
    """Defines the flags of one process among several; `given` and `meet` read them."""

    def __init__(self):
        self._holders = {
            "num_workers": number_flags.define_integer(
                "num_workers",
                None,
                "Processes that train together; writes TF_CONFIG.",
                upper=65_536,
            ),
            "worker_index": number_flags.define_integer(
                "worker_index",
                None,
                "Which of them this is; 0 writes the run.",
                lower=0,
                upper=65_535,
            ),
            "coordinator": flags.DEFINE_string(
                "coordinator",
                None,
                "HOST:PORT where worker 0 can be reached by the others.",
            ),
        }

    def given(self) -> str | None:
        """Returns the name of a flag that was given, None where none was.

        Raises:
            errors.UserError: some were given and others not.
        """
        given = [name for name, h in self._holders.items() if h.value is not None]
        missing = [f"--{name}" for name in self._holders if name not in given]
        if given and missing:
            raise errors.UserError(
                f"--{given[0]}: needs {' and '.join(missing)} as well"
            )
        return given[0] if given else None

    def meet(self) -> "cluster.Cluster | None":
        """Waits for the other processes and returns their addresses, or None."""
        from vit_tf.runtime import cluster

        if self.given() is None:
            return None
        return cluster.rendezvous(
            self._holders["coordinator"].value,
            num_workers=self._holders["num_workers"].value,
            index=self._holders["worker_index"].value,
        )
