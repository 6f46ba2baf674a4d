"""Renders HTML pages from Jinja2 templates: escaped, strict, one file, one look.

A page is a template in its owner's folder that extends `base.html` of this one, which
holds what all pages share: the head, a policy that lets nothing be fetched, and
`style.css`, inlined.
"""

import os
import pathlib
from typing import Any

import jinja2
import markupsafe

_SHARED = pathlib.Path(__file__).parent


def render(folder: str | os.PathLike[str], name: str, **values: Any) -> str:
    """Renders the template `name`, which may need files of its folder and shared ones.

    Whatever is put into a page is escaped unless it is `markupsafe.Markup`. Inside a
    template `inline(file)` gives a file beside it as it is: a style sheet, a script.

    Args:
        folder: where the page's template lies.
        name: the template's file name.
        **values: what the template names.

    Raises:
        jinja2.UndefinedError: the template names a value that is not given.
        jinja2.TemplateNotFound: no such file.
    """
    loader = jinja2.FileSystemLoader([folder, _SHARED])
    environment = jinja2.Environment(
        loader=loader,
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )

    def inline(file: str) -> markupsafe.Markup:
        # Not by {% include %}, which would read braces of CSS and scripts as its own.
        return markupsafe.Markup(loader.get_source(environment, file)[0])

    environment.globals["inline"] = inline
    return environment.get_template(name).render(values)
