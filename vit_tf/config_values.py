"""A config as JSON and as flat values: read back, compared, fingerprinted."""

import dataclasses
import hashlib
import json
import os
from collections.abc import Container
from typing import Any

import pydantic

from vit_tf import config, errors


def to_json(cfg: config.Config) -> str:
    """Writes canonical JSON: sorted keys, two spaces, a newline at the end."""
    return json.dumps(dataclasses.asdict(cfg), indent=2, sort_keys=True) + "\n"


def from_json(text: str) -> config.Config:
    """Reads `to_json` back. Unknown fields and bad values raise `UserError`."""
    try:
        return pydantic.TypeAdapter(config.Config).validate_json(text)
    except pydantic.ValidationError as error:
        raise errors.UserError(f"config: {first_problem(error)}") from None


def fingerprint(cfg: config.Config) -> str:
    """Returns twelve hex digits that change when any field of `cfg` changes."""
    return hashlib.sha256(to_json(cfg).encode()).hexdigest()[:12]


def fields(holder: Any, prefix: str = "") -> dict[str, Any]:
    """Returns every knob as {'optim.lr': 0.001, ...}, in declaration order."""
    flat = {}
    for field in dataclasses.fields(holder):
        value = getattr(holder, field.name)
        name = f"{prefix}{field.name}"
        if dataclasses.is_dataclass(value):
            flat |= fields(value, f"{name}.")
        else:
            flat[name] = value
    return flat


# Settings that change no number of a run: how often it writes and draws, what it
# keeps, how many steps a call takes. A run goes on with other values of them.
NEUTRAL = frozenset(
    {
        "train.steps_per_loop",
        "train.log_every_steps",
        "train.checkpoint_every_steps",
        "train.keep_checkpoints",
        "train.keep_every_steps",
        "train.keep_best",
        "train.skip_bad_steps",
        "evals.every_steps",
        "evals.draw_every_steps",
        "evals.batch_size",
    }
)


def differences(
    ours: config.Config, theirs: config.Config, *, ignore: Container[str] = ()
) -> list[str]:
    """Returns lines 'optim.lr: 0.001 against 0.003' for the settings that differ.

    Args:
        ours: the values that come first in a line.
        theirs: the values that come second.
        ignore: names of settings that may differ, such as `NEUTRAL`.
    """
    left, right = fields(ours), fields(theirs)
    for values in (left, right):
        if values["start_from"] is not None:  # ./a.npz and a.npz are one file
            values["start_from"] = os.path.normpath(values["start_from"])
    return [
        f"{name}: {left[name]} against {right[name]}"
        for name in left
        if left[name] != right[name] and name not in ignore
    ]


def first_problem(error: pydantic.ValidationError) -> str:
    """Returns the first of pydantic's complaints as 'optim.lr: message'."""
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"])
    name = str(first["loc"][-1]) if first["loc"] else ""
    if first["type"] != "unexpected_keyword_argument":
        return f"{where}: {first['msg']}"
    known = [path.rsplit(".", 1)[-1] for path in fields(config.Config())]
    return f"{where}: {first['msg']}{errors.nearest(name, known)}"
