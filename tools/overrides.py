"""Knobs from the command line: sets a field of a Config from its text."""

import enum
import types
import typing
from typing import Any

import pydantic

from vit_tf import config, config_values, errors


def override(cfg: config.Config, path: str, text: str) -> None:
    """Sets the knob `path`, such as 'optim.lr', from its command line text.

    'none' clears an optional knob; tuples are written with commas.

    Raises:
        errors.UserError: unknown knob, wrong type or value out of range, in one line.
    """
    known = config_values.fields(cfg)
    if path not in known:
        # A right name in the wrong place is the commonest slip.
        last = path.rsplit(".", 1)[-1]
        same = [name for name in known if name.rsplit(".", 1)[-1] == last]
        hint = f" (did you mean {same[0]}?)" if same else errors.nearest(path, known)
        raise errors.UserError(f"--config.{path}: no such field{hint}")
    holder = cfg
    *parents, name = path.split(".")
    for parent in parents:
        holder = getattr(holder, parent)
    kind = typing.get_type_hints(type(holder))[name]
    try:
        setattr(holder, name, _parse(kind, text))
    except pydantic.ValidationError as error:
        problem = error.errors()[0]["msg"]
        enums = [k for k in (kind, *typing.get_args(kind)) if type(k) is enum.EnumMeta]
        choices = enums[0] if enums else ()
        hint = errors.nearest(text, [c.value for c in choices]) if choices else ""
        raise errors.UserError(f"--config.{path}={text}: {problem}{hint}") from None


def _parse(kind: Any, text: str) -> Any:
    """Parses text to what pydantic should validate as `kind`."""
    arguments = typing.get_args(kind)
    optional = isinstance(kind, types.UnionType) and type(None) in arguments
    if optional and text.lower() in ("none", ""):
        return None
    if typing.get_origin(kind) is tuple:
        if text[:1] + text[-1:] in ("()", "[]"):  # not the brackets of test[:100]
            text = text[1:-1]
        parts = [part.strip(" '\"") for part in text.split(",")]
        return tuple(part for part in parts if part)
    return text
