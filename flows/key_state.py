"""What a CUSTOM of the form ``keyed`` keeps for one key: a mapping that its function reads and writes.

What is stored changes only when a call has succeeded. Until then it lies in a draft, so a call that fails leaves nothing
behind, not even a change within a nested list. Numbers, text and other immutable plain values are stored as they are. Any
other value is stored pickled: it is unpickled when the function first reads it in a call, and pickled again when the call
succeeds. So a call costs what it touches, however much else its key holds, and what was stored is proven to be plain data by
the event that stored it, not by a snapshot later.
"""

import collections
import datetime
import decimal
import fractions
import io
import pickle
import uuid
import zoneinfo
from collections.abc import Iterator, Mapping, MutableMapping, Sequence
from typing import Any, Final, TypeAlias

import msgspec

_ATOMS: Final = frozenset({type(None), bool, int, float, str, bytes})
"""The types that are stored as they are."""

_CONTAINERS: Final = (list, tuple, dict, set, frozenset, bytearray)
_PLAIN: Final = frozenset(
    {
        *(*_ATOMS, *_CONTAINERS, complex),
        *(collections.Counter, collections.OrderedDict, collections.defaultdict, collections.deque),
        *(datetime.date, datetime.datetime, datetime.time, datetime.timedelta, datetime.timezone),
        *(decimal.Decimal, fractions.Fraction, uuid.UUID, zoneinfo.ZoneInfo),
    }
)
_EXPECTED: Final = (
    "plain data: None, bool, numbers, text, bytes, date and time types, UUID, and lists, tuples, sets, dicts and deques of them"
)


class Packed(msgspec.Struct, frozen=True, gc=False):
    """A stored value, pickled."""

    data: bytes


Stored: TypeAlias = dict[str, Any]
"""What is stored for one key, by name: atoms and ``Packed``."""


class _Gone:
    """What stands in a draft for a name that was removed."""


_GONE: Final = _Gone()
_ABSENT: Final = _Gone()


class KeyState(MutableMapping[str, Any]):
    """The state of one key: a mutable mapping from text to plain data.

    ``key`` has the values of the key's fields. ``is_new``: nothing is stored for the key, for this is its first event, or it was
    cleared, or it was not used for longer than ``state_ttl_ms``. Made by hand, ``KeyState({"count": 2}, key=["c1"])`` is what a
    function is handed for a key with such a state.
    """

    __slots__ = ("_draft", "_key", "_stored")

    def __init__(self, values: Mapping[str, Any] | None = None, *, key: Sequence[Any] = ()) -> None:
        self._stored: Stored = {}
        self._draft: dict[str, Any] = dict(values or {})
        self._key = msgspec.json.encode(list(key))
        self.commit()

    @classmethod
    def of(cls, stored: Stored, key: bytes) -> "KeyState":
        """The state over what is stored, which ``commit`` changes. ``key`` is a JSON array."""
        state = cls.__new__(cls)
        state._stored = stored
        state._draft = {}
        state._key = key
        return state

    @property
    def key(self) -> list[Any]:
        """The values of the key's fields, in the order of ``processing_logic.key``."""
        values: list[Any] = msgspec.json.decode(self._key)
        return values

    @property
    def is_new(self) -> bool:
        """Whether nothing was stored for the key when the function was called."""
        return not self._stored

    def set(self, name: str, value: Any) -> None:
        """The same as ``state[name] = value``."""
        self[name] = value

    def commit(self) -> None:
        """Store the draft, all of it or, with a ``TypeError`` that names what is not plain data, nothing."""
        packed = {name: value if type(value) in _ATOMS else _pack(name, value) for name, value in self._draft.items()}
        stored = self._stored
        for name, value in packed.items():
            if value is _GONE:
                stored.pop(name, None)
            else:
                stored[name] = value
        self._draft = {}

    def __getitem__(self, name: str) -> Any:
        value = self._draft.get(name, _ABSENT)
        if value is _ABSENT:
            value = self._stored[name]
            if type(value) is Packed:
                # The function may change it in place, so it is in the draft from now on.
                value = self._draft[name] = pickle.loads(value.data)  # noqa: S301 - pickled by _pack
        elif value is _GONE:
            raise KeyError(name)
        return value

    def __setitem__(self, name: str, value: Any) -> None:
        if type(name) is not str:
            raise TypeError(f"the names in a state are text, got {name!r} of type {type(name).__name__}")
        self._draft[name] = value

    def __delitem__(self, name: str) -> None:
        if name not in self:
            raise KeyError(name)
        self._draft[name] = _GONE

    def __contains__(self, name: object) -> bool:
        value = self._draft.get(name, _ABSENT)  # type: ignore[call-overload]
        return name in self._stored if value is _ABSENT else value is not _GONE

    def __iter__(self) -> Iterator[str]:
        draft, stored = self._draft, self._stored
        yield from [name for name in stored if draft.get(name) is not _GONE]
        yield from [name for name, value in draft.items() if name not in stored and value is not _GONE]

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def clear(self) -> None:
        """Remove everything. A key without anything stored takes no memory, and is new again for its next event."""
        self._draft = dict.fromkeys(self._stored, _GONE)

    def __repr__(self) -> str:
        return f"KeyState({dict(self)!r}, key={self.key!r})"


class _Pickler(pickle.Pickler):
    """Pickles plain data and nothing else: what it makes can be read wherever Python runs, without a user's module."""

    def reducer_override(self, value: Any) -> Any:
        # Asked of everything but atoms and containers of the very types; so also of classes, as the parts of what is pickled.
        kind = value if isinstance(value, type) else type(value)
        if kind not in _PLAIN:
            raise TypeError(f"a value of type {kind.__qualname__}" if kind is not value else f"the class {kind.__qualname__}")
        if kind is zoneinfo.ZoneInfo and value is not kind:
            return kind, (value.key,)
        return NotImplemented


def _pack(name: str, value: Any) -> Any:
    if value is _GONE:
        return _GONE
    buffer = io.BytesIO()
    try:
        _Pickler(buffer, protocol=5).dump(value)
    except TypeError as error:
        raise TypeError(f"state[{name!r}]: expected {_EXPECTED}; got {error}") from None
    return Packed(buffer.getvalue())
