"""Payloads that can only be read with a schema: where those who read find it.

The ids of schema versions are unique everywhere, so one table serves all data folders that a process has open. Whoever can look
schemas up says so with ``add_source``; what was found is kept, up to a bound.
"""

import threading
import weakref
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any, Final, Protocol

import msgspec

_MAX_READERS: Final = 512


class PayloadReader(Protocol):
    """Reads payloads that were written with one version of a schema."""

    def read_many(self, data: Sequence[bytes], fields: frozenset[str] | None = None) -> list[Any]:
        """The payloads as JSON values; ``fields``: those of their top-level fields that are wanted, None for all. Raises
        ``msgspec.DecodeError`` if one is damaged."""
        ...


class ReaderSource(Protocol):
    """Finds readers."""

    def payload_reader(self, schema_id: str) -> PayloadReader | None:
        """The reader for this version of a schema; None if it is not known here."""
        ...


_readers: OrderedDict[str, PayloadReader] = OrderedDict()
_sources: "weakref.WeakSet[ReaderSource]" = weakref.WeakSet()
_lock = threading.Lock()


def add_source(source: ReaderSource) -> None:
    """Look for readers at ``source`` too, for as long as it is used by others."""
    with _lock:
        _sources.add(source)


def reader(schema_id: str | None) -> PayloadReader:
    """The reader for a version of a schema. Raises ``msgspec.DecodeError`` if nobody knows it."""
    with _lock:
        found = _readers.get(schema_id or "")
        sources = list(_sources) if found is None else ()
    if found is not None:
        return found
    for source in sources:
        found = source.payload_reader(schema_id) if schema_id else None
        if found is not None:
            with _lock:
                _readers[schema_id or ""] = found
                while len(_readers) > _MAX_READERS:
                    _readers.popitem(last=False)
            return found
    raise msgspec.DecodeError(f"the schema {schema_id} that the payload was written with is not known here")


def read_payload(schema_id: str | None, data: bytes) -> Any:
    """One payload as a JSON value. Raises ``msgspec.DecodeError``."""
    return reader(schema_id).read_many((data,))[0]
