"""A flow's graph as one SVG file: nothing is loaded from elsewhere, it suits light and dark pages, and it can be read aloud."""

import re
import unicodedata
from itertools import pairwise
from typing import Final
from xml.sax.saxutils import escape

from event_streaming_bus.flows.graph import STREAM, Edge, EdgeKind, Graph, Node
from event_streaming_bus.flows.graph_layout import Box, Lane, Layout, lay_out
from event_streaming_bus.store.history_records import DEAD_LETTER_STREAM

_MARGIN: Final = 26.0
_HEAD: Final = 34.0
_MIN_WIDTH: Final = 108.0
_MAX_TEXT: Final = 230.0
_PADDING: Final = 14.0
_STREAM_HEIGHT: Final = 46.0
_PLAIN_HEIGHT: Final = 56.0
_TOLD_HEIGHT: Final = 74.0
_NAME_SIZE: Final = 13.0
_NOTE_SIZE: Final = 11.0
_BADGE_SIZE: Final = 9.5
_PORT_GAP: Final = 15.0
_TRUNK: Final = 15.0
_DRAIN_DROP: Final = 40.0
_CORNER: Final = 7.0
_LEAD: Final = 34.0

# Widths of DejaVu Sans, which is wider than most system fonts, by groups of characters, as shares of the font size.
_WIDTHS: Final = {
    **dict.fromkeys("ijlI|!'.,:;` ", 0.34),
    **dict.fromkeys('frt()[]{}/\\-"', 0.42),
    **dict.fromkeys("mMW@%w", 0.93),
    **dict.fromkeys("+=<>~^#", 0.84),
    **dict.fromkeys("ABCDEFGHJKLNOPQRSTUVXYZ&", 0.72),
}
_OTHER_WIDTH: Final = 0.63
_WIDE: Final = 1.05
_BOLD: Final = 1.09

# By processor type: fill and text of the badge on a light page, then on a dark one.
_BADGES: Final = {
    "FILTER": ("#d3e6fb", "#10457f", "#1d3d61", "#b9d8fb"),
    "MAP": ("#cdeee4", "#0b5340", "#164a3d", "#a5e6d2"),
    "AGGREGATE": ("#e6dcfb", "#4b2a8a", "#3c2c66", "#d9c8fb"),
    "WINDOW": ("#dde0fb", "#2f3a8f", "#2b3268", "#c7cdfb"),
    "JOIN": ("#fbe3c6", "#7a4206", "#573714", "#fbd3a2"),
    "DEDUPLICATE": ("#fbdbe6", "#86244c", "#5a2439", "#fbc2d6"),
    "CUSTOM": ("#e3e6ea", "#36404f", "#3a434f", "#d5dbe4"),
}
_STYLE: Final = """
    .esb-graph .page { fill: #ffffff; }
    .esb-graph text { fill: #1b2536; }
    .esb-graph .name { font-weight: 600; }
    .esb-graph .note { fill: #4a5870; }
    .esb-graph .stream { fill: #e9eff8; stroke: #5b6b85; stroke-width: 1.2; }
    .esb-graph .lid { fill: #f7f9fc; stroke: #5b6b85; stroke-width: 1.2; }
    .esb-graph .processor { fill: #ffffff; stroke: #2f5fa8; stroke-width: 1.4; }
    .esb-graph .edge { fill: none; stroke: #2f5fa8; stroke-width: 1.6; }
    .esb-graph .late { stroke: #9a6212; stroke-dasharray: 7 4; }
    .esb-graph .errors { stroke: #b3372f; stroke-dasharray: 7 4; }
    .esb-graph .dead { stroke: #b3372f; stroke-width: 1.3; stroke-dasharray: 1.3 4; stroke-linecap: round; }
    .esb-graph .tip-events { fill: #2f5fa8; }
    .esb-graph .tip-late { fill: #9a6212; }
    .esb-graph .tip-errors { fill: #b3372f; }
    .esb-graph .label { fill: #4a5870; stroke: #ffffff; stroke-width: 3.5; paint-order: stroke; stroke-linejoin: round; }
"""
_DARK_STYLE: Final = """      .esb-graph .page { fill: #12161d; }
      .esb-graph text { fill: #e4e9f2; }
      .esb-graph .note { fill: #a9b5c9; }
      .esb-graph .stream { fill: #222b38; stroke: #8797b2; }
      .esb-graph .lid { fill: #2c3747; stroke: #8797b2; }
      .esb-graph .processor { fill: #171d26; stroke: #7fb0f5; }
      .esb-graph .edge { stroke: #7fb0f5; }
      .esb-graph .late { stroke: #e0aa5c; }
      .esb-graph .errors, .esb-graph .dead { stroke: #f0857d; }
      .esb-graph .tip-events { fill: #7fb0f5; }
      .esb-graph .tip-late { fill: #e0aa5c; }
      .esb-graph .tip-errors { fill: #f0857d; }
      .esb-graph .label { fill: #a9b5c9; stroke: #12161d; }
"""


