"""Text of users in figures: drawn as it is, whatever its characters and length."""

import functools
import re

import numpy as np
import pytest
from fontTools import fontBuilder
from fontTools.pens import ttGlyphPen
from matplotlib import figure as mpl_figure
from matplotlib import font_manager
from matplotlib.backends import backend_agg

from vit_tf.inspection import plot_text, plots, run_plots

NASTY = (
    "$5_vs_$10",
    "$",
    "$\\frac{1}{0}$ $\\nonsense$",
    "a_b^c_{d}",
    "back\\slash",
    "per cent % & <tag> #1 {x}",
    "two\nlines\tand a tab",
    "",
    "x" * 300,
    "\u202eright to left",
    "caf\u00e9 and cafe\u0301",
)


def _drawn(texts):
    """Every figure that shows names of users, with these names."""
    number = len(texts)
    images = np.zeros((number, 8, 8, 3))
    matrix = np.ones((number, number), int)
    title = texts[0]
    return {
        "confusion": lambda to: run_plots.confusion(matrix, texts, to, title=title),
        "contact_sheet": lambda to: run_plots.contact_sheet(
            images, texts, to, title=title
        ),
        "rollout": lambda to: plots.save(
            plots.rollout(
                images, np.ones((number, 2, 2)), texts, patch_size=4, title=title
            ),
            str(to.with_suffix("")),
        ),
        "filters": lambda to: plots.save(
            plots.filters(np.ones((3, 4, 4, 3)), title=title), str(to.with_suffix(""))
        ),
        "heads": lambda to: plots.save(
            plots.heads(
                np.ones((2, 2)), title=title, label="y", reference=(0.5, "level")
            ),
            str(to.with_suffix("")),
        ),
        "position_similarity": lambda to: plots.save(
            plots.position_similarity({title: np.eye(4)}), str(to.with_suffix(""))
        ),
        "panels": lambda to: plots.save(
            plots.panels(
                {text: np.zeros((number, 8, 8, 3), np.uint8) for text in texts[:4]},
                title=title,
            ),
            str(to.with_suffix("")),
        ),
        "layers": lambda to: plots.save(
            plots.layers(np.eye(3), title=title), str(to.with_suffix(""))
        ),
        "probes": lambda to: plots.save(
            plots.probes(np.ones(3), chance=0.1, title=title), str(to.with_suffix(""))
        ),
    }


@pytest.mark.parametrize("first", NASTY[0:1] + NASTY[2:3] + ("x" * 300,))
@pytest.mark.parametrize("name", _drawn([""]))
@pytest.mark.filterwarnings("error:Glyph", "error:constrained_layout not applied")
def test_every_figure_draws_any_name(name, first, tmp_path):
    texts = [first, *(text for text in NASTY if text != first)]
    path = tmp_path / "figure.png"
    _drawn(texts)[name](path)
    assert path.read_bytes().startswith(b"\x89PNG")


def _text_in(monkeypatch, draw):
    """Every text that a figure has when it is drawn."""
    found = []
    savefig = mpl_figure.Figure.savefig

    def spy(self, *args, **kwargs):
        savefig(self, *args, **kwargs)
        for one in self.findobj(lambda artist: hasattr(artist, "get_parse_math")):
            found.append((one.get_text(), one.get_parse_math()))

    monkeypatch.setattr(mpl_figure.Figure, "savefig", spy)
    draw()
    return found


def test_a_dollar_is_a_dollar_in_every_place(monkeypatch, tmp_path):
    for name, draw in _drawn(["$5_vs_$10", "$a$"]).items():
        texts = _text_in(monkeypatch, functools.partial(draw, tmp_path / f"{name}.png"))
        own = [parsed for text, parsed in texts if "$" in text]
        assert own and not any(own), name


