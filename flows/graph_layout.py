"""Where the boxes of a graph go: in layers from left to right, with few crossings and short edges, and none on another.

The steps are those of Sugiyama's method: layers by longest path, a lane through every layer that an edge passes, order in a
layer by the mean place of the neighbours, and then heights as near to the neighbours' as the order allows.
"""

from bisect import bisect_right, insort
from collections.abc import Mapping, Sequence
from graphlib import TopologicalSorter
from itertools import pairwise
from typing import Final, NamedTuple, TypeAlias

import msgspec

GAP: Final = 22.0
_LANE_HEIGHT: Final = 8.0
_LANE_GAP: Final = 14.0
_GUTTER: Final = 84.0
_MAX_EXTRA_GUTTER: Final = 90.0
_STEEP: Final = 0.18
_SWEEPS: Final = 12

Ends: TypeAlias = tuple[str, str]


class Box(NamedTuple):
    """A rectangle. ``x`` and ``y`` are those of its top left corner; y grows downwards."""

    x: float
    y: float
    width: float
    height: float

    @property
    def right(self) -> float:
        return self.x + self.width

    @property
    def bottom(self) -> float:
        return self.y + self.height

    @property
    def middle(self) -> float:
        return self.y + self.height / 2


class Lane(NamedTuple):
    """A level piece of an edge, from ``left`` to ``right`` at ``y``."""

    left: float
    right: float
    y: float


class Layout(msgspec.Struct, frozen=True):
    """Boxes by name, and for each edge the lanes that it goes along, from its source's box to its target's.

    No two boxes overlap, and no lane runs through a box. Between two lanes of an edge there is nothing but other edges.
    ``column_ends`` has for each box where its layer's space ends on the right.
    """

    boxes: dict[str, Box]
    routes: tuple[tuple[Lane, ...], ...]
    column_ends: dict[str, float]
    width: float
    height: float


def lay_out(sizes: Mapping[str, tuple[float, float]], edges: Sequence[Ends]) -> Layout:
    """Place boxes of these ``(width, height)``. The same input gives the same layout.

    Edges are between names in ``sizes`` and have no circle (``graphlib.CycleError`` if they have).
    """
    return _Layers(sizes, edges).layout()


def _layer_numbers(names: Sequence[str], edges: Sequence[Ends]) -> dict[str, int]:
    """The longest path from a start; what nothing leads to stands right before the first that it leads to."""
    before: dict[str, set[str]] = {name: set() for name in names}
    for source, target in edges:
        before[target].add(source)
    numbers: dict[str, int] = {}
    # A sorter walks in the order in which it was filled, so sets are sorted: their own order is not the same in each process.
    for name in TopologicalSorter({name: sorted(sources) for name, sources in before.items()}).static_order():
        numbers[name] = max((numbers[source] + 1 for source in before[name]), default=0)
    for name in names:
        if not before[name]:
            numbers[name] = min((numbers[target] - 1 for source, target in edges if source == name), default=0)
    return numbers