def svg(graph: Graph) -> str:
    """The graph as an SVG document. The same graph gives the same text."""
    return _Drawing(graph).text()


def text_width(text: str, size: float, *, bold: bool = False) -> float:
    """About how wide a text is, in the unit of ``size``; rather too wide than too narrow."""
    return sum(map(_character_width, text)) * size * (_BOLD if bold else 1.0)


def fitted(text: str, size: float, width: float, *, bold: bool = False) -> str:
    """The text, with as much of its middle left out as it takes to fit into ``width``."""
    if text_width(text, size, bold=bold) <= width:
        return text
    for kept in range(len(text) - 1, 0, -1):
        tail = kept // 3
        shorter = f"{text[: kept - tail].rstrip()}…{text[len(text) - tail :].lstrip()}"
        if text_width(shorter, size, bold=bold) <= width:
            return shorter
    return "…"


def _character_width(character: str) -> float:
    if unicodedata.combining(character):
        return 0.0
    if unicodedata.east_asian_width(character) in "WF":
        return _WIDE
    return _WIDTHS.get(character, _OTHER_WIDTH)


def _size(node: Node) -> tuple[float, float]:
    """How large a node's shape is."""
    name = min(_MAX_TEXT, text_width(node.name, _NAME_SIZE, bold=True))
    if node.is_stream:
        return max(_MIN_WIDTH, name + 2 * _PADDING), _STREAM_HEIGHT
    note = min(_MAX_TEXT, text_width(node.summary, _NOTE_SIZE))
    width = max(_MIN_WIDTH, name + 2 * _PADDING, note + 2 * _PADDING)
    return width, _TOLD_HEIGHT if node.summary else _PLAIN_HEIGHT


