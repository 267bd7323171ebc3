"""Decoding request bodies: into structs, with errors that name the path and what is accepted."""

import re
from difflib import get_close_matches
from typing import Any, TypeVar

import msgspec

from event_streaming_bus.errors import InvalidInputError, PayloadTooLargeError
from event_streaming_bus.json_places import placed

T = TypeVar("T")


def decode(body: bytes, kind: type[T], max_bytes: int) -> T:
    """The body as ``kind``. Raises ``InvalidInputError`` or ``PayloadTooLargeError``."""
    if len(body) > max_bytes:
        raise PayloadTooLargeError(f"the body has {len(body):,} bytes; at most {max_bytes:,} are accepted")
    try:
        return msgspec.json.decode(body, type=kind)
    except msgspec.ValidationError as error:
        raise InvalidInputError(_told(str(error), kind)) from None
    except RecursionError:
        raise InvalidInputError("the body is nested too deep") from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise InvalidInputError(f"the body is not JSON: {placed(str(error), body)}") from None


def _told(message: str, kind: type[Any]) -> str:
    """msgspec's message with the path in front, and for an unknown field the nearest one there is."""
    reason, _, place = message.partition(" - at `$")
    path = place.rstrip("`").lstrip(".")
    unknown = re.search(r"unknown field `(.+)`", reason)
    if unknown is None:
        return f"{path}: {reason}" if path else reason
    accepted = sorted({name for struct in (kind, *nested_structs(kind)) for name in struct.__struct_fields__})
    near = get_close_matches(unknown[1], accepted, 1)
    hint = f"; did you mean '{near[0]}'?" if near else ""
    where = f"{path}.{unknown[1]}" if path else unknown[1]
    return f"{where}: unknown field{hint} (accepted: {', '.join(accepted)})"


def nested_structs(kind: type[Any]) -> list[type[msgspec.Struct]]:
    """The structs that the fields of ``kind`` are lists of."""
    found = []
    for field in msgspec.structs.fields(kind):
        for argument in getattr(field.type, "__args__", ()):
            if isinstance(argument, type) and issubclass(argument, msgspec.Struct):
                found.append(argument)  # noqa: PERF401 - two conditions read better this way
    return found