class _Layers:
    """Cells in layers: the boxes, and for each edge one cell of a lane's height in every layer that it passes."""

    def __init__(self, sizes: Mapping[str, tuple[float, float]], edges: Sequence[Ends]) -> None:
        self._sizes = sizes
        self._names = list(sizes)
        cell_of = {name: cell for cell, name in enumerate(self._names)}
        numbers = _layer_numbers(self._names, edges)
        self._layer = [numbers[name] for name in self._names]
        self._heights = [sizes[name][1] for name in self._names]
        self._chains: list[list[int]] = []
        for source, target in edges:
            chain = [cell_of[source]]
            for number in range(numbers[source] + 1, numbers[target]):
                chain.append(len(self._layer))
                self._layer.append(number)
                self._heights.append(_LANE_HEIGHT)
            self._chains.append([*chain, cell_of[target]])
        self._before: list[list[int]] = [[] for _ in self._layer]
        self._after: list[list[int]] = [[] for _ in self._layer]
        for chain in self._chains:
            for one, next_one in pairwise(chain):
                self._after[one].append(next_one)
                self._before[next_one].append(one)
        self._order = self._first_order()

    def _first_order(self) -> list[list[int]]:
        """Cells in the order in which a walk along the edges meets them, so that what hangs together stands together."""
        order: list[list[int]] = [[] for _ in range(max(self._layer, default=-1) + 1)]
        seen: set[int] = set()
        for start in range(len(self._layer)):
            waiting = [start]
            while waiting:
                cell = waiting.pop()
                if cell not in seen:
                    seen.add(cell)
                    order[self._layer[cell]].append(cell)
                    waiting += reversed(self._before[cell] + self._after[cell])
        return order

    # --- order ----------------------------------------------------------------------------------------------------------

    def _uncross(self) -> None:
        """Sort each layer by where its neighbours are, to and fro, and keep the order with the fewest crossings."""
        best, fewest = [list(layer) for layer in self._order], self._crossings()
        for sweep in range(_SWEEPS):
            if fewest == 0:
                break
            rightwards = sweep % 2 == 0
            neighbours = self._before if rightwards else self._after
            for layer in self._order if rightwards else reversed(self._order):
                places = self._places()
                wanted = {cell: _mean([places[n] for n in neighbours[cell]], places[cell]) for cell in layer}
                layer.sort(key=wanted.__getitem__)
            crossings = self._crossings()
            if crossings < fewest:
                best, fewest = [list(layer) for layer in self._order], crossings
        self._order = best

    def _places(self) -> dict[int, float]:
        """How far down its layer a cell is, from 0 to 1, so that long and short layers compare."""
        return {cell: (place + 0.5) / len(layer) for layer in self._order for place, cell in enumerate(layer)}

    def _crossings(self) -> int:
        place = {cell: number for layer in self._order for number, cell in enumerate(layer)}
        total = 0
        for layer in self._order:
            ends: list[int] = []
            for cell in layer:
                mine = sorted(place[after] for after in self._after[cell])
                total += sum(len(ends) - bisect_right(ends, end) for end in mine)
                for end in mine:
                    insort(ends, end)
        return total

    # --- places ---------------------------------------------------------------------------------------------------------

    def _middles(self) -> list[float]:
        """The y of each cell's middle: as near to its neighbours' as its layer's order and the gaps allow."""
        middles = [0.0] * len(self._layer)
        distances = [[self._distance(one, below) for one, below in pairwise(layer)] for layer in self._order]
        layers = list(zip(self._order, distances, strict=True))
        for layer, apart in layers:
            y = -sum(apart) / 2
            for number, cell in enumerate(layer):
                middles[cell] = y
                y += apart[number] if number < len(apart) else 0.0
        sides = ([self._before, self._after] * _SWEEPS)[:_SWEEPS]
        for near in [*sides, [one + two for one, two in zip(self._before, self._after, strict=True)]]:
            for layer, apart in reversed(layers) if near is self._after else layers:
                wanted = [_mean([middles[n] for n in near[cell]], middles[cell]) for cell in layer]
                weights = [float(len(near[cell])) or 0.05 for cell in layer]
                for cell, middle in zip(layer, _spread(wanted, weights, apart), strict=True):
                    middles[cell] = middle
        return middles

    def _distance(self, above: int, below: int) -> float:
        boxes = len(self._names)
        gap = GAP if above < boxes and below < boxes else _LANE_GAP
        return (self._heights[above] + self._heights[below]) / 2 + gap

    def layout(self) -> Layout:
        self._uncross()
        middles = self._middles()
        top = min((middles[cell] - self._heights[cell] / 2 for cell in range(len(middles))), default=0.0)
        middles = [middle - top for middle in middles]
        columns = self._columns(middles)
        boxes: dict[str, Box] = {}
        for cell, name in enumerate(self._names):
            left, right = columns[self._layer[cell]]
            width, height = self._sizes[name]
            boxes[name] = Box((left + right - width) / 2, middles[cell] - height / 2, width, height)
        routes = tuple(self._route(chain, middles, columns, boxes) for chain in self._chains)
        return Layout(
            boxes,
            routes,
            {name: columns[self._layer[cell]][1] for cell, name in enumerate(self._names)},
            max((right for _, right in columns), default=0.0),
            max((middles[cell] + self._heights[cell] / 2 for cell in range(len(middles))), default=0.0),
        )

    def _columns(self, middles: list[float]) -> list[tuple[float, float]]:
        """From where to where each layer goes. The steeper the edges between two layers, the further they are apart."""
        columns: list[tuple[float, float]] = []
        x = 0.0
        for layer in self._order:
            width = max((self._sizes[self._names[cell]][0] for cell in layer if cell < len(self._names)), default=0.0)
            columns.append((x, x + width))
            rise = max((abs(middles[cell] - middles[after]) for cell in layer for after in self._after[cell]), default=0.0)
            x += width + _GUTTER + min(_MAX_EXTRA_GUTTER, rise * _STEEP)
        return columns

    def _route(
        self, chain: list[int], middles: list[float], columns: list[tuple[float, float]], boxes: Mapping[str, Box]
    ) -> tuple[Lane, ...]:
        first, *passed, last = chain
        source, target = boxes[self._names[first]], boxes[self._names[last]]
        return (
            Lane(source.right, columns[self._layer[first]][1], middles[first]),
            *(Lane(*columns[self._layer[cell]], middles[cell]) for cell in passed),
            Lane(columns[self._layer[last]][0], target.x, middles[last]),
        )


def _mean(values: Sequence[float], otherwise: float) -> float:
    return sum(values) / len(values) if values else otherwise


def _spread(wanted: Sequence[float], weights: Sequence[float], apart: Sequence[float]) -> list[float]:
    """The places nearest to ``wanted`` (least squares) in this order and at least ``apart``: neighbours that would come too
    near are pooled and moved as one."""
    offsets = [0.0]
    for distance in apart:
        offsets.append(offsets[-1] + distance)
    pools: list[tuple[float, float, int]] = []  # (mean, weight, count)
    for place, weight, offset in zip(wanted, weights, offsets, strict=False):
        mean, count = place - offset, 1
        while pools and pools[-1][0] >= mean:
            above, its_weight, its_count = pools.pop()
            mean = (above * its_weight + mean * weight) / (its_weight + weight)
            weight, count = weight + its_weight, count + its_count
        pools.append((mean, weight, count))
    flat = [mean for mean, _, count in pools for _ in range(count)]
    return [mean + offset for mean, offset in zip(flat, offsets, strict=False)]