class _Drawing:
    """One graph being drawn."""

    def __init__(self, graph: Graph) -> None:
        self._graph = graph
        self._id = f"esb-{graph.name}"
        self._edges = [edge for edge in graph.edges if edge.kind is not EdgeKind.DEAD_LETTERS]
        self._dying = [edge.source for edge in graph.edges if edge.kind is EdgeKind.DEAD_LETTERS]
        used = {name for edge in self._edges for name in (edge.source, edge.target)}
        # Dead letters of many processors would cross everything; they have a line of their own below the boxes instead.
        self._nodes = [node for node in graph.nodes if node.name != DEAD_LETTER_STREAM or node.name in used or not self._dying]
        self._layout: Layout = lay_out({n.name: _size(n) for n in self._nodes}, [(e.source, e.target) for e in self._edges])
        self._out, self._in = self._ports()

    def text(self) -> str:
        width, height = self._layout.width, self._layout.height
        drain, drain_width, drain_height = self._drain()
        width, height = max(width, drain_width) + 2 * _MARGIN, max(height, drain_height) + 2 * _MARGIN + _HEAD
        told = "\n".join(
            (
                f'<svg xmlns="http://www.w3.org/2000/svg" class="esb-graph" viewBox="0 0 {_n(width)} {_n(height)}" '
                f'width="{_n(width)}" height="{_n(height)}" role="img" aria-labelledby="{self._id}-title {self._id}-desc" '
                f'font-family="system-ui, \'DejaVu Sans\', sans-serif" font-size="{_n(_NAME_SIZE)}">',
                f'  <title id="{self._id}-title">Flow {_xml(self._graph.name)}</title>',
                f'  <desc id="{self._id}-desc">{_xml(_told(self._graph))}</desc>',
                f"  <style>{_STYLE}{_badge_style(0)}    @media (prefers-color-scheme: dark) {{",
                f"{_DARK_STYLE}{_badge_style(2)}    }}",
                "  </style>",
                "  <defs>",
                *(self._tip(kind) for kind in (EdgeKind.EVENTS, EdgeKind.LATE, EdgeKind.ERRORS)),
                "  </defs>",
                f'  <rect class="page" width="{_n(width)}" height="{_n(height)}" rx="8"/>',
                f'  <text class="name" x="{_n(_MARGIN)}" y="{_n(_MARGIN + 6)}" font-size="15">{_xml(self._graph.name)}</text>',
                f'  <g transform="translate({_n(_MARGIN)} {_n(_MARGIN + _HEAD)})">',
            )
        )
        lines = [told, *drain]
        lines += [self._edge(number) for number in range(len(self._edges))]
        lines += [self._shape(node, self._layout.boxes[node.name]) for node in self._nodes]
        lines += [label for number in range(len(self._edges)) for label in self._labels(number)]
        return "\n".join([*lines, "  </g>", "</svg>", ""])

    def _tip(self, kind: EdgeKind) -> str:
        return (
            f'    <marker id="{self._id}-{kind}" viewBox="0 0 10 10" refX="9" refY="5" markerWidth="8" markerHeight="8" '
            f'markerUnits="userSpaceOnUse" orient="auto"><path class="tip-{kind}" d="M0 0.8 L10 5 L0 9.2 z"/></marker>'
        )

    # --- edges ----------------------------------------------------------------------------------------------------------

    def _ports(self) -> tuple[list[float], list[float]]:
        """How far below its box's middle each edge leaves and enters. Edges that mean the same share a place."""
        out, into = [0.0] * len(self._edges), [0.0] * len(self._edges)
        for node in self._nodes:
            leaving = [n for n, edge in enumerate(self._edges) if edge.source == node.name]
            kinds = [kind for kind in EdgeKind if any(self._edges[n].kind is kind for n in leaving)]
            for n in leaving:
                out[n] = (kinds.index(self._edges[n].kind) - (len(kinds) - 1) / 2) * _PORT_GAP
            entering = [n for n, edge in enumerate(self._edges) if edge.target == node.name]
            if any(self._edges[n].side for n in entering):
                entering.sort(key=lambda n: self._layout.routes[n][-2].y)
                for place, n in enumerate(entering):
                    into[n] = (place - (len(entering) - 1) / 2) * _PORT_GAP * 1.4
        return out, into

    def _lanes(self, number: int) -> list[Lane]:
        """The edge's lanes, moved to its ports; where a label stands the edge stays level for as long as the label is."""
        edge, (first, *passed, last) = self._edges[number], self._layout.routes[number]
        start = first.right + (_LEAD if edge.kind is not EdgeKind.EVENTS else 0.0)
        end = last.left - (_LEAD if edge.side else 0.0)
        return [
            first._replace(right=start, y=first.y + self._out[number]),
            *passed,
            last._replace(left=end, y=last.y + self._in[number]),
        ]

    def _edge(self, number: int) -> str:
        edge, lanes = self._edges[number], self._lanes(number)
        path = f"M{_n(lanes[0].left)} {_n(lanes[0].y)} H{_n(lanes[0].right)}"
        for one, after in pairwise(lanes):
            half = (one.right + after.left) / 2
            path += f" C{_n(half)} {_n(one.y)} {_n(half)} {_n(after.y)} {_n(after.left)} {_n(after.y)} H{_n(after.right)}"
        kind = "" if edge.kind is EdgeKind.EVENTS else f" {edge.kind}"
        return f'    <path class="edge{kind}" d="{path}" marker-end="url(#{self._id}-{edge.kind})"/>'

    def _labels(self, number: int) -> list[str]:
        """The port at the start of an edge, the side of a JOIN at its end."""
        edge, lanes = self._edges[number], self._lanes(number)
        labels = []
        if edge.kind is not EdgeKind.EVENTS:
            labels.append(_label(edge.kind, lanes[0].left + 5, lanes[0].y - 4, "start"))
        if edge.side:
            labels.append(_label(edge.side, lanes[-1].right - 11, lanes[-1].y - 4, "end"))
        return labels

    def _drain(self) -> tuple[list[str], float, float]:
        """The dotted line that gathers dead letters below everything; ``(elements, right end, lower end)``."""
        if not self._dying:
            return [], 0.0, 0.0
        boxes = [self._layout.boxes[name] for name in self._dying]
        trunks = [self._layout.column_ends[name] + _TRUNK for name in self._dying]
        level = self._layout.height + _DRAIN_DROP
        stream = Node(DEAD_LETTER_STREAM, STREAM)
        width, height = _size(stream)
        left = max(self._layout.width - width, max(trunks) + 2.5 * _TRUNK)
        lines = []
        for trunk in sorted(set(trunks)):
            starts = [box for box, its in zip(boxes, trunks, strict=True) if its == trunk]
            top = min(box.bottom for box in starts) - _CORNER * 2
            for box in starts:
                y = box.bottom - _CORNER * 2
                lines.append(f"M{_n(box.right)} {_n(y)} H{_n(trunk - _CORNER)} q{_n(_CORNER)} 0 {_n(_CORNER)} {_n(_CORNER)}")
            end = level - _CORNER
            lines.append(f"M{_n(trunk)} {_n(top + _CORNER)} V{_n(end)} q0 {_n(_CORNER)} {_n(_CORNER)} {_n(_CORNER)}")
        lines.append(f"M{_n(min(trunks) + _CORNER)} {_n(level)} H{_n(left)}")
        elements = [f'    <path class="edge dead" d="{line}"/>' for line in lines]
        elements[-1] = elements[-1].replace("/>", f' marker-end="url(#{self._id}-{EdgeKind.ERRORS})"/>')
        box = Box(left, level - height / 2, width, height)
        return [*elements, self._shape(stream, box)], box.right, box.bottom

    # --- shapes ---------------------------------------------------------------------------------------------------------

    def _shape(self, node: Node, box: Box) -> str:
        hover = f"<title>{_xml(node.name)}{_xml(': ' + node.summary) if node.summary else ''}</title>"
        parts = _cylinder(node, box) if node.is_stream else _card(node, box)
        return "\n".join([f"    <g>{hover}", *(f"      {part}" for part in parts), "    </g>"])


