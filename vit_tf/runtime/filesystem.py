"""Files that are whole or not there, on any path that tf.io.gfile opens."""

import contextlib
import functools
import http.client
import json
import os
import re
import urllib.error
import urllib.request
import uuid
from collections.abc import Iterator, Sequence
from typing import Any

import tensorflow as tf

from vit_tf import errors

STORE_SECONDS = 10.0  # for the first sign of a store


def read(path: str) -> str:
    """Returns the text of a file."""
    with tf.io.gfile.GFile(path, "rb") as file:
        content = file.read()
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        raise errors.UserError(
            f"{path}: is not UTF-8 text, or damaged ({error.reason})"
        ) from None


def read_json(path: str, remedy: str) -> dict[str, Any]:
    """Reads a file that holds one JSON object.

    Args:
        path: any path of tf.io.gfile.
        remedy: what the user can do where the file is damaged.

    Raises:
        errors.UserError: it cannot be read, or does not hold a JSON object.
    """
    with reading(path):
        text = read(path)
    try:
        content = json.loads(text)
    except (json.JSONDecodeError, RecursionError) as error:
        content = error
    if not isinstance(content, dict):
        raise errors.UserError(f"{path}: damaged, not a JSON object; {remedy}")
    return content


def write_whole(path: str, content: str | bytes) -> None:
    """Writes a file so that nobody sees it half done.

    Several processes may do so at once: each writes under a name of its own first, and
    the last rename wins. A process that is killed leaves that name, which nobody reads.
    """
    own = f"{path}.{uuid.uuid4().hex}.unfinished"
    with refusing(path):
        try:
            mode = "wb" if isinstance(content, bytes) else "w"
            with tf.io.gfile.GFile(own, mode) as file:
                file.write(content)
            tf.io.gfile.rename(own, path, overwrite=True)
        except BaseException:
            with contextlib.suppress(tf.errors.OpError, OSError):
                tf.io.gfile.remove(own)
            raise


def remove_unfinished(folder: str, names: Sequence[str]) -> None:
    """Removes the leftovers of killed processes, of files that nobody is writing now."""
    either = "|".join(map(re.escape, names))
    left = re.compile(rf"({either})(\.[0-9a-f]{{32}})?\.unfinished")
    with refusing(folder):
        for name in tf.io.gfile.listdir(folder):
            if left.fullmatch(name):
                tf.io.gfile.remove(os.path.join(folder, name))


def append(path: str, text: str) -> None:
    """Appends text to a file."""
    with refusing(path), tf.io.gfile.GFile(path, "a") as file:
        file.write(text)


def remove(path: str) -> None:
    """Removes a folder with its content, if it exists."""
    if tf.io.gfile.exists(path):
        tf.io.gfile.rmtree(path)


@functools.cache
def check_reachable(store: str) -> None:
    """Refuses a store that does not answer, which TensorFlow asks for minutes.

    Any answer will do: whether the path may be read is said when it is.

    Args:
        store: such as 'gs://bucket'.

    Raises:
        errors.TryAgain: no answer within `STORE_SECONDS`.
    """
    if not store.startswith("gs://"):
        return
    url = f"https://storage.googleapis.com/storage/v1/b/{store[5:]}"
    try:
        with urllib.request.urlopen(url, timeout=STORE_SECONDS):
            return
    except urllib.error.HTTPError:
        return
    except (OSError, http.client.HTTPException) as error:
        raise errors.TryAgain(
            f"{store}: the store cannot be reached ({error}); check the network, the "
            "proxy and the access to it, or copy the files to this machine first"
        ) from error


def _store_of(path: str) -> str:
    """Returns 'gs://bucket' of a path inside it; empty of a path on this machine."""
    scheme, separator, rest = path.partition("://")
    return f"{scheme}://{rest.partition('/')[0]}" if separator else ""


@contextlib.contextmanager
def reading(path: str) -> Iterator[None]:
    """Turns a failure to reach `path`, such as no network, into one line."""
    check_reachable(_store_of(path))
    try:
        yield
    except (tf.errors.OpError, OSError) as error:
        raise _kind(error)(
            f"{path}: cannot be read: {reason(error)}; check the path and the access to "
            "it, or copy it to this machine first"
        ) from error


@contextlib.contextmanager
def refusing(path: str) -> Iterator[None]:
    """Turns a failure to write `path` into one line for the user."""
    check_reachable(_store_of(path))
    try:
        yield
    except tf.errors.NotFoundError as error:
        raise errors.UserError(
            f"cannot write {path}: no such folder; make it first"
        ) from error
    except (tf.errors.OpError, OSError) as error:
        remedy = "free some space or mend the permissions"
        if is_unreachable(error):
            remedy = "check the network and the access to it"
        raise _kind(error)(
            f"cannot write {path}: {reason(error)}; {remedy}, then run the same command "
            "again"
        ) from error


def is_unreachable(error: BaseException) -> bool:
    """Returns whether a store did not answer, which a later try may mend."""
    passing = (
        tf.errors.UnavailableError,
        tf.errors.DeadlineExceededError,
        tf.errors.AbortedError,
    )
    # TensorFlow reports a name that does not resolve as a failed precondition.
    return isinstance(error, passing) or (
        isinstance(error, tf.errors.OpError) and "libcurl" in str(error.message)
    )


def _kind(error: BaseException) -> type[errors.UserError]:
    return errors.TryAgain if is_unreachable(error) else errors.UserError


def reason(error: Exception) -> str:
    """Returns the first line of an error's message."""
    text = str(getattr(error, "message", "") or error).strip().splitlines()
    return text[0] if text else type(error).__name__
