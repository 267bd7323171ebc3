"""Charts as SVG, written here: bars and lines, readable on light and dark pages, with nothing to load and no script.

Colours are CSS variables that follow ``prefers-color-scheme``. What a mark means is also said in text, never by colour alone.
"""

import math
from collections.abc import Mapping, Sequence
from html import escape
from typing import Final, NamedTuple

_WIDTH: Final = 760
_STYLE: Final = """
  svg { --ink: #1f2328; --faint: #d0d7de; --soft: #59636e; --c0: #0969da; --c1: #bc4c00; --c2: #1a7f37; --c3: #8250df;
        --c4: #57606a; --paper: #ffffff; font: 13px system-ui, sans-serif; background: var(--paper); }
  @media (prefers-color-scheme: dark) {
    svg { --ink: #f0f6fc; --faint: #3d444d; --soft: #9198a1; --c0: #4493f8; --c1: #f0883e; --c2: #3fb950; --c3: #ab7df8;
          --c4: #9198a1; --paper: #0d1117; } }
  text { fill: var(--ink); } .soft { fill: var(--soft); } .title { font-weight: 600; font-size: 15px; }
  .grid { stroke: var(--faint); } .spread { stroke: var(--ink); stroke-width: 1.5; }
  .line { fill: none; stroke-width: 2; }
""" + "".join(f"  .f{i} {{ fill: var(--c{i}); }} .s{i} {{ stroke: var(--c{i}); }}\n" for i in range(5))


class Bar(NamedTuple):
    """One bar; ``low`` and ``high`` are drawn as a spread; ``is_ours`` has the first colour."""

    name: str
    value: float
    low: float
    high: float
    is_ours: bool


class Point(NamedTuple):
    """One point of a line, with the spread of its runs."""

    x: float
    y: float
    low: float
    high: float


def bars(title: str, unit: str, rows: Sequence[Bar]) -> str:
    """Horizontal bars from zero, each with its figure."""
    left, step, top = min(430, 28 + 7 * max((len(row.name) for row in rows), default=0)), 26, 46
    height = top + step * len(rows) + 12
    scale = (_WIDTH - left - 110) / max((row.high for row in rows), default=1.0)
    parts = []
    for i, row in enumerate(rows):
        y = top + i * step
        end = left + row.value * scale
        parts.append(_text(left - 8, y + 14, row.name, "end"))
        parts.append(
            f'<rect class="{"f0" if row.is_ours else "f4"}" x="{left}" y="{y + 3}" width="{_n(end - left)}" height="15"/>'
        )
        low, high = left + row.low * scale, left + row.high * scale
        parts.append(f'<path class="spread" d="M{_n(low)} {y + 10.5}H{_n(high)}"/>')
        parts.append(_text(max(end, high) + 6, y + 14, shown(row.value)))
    return _svg(title, f"{unit}; the thin line is the lowest and the highest run", height, parts)


def lines(title: str, x_name: str, y_name: str, series: Mapping[str, Sequence[Point]], *, log_y: bool = False) -> str:
    """Lines over a logarithmic x, one colour and one kind of dash each, named at their last point. ``log_y``: y likewise, else y
    begins at zero."""
    left, right, top, bottom, height = 74, _WIDTH - 150, 52, 318, 364
    points = [point for line in series.values() for point in line if point.x > 0]
    if not points:
        return _svg(title, y_name, 90, [_text(20, 70, "nothing was measured", soft=True)])
    across = _Scale.log(min(p.x for p in points), max(p.x for p in points), left, right)
    highest = max(p.high for p in points)
    lowest = min((p.low for p in points if p.low > 0), default=highest)
    up = _Scale.log(lowest, highest, bottom, top) if log_y else _Scale.linear(highest, bottom, top)
    parts = []
    for value in up.ticks:
        y = up.at(value)
        parts.append(f'<path class="grid" d="M{left} {_n(y)}H{right}"/>')
        parts.append(_text(left - 8, y + 4, shown(value), "end", soft=True))
    parts += [_text(across.at(value), bottom + 20, shown(value), "middle", soft=True) for value in across.ticks]
    parts.append(_text((left + right) / 2, bottom + 40, x_name, "middle", soft=True))
    taken: list[float] = []
    for i, (name, line) in enumerate(series.items()):
        placed = [(across.at(p.x), up.at(max(p.y, lowest)), p) for p in line if p.x > 0]
        if not placed:
            continue
        path = "L".join(f"{_n(x)} {_n(y)}" for x, y, _ in placed)
        dash = ("", "6 3", "2 3", "9 3 2 3", "1 2")[i % 5]
        parts.append(f'<path class="line s{i % 5}" stroke-dasharray="{dash}" d="M{path}"/>')
        for x, y, p in placed:
            spread = f"M{_n(x)} {_n(up.at(max(p.low, lowest)))}V{_n(up.at(max(p.high, lowest)))}"
            parts.append(f'<path class="spread" d="{spread}"/><circle class="f{i % 5}" cx="{_n(x)}" cy="{_n(y)}" r="3.5"/>')
        label = placed[-1][1] + 4
        while any(abs(label - other) < 14 for other in taken):
            label += 14
        taken.append(label)
        parts.append(
            f'<text class="f{i % 5}" style="fill: var(--c{i % 5})" x="{right + 10}" y="{_n(label)}">{escape(name)}</text>'
        )
    return _svg(title, y_name, height, parts)


class _Scale(NamedTuple):
    """Where values are drawn, and which of them are written at the axis."""

    low: float
    high: float
    begin: float
    end: float
    is_log: bool
    ticks: list[float]

    @classmethod
    def log(cls, low: float, high: float, begin: float, end: float) -> "_Scale":
        if high <= low * 1.0001:
            low, high = low / 2, high * 2
        first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
        ticks = [10.0**power for power in range(first, last + 1) if low / 1.05 <= 10.0**power <= high * 1.05]
        return cls(low, high, begin, end, True, ticks if len(ticks) > 1 else [low, high])

    @classmethod
    def linear(cls, high: float, begin: float, end: float) -> "_Scale":
        high = high or 1.0
        step = 10.0 ** math.floor(math.log10(high))
        step = next(step * factor for factor in (0.2, 0.5, 1, 2) if high / (step * factor) <= 6)
        ticks = [i * step for i in range(int(high / step) + 1)]
        return cls(0.0, high, begin, end, False, ticks)

    def at(self, value: float) -> float:
        share = value / self.high
        if self.is_log:
            share = math.log(max(value, 1e-12) / self.low) / math.log(self.high / self.low)
        return self.begin + share * (self.end - self.begin)


def shown(value: float) -> str:
    """A figure in a few letters: 1.2 M, 340 k, 17, 0.25."""
    for size, letter in ((1e6, "M"), (1e3, "k")):
        if abs(value) >= size * 0.9995:
            return f"{value / size:.3g} {letter}"
    return f"{value:.3g}"


def _n(value: float) -> str:
    return f"{value:.1f}"


def _text(x: float, y: float, text: str, anchor: str = "start", *, soft: bool = False) -> str:
    kind = ' class="soft"' if soft else ""
    return f'<text{kind} x="{_n(x)}" y="{_n(y)}" text-anchor="{anchor}">{escape(text)}</text>'


def _svg(title: str, under: str, height: float, parts: Sequence[str]) -> str:
    head = f'<text class="title" x="14" y="22">{escape(title)}</text>{_text(14, 39, under, soft=True)}'
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height:.0f}" role="img" '
        f'aria-label="{escape(title, quote=True)}">\n<style>{_STYLE}</style>\n{head}\n' + "\n".join(parts) + "\n</svg>\n"
    )
