"""The REST API over real HTTP, and the server around it."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from event_streaming_bus.bus import open_bus
from event_streaming_bus.models import InvalidEventPolicy, StreamConfig
from event_streaming_bus.testing import read_all

ESB = Path(sys.executable).with_name("esb")


def start(folder: Path, *options: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [ESB, "--data", str(folder), "serve", "--auth", "off", *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ,
    )


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, str]]:
    folder = tmp_path_factory.mktemp("served")
    process = start(folder, "--port", "0")
    try:
        assert process.stdout is not None
        assert process.stdout.readline().startswith("serving ")
        yield folder, json.loads((folder / "serve.json").read_text())["url"]
    finally:
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 0, errors
    assert not (folder / "serve.json").exists()


@pytest.fixture
def http(server: tuple[Path, str]) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=server[1], timeout=30) as client:
        yield client


def made(response: httpx.Response) -> Any:
    assert response.is_success, response.text
    return response.json()


def refused(response: httpx.Response, status: int) -> dict[str, Any]:
    assert response.status_code == status, response.text
    assert response.headers["content-type"].startswith("application/problem+json")
    problem: dict[str, Any] = response.json()
    assert problem["status"] == status
    assert problem.keys() >= {"type", "title", "detail", "instance"}
    return problem


def test_the_server_is_well(http: httpx.Client) -> None:
    health = made(http.get("/health"))
    assert (health["status"], health["version"]) == ("ok", "0.1.0")
    assert made(http.get("/health/live")) == made(http.get("/health/ready")) == {"status": "ok"}


def test_streams_are_made_listed_described_and_dropped(http: httpx.Client) -> None:
    body = {"name": "api-streams", "partitions": 2, "compression_type": "ZSTD", "retention_ms": 5000}
    stream = made(http.post("/api/v1/streams", json=body))
    assert made(http.post("/api/v1/streams", json=body))["stream_id"] == stream["stream_id"]
    assert refused(http.post("/api/v1/streams", json=body | {"partitions": 3}), 409)["title"] == "AlreadyExists"
    assert "api-streams" in [s["name"] for s in made(http.get("/api/v1/streams"))["streams"]]
    assert len(made(http.get("/api/v1/streams/api-streams"))["splits"]) == 8
    made(http.delete(f"/api/v1/streams/{stream['stream_id']}"))
    refused(http.get("/api/v1/streams/api-streams"), 404)


def test_dead_letters_are_listed_retried_and_dropped(http: httpx.Client, server: tuple[Path, str]) -> None:
    with open_bus(server[0]) as bus:
        schema = bus.schemas.register({"schema_name": "letters", "json_schema": {"type": "object", "required": ["total"]}})
        config = StreamConfig(name="api-letters", schema_id=schema.schema_id, on_invalid=InvalidEventPolicy.DEAD_LETTER)
        bus.log.create_stream(config)
    for n in range(5):
        body = {"event_type": "t", "event_id": f"letter-{n}", "stream_id": "api-letters", "payload": {"n": n}, "key": f"k{n % 2}"}
        made(http.post("/api/v1/events", json=body))
    letters, wanted = "/api/v1/dead-letters", {"stream": "api-letters"}
    page = made(http.get(letters, params=wanted | {"limit": 3}))
    following = made(http.get(letters, params=wanted | {"cursor": page["next_cursor"]}))
    ids = [letter["dead_letter_id"] for letter in page["dead_letters"] + following["dead_letters"]]
    assert (ids, following["next_cursor"]) == ([f"letter-{n}" for n in range(5)], None)
    newest = made(http.get(letters, params=wanted | {"newest_first": "true", "key": "k0"}))["dead_letters"]
    assert [letter["dead_letter_id"] for letter in newest] == ["letter-4", "letter-2", "letter-0"]
    assert made(http.get(f"{letters}/letter-1"))["payload"] == {"n": 1}
    assert made(http.post(f"{letters}/letter-0/retry"))["result"] == "FAILED"
    answer = made(http.post(f"{letters}/retry", json={"filter": wanted | {"key": "k0"}}))
    assert [report["result"] for report in answer["reports"]] == ["FAILED", "WAITING", "WAITING"]
    assert made(http.delete(f"{letters}/letter-0"))["result"] == "DROPPED"
    made(http.delete("/api/v1/streams/api-letters"))
    refused(http.post(f"{letters}/letter-2/retry"), 409)
    made(http.post("/api/v1/streams", json={"name": "api-letters"}))
    assert made(http.post(f"{letters}/letter-2/retry")) == {
        "dead_letter_id": "letter-2",
        "result": "RETRIED",
        "message": None,
        "events_written": 1,
    }
    assert made(http.post(f"{letters}/drop", json={"ids": ["letter-3"]}))["counts"]["dropped"] == 1
    rest = made(http.post(f"{letters}/retry", json={"filter": wanted}))
    assert ({name: count for name, count in rest["counts"].items() if count}, rest["truncated"]) == ({"retried": 2}, False)
    assert made(http.get("/api/v1/streams/api-letters"))["events"] == 3
    statuses = {
        d["dead_letter_id"]: d["status"] for d in made(http.get(letters, params=wanted | {"status": "all"}))["dead_letters"]
    }
    assert [statuses[f"letter-{n}"] for n in range(5)] == ["DROPPED", "RETRIED", "RETRIED", "DROPPED", "RETRIED"]


def test_what_cannot_be_done_with_a_dead_letter_is_a_problem(http: httpx.Client) -> None:
    letters = "/api/v1/dead-letters"
    for answer in (http.get(f"{letters}/none"), http.post(f"{letters}/none/retry"), http.delete(f"{letters}/none")):
        assert refused(answer, 404)["dead_letter_id"] == "none"
    assert "expected one of OPEN" in refused(http.get(letters, params={"status": "lost"}), 400)["detail"]
    assert "limit" in refused(http.get(letters, params={"limit": 100_000}), 400)["detail"]
    assert "cursor" in refused(http.get(letters, params={"cursor": "x"}), 400)["detail"]
    for body, told in (
        ({}, "ids, filter, sql: expected one of the three"),
        ({"filter": {"proccessor": "p"}}, "filter.proccessor: unknown field; did you mean 'processor'?"),
        ({"filter": {"status": "DROPPED"}}, "filter.status: only OPEN letters"),
    ):
        for action in ("retry", "drop"):
            assert told in refused(http.post(f"{letters}/{action}", json=body), 400)["detail"]


def test_an_event_is_published_once_and_found_at_once(http: httpx.Client) -> None:
    made(http.post("/api/v1/streams", json={"name": "api-events"}))
    body = {
        "event_type": "order.created",
        "stream_id": "api-events",
        "event_id": "order-77",
        "payload": {"total": 5},
        "key": "k",
        "timestamp": "2013-01-01T10:00:00Z",
        "priority": "HIGH",
        "metadata": {"a": 1},
        "user_id": "u",
    }
    receipt = made(http.post("/api/v1/events", json=body, headers={"traceparent": "00-abc"}))
    assert (receipt["event_id"], receipt["lane"], receipt["offset"], receipt["duplicate"]) == ("order-77", "HIGH", 0, False)
    assert made(http.post("/api/v1/events", json=body))["duplicate"] is True
    event = made(http.get("/api/v1/events/order-77"))
    assert (event["payload"], event["timestamp"], event["traceparent"]) == ({"total": 5}, "2013-01-01T10:00:00.000Z", "00-abc")
    history = made(http.get("/api/v1/events/order-77/processing-history"))
    assert [step["processing_stage"] for step in history["processing_history"]] == ["PUBLISH"]
    refused(http.get("/api/v1/events/nothing"), 404)


def test_a_batch_is_published_whole_or_not_at_all(http: httpx.Client) -> None:
    made(http.post("/api/v1/streams", json={"name": "api-batch"}))
    events = [{"event_type": "t", "payload": {"n": n}} for n in range(3)]
    receipts = made(http.post("/api/v1/events/batch", json={"stream_id": "api-batch", "events": events}))["receipts"]
    assert [receipt["offset"] for receipt in receipts] == [0, 1, 2]
    bad = [*events, {"event_type": "t", "payload": {}, "timestamp": "soon"}]
    refused(http.post("/api/v1/events/batch", json={"stream_id": "api-batch", "events": bad}), 400)
    assert made(http.get("/api/v1/streams/api-batch"))["events"] == 3


@pytest.mark.parametrize(
    ("body", "status", "told"),
    [
        (b"{", 400, "not JSON"),
        (b"[]", 400, "Expected `object`"),
        (b'{"event_typ": "t", "payload": {}}', 400, "did you mean 'event_type'"),
        (b'{"payload": {}}', 400, "event_type"),
        (b'{"event_type": "t", "payload": {}, "priority": "URGENT"}', 400, "priority"),
        (b'{"event_type": "t", "payload": {}, "stream_id": "nowhere"}', 404, "nowhere"),
        (b'{"event_type": "t", "payload": "' + b"x" * (1 << 20) + b'"}', 413, "at most 1,048,576"),
    ],
)
def test_bad_events_are_refused_with_a_problem(http: httpx.Client, body: bytes, status: int, told: str) -> None:
    assert told in refused(http.post("/api/v1/events", content=body), status)["detail"]


def test_a_processor_lives_its_life(http: httpx.Client) -> None:
    for name in ("api-in", "api-out"):
        made(http.post("/api/v1/streams", json={"name": name, "partitions": 2}))
    config = {
        "processor_name": "api_filter",
        "processor_type": "FILTER",
        "source_stream_id": "api-in",
        "target_stream_id": "api-out",
        "processing_logic": {"filter_expression": "payload.n > 1"},
        "parallelism": 2,
    }
    processor_id = made(http.post("/api/v1/stream-processors", json=config))["processor_id"]
    here = f"/api/v1/stream-processors/{processor_id}"
    assert made(http.post("/api/v1/stream-processors", json=config))["processor_id"] == processor_id
    refused(http.post("/api/v1/stream-processors", json=config | {"parallelism": 1}), 409)
    assert made(http.get(here))["status"] == "CREATED"
    refused(http.post(f"{here}/stop"), 409)
    for n in range(4):
        made(http.post("/api/v1/events", json={"event_type": "t", "stream_id": "api-in", "payload": {"n": n}, "key": str(n)}))
    made(http.post(f"{here}/start"))
    refused(http.post(f"{here}/start"), 409)
    refused(http.delete(here), 409)
    deadline = time.monotonic() + 60
    while (metrics := made(http.get(f"{here}/metrics")))["events_processed"] < 4:
        assert time.monotonic() < deadline, (metrics, made(http.get(f"{here}/logs")))
        time.sleep(0.1)
    assert (metrics["status"], metrics["events_passed"], metrics["events_filtered"]) == ("RUNNING", 2, 2)
    assert (metrics["processing_rate"], metrics["error_count"]) == (100.0, 0)
    made(http.post(f"{here}/stop"))
    assert made(http.get(here))["status"] == "STOPPED"
    assert made(http.get("/api/v1/streams/api-out"))["events"] == 2
    assert processor_id in [p["processor_id"] for p in made(http.get("/api/v1/stream-processors"))["processors"]]
    made(http.delete(here))
    refused(http.get(f"{here}/metrics"), 404)


_SHORT_WINDOW = {"window_type": "tumbling", "window_size_ms": 2000, "close_when_idle_ms": 50}
_STATEFUL = {
    "join": (
        {
            "processor_type": "JOIN",
            "processing_logic": {"join_stream_id": "api-rows", "on": ["k"], "lookup": True, "fields": {"name": "right.name"}},
        },
        (5, 4, 1),
        [{"name": "Ada"}, {"name": "Bob"}],
    ),
    "window": (
        {
            "processor_type": "WINDOW",
            "processing_logic": {"group_by": ["k"], "output": "events"},
            "window_config": _SHORT_WINDOW,
        },
        (3, 3, 0),
        [{"k": "a"}, {"k": "b"}, {"k": "c"}],
    ),
    "deduplicate": (
        {"processor_type": "DEDUPLICATE", "processing_logic": {"deduplicate_by": ["kind"], "within_ms": 60_000}},
        (3, 1, 2),
        [{"k": "a"}],
    ),
}


@pytest.mark.parametrize("kind", _STATEFUL)
def test_processors_with_state_are_run_measured_and_stopped(http: httpx.Client, kind: str) -> None:
    changes, counted, expected = _STATEFUL[kind]
    source, target = f"api-{kind}-in", f"api-{kind}-out"
    for name in (source, "api-rows", target):
        made(http.post("/api/v1/streams", json={"name": name}))
    now_ms = time.time_ns() // 1_000_000
    if kind == "join":
        for n, (k, name) in enumerate((("a", "Ada"), ("b", "Bob"))):
            post(http, "api-rows", {"k": k, "name": name}, now_ms - 1000 + n)
    for n, k in enumerate("abc"):
        post(http, source, {"k": k, "kind": "same"}, now_ms + n)
    config = {"processor_name": f"api_{kind}", "source_stream_id": source, "target_stream_id": target} | changes
    here = f"/api/v1/stream-processors/{made(http.post('/api/v1/stream-processors', json=config))['processor_id']}"
    made(http.post(f"{here}/start"))
    deadline = time.monotonic() + 60
    while (metrics := made(http.get(f"{here}/metrics")))["events_processed"] < counted[0] or metrics["events_in_state"]:
        assert time.monotonic() < deadline, (metrics, made(http.get(f"{here}/logs")))
        time.sleep(0.1)
    made(http.post(f"{here}/stop"))
    assert (made(http.get(here))["status"], metrics["error_count"], metrics["events_late"]) == ("STOPPED", 0, 0)
    assert (metrics["events_processed"], metrics["events_passed"], metrics["events_filtered"]) == counted
    question = f"SELECT payload FROM events WHERE stream = '{target}'"
    found = [json.loads(row[0]) for row in made(http.post("/api/v1/history/query", json={"sql": question}))["rows"]]
    assert sorted(({name: p[name] for name in expected[0]} for p in found), key=str) == expected


def post(http: httpx.Client, stream: str, payload: dict[str, Any], at_ms: int) -> None:
    body = {"event_type": "t", "stream_id": stream, "payload": payload, "key": payload["k"], "timestamp": at_ms}
    made(http.post("/api/v1/events", json=body))


def test_a_function_is_called_only_where_the_server_allows_its_module(
    tmp_path: Path, http: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "my_doubles.py").write_text("def double(event):\n    return {'x': event.payload['x'] * 2}\n")
    config = {
        "processor_name": "double",
        "processor_type": "CUSTOM",
        "source_stream_id": "api-x",
        "target_stream_id": "api-xx",
        "processing_logic": {"function": "my_doubles:double"},
    }
    for name in ("api-x", "api-xx"):
        made(http.post("/api/v1/streams", json={"name": name}))
    told = refused(http.post("/api/v1/stream-processors", json=config), 422)["detail"]
    assert "processor.processing_logic.function: the module my_doubles is not allowed" in told
    assert "double" not in [p["processor_name"] for p in made(http.get("/api/v1/stream-processors"))["processors"]]

    monkeypatch.chdir(tmp_path)
    process = start(tmp_path / "data", "--port", "0", "--allow-module", "my_doubles")
    try:
        assert process.stdout is not None
        assert process.stdout.readline().startswith("serving ")
        url = json.loads((tmp_path / "data" / "serve.json").read_text())["url"]
        with httpx.Client(base_url=url, timeout=30) as allowing:
            for name in ("api-x", "api-xx"):
                made(allowing.post("/api/v1/streams", json={"name": name}))
            processor_id = made(allowing.post("/api/v1/stream-processors", json=config))["processor_id"]
            made(allowing.post("/api/v1/events", json={"event_type": "t", "stream_id": "api-x", "payload": {"x": 4}}))
            made(allowing.post(f"/api/v1/stream-processors/{processor_id}/start"))
            deadline = time.monotonic() + 60
            while made(allowing.get("/api/v1/streams/api-xx"))["events"] < 1:
                assert time.monotonic() < deadline, made(allowing.get(f"/api/v1/stream-processors/{processor_id}/logs"))
                time.sleep(0.1)
    finally:
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=60)
    with open_bus(tmp_path / "data") as bus:
        assert [event.payload for event in read_all(bus, "api-xx")] == [{"x": 8}]


@pytest.mark.parametrize(
    ("change", "status", "told"),
    [
        ({"processor_type": "FILTR"}, 422, "FILTER"),
        ({"processing_logic": {"filter_expression": "payload.x >"}}, 422, "^"),
        ({"window_config": {}}, 422, "window_config"),
        ({"source_stream_id": "nowhere"}, 404, "nowhere"),
        ({"parallelism": 0}, 422, "parallelism"),
    ],
)
def test_bad_processors_are_refused_with_their_place(http: httpx.Client, change: dict[str, Any], status: int, told: str) -> None:
    for name in ("api-a", "api-b"):
        made(http.post("/api/v1/streams", json={"name": name}))
    config = {
        "processor_name": "bad",
        "processor_type": "FILTER",
        "source_stream_id": "api-a",
        "target_stream_id": "api-b",
        "processing_logic": {"filter_expression": "true"},
    }
    assert told in refused(http.post("/api/v1/stream-processors", json=config | change), status)["detail"]


def test_history_is_asked_over_http_and_by_the_command_line(http: httpx.Client, server: tuple[Path, str]) -> None:
    made(http.post("/api/v1/events", json={"event_type": "asked", "payload": {"n": 1}}))
    question = "SELECT event_type, payload->>'n' AS n FROM events WHERE event_type = 'asked'"
    assert made(http.post("/api/v1/history/query", json={"sql": question}))["rows"] == [["asked", "1"]]
    other = http.post("/api/v1/history/query", json={"sql": question}, headers={"X-Tenant-Id": "other"})
    assert made(other)["rows"] == []
    assert "read only" in refused(http.post("/api/v1/history/query", json={"sql": "DROP TABLE events"}), 400)["detail"]
    refused(http.post("/api/v1/history/query", json={"sql": "FROM main.events"}), 400)
    done = subprocess.run([ESB, "--data", str(server[0]), "sql", question, "--json"], capture_output=True, text=True)
    assert json.loads(done.stdout) == {"event_type": "asked", "n": "1"}, done.stderr


def test_requests_for_another_host_are_refused(http: httpx.Client) -> None:
    assert "evil.example" in refused(http.get("/health", headers={"Host": "evil.example"}), 400)["detail"]


def test_what_is_not_there_is_a_problem_too(http: httpx.Client) -> None:
    refused(http.get("/api/v1/nothing"), 404)
    refused(http.put("/api/v1/events"), 405)


def test_the_api_is_documented_without_scripts(http: httpx.Client) -> None:
    document = made(http.get("/docs/openapi.json"))
    assert document["openapi"].startswith("3.1")
    assert "/api/v1/stream-processors/{processor_id}/metrics" in document["paths"]
    page = http.get("/docs")
    assert page.headers["content-type"].startswith("text/html")
    assert "<script" not in page.text
    assert "/api/v1/events/{event_id}/processing-history" in page.text
    assert page.headers["content-security-policy"].startswith("default-src 'none'")


def test_a_second_server_on_the_folder_is_told_who_serves_it(server: tuple[Path, str]) -> None:
    second = start(server[0], "--port", "0")
    _, errors = second.communicate(timeout=60)
    pid = json.loads((server[0] / "serve.json").read_text())["pid"]
    assert (second.returncode, f"by process {pid}" in errors, "Traceback" in errors) == (1, True, False)


def test_a_port_that_is_taken_is_told(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        second = start(tmp_path, "--port", str(port))
        _, errors = second.communicate(timeout=60)
    assert (second.returncode, "Traceback" in errors) == (1, False)
    assert f"port {port} on 127.0.0.1 cannot be used: Address already in use" in errors


def test_processors_that_were_running_are_resumed(tmp_path: Path) -> None:
    def serve() -> tuple["subprocess.Popen[str]", httpx.Client]:
        process = start(tmp_path, "--port", "0")
        assert process.stdout is not None
        process.stdout.readline()
        return process, httpx.Client(base_url=json.loads((tmp_path / "serve.json").read_text())["url"], timeout=30)

    process, http = serve()
    for name in ("a", "b"):
        made(http.post("/api/v1/streams", json={"name": name}))
    config = {
        "processor_name": "p",
        "processor_type": "FILTER",
        "source_stream_id": "a",
        "target_stream_id": "b",
        "processing_logic": {"filter_expression": "true"},
    }
    processor_id = made(http.post("/api/v1/stream-processors", json=config))["processor_id"]
    made(http.post(f"/api/v1/stream-processors/{processor_id}/start"))
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60)
    http.close()
    process, http = serve()
    made(http.post("/api/v1/events", json={"event_type": "t", "stream_id": "a", "payload": {}}))
    deadline = time.monotonic() + 60
    while made(http.get("/api/v1/streams/b"))["events"] < 1:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    http.close()
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60)
