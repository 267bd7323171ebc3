"""Metrics as Prometheus' protocol buffers, each family with its length in front: the one format with native histograms.

The fields are those of ``io.prometheus.client.MetricFamily``. Histograms have their classic buckets beside the native ones.
"""

import struct
from collections.abc import Iterable
from functools import cache, lru_cache
from typing import Final

from event_streaming_bus.monitoring.histogram import BOUNDS, SCHEMA, Histogram
from event_streaming_bus.monitoring.metrics import Family, Kind, Quantiles

_TYPES: Final = {Kind.COUNTER: 0, Kind.GAUGE: 1, Kind.SUMMARY: 2, Kind.HISTOGRAM: 4}
_PLACES: Final = {Kind.GAUGE: 2, Kind.COUNTER: 3}
_SUMMARY: Final = 4
_HISTOGRAM: Final = 7
_ZERO_THRESHOLD: Final = 2.0**-128
_VARINT, _FIXED64, _BYTES = 0, 1, 2
_BYTE: Final = tuple(bytes((number,)) for number in range(0x80))


def protobuf(families: Iterable[Family]) -> bytes:
    """The metrics, but for those without series, which the format cannot tell of."""
    parts = []
    for family in families:
        if not family.series:
            continue
        name, kind, labels, told = family.metric
        message = bytearray(_text(1, name) + _text(2, told) + _integer(3, _TYPES[kind]))
        for values, value in family.series:
            message += _message(4, _pairs(labels, values) + _value(kind, value))
        parts.append(_varint(len(message)) + message)
    return b"".join(parts)


@lru_cache(maxsize=1 << 15)  # they are the same with each scrape
def _pairs(labels: tuple[str, ...], values: tuple[str, ...]) -> bytes:
    return b"".join(_message(1, _text(1, label) + _text(2, each)) for label, each in zip(labels, values, strict=True) if each)


def _value(kind: Kind, value: float | Quantiles | Histogram) -> bytes:
    if isinstance(value, Histogram):
        return _message(_HISTOGRAM, _histogram(value))
    if isinstance(value, Quantiles):
        quantiles = b"".join(_message(3, _double(1, part) + _double(2, each)) for part, each in value.values)
        return _message(_SUMMARY, _integer(1, value.all.count) + _double(2, value.all.total_s) + quantiles)
    return _message(_PLACES[kind], _double(1, value))


def _histogram(histogram: Histogram) -> bytes:
    native = histogram.native()
    buckets = zip(BOUNDS, histogram.below(), strict=True)
    return b"".join(
        (
            _integer(1, histogram.count),
            _double(2, histogram.total_s),
            *(_message(3, _integer(1, count) + _double(2, bound)) for bound, count in buckets),
            _signed(5, SCHEMA),
            _double(6, _ZERO_THRESHOLD),
            _integer(7, histogram.zeros),
            *(_message(12, _signed(1, left_out) + _integer(2, size)) for left_out, size in native.spans),
            *(_signed(13, delta) for delta in native.deltas),
        )
    )


# --- the wire format --------------------------------------------------------------------------------------------------


def _varint(number: int) -> bytes:
    if number < 0x80:
        return _BYTE[number]
    written = bytearray()
    while number > 0x7F:
        written.append(number & 0x7F | 0x80)
        number >>= 7
    written.append(number)
    return bytes(written)


@cache
def _tag(field: int, kind: int) -> bytes:
    return _varint(field << 3 | kind)


def _integer(field: int, number: int) -> bytes:
    return _tag(field, _VARINT) + _varint(number)


def _signed(field: int, number: int) -> bytes:
    return _integer(field, number << 1 if number >= 0 else (-number << 1) - 1)


def _double(field: int, number: float) -> bytes:
    return _tag(field, _FIXED64) + struct.pack("<d", number)


def _text(field: int, text: str) -> bytes:
    return _message(field, text.encode())


def _message(field: int, data: bytes | bytearray) -> bytes:
    return b"".join((_tag(field, _BYTES), _varint(len(data)), data))
