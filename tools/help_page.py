"""The text of --help: what a tool is for, its examples, its own flags."""

import re
import shutil
import sys
import textwrap

from absl import flags

from tools import failures, next_steps


def write(doc: str | None, *, overridable: bool) -> str:
    """Returns the page: the tool's docstring, then every flag of ours it has.

    Args:
        doc: the docstring of the tool, with its examples.
        overridable: whether it takes --config.FIELD=VALUE.
    """
    width = min(shutil.get_terminal_size((88, 24)).columns, 100)
    # In a docstring a backslash at the end of a line joins it with the next.
    parts = [re.sub(r" {4,}--", " \\\\\n    --", (doc or "").strip()), ""]
    if overridable:
        parts += [
            "  --config.FIELD=VALUE",
            *_wrapped("Sets a field, such as --config.optim.lr=3e-3.", width),
        ]
    seen = set()
    for module, defined in sorted(
        flags.FLAGS.flags_by_module_dict().items(), key=_tool_first
    ):
        if not failures.is_own(module):
            continue
        for flag in defined:
            if flag.name not in seen:
                seen.add(flag.name)
                parts += _lines_of(flag, width)
    parts += ["", "--helpfull lists the flags of the libraries too."]
    return next_steps.as_typed("\n".join(parts))


def _tool_first(item: tuple[str, object]) -> tuple[bool, str]:
    module, _ = item
    return module not in (sys.argv[0], "__main__"), module


def _lines_of(flag: flags.Flag, width: int) -> list[str]:
    """Returns '  --name=TYPE' and the indented help with the default."""
    if flag.boolean:
        head = f"  --[no]{flag.name}"
    elif isinstance(flag.parser, flags.EnumParser):
        head = f"  --{flag.name}={'|'.join(flag.parser.enum_values)}"
    else:
        head = f"  --{flag.name}=VALUE"
    text = re.sub(r"\s+", " ", flag.help or "")
    if isinstance(flag.parser, flags.EnumParser):  # absl puts the values in front
        text = re.sub(r"^<[^>]*>: ?", "", text)
    default = flag.default_as_str
    if flag.default is not None and not flag.boolean and flag.default not in ([], ""):
        text += f" (default {str(default).strip(chr(39))})"
    if any("must have a value" in v.message for v in flag.validators):
        text += " (required)"
    if flag.boolean and flag.default:
        text += " (default: yes)"
    lines = textwrap.wrap(head, width, subsequent_indent=" " * 6) + _wrapped(
        text, width
    )
    return lines


def _wrapped(text: str, width: int) -> list[str]:
    return textwrap.wrap(text, width, initial_indent=" " * 6, subsequent_indent=" " * 6)
