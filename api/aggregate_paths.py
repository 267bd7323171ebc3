"""Ids of aggregates in paths: any text, slashes and percent signs included, if the client encodes it.

Requests are told apart by their decoded path, in which the slash of an id cannot be told from one that separates. So, under one
prefix, the path stays as it was sent, and whoever takes an id from it decodes it.
"""

from typing import Any, Final
from urllib.parse import unquote

_PREFIX: Final = "/api/v1/event-sourcing/aggregates/"


def keep_ids(scope: Any) -> None:
    """Before a request is routed: leave its path encoded, if it is one that names an aggregate."""
    if scope["type"] != "http" or not scope["path"].startswith(_PREFIX):
        return
    raw = scope.get("raw_path")
    path = raw.decode("latin-1") if raw else ""
    scope["path"] = path if path.startswith(_PREFIX) else scope["path"].replace("%", "%25")


def aggregate_named(segment: str) -> str:
    """The id that a part of such a path stands for."""
    return unquote(segment)
