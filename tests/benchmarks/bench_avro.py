"""Avro: encoding and decoding a record of ten fields, beside a bare loop over fastavro.

The baseline checks less: no range, no unknown field, no trailing byte. With logical types fastavro makes and takes Python's own
values, ours are JSON values on the way out and the same Python values on the way in.
"""

import io
import json
import time
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from datetime import time as time_of_day
from decimal import Decimal
from functools import cache
from typing import Any, Final
from uuid import UUID

import fastavro
from harness import Figure

from event_streaming_bus.registry.avro.schema import AvroSchema

EVENTS: Final = 1_000
"""In a batch, as streams are read and written."""
_LEAST_S: Final = 0.3
PLAIN: Final = {
    "type": "record",
    "name": "Order",
    "fields": [
        {"name": "id", "type": "string"},
        {"name": "customer", "type": "string"},
        {"name": "count", "type": "int"},
        {"name": "at", "type": "long"},
        {"name": "total", "type": "double"},
        {"name": "paid", "type": "boolean"},
        {"name": "note", "type": ["null", "string"], "default": None},
        {"name": "state", "type": {"type": "enum", "name": "State", "symbols": ["NEW", "PAID", "SENT"]}},
        {"name": "tags", "type": {"type": "array", "items": "string"}},
        {"name": "weight", "type": "float"},
    ],
}
LOGICAL: Final = {
    "type": "record",
    "name": "Order",
    "fields": [
        {"name": "id", "type": {"type": "string", "logicalType": "uuid"}},
        {"name": "customer", "type": "string"},
        {"name": "count", "type": "int"},
        {"name": "at", "type": {"type": "long", "logicalType": "timestamp-millis"}},
        {"name": "seen", "type": {"type": "long", "logicalType": "timestamp-micros"}},
        {"name": "day", "type": {"type": "int", "logicalType": "date"}},
        {"name": "price", "type": {"type": "bytes", "logicalType": "decimal", "precision": 10, "scale": 2}},
        {"name": "until", "type": {"type": "int", "logicalType": "time-millis"}},
        {"name": "total", "type": "double"},
        {"name": "note", "type": ["null", "string"], "default": None},
    ],
}


def plain(i: int) -> dict[str, Any]:
    return {
        "id": f"ord_{i:08d}",
        "customer": f"customer-{i % 1000}",
        "count": i,
        "at": 1_700_000_000_000 + i,
        "total": i * 1.25,
        "paid": i % 2 == 0,
        "note": f"{i:x}" * 6,
        "state": "PAID",
        "tags": ["a", "bb"],
        "weight": 0.5,
    }


def logical(i: int) -> dict[str, Any]:
    start = datetime(2024, 1, 1, tzinfo=UTC)
    return {
        "id": UUID(int=i),
        "customer": f"customer-{i % 1000}",
        "count": i,
        "at": start + timedelta(milliseconds=i * 77),
        "seen": start + timedelta(microseconds=i * 7777),
        "day": date(2024, 1, 1) + timedelta(days=i % 1000),
        "price": Decimal(i) / 100,
        "until": time_of_day(10, 11, 12, 345000),
        "total": i * 1.25,
        "note": "x",
    }


@cache
def _made(kind: str) -> tuple[AvroSchema, Any, list[dict[str, Any]], list[bytes]]:
    """Ours, fastavro's schema, the events and their Avro binary."""
    definition, event = {"plain": (PLAIN, plain), "logical": (LOGICAL, logical)}[kind]
    ours, events = AvroSchema(json.dumps(definition)), [event(i) for i in range(EVENTS)]
    data = ours.encode_many(events)
    ours.decode_many(data)
    return ours, fastavro.parse_schema(definition, {}), events, data


def _rate(run: Callable[[], list[Any]]) -> float:
    done, started_s = 0, time.perf_counter()
    while (taken_s := time.perf_counter() - started_s) < _LEAST_S:
        done += len(run())
    return done / taken_s


def encoded_bare(kind: str) -> float:
    """Events per second, written one by one with fastavro."""
    _, schema, events, _ = _made(kind)

    def run() -> list[bytes]:
        out = []
        for event in events:
            buffer = io.BytesIO()
            fastavro.schemaless_writer(buffer, schema, event)
            out.append(buffer.getvalue())
        return out

    return _rate(run)


def decoded_bare(kind: str) -> float:
    """Events per second, read one by one with fastavro."""
    _, schema, _, data = _made(kind)
    return _rate(lambda: [fastavro.schemaless_reader(io.BytesIO(each), schema) for each in data])


def encoded(kind: str) -> float:
    """Events per second, checked and written."""
    ours, _, events, _ = _made(kind)
    return _rate(lambda: ours.encode_many(events, b"\0\0\0\0\1"))


def decoded(kind: str) -> float:
    """Events per second, read to JSON values."""
    ours, _, _, data = _made(kind)
    return _rate(lambda: ours.decode_many(data))


def projected() -> float:
    """Events per second, two of ten fields read."""
    ours, _, _, data = _made("plain")
    reader = ours.projected(["count", "total"])
    return _rate(lambda: ours.decode_many(data, reader))


TARGET: Final = 0.83
FIGURES: Final = [
    Figure("avro: bare fastavro, encode", "events/s", lambda: encoded_bare("plain")),
    Figure("avro: encode", "events/s", lambda: encoded("plain"), None, "avro: bare fastavro, encode", TARGET),
    Figure("avro: bare fastavro, decode", "events/s", lambda: decoded_bare("plain")),
    Figure("avro: decode", "events/s", lambda: decoded("plain"), None, "avro: bare fastavro, decode", TARGET),
    Figure("avro: decode two fields of ten", "events/s", projected, None, "avro: bare fastavro, decode", TARGET),
    Figure("avro: bare fastavro, encode logical types", "events/s", lambda: encoded_bare("logical")),
    Figure(
        "avro: encode logical types",
        "events/s",
        lambda: encoded("logical"),
        None,
        "avro: bare fastavro, encode logical types",
        TARGET,
    ),
    Figure("avro: bare fastavro, decode logical types", "events/s", lambda: decoded_bare("logical")),
    Figure(
        "avro: decode logical types",
        "events/s",
        lambda: decoded("logical"),
        None,
        "avro: bare fastavro, decode logical types",
        TARGET,
    ),
]
