"""Named SQL queries, kept in ``.sql`` files beside the modules that run them."""

import re
from collections.abc import Mapping
from importlib.resources import files
from types import MappingProxyType
from typing import Final

_NAME: Final = re.compile(r"^-- name: *(\w+(?:@\w+)?) *$", re.MULTILINE)
_variants: Final[dict[str, dict[str, str]]] = {"postgresql": {}}


def load_queries(filename: str, package: str = "event_streaming_bus.store") -> Mapping[str, str]:
    """The queries of ``filename`` in ``package`` by name: each begins with a line ``-- name: the_name``.

    A query ``the_name@postgresql`` is what stands for ``the_name`` on that engine: ``variant`` finds it. It has no name of its
    own.
    """
    text = files(package).joinpath(filename).read_text("utf-8")
    parts = _NAME.split(text)
    queries = {name: sql.strip() for name, sql in zip(parts[1::2], parts[2::2], strict=True)}
    for name in [name for name in queries if "@" in name]:
        plain, _, engine = name.partition("@")
        _variants[engine][queries[plain]] = queries.pop(name)
    return MappingProxyType(queries)


def variant(sql: str, engine: str) -> str:
    """How a loaded query is put to an engine: in its own words, if it has any there."""
    return _variants[engine].get(sql, sql)
