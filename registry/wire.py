"""The wire format that clients of a schema registry share: a zero byte, the schema's id in four bytes, most significant first,
then the payload."""

import struct
from typing import Final

PREFIX_BYTES: Final = 5
_PREFIX: Final = struct.Struct(">bI")


def prefix(number: int) -> bytes:
    """What stands before a payload that was written with the schema of this id."""
    return _PREFIX.pack(0, number)


def has_prefix(data: bytes) -> bool:
    """Whether the data may be in the wire format. JSON text never is: it has no zero byte."""
    return len(data) >= PREFIX_BYTES and data[0] == 0


def id_of(data: bytes) -> int:
    """The schema's id. The data must have a prefix."""
    number: int = _PREFIX.unpack_from(data)[1]
    return number
