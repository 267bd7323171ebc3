"""Schemas at work: validating events in process and over REST, and publishing to a stream of Avro events."""

import json
import select
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import jsonschema
from harness import Figure

from event_streaming_bus.models import EventConfig, StreamConfig
from event_streaming_bus.registry.streams import make_stream
from event_streaming_bus.testing import temporary_bus

BATCH: Final = 1000
_CONNECTIONS: Final = 32
_SERVED_S: Final = 3.0
_RULES: Final = {
    "business_rules": [
        {"name": "minimum_order_value", "rule": "order_total >= 10.0"},
        {"name": "valid_email_domain", "rule": "email.endswith(('@company.com', '@partner.com'))"},
    ]
}
_PROPERTIES: Final[dict[str, Any]] = {
    "order_id": {"type": "string"},
    "customer_id": {"type": "string"},
    "order_total": {"type": "number", "minimum": 0},
    "currency": {"type": "string", "enum": ["USD", "EUR", "GBP"]},
    "items": {"type": "integer", "minimum": 1},
    "country": {"type": "string", "minLength": 2, "maxLength": 2},
    "email": {"type": "string"},
    "paid": {"type": "boolean"},
    "discount": {"type": "number"},
    "note": {"type": "string", "maxLength": 200},
}
ORDER: Final = {
    "schema_name": "order",
    "json_schema": {"type": "object", "properties": _PROPERTIES, "required": ["order_id", "customer_id", "order_total"]},
    "validation_rules": _RULES,
}
_AVRO_TYPES: Final = {"string": "string", "number": "double", "integer": "long", "boolean": "boolean"}
AVRO_ORDER: Final = {
    "schema_name": "order",
    "avro_schema": {
        "type": "record",
        "name": "Order",
        "fields": [{"name": name, "type": _AVRO_TYPES[kind["type"]]} for name, kind in _PROPERTIES.items()],
    },
    "validation_rules": _RULES,
}


def orders(count: int = BATCH) -> list[dict[str, Any]]:
    """Payloads of ten fields that are valid."""
    return [
        {
            "order_id": f"ord_{i}",
            "customer_id": f"cust_{i % 100}",
            "order_total": 10.0 + i,
            "currency": "EUR",
            "items": 1 + i % 7,
            "country": "DE",
            "email": f"c{i % 100}@company.com",
            "paid": True,
            "discount": 0.5,
            "note": "hello",
        }
        for i in range(count)
    ]


def _rate(work: Callable[[], object], count: int, at_least_s: float = 0.3) -> float:
    """How many are done a second, in rounds of ``count``."""
    rounds, started_s = 0, time.perf_counter()
    while True:
        work()
        rounds += 1
        taken_s = time.perf_counter() - started_s
        if taken_s >= at_least_s:
            return rounds * count / taken_s


def validate(config: dict[str, Any] = ORDER) -> float:
    """Events validated per second, ten fields and two rules, in batches."""
    with temporary_bus() as bus:
        guard = bus.schemas.guard("default", bus.schemas.register(config).schema_id)
        batch = orders()
        if guard.check_many([*batch, {**batch[0], "order_total": 5}, {**batch[0], "items": 0.5}]) != [BATCH, BATCH + 1]:
            raise AssertionError("valid and invalid events are not told apart")
        return _rate(lambda: guard.check_many(batch), BATCH)


def validate_by_jsonschema() -> float:
    """The same with the library most people use, without the rules."""
    validator = jsonschema.Draft202012Validator(ORDER["json_schema"])
    batch = orders(100)
    return _rate(lambda: [validator.is_valid(payload) for payload in batch], len(batch))


def publish(config: dict[str, Any] | None) -> float:
    """Events published per second, checked by a schema unless there is none, and durable, in batches."""
    with temporary_bus() as bus:
        if config is not None:
            bus.schemas.register(config)
        make_stream(bus.log, bus.schemas, StreamConfig(name="orders"), None if config is None else "order")
        batch, about = orders(), EventConfig(event_type="order.created")
        return _rate(lambda: bus.publishing.submit(about, batch, stream_id="orders").result(), BATCH)


@contextmanager
def served() -> Iterator[str]:
    """A server on a data folder of its own; gives its URL."""
    with tempfile.TemporaryDirectory() as folder:
        command = [Path(sys.executable).with_name("esb"), "--data", folder, "serve", "--port", "0", "--auth", "off"]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        try:
            assert process.stdout is not None
            yield process.stdout.readline().split(" on ")[1].split()[0]
        finally:
            process.terminate()
            process.wait()


def post_validate() -> float:
    """POST validate: requests answered per second with 32 connections that are kept open, the client on the same machine."""
    with served() as url:
        body = json.dumps(ORDER).encode()
        with urllib.request.urlopen(urllib.request.Request(f"{url}/api/v1/schemas/enhanced", body)) as answer:
            schema_id = json.load(answer)["schema_id"]
        return _hammer(url, f"/api/v1/schemas/{schema_id}/validate", json.dumps(orders(1)[0]).encode())


def _hammer(url: str, path: str, body: bytes) -> float:
    host, port = url.removeprefix("http://").split(":")
    head = f"POST {path} HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    request = head.encode() + body
    poll = select.poll()
    connections: dict[int, socket.socket] = {}
    for _ in range(_CONNECTIONS):
        connection = socket.create_connection((host, int(port)))
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connections[connection.fileno()] = connection
        poll.register(connection, select.POLLIN)
        connection.sendall(request)
    answered, started_s = 0, time.perf_counter()
    while (taken_s := time.perf_counter() - started_s) < _SERVED_S:
        for number, _ in poll.poll(1000):
            answer = connections[number].recv(1 << 16)
            if b"HTTP/1.1 " in answer and b" 200 " not in answer[:20]:
                raise AssertionError(answer[:300])
            if answer.endswith(b"}"):  # head and body may come apart
                answered += 1
                connections[number].sendall(request)
    for connection in connections.values():
        connection.close()
    return answered / taken_s


FIGURES: Final = [
    Figure("validate: jsonschema alone", "events/s", validate_by_jsonschema),
    Figure("validate: 10 fields, 2 rules", "events/s", validate, 300_000, "validate: jsonschema alone"),
    Figure("validate: 10 fields, 2 rules, Avro", "events/s", lambda: validate(AVRO_ORDER)),
    Figure("validate: POST, 32 connections", "requests/s", post_validate, 3_000),
    Figure("publish: JSON with a schema", "events/s", lambda: publish(ORDER)),
    Figure("publish: JSON without a schema", "events/s", lambda: publish(None)),
    Figure("publish: Avro", "events/s", lambda: publish(AVRO_ORDER), None, "publish: JSON with a schema"),
]
