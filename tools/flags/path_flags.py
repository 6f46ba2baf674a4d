"""Flags that name files and folders: one type for all of them.

`~` is expanded, a place on a store (gs://bucket/...) stays as it is, and an empty or
blank text is refused.
"""

import os
import re
import shutil
from collections.abc import Sequence

from absl import flags
from etils import epath

from vit_tf import errors

# A flag belongs to the tool that asks for it, not to this module.
flags.disclaim_key_flags()

_MAX_NAME = 255  # bytes of a part of a path, on all common file systems
_STORE = re.compile(r"[a-z][a-z0-9]*://")


def normalized(text: str) -> str:
    """Returns the path that a user means by `text`.

    Raises:
        ValueError: blank, or a home folder that is not there.
    """
    if not text.strip():
        raise ValueError("is blank: name a path")
    if "\0" in text:
        raise ValueError("has a zero byte in it: name a path")
    if _STORE.match(text):
        return text if text.endswith("://") else text.rstrip("/")
    path = os.fspath(epath.Path(text).expanduser())
    if path.startswith("~"):
        raise ValueError(f"no home folder for {path.partition('/')[0]}")
    return path


class PathParser(flags.ArgumentParser):
    """Parses a path; with `or_empty` an empty text means that there is none."""

    syntactic_help = "a path; ~ and gs:// are understood"

    def __init__(self, *, or_empty: bool = False):
        self.or_empty = or_empty

    def parse(self, argument: str) -> str:
        if self.or_empty and argument == "":
            return argument
        return normalized(argument)

    def flag_type(self) -> str:
        return "path"


class _PathListParser(flags.ListParser):
    """Parses paths with commas between."""

    def parse(self, argument: str | list[str]) -> list[str]:
        return [normalized(part) for part in super().parse(argument)]


def define_path(
    name: str,
    default: str | None,
    help_text: str,
    *,
    required: bool = False,
    or_empty: bool = False,
) -> flags.FlagHolder[str]:
    """Defines a flag for one path; its value is None where it was not given."""
    return flags.DEFINE(
        PathParser(or_empty=or_empty), name, default, help_text, required=required
    )


def define_paths(
    name: str, help_text: str, *, required: bool = False
) -> flags.FlagHolder[list[str]]:
    """Defines a flag for paths that may be repeated."""
    return flags.DEFINE_multi(
        PathParser(),
        flags.ArgumentSerializer(),
        name,
        None,
        help_text,
        required=required,
    )


def define_path_list(name: str, help_text: str) -> flags.FlagHolder[list[str]]:
    """Defines a flag for paths with commas between; [] where it was not given."""
    return flags.DEFINE(
        _PathListParser(), name, [], help_text, serializer=flags.ListSerializer(",")
    )


def define_overwrite(what: str) -> flags.FlagHolder[bool]:
    """Defines --overwrite of a tool that keeps outputs of another identity."""
    help_text = f"{what} that something else has made is made anew, not refused."
    return flags.DEFINE_boolean("overwrite", False, help_text)


def check_readable(*holders: flags.FlagHolder) -> None:
    """Refuses files that cannot be read, before any work is done for them.

    Raises:
        errors.UserError: no such file, a folder, or no right to read.
    """
    for holder in holders:
        path = holder.value
        if path is None or _STORE.match(path):
            continue
        given = f"--{holder.name}={path}"
        _check_length(given, path)
        if os.path.isdir(path):
            raise errors.UserError(f"{given}: is a folder, need a file")
        if not os.path.exists(path):
            raise errors.UserError(f"{given}: no such file")
        if not os.access(path, os.R_OK):
            raise errors.UserError(f"{given}: no permission to read it")


def check_file(*holders: flags.FlagHolder) -> None:
    """Refuses files that cannot be written, before any work is done for them.

    A place on a store is asked when it is written.

    Raises:
        errors.UserError: no such folder, a folder of that name, or no right to write.
    """
    for holder in holders:
        path = holder.value
        if not path or _STORE.match(path):
            continue
        given = f"--{holder.name}={path}"
        folder = os.path.dirname(path) or "."
        _check_length(given, path)
        if os.path.isdir(path):
            raise errors.UserError(f"{given}: is a folder, need a file to write")
        if os.path.exists(path) and not os.path.isfile(path):
            raise errors.UserError(f"{given}: is no regular file; name another")
        if not os.path.isdir(folder):
            raise errors.UserError(f"{given}: no such folder; make it first")
        _check_space(given, folder)
        if not os.access(path if os.path.exists(path) else folder, os.W_OK):
            raise errors.UserError(f"{given}: no permission to write there")


def check_folder(*holders: flags.FlagHolder) -> None:
    """Refuses folders that can be neither written nor made, before any work is done.

    A place on a store is asked when it is written.

    Raises:
        errors.UserError: a file in the way, no right to write, or no space.
    """
    for holder in holders:
        path = holder.value
        if not path or _STORE.match(path):
            continue
        given = f"--{holder.name}={path}"
        _check_length(given, path)
        nearest = os.path.abspath(path)
        while not os.path.lexists(nearest) and nearest != os.path.dirname(nearest):
            nearest = os.path.dirname(nearest)
        if not os.path.isdir(nearest):
            place = "is" if nearest == os.path.abspath(path) else f"{nearest} is"
            raise errors.UserError(f"{given}: {place} a file, need a folder")
        if not os.access(nearest, os.W_OK | os.X_OK):
            raise errors.UserError(f"{given}: no permission to write in {nearest}")
        _check_space(given, nearest)


def full_disks(flag_names: Sequence[str]) -> list[str]:
    """Returns '--to=PATH' for each path flag in `flag_names` on a full disk."""
    full = []
    for name in flag_names:
        flag = flags.FLAGS[name]
        if isinstance(flag.parser, PathParser) and isinstance(flag.value, str):
            folder = flag.value
            while folder and not os.path.isdir(folder):
                folder = os.path.dirname(folder)
            if not _STORE.match(flag.value) and not _free_bytes(folder or "."):
                full.append(f"--{name}={flag.value}")
    return full


def _check_space(given: str, folder: str) -> None:
    if not _free_bytes(folder):
        raise errors.UserError(f"{given}: no space left on that disk; free some")


def _check_length(given: str, path: str) -> None:
    longest = max(len(os.fsencode(part)) for part in path.split(os.sep))
    if longest > _MAX_NAME:
        raise errors.UserError(
            f"{given[:80]}...: a name of {longest} bytes, at most {_MAX_NAME} can be written"
        )


def _free_bytes(folder: str) -> int:
    """Returns what may still be written there; 1 where the system does not count."""
    usage = shutil.disk_usage(folder)
    return usage.free if usage.total else 1
