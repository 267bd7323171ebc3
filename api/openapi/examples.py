"""The examples of the document: requests in the order of a short story, each with the answer that it got.

They are kept in ``examples.json``. A value ``$name`` in a request stands for what an earlier answer called so.
"""

import re
from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from typing import Any, Final

import msgspec

_NAME: Final = re.compile(r"\$(\w+)")
_FREE: Final = frozenset(
    {
        *("payload", "metadata", "state", "json_schema", "avro_schema", "definition", "flow", "before", "after", "event_data"),
        *("rows", "columns", "processing_logic", "validation_rules", "input_data", "output_data", "example", "examples", "types"),
        *("channels", "operations", "components", "parameters", "defaults"),
    }
)
"""Members that hold what users decide, or what differs from answer to answer."""


class Step(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """A request and its answer. ``operation``: method and route; ``save``: what later requests call members of the answer, which
    are named by their paths."""

    operation: str
    path: dict[str, str] = {}
    query: dict[str, Any] = {}
    headers: dict[str, str] = {}
    body: Any = msgspec.UNSET
    save: dict[str, str] = {}
    status: int = 200
    answer: Any = None
    values: dict[str, str] = {}

    @property
    def key(self) -> tuple[str, str]:
        """Method and route."""
        method, _, route = self.operation.partition(" ")
        return method, route


@cache
def steps() -> tuple[Step, ...]:
    """All of them, in order."""
    text = files("event_streaming_bus.api.openapi").joinpath("examples.json").read_bytes()
    return tuple(msgspec.json.decode(text, type=list[Step]))


@cache
def by_operation() -> Mapping[tuple[str, str], Step]:
    """The first example of each operation."""
    found: dict[tuple[str, str], Step] = {}
    for step in steps():
        found.setdefault(step.key, step)
    return found


def filled(value: Any, known: Mapping[str, str]) -> Any:
    """A part of a request with what ``$name`` stands for."""
    if isinstance(value, str):
        return _NAME.sub(lambda found: known.get(found[1], found[0]), value)
    if isinstance(value, dict):
        return {name: filled(each, known) for name, each in value.items()}
    return [filled(each, known) for each in value] if isinstance(value, list) else value


def schema_of(value: Any) -> dict[str, Any]:
    """What an example says of the answers like it: the names of members, and their types, any of which may be null."""
    if isinstance(value, dict):
        members = {name: {} if name in _FREE else schema_of(each) for name, each in value.items()}
        return {"type": ["object", "null"], "properties": members}
    if isinstance(value, list):
        return {"type": ["array", "null"], "items": schema_of(value[0]) if value else {}}
    if isinstance(value, bool):
        return {"type": ["boolean", "null"]}
    if isinstance(value, int | float):
        return {"type": ["number", "null"]}
    return {} if value is None else {"type": ["string", "null"]}
