"""Decoding request bodies: into structs, with errors that name the path and what is accepted."""

from functools import cache
from types import UnionType
from typing import Annotated, Any, Final, TypeAlias, TypeVar, Union, get_args, get_origin

import msgspec

from event_streaming_bus.errors import InvalidInputError, PayloadTooLargeError
from event_streaming_bus.json_places import placed
from event_streaming_bus.struct_errors import told

MAX_INTEGER: Final = (1 << 63) - 1
Integer: TypeAlias = Annotated[int, msgspec.Meta(ge=-MAX_INTEGER, le=MAX_INTEGER)]
"""An integer that a store can hold. Where many structs come in one body, this is quicker than to look afterwards."""
T = TypeVar("T")


def decode(body: bytes, kind: type[T], max_bytes: int) -> T:
    """The body as ``kind``. Raises ``InvalidInputError`` or ``PayloadTooLargeError``."""
    if len(body) > max_bytes:
        raise PayloadTooLargeError(f"the body has {len(body):,} bytes; at most {max_bytes:,} are accepted")
    try:
        decoded = msgspec.json.decode(body, type=kind)
    except msgspec.ValidationError as error:
        raise InvalidInputError(told(str(error), lambda path: _accepted(kind))) from None
    except RecursionError:
        raise InvalidInputError("the body is nested too deep") from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise InvalidInputError(f"the body is not JSON: {placed(str(error), body)}") from None
    if isinstance(decoded, msgspec.Struct):
        _check_integers(decoded, "")
    return decoded


def _check_integers(struct: msgspec.Struct, where: str) -> None:
    """Raise ``InvalidInputError`` for an integer that no store could hold."""
    for name in _with_integers(type(struct)):
        value = getattr(struct, name)
        if value.__class__ is int and not -MAX_INTEGER <= value <= MAX_INTEGER:
            raise InvalidInputError(f"{where}{name}: expected an integer of at most 63 bits, got {value}", path=f"{where}{name}")
        for i, each in enumerate(value) if isinstance(value, list) else ():
            if isinstance(each, msgspec.Struct):
                _check_integers(each, f"{where}{name}[{i}].")


@cache
def _with_integers(kind: type[msgspec.Struct]) -> tuple[str, ...]:
    """The fields that may hold integers of any size, or structs that do."""
    return tuple(field.name for field in msgspec.structs.fields(kind) if _may_be_long(field.type))


def _may_be_long(kind: Any) -> bool:
    if get_origin(kind) in (Union, UnionType):
        return any(map(_may_be_long, get_args(kind)))
    if get_origin(kind) is list:
        (of,) = get_args(kind)
        return isinstance(of, type) and issubclass(of, msgspec.Struct) and bool(_with_integers(of))
    return kind is int or kind is Any


def _accepted(kind: type[Any]) -> list[str]:
    return sorted({name for struct in (kind, *nested_structs(kind)) for name in struct.__struct_fields__})


def nested_structs(kind: type[Any]) -> list[type[msgspec.Struct]]:
    """The structs that the fields of ``kind`` are lists of."""
    found = []
    for field in msgspec.structs.fields(kind):
        for argument in getattr(field.type, "__args__", ()):
            if isinstance(argument, type) and issubclass(argument, msgspec.Struct):
                found.append(argument)  # noqa: PERF401 - two conditions read better this way
    return found
