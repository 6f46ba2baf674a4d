"""The command `vit-tf`: every binary of `tools/` as a sub-command.

In a checkout `python -m tools.train` and `vit-tf train` are the same. An installed
package carries `tools/` and `experiments/` inside itself, where they are no top-level
names of other people's environments.
"""

import ast
import contextlib
import difflib
import os
import pathlib
import runpy
import sys

import vit_tf

_NOT_COMMANDS = ("__init__", "check_python")


def main() -> None:
    """Runs the sub-command that is named; without one, lists them."""
    home = find_home()
    commands = list_commands(home)
    asked = sys.argv[1] if len(sys.argv) > 1 else "--help"
    name = asked.lstrip("-").replace("-", "_")
    if name in ("help", "h"):
        with contextlib.suppress(BrokenPipeError):  # `| head` has read enough
            _show(commands)
    elif name == "version":
        print(f"vit-tf {vit_tf.__version__}")
    elif name in commands:
        sys.path.insert(0, str(home))
        sys.argv = [f"vit-tf {name}", *sys.argv[2:]]
        os.environ["VIT_TF_STARTED_AS"] = "vit-tf"  # so that commands are shown so
        runpy.run_module(f"tools.{name}", run_name="__main__", alter_sys=True)
    else:
        close = difflib.get_close_matches(name, commands, n=1)
        hint = f" (did you mean {close[0]}?)" if close else ""
        print(
            f"error: {asked}: no such command{hint}; see vit-tf --help", file=sys.stderr
        )
        raise SystemExit(2)


def find_home() -> pathlib.Path:
    """Returns the folder that holds `tools/`: inside the package, or the checkout's."""
    here = pathlib.Path(__file__).parent
    installed = here / "_commands"
    return installed if installed.exists() else here.parent


def list_commands(home: pathlib.Path) -> dict[str, str]:
    """Returns each command with the first line of its description; imports none."""
    commands = {}
    for path in sorted((home / "tools").glob("*.py")):
        text = path.read_text(encoding="utf-8")
        if path.stem not in _NOT_COMMANDS and "command.run(main" in text:
            about = ast.get_docstring(ast.parse(text)) or ""
            commands[path.stem] = about.splitlines()[0]
    return commands


def _show(commands: dict[str, str]) -> None:
    print(
        "usage: vit-tf COMMAND --flag=value ...; vit-tf COMMAND --help has its flags\n"
    )
    wide = max(map(len, commands))
    for name, about in commands.items():
        print(f"  {name:<{wide}}  {about}", flush=True)


if __name__ == "__main__":
    main()
