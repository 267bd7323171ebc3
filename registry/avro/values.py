"""Values of Avro types that JSON has no type for: how they are shown in JSON, and what is taken for them.

Shown: bytes and fixed as base64, a decimal as a number, dates and times as RFC 3339 text, in as many digits as their unit; local
times have no offset. A time that no such text exists for (after the year 9999, a time of day of more than a day) is shown as the
integer it is, so that nothing is lost. Taken: the same, the Python value of that meaning, and the integer. What would lose its
meaning is refused; only fractions of a second that are finer than the type's unit are cut, towards the past, as for a publisher's
timestamps.
"""

import binascii
import struct
from collections.abc import Callable
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal, InvalidOperation
from functools import lru_cache
from typing import Any, Final, TypeAlias
from uuid import UUID

from event_streaming_bus.registry.avro.types import AvroType

Converter: TypeAlias = Callable[[Any], Any]

INT_RANGE: Final = (-(1 << 31), (1 << 31) - 1)
LONG_RANGE: Final = (-(1 << 63), (1 << 63) - 1)
FLOAT: Final = struct.Struct("<f")
DOUBLE: Final = struct.Struct("<d")
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_EPOCH_LOCAL: Final = datetime(1970, 1, 1)
_EPOCH_DAY: Final = date(1970, 1, 1).toordinal()
_SECONDS: Final = [f"{second:02d}" for second in range(60)]
_MILLIS: Final = [f".{milli:03d}" for milli in range(1000)]
_SAFE_DIGITS: Final = 10**15
_MAX_DECIMAL_BYTES: Final = 512
_UNITS: Final = {"millis": 1_000, "micros": 1_000_000, "nanos": 1_000_000_000}


class NotAcceptedError(ValueError):
    """The value is not accepted. The message says what is."""


def zigzag(number: int) -> bytes:
    """An int or long as Avro binary."""
    number = number << 1 if number >= 0 else ~(number << 1)
    encoded = bytearray()
    while number > 127:
        encoded.append(number & 127 | 128)
        number >>= 7
    encoded.append(number)
    return bytes(encoded)


def shown_by(kind: AvroType) -> Converter | None:
    """What makes the JSON value of a value as it is read from Avro binary; ``None`` if it is one."""
    if kind.logical == "decimal":
        return _decimal_shown(kind.scale)
    if kind.logical == "uuid":
        return _uuid_shown if kind.kind == "fixed" else None
    if kind.logical:
        return _SHOWN[kind.logical]
    return base64_of if kind.kind in ("bytes", "fixed") else None


def taken_by(kind: AvroType) -> Converter | None:
    """What makes the value that is written as Avro binary of one that is offered; ``None`` for types of JSON's own.

    It raises ``NotAcceptedError`` or, for values of absurd types, any other exception."""
    if kind.logical == "decimal":
        return _decimal_taken(kind.precision, kind.scale, kind.size if kind.kind == "fixed" else None)
    if kind.logical == "uuid":
        return _uuid_bytes if kind.kind == "fixed" else _uuid_text
    if kind.logical:
        return _TAKEN[kind.logical]
    return bytes_of if kind.kind in ("bytes", "fixed") else None


# --- bytes ------------------------------------------------------------------------------------------------------------


def base64_of(value: bytes) -> str:
    return binascii.b2a_base64(value, newline=False).decode("ascii")


def bytes_of(value: Any) -> bytes:
    if isinstance(value, bytes):
        return value
    if isinstance(value, bytearray | memoryview):
        return bytes(value)
    if isinstance(value, str):
        try:
            return binascii.a2b_base64(value, strict_mode=True)
        except ValueError:
            pass
    raise NotAcceptedError("base64 text or bytes")


def _uuid_shown(value: bytes) -> str:
    return str(UUID(bytes=value))


def _uuid_text(value: Any) -> str:
    if isinstance(value, UUID):
        return str(value)
    # the hexadecimal digits decide, and the hyphens stand where they belong
    if isinstance(value, str) and len(value) == 36 and value[8] == value[13] == value[18] == value[23] == "-":
        try:
            if len(bytes.fromhex(value.replace("-", ""))) == 16 and " " not in value:
                return value
        except ValueError:
            pass
    raise NotAcceptedError("a UUID as in 123e4567-e89b-12d3-a456-426614174000")


def _uuid_bytes(value: Any) -> bytes:
    if isinstance(value, bytes) and len(value) == 16:
        return value
    return UUID(_uuid_text(value)).bytes


