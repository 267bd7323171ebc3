"""Bad input over the whole OpenAPI document: never a fault of the server, and never a status that the document does not have.

The inputs are made from the examples of the document, by a fixed seed: each with one thing spoilt.
"""

import json
import random
import warnings
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

import httpx
import msgspec
import pytest
from api_examples import run
from litestar.exceptions import LitestarDeprecationWarning
from litestar.testing import TestClient

from event_streaming_bus.api.app import create_app
from event_streaming_bus.api.openapi.document import completed
from event_streaming_bus.api.openapi.examples import Step, by_operation, filled, steps
from event_streaming_bus.api.services import Services
from event_streaming_bus.store.storage import open_storage

SEED = 20250126
SPOILT_OF_EACH = 14
HUGE = 1 << 70
ODD: list[Any] = [
    *(None, True, False, 0, -1, 1, 1.5, -1e300, HUGE, -HUGE, (1 << 63) - 1, 1 << 63),
    *("", " ", "x", "0", "\x00", "é\u2028😀", "a" * 5000, "../..", "%00", "$ref", "9999-12-31T23:59:59Z", "0001-01-01", "NaN"),
    *([], [[]], [None], ["x"], {}, {"": {}}, {"x": HUGE}, [{}] * 50),
]
DEEP: Any = "x"
for _ in range(200):
    DEEP = [DEEP]
RAW = [b"", b"{", b"[]", b"null", b'"x"', b"\xff\xfe", b"{}", b'{"x": 1e999}', b"[" * 100_000, b'{"a":1,"a":2}']
# These wait for what comes, or go on for ever.
NOT_ASKED = {("GET", "/api/v1/consumer-groups/{group}/events")}


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient[Any]]:
    storage = open_storage(tmp_path_factory.mktemp("fuzzed"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", LitestarDeprecationWarning)
        with TestClient(create_app(Services(storage), hosts=["*"]), raise_server_exceptions=False) as client:
            yield client
    storage.close()


@pytest.fixture(scope="module")
def known(client: TestClient[Any]) -> dict[str, str]:
    """One thing of each kind is there, and what the examples call it."""
    found: dict[str, str] = {}
    story = [step for step in steps() if step.key[0] != "DELETE" and not step.key[1].endswith(("/start", "/stop"))]
    for step, answer, values in run(client, story):
        assert answer.status_code < 500, (step.operation, answer.text)
        found |= values
    return found


def spoilt(value: Any, chance: random.Random) -> Any:
    """A JSON value with one thing in it replaced, left out, or added."""
    places: list[tuple[Any, Any]] = []

    def look(each: Any) -> None:
        for key in each if isinstance(each, dict) else range(len(each)) if isinstance(each, list) else ():
            places.append((each, key))
            look(each[key])

    whole = msgspec.json.decode(msgspec.json.encode(value))
    look(whole)
    if not places:
        return chance.choice(ODD)
    inner, key = chance.choice(places)
    match chance.randrange(6):
        case 0 if isinstance(inner, dict):
            del inner[key]
        case 1 if isinstance(inner, dict):
            inner[chance.choice(["unknown", "", "payload", "tenant_id"])] = chance.choice(ODD)
        case 2:
            inner[key] = DEEP
        case _:
            inner[key] = chance.choice(ODD)
    return whole


def as_json(value: Any) -> bytes:
    return json.dumps(value).encode()  # unlike msgspec's, it takes integers of any size


def requests(
    step: Step, parameters: list[dict[str, Any]], known: dict[str, str], chance: random.Random
) -> Iterator[dict[str, Any]]:
    """The example as it is, then as many times spoilt."""
    path = {name: filled(value, known) for name, value in step.path.items()}
    query = {name: filled(value, known) for name, value in step.query.items()}
    names = [parameter["name"] for parameter in parameters if parameter["in"] == "query"]
    has_body = step.body is not msgspec.UNSET
    content = as_json(filled(step.body, known)) if has_body else b""
    yield {"path": path, "params": query, "content": content}
    for _ in range(SPOILT_OF_EACH):
        spoilt_path, spoilt_query, spoilt_content = dict(path), dict(query), content
        kinds = (["path"] if path else []) + (["query"] * 2 if names else []) + (["body"] * 4 if has_body else [])
        match chance.choice(kinds or ["unknown"]):
            case "path":
                name = chance.choice(list(path))
                spoilt_path[name] = str(chance.choice(ODD)) or "x"
            case "query":
                spoilt_query[chance.choice(names)] = str(chance.choice(ODD))
            case "body":
                is_raw = chance.randrange(5) == 0
                spoilt_content = chance.choice(RAW) if is_raw else as_json(spoilt(filled(step.body, known), chance))
            case _:
                spoilt_query["unknown"] = "x"
        yield {"path": spoilt_path, "params": spoilt_query, "content": spoilt_content}


def sent(client: TestClient[Any], method: str, route: str, request: dict[str, Any], headers: dict[str, str]) -> httpx.Response:
    address = route
    for name, value in request["path"].items():
        address = address.replace(f"{{{name}}}", quote(value, safe=""))
    query = {name: str(value).lower() if isinstance(value, bool) else value for name, value in request["params"].items()}
    return client.request(method, address, params=query, content=request["content"], headers=headers)


def test_no_input_is_a_fault_of_the_server_or_has_a_status_that_is_not_documented(
    client: TestClient[Any], known: dict[str, str]
) -> None:
    chance = random.Random(SEED)
    document = completed(client.app.openapi_schema.to_schema())
    asked = 0
    # What deletes comes last, so that there is something to spoil before.
    for key, step in sorted(by_operation().items(), key=lambda item: (item[0][0] == "DELETE", item[0])):
        method, route = key
        if key in NOT_ASKED or not route.startswith("/api/"):
            continue
        operation = document["paths"][route][method.lower()]
        for request in requests(step, operation["parameters"], known, chance):
            answer = sent(client, method, route, request, step.headers if asked % 2 else {})
            asked += 1
            what = (step.operation, request["path"], request["params"], request["content"][:500], answer.text[:500])
            assert answer.status_code < 500, what
            assert str(answer.status_code) in operation["responses"] or answer.status_code in (404, 405), what
            if answer.status_code >= 400:
                assert answer.headers["content-type"] == "application/problem+json", what
                assert answer.json()["status"] == answer.status_code, what
    assert asked > 1500
