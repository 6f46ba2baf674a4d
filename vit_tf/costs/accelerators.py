"""What devices can compute at most, by the names under which they are rented.

Peaks are dense products of bfloat16 numbers (of a V100 and a T4 float16), summed in
float32; of a CPU those of float32 numbers.
"""

import dataclasses
import os
import pathlib
import re

from vit_tf import errors

# TFLOP/s of one chip: "peak compute per chip" in the pages of that name at
# docs.cloud.google.com/tpu/docs.
_TPU_CHIPS = {"v2": 46, "v3": 123, "v4": 275, "v5e": 197, "v5p": 459, "v6e": 918}
# TFLOP/s without sparsity. Nvidia's data sheets; A100, H100 and H200 as SXM boards.
_GPUS = {
    "t4": 65,
    "v100": 125,
    "a10": 125,
    "l4": 121,
    "l40s": 362,
    "a100": 312,
    "h100": 989,
    "h200": 989,
}
# Consumer boards: tensor cores x 128 operations x boost clock, which is how the
# appendices of Nvidia's whitepapers on GA102 (71 for the 3090), Ada (165.2 for the
# 4090) and RTX Blackwell (209.5 for the 5090) come to "Peak BF16 Tensor TFLOPS with
# FP32 Accumulate".
_CONSUMER_GPUS = {
    "rtx3060": (112, 1.777),
    "rtx3080": (272, 1.710),
    "rtx3090": (328, 1.695),
    "rtx4060": (96, 2.460),
    "rtx4070": (184, 2.475),
    "rtx4080": (304, 2.505),
    "rtx4090": (512, 2.520),
    "rtx5080": (336, 2.617),
    "rtx5090": (680, 2.407),
}
_GPUS |= {
    name: round(cores * 128 * gigahertz / 1e3, 1)
    for name, (cores, gigahertz) in _CONSUMER_GPUS.items()
}

# float32 operations of a core in one cycle, by /proc/cpuinfo's flag: two units of a
# fused multiply-add each (Intel's optimization manual; AMD's from Zen 2, of AVX-512
# from Zen 5).
_CPU_OPERATIONS = {"avx512f": 64, "fma": 32, "avx": 16}
_CPU_GIGAHERTZ = 2.5  # where the system does not say

# In the names of these the number counts cores, two on a chip, else chips.
_NAMED_BY_CORES = ("v2", "v3", "v4", "v5p")

EXAMPLES = (
    "v3-8",
    "v4-8",
    "v5e-8",
    "v5p-8",
    "v6e-8",
    "v100x8",
    "a100x8",
    "h100x8",
    "rtx4090",
    "cpu",
)


@dataclasses.dataclass(frozen=True)
class Device:
    """Chips of one kind that train together.

    Attributes:
        name: as rented, such as v3-8 or h100x8; or cpu.
        chips: how many; of a TPU v3 each has two cores; of a CPU its cores.
        chip_tflops: the peak of one, in 10^12 operations a second.
        source: who says so.
    """

    name: str
    chips: int
    chip_tflops: float
    source: str = ""

    @property
    def is_tpu(self) -> bool:
        return self.name.startswith("v") and "-" in self.name

    @property
    def is_cpu(self) -> bool:
        return self.name.startswith("cpu")

    @property
    def replicas(self) -> int:
        """That share a batch: of a TPU v2 or v3 cores, of a CPU one, else chips."""
        if self.is_cpu:
            return 1
        return self.chips * (2 if self.name.startswith(("v2-", "v3-")) else 1)

    @property
    def tflops(self) -> float:
        """The peak of all chips, in 10^12 operations a second."""
        return self.chips * self.chip_tflops


# What the paper's core-days count: half a chip.
TPU_V3_CORE = Device("v3-1", chips=1, chip_tflops=_TPU_CHIPS["v3"] / 2)


def find(name: str) -> Device:
    """Returns the device called `name`: v3-8 (8 cores), v5e-8 (8 chips), h100x8, a100.

    `cpu` is this machine's processor, `cpux16` sixteen cores like its own.

    Raises:
        errors.UserError: no such device, or a part of a chip.
    """
    if match := re.fullmatch(r"(v\d\w?)-([1-9]\d{0,6})", name):
        kind, number = match[1], int(match[2])
        cores = 2 if kind in _NAMED_BY_CORES else 1
        if kind in _TPU_CHIPS and number % cores == 0:
            source = "Google Cloud's TPU pages"
            return Device(name, number // cores, _TPU_CHIPS[kind], source)
    match = re.fullmatch(r"([a-z]+\d*[a-z]*?)(?:x([1-9]\d{0,6}))?", name)
    if match and match[1] == "cpu":
        return _cpu(name, int(match[2]) if match[2] else os.cpu_count() or 1)
    if match and match[1] in _GPUS:
        of = "whitepapers" if match[1] in _CONSUMER_GPUS else "data sheets"
        return Device(name, int(match[2] or 1), _GPUS[match[1]], f"Nvidia's {of}")
    raise errors.UserError(
        f"device={name}: not known{errors.nearest(name, EXAMPLES)}; TPUs are "
        f"{', '.join(_TPU_CHIPS)} with a number of cores (of chips from v5e and v6e), "
        f"such as v3-8, GPUs {', '.join(_GPUS)}, such as h100x8; cpu is this machine"
    )


def _cpu(name: str, cores: int) -> Device:
    """Returns so many cores of this machine, by what Linux says of them."""
    info = pathlib.Path("/proc/cpuinfo")
    text = info.read_text("utf-8") if info.exists() else ""
    known = re.search(r"^(?:flags|Features)\s*:(.*)$", text, re.MULTILINE)
    words = known[1].split() if known else ["fma"]
    kind = next((flag for flag in _CPU_OPERATIONS if flag in words), "avx")
    operations = _CPU_OPERATIONS[kind]
    # The name has the clock that the maker warrants; "cpu MHz" changes by the second.
    named = re.search(r"^model name.*@ ([\d.]+)GHz", text, re.MULTILINE)
    gigahertz = float(named[1]) if named else _CPU_GIGAHERTZ
    taken = "as /proc/cpuinfo says" if named else f"at a clock taken as {gigahertz} GHz"
    return Device(
        name,
        cores,
        operations * gigahertz / 1e3,
        f"{operations} float32 operations a cycle and core ({kind}) at {gigahertz:g} "
        f"GHz, {taken}",
    )
