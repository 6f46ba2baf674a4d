"""Locks of open files between the processes of one machine, on every platform.

The lock ends with the file: closing it, or the end of the process, frees it.
"""

import io

import portalocker


def try_lock(file: io.IOBase | int, *, shared: bool = False) -> bool:
    """Locks an open file, or returns False at once where another process has it.

    Args:
        file: an open file or its descriptor.
        shared: whether others may have a shared lock at the same time.

    Raises:
        OSError: the file system knows no locks, or the like.
    """
    kind = portalocker.LOCK_SH if shared else portalocker.LOCK_EX
    try:
        portalocker.lock(file, kind | portalocker.LOCK_NB)
    except portalocker.AlreadyLocked:
        return False
    except portalocker.LockException as error:
        raise OSError(f"cannot be locked: {error}") from error
    return True
