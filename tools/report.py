"""Renders experiments/RESULTS.md, and a page, from the recorded results.

python -m tools.report
python -m tools.report --html=runs/report/index.html

No number is typed: a test renders the file again and compares.
"""

import pathlib

from absl import flags

from tools import command, report_markdown, result_tables, results
from vit_tf import config

_FILE = flags.DEFINE_string(
    "file", "experiments/RESULTS.md", "The Markdown file to write."
)
_RESULTS = flags.DEFINE_string("results", results.ROOT, "Where results are recorded.")
_HTML = flags.DEFINE_string(
    "html", None, "Also write a page there, such as index.html."
)


def main() -> None:
    if not pathlib.Path("experiments").is_dir():
        raise config.Refused("experiments: no such folder; start this in the project's")
    found = result_tables.sections("experiments", _RESULTS.value)
    pathlib.Path(_FILE.value).write_text(report_markdown.render(found), "utf-8")
    print(_FILE.value)
    if _HTML.value is not None:
        from tools import report_page

        print(report_page.write(found, pathlib.Path(_HTML.value)))


if __name__ == "__main__":
    command.run(main)
