"""Named SQL queries, kept in ``.sql`` files beside the modules that run them."""

import re
from collections.abc import Mapping
from importlib.resources import files
from types import MappingProxyType

_NAME = re.compile(r"^-- name: *(\w+) *$", re.MULTILINE)


def load_queries(filename: str, package: str = "event_streaming_bus.store") -> Mapping[str, str]:
    """The queries of ``filename`` in ``package`` by name: each begins with a line ``-- name: the_name``."""
    text = files(package).joinpath(filename).read_text("utf-8")
    parts = _NAME.split(text)
    return MappingProxyType({name: sql.strip() for name, sql in zip(parts[1::2], parts[2::2], strict=True)})
