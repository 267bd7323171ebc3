"""Turns neighbouring processors into one Python function over a chunk of events.

The function loops once over the events. Each processor is a few lines in the loop, nested in those of the processor whose
output it reads; its expressions are pasted in as native code. Only the top-level fields that the processors touch are decoded,
into a struct made for them, unless one of the processors needs the whole payload. An exception in one processor's lines counts
against that processor and that event only.

A tree ends at processors with state, for which events are gathered by key group, and at those that make several events of one.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeAlias

import msgspec

from event_streaming_bus.expressions import ENVELOPE_NAMES, NAMESPACE, Expression
from event_streaming_bus.flows.payload_structs import payload_struct
from event_streaming_bus.flows.plan import Edge, Node
from event_streaming_bus.flows.processors import ends_tree, kind_of
from event_streaming_bus.flows.processors.map import output_names
from event_streaming_bus.untraced import untraced

Failure: TypeAlias = tuple[int, int, Exception]
"""(position of the node among the tree's nodes, index of the event, what was raised)"""


class Code:
    """Lines of Python being written, and the constants they use. ``prologue`` runs once, before the loop, when the collections
    are there."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.prologue: list[str] = []
        self.constants: dict[str, object] = dict(NAMESPACE) | {
            "Exception": Exception,
            "bytearray": bytearray,
            "bool": bool,
            "str": str,
            "int": int,
            "float": float,
        }
        self._depth = 0

    def line(self, text: str) -> None:
        self.lines.append("    " * self._depth + text)

    @contextmanager
    def block(self, header: str) -> Iterator[None]:
        self.line(header)
        self._depth += 1
        yield
        self._depth -= 1

    def failure(self, place: str) -> None:
        """The end of a ``try``: note what was raised at ``place``, the code of the index (and before it, of the node)."""
        with self.block("except Exception as error:"):
            self.line(f"failures.append(({place}, {self.constant('_untraced', untraced)}(error)))")

    def constant(self, name: str, value: object) -> str:
        """Make ``value`` known to the code as ``name``."""
        self.constants[name] = value
        return name

    def define(self, name: str) -> Callable[..., Any]:
        """The function ``name`` of the lines written."""
        namespace = dict(self.constants)
        source = "\n".join(self.lines)
        exec(compile(source, f"<generated {name}>", "exec"), namespace)  # noqa: S102 - built from checked expressions only
        function: Callable[..., Any] = namespace[name]  # type: ignore[assignment]
        return function


def nested(value: str, rest: Sequence[str]) -> str:
    """The code that reads a path within ``value``, which is the code of a JSON value; null where there is nothing."""
    return f"_get_path({value}, {tuple(rest)!r})" if rest else value


class Reading:
    """How generated code reads the event at hand: its envelope from columns, its payload from a struct or a dict."""

    def __init__(
        self, payload: str, columns: set[str], fields: dict[str, str] | None, replaced: dict[str, str] | None = None
    ) -> None:
        self.payload = payload
        self.is_mapped = replaced is not None
        self.last: int | None = None
        """The number of the MAP that reads the payload last, and writes the very same fields in their order: it may change it."""
        self._columns = columns
        self._fields = fields
        self._replaced = replaced or {}

    def of_mapped(self, payload: str, replaced: dict[str, str]) -> "Reading":
        """Reading what a MAP made: its payload is the dict in the variable ``payload``, and some names of the envelope are
        ``replaced`` by other code."""
        return Reading(payload, self._columns, None, self._replaced | replaced)

    def resolve(self, path: Sequence[str]) -> str:
        """The code that reads a name or dotted path of the expression language."""
        name, *rest = path
        if name == "payload":
            return self.field(rest) if rest else self.payload
        if name in self._replaced:
            return nested(self._replaced[name], rest)
        column = ENVELOPE_NAMES[name]
        self._columns.add(column)
        return nested(f"c_{column}[i]", rest)

    def column(self, name: str) -> str:
        """The code that reads the field ``name`` of the event as it is in the log."""
        self._columns.add(name)
        return f"c_{name}[i]"

    def field(self, path: Sequence[str]) -> str:
        """The code that reads a dotted path of the payload; null where there is nothing."""
        top, *rest = path
        if self._fields is None:
            return nested(f"{self.payload}.get({top!r})", rest)
        return nested(f"{self.payload}.{self._fields[top]}", rest)

    def expression(self, expression: Expression) -> str:
        """The code of an expression, in parentheses."""
        return f"({expression.source(self.resolve)})"


class Tree(msgspec.Struct, frozen=True):
    """A compiled tree: ``run(items, columns, count, future)`` returns ``(outputs, failures)``.

    There are ``count`` events. ``items`` are pairs of index and payload; ``columns`` the envelope columns named in ``columns``,
    by name; ``future`` the indexes of events that are too far ahead of their time. ``outputs`` has one collection per node, in
    the order of ``nodes``; what is in it is the node type's business. ``decoder`` decodes payloads to what ``run`` takes, which
    may change them. ``roots`` are the numbers of the nodes that see every event, and in how many ways; ``mapped`` the numbers of
    those that see another payload than that of the event.
    """

    nodes: tuple[Node, ...]
    roots: dict[int, int]
    mapped: frozenset[int]
    run: Callable[..., tuple[list[Any], list[Failure]]]
    columns: frozenset[str]
    decoder: "msgspec.json.Decoder[Any]"
    source: str


def compile_tree(roots: Sequence[Edge]) -> Tree:
    """Compile the trees under ``roots``, which all read the same events."""
    nodes = tuple(_members(roots))
    index_of = {node.number: i for i, node in enumerate(nodes)}
    columns, mapped = set[str](), set[int]()
    touched = _touched(roots)
    last = None if touched is None else _last_map(roots, touched)
    names = sorted(touched or ()) if last is None else output_names(last.spec)
    struct = None if touched is None else payload_struct(names, None)
    fields, payload_type = struct or (None, dict[str, Any])
    body = Code()

    def generate(edge: Edge, reading: Reading) -> None:
        node = edge.node
        if reading.is_mapped:
            mapped.add(node.number)
        kind = kind_of(node.spec)

        def below(of_children: Reading) -> None:
            for child in node.children:
                generate(child, of_children)

        kind.generate(node, f"{index_of[node.number]}", body, reading, below, edge.side)

    with body.block("def run(items, columns, count, future=()):"):
        body.line("failures = []")
        for i, node in enumerate(nodes):
            body.line(f"o{i} = {kind_of(node.spec).collection_of(node.spec)}")
        body.line("#columns")
        with body.block("for i, p in items:"):
            for root in roots:
                reading = Reading("p", columns, fields)
                if struct is not None and last is not None:
                    reading.last = last.number
                generate(root, reading)
        body.line(f"return [{', '.join(f'o{i}' for i in range(len(nodes)))}], failures")
    at = body.lines.index("    #columns")
    body.lines[at : at + 1] = [f"    c_{name} = columns[{name!r}]" for name in sorted(columns)]
    body.lines[at:at] = [f"    {line}" for line in body.prologue]
    run = body.define("run")
    return Tree(
        nodes,
        dict(Counter(edge.node.number for edge in roots)),
        frozenset(mapped),
        run,
        frozenset(columns),
        msgspec.json.Decoder(payload_type),
        "\n".join(body.lines),
    )


def _last_map(roots: Sequence[Edge], touched: set[str]) -> Node | None:
    """The MAP that reads the source's payload last of all, if it writes the very fields that are read of it."""
    edge = roots[-1]
    while edge.node.children and kind_of(edge.node.spec).keeps_payload:
        edge = edge.node.children[-1]
    names = output_names(edge.node.spec)
    return edge.node if names and not edge.node.children and set(names) == touched else None


def _members(edges: Sequence[Edge]) -> list[Node]:
    """The nodes of a tree, each once, after all those that it reads: a JOIN may read two of them."""
    found: dict[int, Node] = {}

    def visit(edges: Sequence[Edge]) -> None:
        for edge in reversed(edges):
            if edge.node.number in found:
                continue
            if not ends_tree(edge.node.spec):
                visit(edge.node.children)
            found[edge.node.number] = edge.node

    visit(edges)
    return list(found.values())[::-1]


def _touched(roots: Sequence[Edge]) -> set[str] | None:
    """The top-level payload fields that the trees read from the source's payload; ``None`` if one reads the whole."""
    touched: set[str] = set()

    def visit(edge: Edge) -> bool:
        kind = kind_of(edge.node.spec)
        for path in kind.payload_paths(edge.node.spec, edge.side):
            if not path:
                return False
            touched.add(path[0])
        return not kind.keeps_payload or all(map(visit, edge.node.children))

    return touched if all(map(visit, roots)) else None
