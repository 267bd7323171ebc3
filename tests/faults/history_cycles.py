"""Cycles among transactions: the proof that no order of them explains what they saw.

The graph is Adya's direct serialisation graph ("Weak Consistency: A Generalized Theory and Optimistic Implementations for
Distributed Transactions", MIT 1999): its nodes are transactions, and an edge says that one must come before the other. What kinds
of edges a cycle is made of names the anomaly, as in his thesis and in Kingsbury and Alvaro, "Elle: Inferring Isolation Anomalies
from Experimental Observations" (VLDB 2020), from which the edges of real time come as well.

Components are found by Tarjan's algorithm ("Depth-first search and linear graph algorithms", 1972), without recursion.
"""

from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from enum import IntFlag
from typing import Final, NamedTuple


class Edge(IntFlag):
    """Why one transaction comes before another.

    WW: it wrote the version that the other one replaced. WR: the other one read what it wrote. RW: it read the version that the
    other one replaced. RT: it had ended when the other one was invoked.
    """

    WW = 1
    WR = 2
    RW = 4
    RT = 8


class Cycle(NamedTuple):
    """``name``: of the anomaly. ``nodes`` one after the other; ``edges`` from each to the next, from the last to the first."""

    name: str
    nodes: tuple[int, ...]
    edges: tuple[Edge, ...]


_NAMES: Final = (("G0", Edge.WW, False), ("G1c", Edge.WW | Edge.WR, False), ("G-single", Edge.WW | Edge.WR, True))
_MOST_TRIED: Final = 500


class Graph:
    """Transactions by number, and why which comes before which."""

    def __init__(self) -> None:
        self._after: dict[int, dict[int, Edge]] = {}

    def add(self, before: int, after: int, why: Edge) -> None:
        """An edge; none from a transaction to itself."""
        if before != after:
            edges = self._after.setdefault(before, {})
            edges[after] = edges.get(after, why) | why

    def add_real_time(self, spans: Sequence[tuple[int, int, int]], first_free: int) -> None:
        """An edge from each transaction to those that were invoked after its end. ``spans``: ``(start, end, number)``.

        These would be too many. So there is a node for each end, from ``first_free`` on, each before the next one: a transaction
        is before that of its own end, and that of the last end before its beginning is before it.
        """
        ends = sorted((end, number) for _, end, number in spans)
        for at, (_, number) in enumerate(ends):
            self.add(number, first_free + at, Edge.RT)
            if at:
                self.add(first_free + at - 1, first_free + at, Edge.RT)
        at = 0
        for start, _, number in sorted(spans):
            while at < len(ends) and ends[at][0] < start:
                at += 1
            if at:
                self.add(first_free + at - 1, number, Edge.RT)

    def cycles(self) -> Iterator[Cycle]:
        """One cycle for each strongly connected component: of the worst kind that is there, and of these a short one."""
        for component in components(self._after, lambda node: self._after.get(node, ())):
            found = self._worst(set(component))
            if found is not None:
                yield found

    def _worst(self, component: set[int]) -> Cycle | None:
        for real_time, suffix in ((Edge(0), ""), (Edge.RT, "-realtime")):
            for name, allowed, is_single in _NAMES:
                search = self._with_one_rw if is_single else self._any
                path = search(component, allowed | real_time)
                if path is not None:
                    return self._told(name + suffix, path, allowed | real_time)
            path = self._any(component, Edge.WW | Edge.WR | Edge.RW | real_time)
            if path is not None:
                return self._told("G2-item" + suffix, path, Edge.WW | Edge.WR | real_time)
        return None

    def _next(self, node: int, within: Collection[int], allowed: Edge) -> Iterator[int]:
        return (after for after, why in self._after.get(node, {}).items() if why & allowed and after in within)

    def _any(self, within: set[int], allowed: Edge) -> list[int] | None:
        """A cycle of such edges."""
        for smaller in components(within, lambda node: self._next(node, within, allowed)):
            inner = set(smaller)
            for node in smaller[:_MOST_TRIED]:
                path = self._path(node, node, inner, allowed)
                if path is not None:
                    return path
        return None

    def _with_one_rw(self, within: set[int], allowed: Edge) -> list[int] | None:
        """A cycle of such edges and one RW."""
        tried = 0
        for node in sorted(within):
            for after, why in self._after.get(node, {}).items():
                if after not in within or not why & Edge.RW:
                    continue
                path = self._path(after, node, within, allowed)
                if path is not None:
                    return [node, *path[:-1]]
                tried += 1
                if tried == _MOST_TRIED:
                    return None
        return None

    def _path(self, start: int, end: int, within: set[int], allowed: Edge) -> list[int] | None:
        """The shortest way from ``start`` to ``end``, both included; from a node to itself without it at the end."""
        came_from: dict[int, int] = {}
        waiting = deque([start])
        while waiting:
            node = waiting.popleft()
            for after in self._next(node, within, allowed):
                if after == end:
                    path = [node]
                    while path[-1] != start:
                        path.append(came_from[path[-1]])
                    return [*reversed(path), *([] if start == end else [end])]
                if after not in came_from and after != start:
                    came_from[after] = node
                    waiting.append(after)
        return None

    def _told(self, name: str, path: list[int], preferred: Edge) -> Cycle:
        edges = []
        for node, after in zip(path, [*path[1:], path[0]], strict=True):
            why = self._after[node][after]
            for each in (Edge.WW, Edge.WR, Edge.RT, Edge.RW):
                if why & each and (each & preferred or each is Edge.RW):
                    edges.append(each)
                    break
        return Cycle(name, tuple(path), tuple(edges))


def components(nodes: Iterable[int], after: Callable[[int], Iterable[int]]) -> list[list[int]]:
    """The strongly connected components of more than one node."""
    index: dict[int, int] = {}
    low: dict[int, int] = {}
    stack: list[int] = []
    on_stack: set[int] = set()
    found: list[list[int]] = []
    for root in nodes:
        if root in index:
            continue
        work: list[tuple[int, Iterator[int]]] = [(root, iter(after(root)))]
        index[root] = low[root] = len(index)
        stack.append(root)
        on_stack.add(root)
        while work:
            node, rest = work[-1]
            for child in rest:
                if child not in index:
                    index[child] = low[child] = len(index)
                    stack.append(child)
                    on_stack.add(child)
                    work.append((child, iter(after(child))))
                    break
                if child in on_stack:
                    low[node] = min(low[node], index[child])
            else:
                work.pop()
                if work:
                    low[work[-1][0]] = min(low[work[-1][0]], low[node])
                if low[node] == index[node]:
                    component: list[int] = []
                    while not component or component[-1] != node:
                        component.append(stack.pop())
                        on_stack.discard(component[-1])
                    if len(component) > 1:
                        found.append(component)
    return found