@pytest.mark.parametrize("number", [1, 2, 6])
def test_captions_end_within_the_figure(number):
    """And before the next image's own, as they are drawn."""
    text = "a long name " * 9
    drawing = plots.rollout(
        np.zeros((number, 32, 32, 3)),
        np.ones((number, 4, 4)),
        [text] * number,
        patch_size=8,
        title="t",
    )
    (axes,) = drawing.axes
    drawing.set_dpi(plot_text.DPI)
    canvas = backend_agg.FigureCanvasAgg(drawing)
    with plot_text.style(plots.STYLE):
        canvas.draw()
    renderer = canvas.get_renderer()
    ends = [one.get_window_extent(renderer).x1 for one in axes.texts]
    assert len(ends) == number and max(ends) <= drawing.bbox.x1
    starts = [one.get_window_extent(renderer).x0 for one in axes.texts]
    columns = min(4, number)
    for i in range(number - 1):
        if (i + 1) % columns:
            assert ends[i] < starts[i + 1]


def test_whole_names_where_there_is_room_and_an_ellipsis_where_there_is_none():
    name = "a long name of 33 characters here"
    assert plot_text.fit(name, 3.0, 7) == name
    short = plot_text.fit(name, 1.0, 7)
    assert short.endswith("…") and name.startswith(short[:-1])
    assert plot_text.width(short, 7) <= 1.0 < plot_text.width(name, 7)
    assert plot_text.fit("two\nlines\x07", 3.0, 7) == "two lines"


def test_lines_break_at_blanks_and_lose_nothing():
    text = "the quick brown fox jumps over the lazy dog"
    wrapped = plot_text.wrap(text, 1.2, 7, lines=9)
    assert " ".join(wrapped.split("\n")) == text
    assert all(plot_text.width(line, 7) <= 1.2 for line in wrapped.split("\n"))
    assert plot_text.wrap("first\nsecond", 5, 7) == "first\nsecond"
    assert plot_text.wrap(text, 1.2, 7, lines=2).count("\n") == 1


def test_a_character_without_a_font_is_named_in_one_line(capfd, tmp_path):
    private = "\ue0f7"  # has no meaning, so no font should have it
    for _ in range(2):
        run_plots.confusion(
            np.eye(2, dtype=int), ["a", f"b{private}"], tmp_path / "c.png", title="t"
        )
    err = capfd.readouterr().err
    assert private not in err or len(err.splitlines()) == 1
    unknown = "\U0002f9f4"
    plot_text.width(unknown, 7)
    plot_text.width(unknown, 7)
    if lines := capfd.readouterr().err.splitlines():  # unless a font here has it
        (line,) = lines
        assert "no installed font has" in line and "fonts-noto-cjk" in line


@pytest.fixture
def font_of_cat(tmp_path):
    """A font that has one Chinese character, installed for Matplotlib."""
    pen = ttGlyphPen.TTGlyphPen(None)
    pen.moveTo((0, 0))
    for point in ((0, 1000), (1000, 1000), (1000, 0)):
        pen.lineTo(point)
    pen.closePath()
    glyph, names = pen.glyph(), [".notdef", "cat"]
    font = fontBuilder.FontBuilder(1000, isTTF=True)
    font.setupGlyphOrder(names)
    font.setupCharacterMap({ord("猫"): "cat"})
    font.setupGlyf(dict.fromkeys(names, glyph))
    font.setupHorizontalMetrics(dict.fromkeys(names, (1000, 0)))
    font.setupHorizontalHeader(ascent=1000, descent=0)
    font.setupNameTable(
        {"familyName": "One Cat", "styleName": "Regular", "psName": "OneCat"}
    )
    font.setupOS2()
    font.setupPost()
    path = str(tmp_path / "cat.ttf")
    font.save(path)
    before = list(font_manager.fontManager.ttflist)
    font_manager.fontManager.addfont(path)
    yield "One Cat"
    font_manager.fontManager.ttflist = before


def test_an_installed_font_draws_what_the_default_lacks(font_of_cat, tmp_path, capfd):
    images, maps = np.zeros((1, 8, 8, 3)), np.ones((1, 2, 2))
    drawing = plots.rollout(images, maps, ["a 猫"], patch_size=4, title="t")
    plots.save(drawing, str(tmp_path / "figure"))
    svg = (tmp_path / "figure.svg").read_text()
    assert "OneCat" in set(re.findall(r'id="(\w+)-[0-9a-f]+"', svg))
    assert "no installed font" not in capfd.readouterr().err
