"""The last lines of a finished command: what to do with what it made."""

import os
import shlex


def as_typed(text: str) -> str:
    """Returns text with commands as this process was started: maybe by `vit-tf`."""
    if os.environ.get("VIT_TF_STARTED_AS") != "vit-tf":  # of vit_tf/cli.py
        return text
    return text.replace("python -m tools.", "vit-tf ")


def command_line(tool: str, **given: str | None) -> str:
    """Returns `python -m tools.TOOL --name=value ...`; None leaves a flag out."""
    parts = ["python", "-m", f"tools.{tool}"]
    for name, value in given.items():
        if value is not None:
            parts.append(f"--{name}={shlex.quote(value)}")
    return as_typed(" ".join(parts))


def show(*lines: str) -> None:
    """Prints what comes next, a command a line."""
    print("\nNext:")
    for line in lines:
        print(f"  {line}")


def after_training(run: str, dataset: str, data_dir: str | None) -> list[str]:
    """Returns what a finished run of classification is good for.

    Args:
        run: its folder.
        dataset: that it was trained on.
        data_dir: where that lies; None: the default.
    """
    return [
        command_line("evaluate", checkpoint=run, dataset=dataset, data_dir=data_dir),
        command_line("predict", checkpoint=run, images="FOLDER", to="predictions.csv"),
        command_line("explore", checkpoint=run, images="FOLDER", to="explorer"),
        command_line("export", checkpoint=run, to="exports"),
    ]
