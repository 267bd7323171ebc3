"""What the functions and methods of expressions take and give, as types."""

from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

from event_streaming_bus.flows.types import (
    ANY,
    BOOLEAN,
    COUNTS,
    INTEGER,
    NUMBER,
    NUMERIC,
    TEXT,
    Kind,
    Type,
    list_of,
    not_null,
    number_of,
    union,
)

Accepted = frozenset[Kind]
_ANYTHING: Final[Accepted] = frozenset()
_TEXT: Final = frozenset({Kind.TEXT})
_LIST: Final = frozenset({Kind.LIST})


class _Signature(NamedTuple):
    """``takes``: the kinds that each argument may be of; the empty set stands for anything, null included. ``gives``: the
    result's type, or what makes it of the arguments' types."""

    takes: tuple[Accepted, ...]
    gives: Type | Callable[[Sequence[Type]], Type]


def _same_number(arguments: Sequence[Type]) -> Type:
    return number_of(arguments[0])


def _rounded(arguments: Sequence[Type]) -> Type:
    return INTEGER if len(arguments) == 1 else _same_number(arguments)


def _first_given(arguments: Sequence[Type]) -> Type:
    return union(*(not_null(each) for each in arguments[:-1]), arguments[-1])


def _extreme(arguments: Sequence[Type]) -> Type:
    if len(arguments) > 1:
        return union(*arguments)
    return arguments[0].item or ANY


def _as_sorted(arguments: Sequence[Type]) -> Type:
    return list_of(arguments[0].item or ANY)


_SIGNATURES: Final[dict[str, _Signature]] = {
    "abs": _Signature((COUNTS,), _same_number),
    "all": _Signature((_LIST,), BOOLEAN),
    "any": _Signature((_LIST,), BOOLEAN),
    "bool": _Signature((), BOOLEAN),
    "coalesce": _Signature((), _first_given),
    "concat": _Signature((), TEXT),
    "date": _Signature((NUMERIC,), TEXT),
    "float": _Signature((COUNTS | _TEXT,), NUMBER),
    "format_time": _Signature((NUMERIC, _TEXT), TEXT),
    "hash": _Signature((), INTEGER),
    "hour": _Signature((NUMERIC,), INTEGER),
    "int": _Signature((COUNTS | _TEXT,), INTEGER),
    "len": _Signature((_TEXT | _LIST | {Kind.OBJECT},), INTEGER),
    "matches": _Signature((_TEXT, _TEXT), BOOLEAN),
    "max": _Signature((), _extreme),
    "min": _Signature((), _extreme),
    "parse_time": _Signature((_TEXT | {Kind.INTEGER},), INTEGER),
    "round": _Signature((COUNTS, NUMERIC), _rounded),
    "sorted": _Signature((_LIST,), _as_sorted),
    "str": _Signature((), TEXT),
    "sum": _Signature((_LIST,), NUMBER),
}

_TESTS: Final = ("isalnum", "isalpha", "isdigit", "islower", "isnumeric", "isspace", "isupper", "startswith", "endswith")
METHOD_RESULTS: Final[dict[str, Type]] = {**dict.fromkeys(_TESTS, BOOLEAN), "find": INTEGER, "split": list_of(TEXT)}
"""What methods of text give; those that are not here give text."""


def call_type(name: str, arguments: Sequence[Type]) -> tuple[Type, tuple[Accepted, ...]]:
    """The type that a call gives, and which kinds each of its arguments may be of (empty: any, null included)."""
    signature = _SIGNATURES.get(name)
    if signature is None:
        return ANY, ()
    takes = signature.takes
    if name in ("max", "min"):
        takes = (_LIST,) if len(arguments) == 1 else (frozenset(Kind) - {Kind.NULL, Kind.OBJECT},) * len(arguments)
    gives = signature.gives
    return (gives if isinstance(gives, Type) else gives(arguments)), takes
