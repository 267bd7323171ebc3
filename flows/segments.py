"""Segments: trees of processors run over events one after the other, until all that read on have run.

A tree ends where a processor makes several events of one, or sets failed ones aside for those that read its port ``errors``. What
reads on from there is a tree of its own over those events.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from event_streaming_bus.flows.codegen import Tree, compile_tree
from event_streaming_bus.flows.items import Outputs
from event_streaming_bus.flows.outputs import NodeOutcome, Surroundings, settle
from event_streaming_bus.flows.plan import Edge
from event_streaming_bus.flows.processors import ends_tree
from event_streaming_bus.flows.rows import Rows


class Gathered(msgspec.Struct, frozen=True):
    """What was collected for a processor with state: ``collected`` is its type's business; indexes in it are of ``rows``.

    ``is_mapped``: the payload it saw is not that of the event.
    """

    rows: Rows
    collected: Any
    is_mapped: bool


class Ran(msgspec.Struct):
    """What came of a run: events by stream id, what became of events in each processor, and what was gathered, by the number
    of the processor with state."""

    events: Outputs
    nodes: list[NodeOutcome]
    gathered: dict[int, list[Gathered]]

    def join(self, other: "Ran") -> None:
        """All that came of another run."""
        self.events.join(other.events)
        self.nodes += other.nodes
        self.gather(other.gathered)

    def gather(self, gathered: Mapping[int, Sequence[Gathered]]) -> None:
        """More that was gathered."""
        for number, parts in gathered.items():
            self.gathered.setdefault(number, []).extend(parts)


class Segments:
    """Runs trees of processors; each is compiled once."""

    def __init__(self, surroundings: Surroundings) -> None:
        self._surroundings = surroundings
        self._trees: dict[tuple[tuple[int, int], ...], Tree] = {}

    def run(self, edges: Sequence[Edge], rows: Rows, *, future: frozenset[int] = frozenset(), gather_only: bool = False) -> Ran:
        """Run the processors at ``edges``, and all that read on from there, over ``rows``.

        ``gather_only``: what they write has been written before, and only what is gathered counts.
        """
        ran = Ran(Outputs(), [], {})
        if not edges or not rows.count:
            return ran
        too_far = future
        todo: list[tuple[Sequence[Edge], Rows]] = [(edges, rows)]
        while todo:
            edges, rows = todo.pop()
            if too_far and not isinstance(rows.roots, range):
                future = frozenset(i for i, root in enumerate(rows.roots) if root in too_far)
            tree = self._tree(edges)
            payloads, undecoded = rows.decode(tree.decoder)
            columns = {name: rows.column(name) for name in tree.columns}
            outputs, failures = tree.run(payloads, columns, rows.count, future)
            for node, collected in zip(tree.nodes, outputs, strict=True):
                if node.has_state:
                    gathered = Gathered(rows, collected, node.number in tree.mapped)
                    ran.gathered.setdefault(node.number, []).append(gathered)
            if gather_only and not _has_followers(tree):
                continue
            settled = settle(tree, rows, outputs, failures, undecoded, self._surroundings)
            todo += settled.followers
            if not gather_only:
                ran.nodes += settled.nodes
                ran.events.join(settled.events)
        return ran

    def _tree(self, edges: Sequence[Edge]) -> Tree:
        name = tuple((edge.node.number, edge.side) for edge in edges)
        tree = self._trees.get(name)
        if tree is None:
            tree = self._trees[name] = compile_tree(edges)
        return tree


def _has_followers(tree: Tree) -> bool:
    return any(node.error_children or (node.children and not node.has_state and ends_tree(node.spec)) for node in tree.nodes)
