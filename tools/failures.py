"""How a tool ends: exit codes, and one line for each failure that is not a fault.

A mistake of the user or the machine's limits end in one line on stderr. Anything
else is a fault of the program and keeps its traceback.
"""

import enum
import errno
import os
import re
import sys

from absl import flags

from tools.flags import path_flags
from vit_tf import config, config_values, errors


class Exit(enum.IntEnum):
    """Exit codes of every tool; schedulers act on them."""

    DONE = 0
    MISTAKE = 2  # of the user, or the machine is too small: the same would fail again
    TRY_AGAIN = 75  # EX_TEMPFAIL: the same command may succeed when started again
    INTERRUPTED = 130  # by Ctrl-C; training goes on with the same command
    PIPE_CLOSED = 141  # who read the output did not want the rest
    STOPPED = 143  # by SIGTERM; the same command goes on


# Errors of the operating system that say something of a path or of the machine.
_MACHINE = {
    errno.ENOSPC: "no space left on the disk",
    errno.EDQUOT: "the disk quota is used up",
    errno.EROFS: "the disk is read-only",
    errno.EIO: "the disk reports an error",
    errno.EMFILE: "too many open files; raise `ulimit -n`",
    errno.ENFILE: "too many open files on this machine",
    errno.ENOMEM: "not enough memory",
    errno.ENAMETOOLONG: "the name is too long",
    errno.ESTALE: "the network disk has lost the file",
    errno.ENOTCONN: "the network disk is not connected",
}
_FULL = {errno.ENOSPC, errno.EDQUOT}
_MAY_PASS = {errno.ESTALE, errno.ENOTCONN, errno.ETIMEDOUT}

# What saves memory, in the order in which a user would try.
_MEMORY_FLAGS = ("batch_size", "image_size", "precision", "max_images", "in_flight")
_MEMORY_FIELDS = (
    "data.batch_size",
    "train.accumulation",
    "model.remat",
    "evals.batch_size",
    "data.image_size",
)

# A field that a message begins with, and those that it gives a value to.
_FIRST = re.compile(
    r"^([a-z][\w.]*)(?==|: | is missing| is blank| is empty| needs | goes )"
)
_LATER = re.compile(r"(?<![\w.\-/=:'\"{])([a-z][\w.]*)(?==[^\s=])")


def explain(error: BaseException, *, overridable: bool) -> tuple[str, Exit] | None:
    """Returns the line and exit code for an error; None for a fault of the program.

    Args:
        error: what ended the tool.
        overridable: whether the tool takes --config.FIELD=VALUE.
    """
    if isinstance(error, errors.UserError):
        code = Exit.TRY_AGAIN if isinstance(error, errors.TryAgain) else Exit.MISTAKE
        return with_flags(error, overridable=overridable), code
    if isinstance(error, KeyboardInterrupt):
        return "interrupted", Exit.INTERRUPTED
    if isinstance(error, MemoryError):
        return _memory_line(overridable), Exit.MISTAKE
    if isinstance(error, OSError):
        return _system_line(error)
    if isinstance(error, RuntimeError) and error.__cause__ is not None:
        # TFDS wraps what fails while it writes.
        return explain(error.__cause__, overridable=overridable)
    return _tensorflow_line(error, overridable)


def with_flags(error: errors.UserError, *, overridable: bool) -> str:
    """Returns the message with dashes before fields that are flags of this tool.

    The library says `image_size=0: ...` or `data.image_size=30: ...`; whoever gave
    --image_size or --config.data.image_size is answered in these words.
    """
    fields = set(config_values.fields(config.Config())) if overridable else set()

    def flag_of(name: str) -> str | None:
        if name in flags.FLAGS and name in own_flags():
            return f"--{name}"
        return f"--config.{name}" if name in fields else None

    def dashed(match: re.Match) -> str:
        return flag_of(match[1]) or match[1]

    message = " ".join(str(error).split("\n"))
    field = error.field
    if field is not None and flag_of(field):
        begins = re.match(rf"(--)?(config\.)?{re.escape(field)}\b", message)
        if not begins:
            message = f"{flag_of(field)}: {message}"
    return _LATER.sub(dashed, _FIRST.sub(dashed, message))


def own_flags() -> list[str]:
    """Returns the flags of this tool, without those that libraries define."""
    return [
        flag.name
        for module, defined in flags.FLAGS.flags_by_module_dict().items()
        if is_own(module)
        for flag in defined
    ]


def is_own(module: str) -> bool:
    """Returns whether a module that defines flags is the running tool or ours."""
    return module == sys.argv[0] or module.startswith(("tools", "__main__"))


def memory_flags(overridable: bool) -> list[str]:
    """Returns those flags of this tool that save memory."""
    own = set(own_flags())
    names = [f"--{name}" for name in _MEMORY_FLAGS if name in own]
    return names + [f"--config.{name}" for name in _MEMORY_FIELDS if overridable]


def _memory_line(overridable: bool) -> str:
    names = memory_flags(overridable)
    remedy = f"lower {', '.join(names)}" if names else "free some"
    if "--config.train.accumulation" in names:
        remedy = (
            "lower --config.data.batch_size, raise --config.train.accumulation (the "
            "same step in pieces), or set --config.model.remat=true"
        )
    return f"not enough memory for this: {remedy}"


def _system_line(error: OSError) -> tuple[str, Exit] | None:
    """Explains errors about paths, disks and memory."""
    if isinstance(error, BrokenPipeError):
        return "", Exit.PIPE_CLOSED
    reason = _MACHINE.get(error.errno or 0)
    if reason is None and error.filename is None:
        return None
    where = os.fsdecode(error.filename) if error.filename is not None else ""
    if not where and error.errno in _FULL:
        where = ", ".join(path_flags.full_disks(own_flags()))
    reason = reason or error.strerror or type(error).__name__
    remedy = "; free some and run the same command again" * (error.errno in _FULL)
    code = Exit.TRY_AGAIN if error.errno in _MAY_PASS else Exit.MISTAKE
    return f"{where}: {reason}{remedy}".removeprefix(": "), code


def _tensorflow_line(
    error: BaseException, overridable: bool
) -> tuple[str, Exit] | None:
    """Explains errors of TensorFlow's files and allocator."""
    tensorflow = sys.modules.get("tensorflow")
    if tensorflow is None or not isinstance(error, tensorflow.errors.OpError):
        return None
    reason = " ".join(str(error.message).split())[:300] or type(error).__name__
    kinds = tensorflow.errors
    if isinstance(error, kinds.ResourceExhaustedError):
        if "space" in reason.lower() or "quota" in reason.lower():
            return f"{reason}; free some and run the same command again", Exit.MISTAKE
        return _memory_line(overridable), Exit.MISTAKE
    if "libcurl" in reason or isinstance(error, kinds.UnavailableError):
        remedy = "check the network and the access to it, then start the same again"
        return f"the store cannot be reached: {reason}; {remedy}", Exit.TRY_AGAIN
    if isinstance(error, kinds.PermissionDeniedError | kinds.UnauthenticatedError):
        return f"no permission: {reason}", Exit.MISTAKE
    if isinstance(error, kinds.NotFoundError) and "No such file" in reason:
        return reason, Exit.MISTAKE
    return None
