"""How much memory this process may take: the machine's, or its container's."""

import pathlib

import psutil

# Where Linux keeps the limit of a container: control groups of version 2, and of 1.
LIMIT_FILES = (
    pathlib.Path("/sys/fs/cgroup/memory.max"),
    pathlib.Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"),
)


def total_bytes() -> int:
    """Returns the bytes of memory that there are, used or not."""
    return min([psutil.virtual_memory().total, *_container_limits()])


def _container_limits() -> list[int]:
    limits = []
    for path in LIMIT_FILES:
        try:
            limits.append(int(path.read_text()))
        except (OSError, ValueError):  # no such file, or 'max'
            continue
    return limits
