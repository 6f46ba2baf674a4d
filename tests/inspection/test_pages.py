"""Pages: nothing that is put into one becomes markup, nothing named in one is missing."""

import re

import jinja2
import markupsafe
import pytest

from vit_tf.inspection.pages import templates


def _render(folder, body, **values):
    page = '{% extends "base.html" %}{% block body %}' + body + "{% endblock %}"
    (folder / "page.html").write_text(page)
    return templates.render(folder, "page.html", title="<t>", **values)


def test_values_are_escaped_and_markup_is_not(tmp_path):
    attack = "\"><script>alert('x')</script>&"
    page = _render(
        tmp_path,
        '<p title="{{ text }}">{{ text }}</p>{{ drawing }}',
        text=attack,
        drawing=markupsafe.Markup("<svg></svg>"),
    )
    assert "<script" not in page and "<title>&lt;t&gt;</title>" in page
    escaped = str(markupsafe.escape(attack))
    assert f'<p title="{escaped}">{escaped}</p><svg></svg>' in page


def test_a_value_that_is_not_given_is_refused(tmp_path):
    with pytest.raises(jinja2.UndefinedError, match="'forgotten' is undefined"):
        _render(tmp_path, "{{ forgotten }}")


def test_files_are_inlined_as_they_are(tmp_path):
    script = "const a = {{b: `${1}`}}; // {% if %} {# & <\n"
    (tmp_path / "page.js").write_text(script)
    page = _render(tmp_path, '<script>{{ inline("page.js") }}</script>')
    assert f"<script>{script}</script>" in page
    with pytest.raises(jinja2.TemplateNotFound):
        _render(tmp_path, '{{ inline("../page.js") }}')


def test_every_page_has_the_style_and_may_fetch_nothing(tmp_path):
    page = _render(tmp_path, "")
    (policy,) = re.findall(r'Content-Security-Policy" content="([^"]+)"', page)
    assert policy == "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
    assert "@media screen and (prefers-color-scheme: dark)" in page
    assert "@media print" in page
