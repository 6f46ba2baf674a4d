"""Identity of an output: the weights, settings and data that its numbers follow from.

An output that exists already is extended, kept or replaced only where its identity is
that of the work at hand; else it holds numbers of another model under a known name.
Identities compare contents and not paths: a file that was moved is the same file.
"""

import dataclasses
import functools
import hashlib
import json
import os
import typing
from collections.abc import Mapping, Sequence
from typing import Self

from vit_tf import config, config_values, errors

Json: typing.TypeAlias = (
    "str | int | float | bool | None | Sequence[Json] | Mapping[str, Json]"
)

_SHOWN = 3  # differences that a message names
_LONGEST = 40  # characters of a value in a message


@dataclasses.dataclass(frozen=True)
class Identity:
    """Holds what an output's numbers follow from; made by `Identity.of`.

    Attributes:
        weights: SHA-256 of their content; empty where nobody can read it.
        settings: those that change numbers, by name.
        data: what identifies the data, by name; empty where each row names its own.
        made_from: the path of the weights, for messages; not compared.
    """

    weights: str
    settings: Mapping[str, Json]
    data: Mapping[str, Json]
    made_from: str = ""

    @classmethod
    def of(
        cls,
        *,
        weights: str,
        settings: Mapping[str, Json] | None = None,
        data: Mapping[str, Json] | None = None,
        made_from: str = "",
    ) -> Self:
        """Returns the identity as it is read back from JSON: enums as their texts."""
        how, what = json.loads(json.dumps([settings or {}, data or {}]))
        return cls(weights, how, what, made_from)

    @classmethod
    def from_json(cls, content: object) -> Self | None:
        """Returns the identity in parsed JSON; None where there is none, or damaged."""
        try:
            return cls(**content)  # type: ignore[arg-type]
        except TypeError:
            return None

    def to_json(self) -> dict[str, Json]:
        """Returns it ready for `json.dumps`."""
        return dataclasses.asdict(self)

    def differences(self, other: "Identity") -> list[str]:
        """Returns lines such as 'top: 5 against 3', ours first; empty: the same.

        A setting that is None is as good as absent.
        """
        lines = []
        if self.weights != other.weights:
            names = [i.made_from or "weights" for i in (self, other)]
            same = names[0] == names[1]
            lines.append(
                f"other weights in {names[0]}"
                if same
                else f"weights: {names[0]} against {names[1]}"
            )
        for ours, theirs in (
            (self.settings, other.settings),
            (self.data, other.data),
        ):
            for name in dict.fromkeys((*ours, *theirs)):
                one, two = (_shown(side.get(name)) for side in (ours, theirs))
                if ours.get(name) != theirs.get(name):
                    lines.append(f"{name}: {one} against {two}")
        return lines


def refuse_other(
    what: str, before: Identity | None, now: Identity, *, remedy: str
) -> None:
    """Refuses to go on with an output that something else has made.

    Args:
        what: names the output, such as '--to=photos.csv'.
        before: the identity that is kept with it; None where there is none.
        now: the identity of the work at hand.
        remedy: what the user can do.

    Raises:
        errors.UserError: the two differ, or nothing says what made the output.
    """
    if before is None:
        raise errors.UserError(
            f"{what}: exists already, and nothing says what made it; {remedy}"
        )
    if lines := before.differences(now):
        more = f" and {len(lines) - _SHOWN} more" if len(lines) > _SHOWN else ""
        raise errors.UserError(
            f"{what}: was made by something else ({'; '.join(lines[:_SHOWN])}{more}); "
            f"{remedy}"
        )


def run_settings(cfg: config.Config) -> dict[str, Json]:
    """Returns the settings of a run that change numbers, by name."""
    flat = config_values.fields(cfg)
    return {name: flat[name] for name in flat if name not in config_values.NEUTRAL}


def digest_values(values: Json) -> str:
    """Returns the SHA-256 of JSON values, such as a list of class names."""
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def digest_file(path: str) -> str:
    """Returns the SHA-256 of a local file, read in parts and once in a process.

    Raises:
        OSError: it cannot be read.
    """
    stat = os.stat(path)
    return _digest_file(os.path.abspath(path), stat.st_size, stat.st_mtime_ns)


@functools.cache
def _digest_file(path: str, size: int, changed: int) -> str:
    """Returns the digest; read again where size or time of the file has changed."""
    del size, changed
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digest_folder(folder: str) -> str:
    """Returns the SHA-256 of the names and contents of all files in a local folder.

    Raises:
        OSError: one of them cannot be read.
    """
    digests = {}
    for parent, _, names in os.walk(folder):
        for name in names:
            path = os.path.join(parent, name)
            digests[os.path.relpath(path, folder)] = digest_file(path)
    return digest_values(digests)


def _shown(value: Json) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 3]}..."