def _cylinder(node: Node, box: Box) -> list[str]:
    rx, ry = box.width / 2, 6.0
    top, foot = box.y + ry, box.bottom - ry
    return [
        f'<path class="stream" d="M{_n(box.x)} {_n(top)} V{_n(foot)} A{_n(rx)} {_n(ry)} 0 0 0 {_n(box.right)} {_n(foot)} '
        f'V{_n(top)}"/>',
        f'<ellipse class="lid" cx="{_n(box.x + rx)}" cy="{_n(top)}" rx="{_n(rx)}" ry="{_n(ry)}"/>',
        _text(fitted(node.name, _NAME_SIZE, _MAX_TEXT, bold=True), "name", box.x + rx, box.middle + 9.5, _NAME_SIZE, "middle"),
    ]


def _card(node: Node, box: Box) -> list[str]:
    kind = node.kind if node.kind in _BADGES else "CUSTOM"
    width = text_width(node.kind, _BADGE_SIZE, bold=True) + 12
    x = box.x + _PADDING
    parts = [
        f'<rect class="processor" x="{_n(box.x)}" y="{_n(box.y)}" width="{_n(box.width)}" height="{_n(box.height)}" rx="9"/>',
        f'<rect class="badge-{kind}" x="{_n(x)}" y="{_n(box.y + 9)}" width="{_n(width)}" height="15" rx="4"/>',
        _text(node.kind, f"name on-{kind}", x + width / 2, box.y + 20, _BADGE_SIZE, "middle"),
        _text(fitted(node.name, _NAME_SIZE, _MAX_TEXT, bold=True), "name", x, box.y + 42, _NAME_SIZE, "start"),
    ]
    if node.summary:
        parts.append(_text(fitted(node.summary, _NOTE_SIZE, _MAX_TEXT), "note", x, box.y + 60, _NOTE_SIZE, "start"))
    return parts


def _text(text: str, style: str, x: float, y: float, size: float, anchor: str) -> str:
    return f'<text class="{style}" x="{_n(x)}" y="{_n(y)}" font-size="{_n(size)}" text-anchor="{anchor}">{_xml(text)}</text>'


def _label(text: str, x: float, y: float, anchor: str) -> str:
    return f"    {_text(text, 'label', x, y, _NOTE_SIZE, anchor)}"


def _badge_style(first: int) -> str:
    rules = (
        f"    .esb-graph .{name}-{kind} {{ fill: {colour}; }}\n"
        for kind, colours in _BADGES.items()
        for name, colour in zip(("badge", "on"), colours[first:], strict=False)
    )
    return "".join(rules)


def _told(graph: Graph) -> str:
    """The graph in words, a sentence for each processor."""
    sentences = []
    for node in graph.nodes:
        if node.is_stream:
            continue
        reads = " and ".join(_source(edge) for edge in graph.edges if edge.target == node.name)
        writes = [edge.target for edge in graph.edges if edge.source == node.name and edge.kind is EdgeKind.EVENTS]
        what = f" ({node.summary})" if node.summary else ""
        sentences.append(f"{node.kind} {node.name}{what} reads {reads}{'; to ' + ', '.join(writes) if writes else ''}.")
    return " ".join(sentences)


def _source(edge: Edge) -> str:
    what = {EdgeKind.LATE: "the late events of ", EdgeKind.ERRORS: "the errors of "}.get(edge.kind, "")
    return f"{what}{edge.source}"


def _n(number: float) -> str:
    """A number in as few digits as a drawing needs."""
    return f"{round(number, 1):g}" if abs(number) < 100_000 else str(round(number))


def _xml(text: str) -> str:
    """The text for XML, on one line; characters that XML cannot hold become the replacement character."""
    allowed = re.sub(r"[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]", "\ufffd", text)
    return escape(" ".join(allowed.split()), {'"': "&quot;"})
