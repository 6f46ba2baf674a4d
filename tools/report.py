"""Renders experiments/RESULTS.md, its figures, and a page from the recorded results.

python -m tools.report
python -m tools.report --html=somewhere/else.html

No number is typed: a test renders the file again and compares.
"""

import pathlib
from collections.abc import Mapping

from absl import flags

from tools import command
from tools.flags import path_flags
from tools.reporting import (
    report_markdown,
    report_page,
    result_tables,
    results,
    speed_tables,
)
from vit_tf import errors

_FILE = path_flags.define_path(
    "file", "experiments/RESULTS.md", "The Markdown file to write."
)
_RESULTS = path_flags.define_path(
    "results", results.ROOT, "Where results are recorded."
)
_HTML = path_flags.define_path(
    "html",
    "runs/report/index.html",
    "The page to write; empty: none.",
    or_empty=True,
)
_PLANNED = flags.DEFINE_bool(
    "planned", True, "The page also has what runs at scale paper would take: a minute."
)


def main() -> None:
    if not pathlib.Path("experiments").is_dir():
        raise errors.UserError(
            "experiments: no such folder; start this in the project's"
        )
    path_flags.check_file(_FILE)
    if not pathlib.Path(_RESULTS.value).is_dir():
        raise errors.UserError(
            f"--results={_RESULTS.value}: no such folder; record some with "
            "`python -m tools.run_experiment --record`"
        )
    sections = result_tables.sections("experiments", _RESULTS.value)
    file = pathlib.Path(_FILE.value)
    speeds = speed_tables.load(_RESULTS.value)
    file.write_text(report_markdown.render(sections, file.parent, speeds), "utf-8")
    print(file)
    drawn = report_markdown.figures(sections, file.parent, speeds)
    _write_figures(drawn, file.parent)
    if _HTML.value:
        page = pathlib.Path(_HTML.value)
        written = report_page.write(sections, page, speeds, planned=_PLANNED.value)
        print(f"open {pathlib.Path(written).absolute()} in a browser")


def _write_figures(drawn: Mapping[pathlib.Path, str], folder: pathlib.Path) -> None:
    """Writes the figures beside the file, and removes what is no figure of it now."""
    for path in (folder / "figures").rglob("*.svg"):
        if path not in drawn:
            path.unlink()
    for path, text in drawn.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, "utf-8")


if __name__ == "__main__":
    command.run(main)
