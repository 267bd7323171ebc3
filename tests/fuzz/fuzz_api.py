"""REST requests: whatever is asked, the answer is one that the OpenAPI document has."""

import tempfile
import warnings
from functools import cache
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

import msgspec
from fuzz_choices import Choices
from fuzz_target import Target
from litestar.exceptions import LitestarDeprecationWarning
from litestar.testing import TestClient

from event_streaming_bus.api.app import create_app
from event_streaming_bus.api.openapi.document import completed
from event_streaming_bus.api.openapi.examples import filled, steps
from event_streaming_bus.api.services import Services
from event_streaming_bus.store.storage import open_storage

# These wait for what comes, or go on for ever.
NOT_ASKED: Final = {("GET", "/api/v1/consumer-groups/{group}/events")}


class Served:
    """An API over a folder of its own, with a stream, and the document that says what it answers."""

    def __init__(self) -> None:
        self.folder = tempfile.TemporaryDirectory(prefix="esb-fuzz-api-")
        self.storage = open_storage(Path(self.folder.name))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", LitestarDeprecationWarning)
            self.client: TestClient[Any] = TestClient(
                create_app(Services(self.storage), hosts=["*"]), raise_server_exceptions=False
            )
            self.client.__enter__()
        self.document = completed(self.client.app.openapi_schema.to_schema())
        self.operations = [
            (method.upper(), route)
            for route, methods in self.document["paths"].items()
            for method in methods
            if route.startswith("/api/") and (method.upper(), route) not in NOT_ASKED
        ]
        self.bodies = {step.key: msgspec.json.encode(filled(step.body, {})) for step in steps() if step.body is not msgspec.UNSET}
        self.client.post("/api/v1/streams", json={"name": "orders"})

    def close(self) -> None:
        self.client.__exit__(None, None, None)
        self.storage.close()
        self.folder.cleanup()


@cache
def served() -> Served:
    return Served()


def close() -> None:
    if served.cache_info().currsize:
        served().close()
        served.cache_clear()


_WORDS: Final = (
    "orders",
    "default",
    "x",
    "0",
    "-1",
    "9" * 40,
    "%00",
    "..",
    "é",
    "*",
    "true",
    "a" * 3000,
    "2024-01-01T00:00:00Z",
    "'",
    "",
)


def run_rest(data: bytes) -> None:
    """Never a fault of the server, never a status that the document does not have."""
    api, choices = served(), Choices(data)
    method, route = key = choices.of(api.operations)
    operation = api.document["paths"][route][method.lower()]
    address, query = route, {}
    for parameter in operation.get("parameters", ()):
        value = choices.of(_WORDS) if choices.below(4) else choices.raw(40).decode("utf-8", "replace")
        if parameter["in"] == "path":
            address = address.replace(f"{{{parameter['name']}}}", quote(value or "x", safe=""))
        elif parameter["in"] == "query" and choices.below(3) == 0:
            query[parameter["name"]] = value
    example = api.bodies.get(key, b"")
    cut, until = choices.below(len(example) + 1), choices.below(len(example) + 1)
    body = example[:cut] + choices.rest() + example[max(cut, until) :]
    answer = api.client.request(method, address, params=query, content=body)
    assert answer.status_code < 500, (method, address, query, body[:500], answer.text[:500])
    assert str(answer.status_code) in operation["responses"] or answer.status_code in (404, 405), (
        method,
        address,
        query,
        body[:300],
    )


REST: Final = Target(
    "rest", run_rest, 2048, (b"[" * 900, b'{"a":' * 90, b"null", b"\xff", b"1e999", b"18446744073709551616", b'"\\ud800"'), close
)
