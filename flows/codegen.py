"""Turns the stateless part of a stage into one Python function over a chunk of events.

The function loops once over the events. Each processor is a few lines in the loop, nested in those of the processor whose
output it reads; its expressions are pasted in as native code. Only the top-level fields that the processors touch are decoded,
into a struct made for them, unless one of the processors needs the whole payload. An exception in one processor's lines counts
against that processor and that event only.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeAlias

import msgspec

from event_streaming_bus.expressions import ENVELOPE_NAMES, NAMESPACE, Expression
from event_streaming_bus.flows.plan import Node

Failure: TypeAlias = tuple[int, int, Exception]
"""(position of the node among the tree's nodes, index of the event, what was raised)"""


class Code:
    """Lines of Python being written, and the constants they use."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.constants: dict[str, object] = dict(NAMESPACE) | {"Exception": Exception, "str": str}
        self._depth = 0

    def line(self, text: str) -> None:
        self.lines.append("    " * self._depth + text)

    @contextmanager
    def block(self, header: str) -> Iterator[None]:
        self.line(header)
        self._depth += 1
        yield
        self._depth -= 1

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


class Reading:
    """How generated code reads the event at hand: its envelope from columns, its payload from a struct or a dict."""

    def __init__(
        self, payload: str, columns: set[str], fields: dict[str, str] | None, replaced: dict[str, str] | None = None
    ) -> None:
        self.payload = payload
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
            return self._nested(self._replaced[name], rest)
        column = ENVELOPE_NAMES[name]
        self._columns.add(column)
        return self._nested(f"c_{column}[i]", rest)

    def field(self, path: Sequence[str]) -> str:
        """The code that reads a dotted path of the payload; null where there is nothing."""
        top, *rest = path
        if self._fields is None:
            return self._nested(f"{self.payload}.get({top!r})", rest)
        return self._nested(f"{self.payload}.{self._fields[top]}", rest)

    def _nested(self, value: str, rest: Sequence[str]) -> str:
        return f"_get_path({value}, {tuple(rest)!r})" if rest else value

    def expression(self, expression: Expression) -> str:
        """The code of an expression, in parentheses."""
        return f"({expression.source(self.resolve)})"


class Tree(msgspec.Struct, frozen=True):
    """A compiled tree: ``run(items, columns)`` returns ``(outputs, failures)``.

    ``items`` are pairs of index and payload; ``columns`` the envelope columns named in ``columns``, by name. ``outputs`` has one
    collection per node, in the order of ``nodes``; what is in it is the node type's business.
    ``decoder`` decodes payloads to what ``run`` takes.
    """

    nodes: tuple[Node, ...]
    run: Callable[[Any, dict[str, Sequence[Any]]], tuple[list[Any], list[Failure]]]
    columns: frozenset[str]
    decoder: "msgspec.json.Decoder[Any]"
    source: str


def compile_tree(roots: Sequence[Node], *, decoded: bool = False) -> Tree:
    """Compile the trees under ``roots``, which all read the same events. ``decoded``: their payloads are dicts already."""
    from event_streaming_bus.flows.processors import PROCESSOR_TYPES

    nodes = tuple(node for root in roots for node in root.walk_stateless())
    index_of = {node.number: i for i, node in enumerate(nodes)}
    code, columns = Code(), set[str]()
    touched = None if decoded else _touched(roots)
    payload_type: Any = dict[str, Any]
    fields: dict[str, str] | None = None
    if touched is not None:
        fields = {name: f"f{i}" for i, name in enumerate(sorted(touched))}
        payload_type = msgspec.defstruct(
            "Payload", [(field, Any, None) for field in fields.values()], rename={f: n for n, f in fields.items()}, gc=False
        )
    body = Code()
    body.constants = code.constants

    def generate(node: Node, reading: Reading) -> None:
        kind = PROCESSOR_TYPES[node.spec.processor_type]
        kind.generate(node, f"{index_of[node.number]}", body, reading, lambda below: children(node, below))

    def children(node: Node, reading: Reading) -> None:
        for child in node.children:
            generate(child, reading)

    with body.block("def run(items, columns):"):
        body.line("#columns")
        body.line("failures = []")
        for i, node in enumerate(nodes):
            body.line(f"o{i} = {PROCESSOR_TYPES[node.spec.processor_type].collection}")
        with body.block("for i, p in items:"):
            for root in roots:
                generate(root, Reading("p", columns, fields))
        body.line(f"return [{', '.join(f'o{i}' for i in range(len(nodes)))}], failures")
    at = body.lines.index("    #columns")
    body.lines[at : at + 1] = [f"    c_{name} = columns[{name!r}]" for name in sorted(columns)]
    run = body.define("run")
    return Tree(nodes, run, frozenset(columns), msgspec.json.Decoder(payload_type), "\n".join(body.lines))


def _touched(roots: Sequence[Node]) -> set[str] | None:
    """The top-level payload fields that the trees read from the source's payload; ``None`` if one reads the whole."""
    from event_streaming_bus.flows.processors import PROCESSOR_TYPES

    touched: set[str] = set()

    def visit(node: Node) -> bool:
        kind = PROCESSOR_TYPES[node.spec.processor_type]
        for path in kind.payload_paths(node.spec):
            if not path:
                return False
            touched.add(path[0])
        return not kind.keeps_payload or all(map(visit, node.children))

    return touched if all(map(visit, roots)) else None
