"""Flags of the tools that train many runs: data, waiting for others, devices."""

from absl import flags

from tools.flags import data_flags, device_flags

flags.disclaim_key_flags()


class StudyFlags:
    """Defines what tools that train many runs share: data, waiting, devices."""

    def __init__(self):
        self._data_dir = data_flags.define_data_dir()
        self._wait = flags.DEFINE_bool(
            "wait",
            False,
            "Stay until runs of other processes, that others need, are finished.",
        )
        self.devices = device_flags.DeviceFlags()

    @property
    def data_dir(self) -> str | None:
        """Where prepared data sets lie; None: the default."""
        return self._data_dir.value

    @property
    def wait(self) -> bool:
        """Whether to stay until runs of other processes are finished."""
        return self._wait.value
