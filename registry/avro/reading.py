"""What the functions that decode Avro call when a value does not lie on the main path: numbers of several bytes, blocks, and data
that is corrupt. Nothing here trusts a length or a count."""

import math
import struct
from typing import Any, Final, NoReturn

from event_streaming_bus.registry.avro.types import MAX_DEPTH, MAX_EMPTY_ITEMS
from event_streaming_bus.registry.avro.values import DOUBLE, FLOAT


class StoppedError(Exception):
    """Decoding stopped at the value with this index, because of the error that is its cause."""

    def __init__(self, index: int) -> None:
        super().__init__(index)
        self.index = index


class CorruptError(Exception):
    """The data is no value of the schema. The message says why."""


def reason_of(error: BaseException) -> str:
    if isinstance(error, IndexError | struct.error):
        return "it ends too early"
    if isinstance(error, UnicodeDecodeError):
        return "a text is not UTF-8"
    if isinstance(error, RecursionError):
        return f"it is nested deeper than {MAX_DEPTH} levels"
    return str(error) if isinstance(error, CorruptError | ValueError) else repr(error)


def _more(d: bytes, p: int, number: int) -> tuple[int, int]:
    """A number of several bytes, zigzag, of which the first has been read; and where it ends."""
    byte = d[p]
    if byte < 128:
        return number - 128 + (byte << 7), p + 1
    third = d[p + 1]
    if third < 128:
        return number - 16_512 + (byte << 7) + (third << 14), p + 2
    number += (byte << 7) + (third << 14) - 2_113_664
    p += 2
    for shift in (21, 28, 35, 42, 49, 56, 63):
        byte = d[p]
        p += 1
        if byte < 128:
            number += byte << shift
            if number >> 64:
                break
            return number, p
        number += (byte - 128) << shift
    raise CorruptError("a number has more than 64 bits")


def _more_int(d: bytes, p: int, number: int) -> tuple[int, int]:
    number, p = _more(d, p, number)
    if number >> 32:
        raise CorruptError("an int has more than 32 bits")
    return number, p


def _count(d: bytes, p: int, number: int, least: int, x: list[int]) -> tuple[int, int, int]:
    """A block's count of items that take ``least`` bytes each, the first byte of which has been read; where its items begin; and
    where they must end, -1 if that is not told."""
    if number > 127:
        number, p = _more(d, p, number)
    if number & 1 == 0:
        count, end = number >> 1, -1
    else:
        count = (number >> 1) + 1
        number = d[p]
        p += 1
        if number > 127:
            number, p = _more(d, p, number)
        end = p + (number >> 1)
        if number & 1 or end > len(d):
            raise CorruptError("a block's size is more than there is")
    if least:
        if count > (len(d) - p) // least:
            raise CorruptError("a block has more items than there are bytes for")
    else:
        x[0] -= count
        if x[0] < 0:
            raise CorruptError(f"more than {MAX_EMPTY_ITEMS:,} items that take no bytes")
    return count, p, end


def _skipped_block(d: bytes, p: int, number: int) -> tuple[int, int]:
    """Where a block with a negative count ends, if its size is told; the count and its end otherwise."""
    if number > 127:
        number, p = _more(d, p, number)
    if number & 1 == 0:
        return number >> 1, p
    number = d[p]
    p += 1
    if number > 127:
        number, p = _more(d, p, number)
    if number & 1 or p + (number >> 1) > len(d):
        raise CorruptError("a block's size is more than there is")
    return 0, p + (number >> 1)


def _short() -> NoReturn:
    raise CorruptError("a length is negative or more than there is")


def _corrupt(message: str) -> NoReturn:
    raise CorruptError(message)


def _trailing(d: bytes, p: int) -> NoReturn:
    if p > len(d):
        raise CorruptError("it ends too early")
    raise CorruptError(f"it is followed by bytes of something else, {len(d) - p} in all")


def _copied(value: Any) -> Any:
    """A default, new for every value that it is used in."""
    if isinstance(value, dict):
        return {key: _copied(each) for key, each in value.items()}
    return [_copied(each) for each in value] if isinstance(value, list) else value


READING: Final[dict[str, Any]] = {
    "EMPTY_ITEMS": MAX_EMPTY_ITEMS,
    "StoppedError": StoppedError,
    "more": _more,
    "more_int": _more_int,
    "count_of": _count,
    "skipped_block": _skipped_block,
    "short": _short,
    "corrupt": _corrupt,
    "trailing": _trailing,
    "copied": _copied,
    "unpack_float": FLOAT.unpack_from,
    "unpack_double": DOUBLE.unpack_from,
    "nan": math.nan,
    "inf": math.inf,
}
