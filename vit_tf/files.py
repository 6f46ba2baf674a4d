"""Files that are whole or not there, on any path that tf.io.gfile opens."""

import contextlib
from collections.abc import Iterator

import tensorflow as tf

from vit_tf import config


def read(path: str) -> str:
    """The text of a file."""
    with tf.io.gfile.GFile(path) as file:
        return file.read()


def write_whole(path: str, text: str) -> None:
    """Writes a text file so that nobody sees it half done."""
    with refusing(path):
        with tf.io.gfile.GFile(f"{path}.unfinished", "w") as file:
            file.write(text)
        tf.io.gfile.rename(f"{path}.unfinished", path, overwrite=True)


def append(path: str, text: str) -> None:
    """Appends text to a file."""
    with refusing(path), tf.io.gfile.GFile(path, "a") as file:
        file.write(text)


def remove(path: str) -> None:
    """Removes a folder and what is in it, if it is there."""
    if tf.io.gfile.exists(path):
        tf.io.gfile.rmtree(path)


@contextlib.contextmanager
def reading(path: str) -> Iterator[None]:
    """Turns a failure to reach `path`, such as no network, into one line."""
    try:
        yield
    except (tf.errors.OpError, OSError) as error:
        raise config.Refused(
            f"{path}: cannot be read: {reason(error)}; check the path and the access to "
            "it, or copy it to this machine first"
        ) from error


@contextlib.contextmanager
def refusing(path: str) -> Iterator[None]:
    """Turns a failure to write `path` into one line for the user."""
    try:
        yield
    except tf.errors.NotFoundError as error:
        raise config.Refused(
            f"cannot write {path}: no such folder; make it first"
        ) from error
    except (tf.errors.OpError, OSError) as error:
        raise config.Refused(
            f"cannot write {path}: {reason(error)}; free some space or mend the "
            "permissions, then run the same command again"
        ) from error


def reason(error: Exception) -> str:
    """The first line of what an error says."""
    text = str(getattr(error, "message", "") or error).strip().splitlines()
    return text[0] if text else type(error).__name__
