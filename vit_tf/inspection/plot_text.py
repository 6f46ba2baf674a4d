"""Text of users in figures: class, file, run and data set names, drawn as they are.

Every name that a figure shows goes through here. `$5_vs_$10` is no formula, a name of
another script is drawn in an installed font that has it, and a long name is wrapped or
shortened to the room that there is.
"""

import contextlib
import functools
import sys
import unicodedata
import warnings
from collections.abc import Iterator, Mapping
from typing import Any

import matplotlib
from matplotlib import font_manager, ft2font, textpath
from matplotlib.backends import backend_agg

# Tried first where the default font lacks a character, because they are complete and
# of a weight that fits it; after these any installed font that has it.
_PREFERRED = (
    "Noto Sans CJK SC",
    "Noto Sans CJK JP",
    "Noto Sans CJK KR",
    "Source Han Sans SC",
    "WenQuanYi Micro Hei",
    "WenQuanYi Zen Hei",
    "Microsoft YaHei",
    "Yu Gothic",
    "Malgun Gothic",
    "PingFang SC",
    "Hiragino Sans",
    "Apple SD Gothic Neo",
    "Noto Sans",
    "Arial Unicode MS",
)
_DEFAULT = "DejaVu Sans"  # comes with Matplotlib
_LAST_RESORT = "Last Resort"  # in its name: has a box for every character
_POINTS = 72  # in an inch
DPI = 150  # of PNG files
_announced: set[str] = set()  # characters without a font that a line has named


@contextlib.contextmanager
def style(settings: Mapping[str, Any], *texts: str) -> Iterator[None]:
    """Sets Matplotlib's parameters for a figure that shows these texts.

    Text is made and drawn inside: mathematics is off, and fonts that have what the
    default font lacks are its fallback. A character that no installed font has is
    drawn as a box, and one line on stderr names it.

    Args:
        settings: other parameters of the figure.
        *texts: all texts of users in it.
    """
    families, missing = _fonts_for("".join(texts))
    if new := set(missing) - _announced:
        _announced.update(new)
        shown = "".join(sorted(new)[:10])
        print(
            f"figures: no installed font has {shown!r}, drawn as boxes; install one, "
            "such as Noto Sans CJK (Debian and Ubuntu: fonts-noto-cjk)",
            file=sys.stderr,
            flush=True,
        )
    own: dict[Any, Any] = {"text.parse_math": False, "font.family": families}
    with warnings.catch_warnings():
        # Matplotlib's own, one for each character and drawing; the line above is ours.
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        with matplotlib.rc_context({**settings, **own}):
            yield


def clean(text: str) -> str:
    """Returns text in one line: control characters and line breaks become spaces."""
    kept = (" " if unicodedata.category(c) in ("Cc", "Zl", "Zp") else c for c in text)
    return " ".join("".join(kept).split())


def width(text: str, font_size: float) -> float:
    """Returns the width of a line of text as it is drawn [inches].

    Args:
        text: one line.
        font_size: points.
    """
    with style({}, text):
        font = font_manager.FontProperties(size=font_size)
        # In a PNG letters are moved to whole pixels, in an SVG they are not.
        png = backend_agg.RendererAgg(1, 1, DPI)
        svg = textpath.TextToPath()
        return max(
            png.get_text_width_height_descent(text, font, False)[0] / DPI,
            svg.get_text_width_height_descent(text, font, False)[0] / _POINTS,
        )


def fit(text: str, inches: float, font_size: float) -> str:
    """Returns the text in one line, with an ellipsis where it is wider than the room."""
    text = clean(text)
    if width(text, font_size) <= inches:
        return text
    kept = _longest(text, inches - width("…", font_size), font_size)
    return text[:kept].rstrip() + "…"


def wrap(text: str, inches: float, font_size: float, *, lines: int = 3) -> str:
    """Returns the text broken into lines that fit the room.

    Breaks at blanks where there are any, and keeps line breaks. The last line ends in
    an ellipsis if the text needs more than `lines` lines for one of its own.
    """
    wrapped = []
    for line in text.split("\n"):
        wrapped += _wrapped(clean(line), inches, font_size, lines)
    return "\n".join(wrapped)


def _wrapped(line: str, inches: float, font_size: float, lines: int) -> list[str]:
    parts = []
    while len(parts) < lines - 1 and width(line, font_size) > inches:
        kept = max(1, _longest(line, inches, font_size))
        blank = line.rfind(" ", 0, kept + 1)
        kept = blank if blank > 0 else kept
        parts.append(line[:kept].rstrip())
        line = line[kept:].lstrip()
    return [*parts, fit(line, inches, font_size)]


def _longest(text: str, inches: float, font_size: float) -> int:
    """Returns how many leading characters fit, by bisection."""
    low, high = 0, len(text)
    while low < high:
        middle = (low + high + 1) // 2
        if width(text[:middle], font_size) <= inches:
            low = middle
        else:
            high = middle - 1
    return low


def _fonts_for(text: str) -> tuple[list[str], list[str]]:
    """Returns the font families that draw a text, and the characters none of them has."""
    missing = {ord(c) for c in text if not unicodedata.category(c).startswith("C")}
    missing -= _characters(font_manager.findfont(_DEFAULT))
    families = [_DEFAULT]
    for name, path in _installed() if missing else ():
        if missing & _characters(path):
            families.append(name)
            missing -= _characters(path)
        if not missing:
            break
    return families, [chr(code) for code in sorted(missing)]


def _installed() -> list[tuple[str, str]]:
    """Returns family and file of every upright installed font, the preferred first."""
    fonts: dict[str, str] = {}
    for entry in sorted(font_manager.fontManager.ttflist, key=lambda e: e.fname):
        if entry.style != "normal" or _LAST_RESORT in entry.name:
            continue
        if entry.weight in (400, "normal", "regular") or entry.name not in fonts:
            fonts[entry.name] = entry.fname
    rank = {name: place for place, name in enumerate(_PREFERRED)}
    order = sorted(fonts, key=lambda name: (rank.get(name, len(rank)), name))
    return [(name, fonts[name]) for name in order]


@functools.cache
def _characters(path: str) -> frozenset[int]:
    """Returns the code points that a font file has; none where it cannot be read."""
    try:
        return frozenset(ft2font.FT2Font(path).get_charmap())
    except (OSError, RuntimeError):
        return frozenset()