# --- decimals ---------------------------------------------------------------------------------------------------------


def _decimal_shown(scale: int) -> Converter:
    divisor = 10**scale

    def shown(value: bytes) -> Any:
        if len(value) > _MAX_DECIMAL_BYTES:
            raise NotAcceptedError(f"a decimal of {_MAX_DECIMAL_BYTES} bytes at most, found {len(value)}")
        unscaled = int.from_bytes(value, "big", signed=True)
        if not scale:
            return unscaled
        try:
            return unscaled / divisor  # correctly rounded: the float next to the decimal
        except OverflowError:  # no float is as large; the text is taken as well
            return str(Decimal(unscaled).scaleb(-scale))

    return shown


def _unscaled(value: Decimal, precision: int, scale: int) -> int | None:
    """The decimal times ten to the power of ``scale``; ``None`` if that is not whole, or has more digits than ``precision``."""
    if not value:
        return 0
    if value.adjusted() + scale >= precision:  # before ten to the power of its exponent is computed
        return None
    sign, digits, exponent = value.as_tuple()
    coefficient, shift = int("".join(map(str, digits))), int(exponent) + scale
    if shift < 0:
        if -shift > len(digits):
            return None
        coefficient, rest = divmod(coefficient, int(10**-shift))
        if rest:
            return None
    else:
        coefficient *= int(10**shift)
    return -coefficient if sign else coefficient


def _decimal_taken(precision: int, scale: int, size: int | None) -> Converter:
    factor, limit = int(10**scale), int(10**precision)
    accepted = f"a decimal number of at most {precision} digits, {scale} of them after the point"
    safe = min(limit, _SAFE_DIGITS)

    def unscaled_of(value: Any) -> int:
        if isinstance(value, int) and not isinstance(value, bool):
            return value * factor
        if isinstance(value, bytes) and len(value) <= _MAX_DECIMAL_BYTES:
            return int.from_bytes(value, "big", signed=True)
        if isinstance(value, float):
            # With up to 15 digits a decimal and the float next to it name each other, so this is what repr says.
            if scale <= 15 and -1e15 < value < 1e15:
                unscaled = round(value * factor)
                if -safe < unscaled < safe and unscaled / factor == value:
                    return unscaled
            value = repr(value)
        if isinstance(value, str) and len(value) <= precision + 64:
            try:
                value = Decimal(value)
            except InvalidOperation:
                raise NotAcceptedError(accepted) from None
        found = _unscaled(value, precision, scale) if isinstance(value, Decimal) and value.is_finite() else None
        if found is None:
            raise NotAcceptedError(accepted)
        return found

    def taken(value: Any) -> bytes:
        unscaled = unscaled_of(value)
        if not -limit < unscaled < limit:
            raise NotAcceptedError(accepted)
        least = (unscaled + (unscaled < 0)).bit_length() // 8 + 1
        return unscaled.to_bytes(least if size is None else size, "big", signed=True)

    return taken


# --- dates and times --------------------------------------------------------------------------------------------------


@lru_cache(maxsize=4096)
def _minute(minutes: int) -> str:
    """The start of a minute, as in ``2013-01-01T10:00:``. Events come close in time to each other, so few are made."""
    return (_EPOCH_LOCAL + timedelta(minutes=minutes)).isoformat()[:17]


@lru_cache(maxsize=4096)
def _date_shown(days: int) -> Any:
    try:
        return date.fromordinal(days + _EPOCH_DAY).isoformat()
    except (ValueError, OverflowError):
        return days


