"""Decoding request bodies: into structs, with errors that name the path and what is accepted."""

from typing import Any, TypeVar

import msgspec

from event_streaming_bus.errors import InvalidInputError, PayloadTooLargeError
from event_streaming_bus.json_places import placed
from event_streaming_bus.struct_errors import told

T = TypeVar("T")


def decode(body: bytes, kind: type[T], max_bytes: int) -> T:
    """The body as ``kind``. Raises ``InvalidInputError`` or ``PayloadTooLargeError``."""
    if len(body) > max_bytes:
        raise PayloadTooLargeError(f"the body has {len(body):,} bytes; at most {max_bytes:,} are accepted")
    try:
        return msgspec.json.decode(body, type=kind)
    except msgspec.ValidationError as error:
        raise InvalidInputError(told(str(error), lambda path: _accepted(kind))) from None
    except RecursionError:
        raise InvalidInputError("the body is nested too deep") from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise InvalidInputError(f"the body is not JSON: {placed(str(error), body)}") from None


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
