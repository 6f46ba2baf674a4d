"""What devices can compute at most, by the names under which they are rented.

Peaks are dense products of bfloat16 numbers (of a V100 float16), summed in float32.
"""

import dataclasses
import re

from vit_tf import config

# TFLOP/s of one chip. TPUs: "peak compute per chip" in the pages of that name at
# docs.cloud.google.com/tpu/docs. GPUs: Nvidia's data sheets, SXM boards, no sparsity.
_TPU_CHIPS = {"v2": 46, "v3": 123, "v4": 275, "v5e": 197, "v5p": 459, "v6e": 918}
_GPUS = {"v100": 125, "a100": 312, "h100": 989, "h200": 989}

# In the names of these the number counts cores, two on a chip, else chips.
_NAMED_BY_CORES = ("v2", "v3", "v4", "v5p")

EXAMPLES = ("v3-8", "v4-8", "v5e-8", "v5p-8", "v6e-8", "v100x8", "a100x8", "h100x8")


@dataclasses.dataclass(frozen=True)
class Device:
    """Chips of one kind that train together.

    Attributes:
        name: as rented, such as v3-8 or h100x8.
        chips: how many; of a TPU v3 each has two cores.
        chip_tflops: the peak of one, in 10^12 operations a second.
    """

    name: str
    chips: int
    chip_tflops: float

    @property
    def is_tpu(self) -> bool:
        return self.name.startswith("v") and "-" in self.name

    @property
    def replicas(self) -> int:
        """That share a batch: of a TPU v2 or v3 the cores, else the chips."""
        return self.chips * (2 if self.name.startswith(("v2-", "v3-")) else 1)

    @property
    def tflops(self) -> float:
        """The peak of all chips, in 10^12 operations a second."""
        return self.chips * self.chip_tflops


# What the paper's core-days count: half a chip.
TPU_V3_CORE = Device("v3-1", chips=1, chip_tflops=_TPU_CHIPS["v3"] / 2)


def find(name: str) -> Device:
    """The device called `name`: v3-8 (8 cores), v5e-8 (8 chips), h100x8, a100.

    Raises:
        config.Refused: no such device, or a part of a chip.
    """
    if match := re.fullmatch(r"(v\d\w?)-([1-9]\d*)", name):
        kind, number = match[1], int(match[2])
        cores = 2 if kind in _NAMED_BY_CORES else 1
        if kind in _TPU_CHIPS and number % cores == 0:
            return Device(name, number // cores, _TPU_CHIPS[kind])
    match = re.fullmatch(r"([a-z]+\d+)(?:x([1-9]\d*))?", name)
    if match and match[1] in _GPUS:
        return Device(name, int(match[2] or 1), _GPUS[match[1]])
    raise config.Refused(
        f"--device={name}: not known{config.nearest(name, EXAMPLES)}; TPUs are "
        f"{', '.join(_TPU_CHIPS)} with a number of cores (of chips from v5e and v6e), "
        f"such as v3-8, GPUs {', '.join(_GPUS)}, such as h100x8"
    )
