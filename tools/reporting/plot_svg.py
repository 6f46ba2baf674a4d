"""Draws a panel of points and lines as a small SVG, the same bytes every time.

Text stays text, in the reader's own font, and colours follow the reader's light or dark
mode, which a drawing of Matplotlib's cannot do; a page can link each point.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence

import markupsafe

# Okabe and Ito's palette, distinct for colour-blind readers: on white, on black.
_COLOURS = (
    ("#0072B2", "#56B4E9"),
    ("#D55E00", "#FF8A3D"),
    ("#009E73", "#2DC79A"),
    ("#AA4499", "#DD8FCB"),
    ("#B07A00", "#F0C24A"),
    ("#555555", "#BBBBBB"),
)

STYLE = (
    ".plot{font:11px system-ui,sans-serif;--ink:#222;--faint:#8885}"
    ".plot text{fill:var(--ink)}.plot .title{font-weight:600}"
    + "".join(f".plot .c{i}{{color:{on}}}" for i, (on, _) in enumerate(_COLOURS))
    + "@media(prefers-color-scheme:dark){.plot{--ink:#ddd}"
    + "".join(f".plot .c{i}{{color:{on}}}" for i, (_, on) in enumerate(_COLOURS))
    + "}"
)

# In a page, which is light on paper.
PAGE_STYLE = STYLE.replace("@media(", "@media screen and (")

_WIDTH, _HEIGHT = 360, 230  # of all, and of the area between the axes and the title
_LEFT, _RIGHT, _TOP = 50, 12, 26
_LETTER = 5.9  # the mean width of a letter at 11 pixels
_ROW = 16  # height of a line of the legend

# Shapes around the origin, so that colour is not all that tells lines apart.
_SHAPES = (
    '<circle r="4"/>',
    '<path d="M-3.6-3.6h7.2v7.2h-7.2z"/>',
    '<path d="M0-4.8L4.6 3.6H-4.6z"/>',
    '<path d="M0-5.2L5.2 0 0 5.2-5.2 0z"/>',
    '<path d="M0 4.8L4.6-3.6H-4.6z"/>',
    '<path d="M-1.5-5h3v3.5h3.5v3h-3.5v3.5h-3v-3.5h-3.5v-3h3.5z"/>',
)
# Dashes of lines, beyond the first six of which colours repeat.
_DASHES = ("", "6 3", "2 3")


@dataclasses.dataclass(frozen=True)
class Mark:
    """A point.

    Attributes:
        x: a number, or the index of a place.
        y: a number.
        spread: the sample standard deviation, a bar up and down.
        name: what the pointer is told.
        link: where a click leads; empty: nowhere.
        hollow: whether it is a lower bound.
    """

    x: float
    y: float
    spread: float | None = None
    name: str = ""
    link: str = ""
    hollow: bool = False


@dataclasses.dataclass(frozen=True)
class Panel:
    """A pair of axes and what is drawn there; fields as in `table.Plot`.

    Attributes:
        lines: name -> marks; the empty ones keep the colours of the others.
        marked: whether a line's points are seen.
        log_y: whether the vertical axis is logarithmic.
        levels: name -> height of a dashed line from side to side, such as what another
            method reaches.
    """

    title: str
    x: str
    y: str
    lines: Mapping[str, Sequence[Mark]]
    log: bool = False
    places: Sequence[str] = ()
    joined: bool = True
    marked: bool = True
    log_y: bool = False
    levels: Mapping[str, float] = dataclasses.field(default_factory=dict)


def draw(panel: Panel, *, styled: bool = True) -> markupsafe.Markup:
    """Draws the SVG, for a file with `STYLE` in it, or for a page
    that has it, with links.

    Raises:
        ValueError: nothing to draw, or not positive on a logarithmic axis.
    """
    shown = [mark for marks in panel.lines.values() for mark in marks]
    if not shown:
        raise ValueError(f"{panel.title}: nothing to draw")
    heights = [*panel.levels.values()]
    heights += [mark.y - (mark.spread or 0) for mark in shown]
    heights += [mark.y + (mark.spread or 0) for mark in shown]
    across, x_ticks = _horizontal(panel, [mark.x for mark in shown])
    up, y_ticks = _vertical(panel, min(heights), max(heights))
    turned = _turned(panel, x_ticks)
    below = 20 + (max(len(text) for _, text in x_ticks) * 4 if turned else 0)
    bottom = _TOP + _HEIGHT
    legend, rows = _legend(panel, bottom + below + 26)
    height = bottom + below + 26 + rows * _ROW
    parts = [
        (
            f'<svg xmlns="http://www.w3.org/2000/svg" class="plot" '
            f'role="{"img" if styled else "group"}" '
            f'viewBox="0 0 {_WIDTH} {_number(height)}" '
            f'width="{_WIDTH}" height="{_number(height)}">'
        ),
        f"<style>{STYLE}</style>" if styled else "",
        _element("<title>{}</title>", panel.title),
        _element('<text class="title" x="4" y="14">{}</text>', panel.title),
        *_grid(y_ticks, x_ticks, bottom, turned=turned, log=panel.log),
        _element(
            '<text x="{}" y="{}" text-anchor="middle">{}</text>',
            f"{(_LEFT + _WIDTH - _RIGHT) / 2:g}",
            _number(bottom + below + 14),
            panel.x,
        ),
        _element(
            '<text transform="translate(12 {})rotate(-90)" text-anchor="middle">{}</text>',
            f"{_TOP + _HEIGHT / 2:g}",
            panel.y,
        ),
    ]
    for index, (name, height) in enumerate(panel.levels.items(), len(panel.lines)):
        parts.append(_level(index, name, up(height)))
    for index, marks in enumerate(panel.lines.values()):
        if marks:
            parts.append(_line(panel, index, marks, across, up, linked=not styled))
    return markupsafe.Markup("\n".join([*filter(None, parts), legend, "</svg>\n"]))


_To = Callable[[float], float]
_Ticks = list[tuple[float, str]]  # where on the drawing, and what it says


def _horizontal(panel: Panel, values: Sequence[float]) -> tuple[_To, _Ticks]:
    left, right = _LEFT, _WIDTH - _RIGHT
    if panel.places:
        width = (right - left) / len(panel.places)

        def place(x: float) -> float:
            return left + (x + 0.5) * width

        return place, [(place(i), name) for i, name in enumerate(panel.places)]
    scale = _logarithmic if panel.log else _linear
    return scale(panel.title, min(values), max(values), left, right)


def _vertical(panel: Panel, low: float, high: float) -> tuple[_To, _Ticks]:
    scale = _logarithmic if panel.log_y else _linear
    return scale(panel.title, low, high, _TOP + _HEIGHT, _TOP)


def _linear(title: str, low: float, high: float, start: float, end: float):
    """Numbers to places between `start` and `end`, and ticks there."""
    low, high = _padded(low, high)

    def to(value: float) -> float:
        return start + (value - low) / (high - low) * (end - start)

    return to, [(to(value), text) for value, text in linear_ticks(low, high)]


def _logarithmic(title: str, low: float, high: float, start: float, end: float):
    if low <= 0:
        raise ValueError(f"{title}: {low} on a logarithmic axis")
    low, high = math.log10(low), math.log10(high)
    pad = 0.06 * (high - low) or 0.3
    low, high = low - pad, high + pad

    def to(value: float) -> float:
        return start + (math.log10(value) - low) / (high - low) * (end - start)

    ticks = [v for v in _log_ticks(low, high) if low <= math.log10(v) <= high]
    return to, [(to(value), _short(value)) for value in ticks]


def _padded(low: float, high: float) -> tuple[float, float]:
    pad = 0.06 * (high - low) or abs(high) / 10 or 1.0
    # Ours begin at zero where they nearly do.
    return (0.0 if 0 <= low < 2 * pad else low - pad), high + pad


def linear_ticks(low: float, high: float) -> list[tuple[float, str]]:
    """Chooses three to eight round numbers within."""
    rough = (high - low) / 7.5
    unit = 10.0 ** math.floor(math.log10(rough))
    step = next(unit * k for k in (1, 2, 5, 10) if unit * k >= rough)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    digits = max(0, -math.floor(math.log10(step) + 1e-9))
    return [(i * step, f"{i * step:.{digits}f}") for i in range(first, last + 1)]


def _log_ticks(low: float, high: float) -> list[float]:
    """Powers of ten, with what lies between where there are few."""
    between = (1,) if high - low > 2.5 else (1, 3) if high - low > 1.2 else (1, 2, 5)
    powers = range(math.floor(low), math.ceil(high) + 1)
    step = max(1, len(powers) // 6)
    return [m * 10.0**k for k in powers if k % step == 0 for m in between]


def _short(value: float) -> str:
    """Writes '30M' for 3e7, '10⁻⁵' for 1e-5."""
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:g}{letter}"
    if value >= 1e-3:
        return f"{value:.3g}"
    power = math.floor(math.log10(value) + 1e-9)
    factor = f"{value / 10.0**power:.2g}"
    raised = str(power).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))
    return f"10{raised}" if factor == "1" else f"{factor}·10{raised}"


def _turned(panel: Panel, ticks: _Ticks) -> bool:
    """Returns whether the names of places are too long to stand side by side."""
    room = (_WIDTH - _LEFT - _RIGHT) / max(1, len(panel.places))
    return bool(panel.places) and any(len(t) * _LETTER > room for _, t in ticks)


def _grid(
    y_ticks: _Ticks, x_ticks: _Ticks, bottom: int, *, turned: bool, log: bool
) -> list[str]:
    right = _WIDTH - _RIGHT
    lines = "".join(f"M{_LEFT} {_number(y)}H{right}" for y, _ in y_ticks)
    lines += "".join(f"M{_number(x)} {bottom}v4" for x, _ in x_ticks)
    parts = [f'<path stroke="var(--faint)" d="{lines}"/>']
    parts.append(
        f'<path fill="none" stroke="var(--ink)" d="M{_LEFT} {bottom}H{right}"/>'
    )
    for y, text in y_ticks:
        parts.append(
            f'<text x="{_LEFT - 6}" y="{_number(y + 4)}" text-anchor="end">{text}</text>'
        )
    for x, text in x_ticks:
        place = f'x="{_number(x)}" y="{bottom + 17}" text-anchor="middle"'
        if turned:
            place = (
                f'transform="translate({_number(x + 4)} {bottom + 12})rotate(-40)" '
                'text-anchor="end"'
            )
        parts.append(_element(f"<text {place}>{{}}</text>", text))
    return parts


def _line(
    panel: Panel,
    index: int,
    marks: Sequence[Mark],
    across: _To,
    up: _To,
    *,
    linked: bool,
) -> str:
    """Draws a line: joined, with bars, with marks that can be pointed at."""
    shift = 0.0
    if panel.places:  # bars of lines at the same place stand side by side
        used = [i for i, of in enumerate(panel.lines.values()) if of]
        room = (_WIDTH - _LEFT - _RIGHT) / len(panel.places)
        shift = min(9.0, room / len(used)) * (used.index(index) - (len(used) - 1) / 2)
    spots = [(across(mark.x) + shift, up(mark.y)) for mark in marks]
    parts = [f'<g class="c{index % len(_COLOURS)}" fill="currentColor">']
    if panel.joined and len(spots) > 1:
        track = "M" + "L".join(f"{_number(x)} {_number(y)}" for x, y in spots)
        dashes = _DASHES[index // len(_COLOURS) % len(_DASHES)]
        dashed = f' stroke-dasharray="{dashes}"' if dashes else ""
        parts.append(
            f'<path fill="none" stroke="currentColor" stroke-width="1.6"{dashed} '
            f'stroke-linejoin="round" d="{track}"/>'
        )
    for mark, (x, y) in zip(marks, spots):
        if mark.spread:
            top, low = up(mark.y + mark.spread), up(mark.y - mark.spread)
            parts.append(
                '<path fill="none" stroke="currentColor" '
                f'd="M{_number(x)} {_number(top)}V{_number(low)}'
                f"M{_number(x - 3)} {_number(top)}h6"
                f'M{_number(x - 3)} {_number(low)}h6"/>'
            )
    if panel.marked or len(spots) == 1:
        shape = _shape(index)
        for mark, (x, y) in zip(marks, spots):
            empty = ' fill="none" stroke="currentColor" stroke-width="1.5"'
            drawn = _element(
                f'<g transform="translate({_number(x)} {_number(y)})"'
                f"{empty if mark.hollow else ''}><title>{{}}</title>{shape}</g>",
                mark.name,
            )
            if mark.link and linked:
                drawn = _element('<a href="{}">{}</a>', mark.link, drawn)
            parts.append(drawn)
    return "".join([*parts, "</g>"])


def _level(index: int, name: str, y: float) -> markupsafe.Markup:
    return _element(
        f'<path class="c{index % len(_COLOURS)}" fill="none" stroke="currentColor" '
        f'stroke-width="1.4" stroke-dasharray="{_level_dashes(index)}" '
        f'd="M{_LEFT} {_number(y)}H{_WIDTH - _RIGHT}"><title>{{}}</title></path>',
        name,
    )


def _level_dashes(index: int) -> str:
    return _DASHES[1 + index % (len(_DASHES) - 1)]


def _shape(index: int) -> str:
    """Lines of the same colour have other shapes."""
    return _SHAPES[(index + index // len(_COLOURS)) % len(_SHAPES)]


def _legend(panel: Panel, top: float) -> tuple[str, int]:
    """Names of lines and levels, as many in a row as fit; and the number of rows."""
    named = {name: _sample(panel, i) for i, name in enumerate(panel.lines)}
    shown = [name for name, marks in panel.lines.items() if marks]
    for index, name in enumerate(panel.levels, len(panel.lines)):
        named[name] = _stroke(_level_dashes(index))
    colours = {name: index % len(_COLOURS) for index, name in enumerate(named)}
    parts, x, row = [], 8.0, 0
    for name in [*shown, *panel.levels]:
        width = 30 + _LETTER * len(name)
        if x > 8 and x + width > _WIDTH:
            x, row = 8.0, row + 1
        y = top + row * _ROW + 8
        place = (_number(x + 17), _number(y + 4))
        text = _element('<text x="{}" y="{}">{}</text>', *place, name)
        parts.append(
            f'<g class="c{colours[name]}" fill="currentColor" '
            f'transform="translate({_number(x + 6)} {_number(y)})">{named[name]}</g>'
            f"{text}"
        )
        x += width
    return "\n".join(parts), row + 1


def _sample(panel: Panel, index: int) -> str:
    """Draws what stands for a line in the legend."""
    if panel.marked:
        return _shape(index)
    return _stroke(_DASHES[index // len(_COLOURS) % len(_DASHES)])


def _stroke(dashes: str) -> str:
    return (
        '<path fill="none" stroke="currentColor" stroke-width="2" '
        f'stroke-dasharray="{dashes or "none"}" d="M-7 0H7"/>'
    )


def _element(markup: str, *values: str) -> markupsafe.Markup:
    """Fills markup with values in its {} places, escaped unless they are markup."""
    return markupsafe.Markup(markup).format(*values)


def _number(value: float) -> str:
    """Rounds to a tenth of a pixel: machines that round otherwise draw the same."""
    return f"{round(value, 1) + 0.0:g}"