def _timestamp_shown(per_second: int, zone: str) -> Converter:
    per_minute = 60 * per_second
    digits = len(str(per_second)) - 1

    def millis(value: int) -> Any:
        minutes, rest = divmod(value, 60_000)
        try:
            return _minute(minutes) + _SECONDS[rest // 1000] + _MILLIS[rest % 1000] + zone
        except OverflowError:
            return value

    def finer(value: int) -> Any:
        minutes, rest = divmod(value, per_minute)
        try:
            return f"{_minute(minutes)}{_SECONDS[rest // per_second]}.{rest % per_second:0{digits}d}{zone}"
        except OverflowError:
            return value

    return millis if per_second == 1000 else finer


def _time_shown(per_second: int) -> Converter:
    digits = len(str(per_second)) - 1

    def shown(value: int) -> Any:
        if not 0 <= value < 86_400 * per_second:
            return value
        seconds, rest = divmod(value, per_second)
        return f"{seconds // 3600:02d}:{seconds // 60 % 60:02d}:{seconds % 60:02d}.{rest:0{digits}d}"

    return shown


def _integer(value: Any, accepted: str) -> int:
    """An integer given for a date or time: counted in the type's unit."""
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    raise NotAcceptedError(accepted)


def _date_taken(value: Any) -> int:
    accepted = "a date as in 2013-01-31, or days since 1970-01-01"
    if isinstance(value, str):
        if len(value) != 10 or value[4] != "-" or value[7] != "-":
            raise NotAcceptedError(accepted)
        try:
            return date.fromisoformat(value).toordinal() - _EPOCH_DAY
        except ValueError:
            raise NotAcceptedError(accepted) from None
    if isinstance(value, datetime):
        if value.time() != time():
            raise NotAcceptedError(accepted + ", without a time of day")
        return value.toordinal() - _EPOCH_DAY
    return value.toordinal() - _EPOCH_DAY if isinstance(value, date) else _integer(value, accepted)


def _fraction(text: str, per_second: int) -> int | None:
    """What a text's fraction of a second is in units, if it has more than the six digits that Python's own parser reads."""
    start = text.find(".") + 1
    if not start or per_second <= 1_000_000:
        return None
    end = start
    while end < len(text) and text[end].isdigit():
        end += 1
    return int(text[start:end][:9].ljust(9, "0"))


def _timestamp_taken(per_second: int, local: bool, unit: str) -> Converter:
    example = "2013-01-01T10:00:00.000" + ("" if local else "Z")
    accepted = f"a {'local time without an offset' if local else 'time'} as in {example}, or {unit} since 1970"
    epoch = _EPOCH_LOCAL if local else _EPOCH
    per_microsecond, microseconds_per = max(per_second // 1_000_000, 1), max(1_000_000 // per_second, 1)

    def taken(value: Any) -> int:
        fraction = None
        if isinstance(value, str):
            if len(value) < 19 or value[4] != "-" or value[7] != "-" or value[13] != ":" or value[10] not in "Tt ":
                raise NotAcceptedError(accepted)
            try:
                fraction = _fraction(value, per_second)
                value = datetime.fromisoformat(value)
            except ValueError:
                raise NotAcceptedError(accepted) from None
        if not isinstance(value, datetime):
            return _integer(value, accepted)
        if local and value.tzinfo is not None:
            raise NotAcceptedError(accepted)
        if not local and value.tzinfo is None:
            value = value.replace(tzinfo=UTC)
        past: timedelta = value - epoch
        if fraction is not None:
            return (past.days * 86_400 + past.seconds) * per_second + fraction
        microseconds = (past.days * 86_400 + past.seconds) * 1_000_000 + past.microseconds
        return microseconds // microseconds_per * per_microsecond

    return taken


def _time_taken(per_second: int, unit: str) -> Converter:
    accepted = f"a time of day as in 10:00:00.000, or {unit} since midnight"
    microseconds_per = 1_000_000 // per_second

    def taken(value: Any) -> int:
        if isinstance(value, str):
            if len(value) < 8 or value[2] != ":" or value[5] != ":":
                raise NotAcceptedError(accepted)
            try:
                value = time.fromisoformat(value)
            except ValueError:
                raise NotAcceptedError(accepted) from None
        if not isinstance(value, time):
            return _integer(value, accepted)
        if value.tzinfo is not None:
            raise NotAcceptedError(accepted + ", without an offset")
        seconds = value.hour * 3600 + value.minute * 60 + value.second
        return seconds * per_second + value.microsecond // microseconds_per

    return taken


_SHOWN: Final[dict[str, Converter]] = {
    "date": _date_shown,
    "time-millis": _time_shown(1_000),
    "time-micros": _time_shown(1_000_000),
    **{f"timestamp-{unit}": _timestamp_shown(per_second, "Z") for unit, per_second in _UNITS.items()},
    **{f"local-timestamp-{unit}": _timestamp_shown(per_second, "") for unit, per_second in _UNITS.items()},
}
_TAKEN: Final[dict[str, Converter]] = {
    "date": _date_taken,
    "time-millis": _time_taken(1_000, "milliseconds"),
    "time-micros": _time_taken(1_000_000, "microseconds"),
    **{f"timestamp-{unit}": _timestamp_taken(n, False, f"{unit[:-1]}seconds") for unit, n in _UNITS.items()},
    **{f"local-timestamp-{unit}": _timestamp_taken(n, True, f"{unit[:-1]}seconds") for unit, n in _UNITS.items()},
}
