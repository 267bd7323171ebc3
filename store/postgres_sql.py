"""The SQL of the stores as psycopg takes it."""

import re
from functools import lru_cache
from typing import Final

from event_streaming_bus.store.sql import variant

# What is in quotes or behind -- stays as it is, but for the percent sign, which stands for values.
_PART: Final = re.compile(r"'(?:[^']|'')*'|--[^\n]*|::\w+|:(?P<name>[a-z_]\w*)|(?P<place>\?)|%", re.IGNORECASE)


@lru_cache(maxsize=1024)
def translated(sql: str) -> str:
    """A statement with ``%s`` for ``?`` and ``%(name)s`` for ``:name``, in PostgreSQL's own words where it has a variant."""
    return _PART.sub(_translated, variant(sql, "postgresql"))


def _translated(part: re.Match[str]) -> str:
    if part["name"]:
        return f"%({part['name']})s"
    return "%s" if part["place"] else part[0].replace("%", "%%")
