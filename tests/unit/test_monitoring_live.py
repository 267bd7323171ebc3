"""Live monitoring and the page for Prometheus, over real connections to a server."""

import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn
from prometheus_client.openmetrics import parser as openmetrics_parser
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection, connect

from event_streaming_bus.api import monitoring, monitoring_hub
from event_streaming_bus.api.app import create_app
from event_streaming_bus.api.monitoring_messages import METRICS, Subscription, changed
from event_streaming_bus.api.services import Services
from event_streaming_bus.errors import InvalidInputError
from event_streaming_bus.models import EventConfig, StreamConfig
from event_streaming_bus.store.storage import open_storage

EVERY_S = 0.05
# All of the API's handlers name their parameters in Litestar 2's way; what Litestar 3 will do is not what is tested here.
pytestmark = pytest.mark.filterwarnings("ignore::litestar.exceptions.LitestarDeprecationWarning")


@contextmanager
def served(folder: Path, send_buffer: int | None = None) -> Iterator[tuple[str, Services]]:
    """The address of a server in a thread of this process, and its services."""
    storage = open_storage(folder)
    services = Services(storage)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        if send_buffer is not None:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, send_buffer)
        config = uvicorn.Config(create_app(services), log_level="critical", timeout_graceful_shutdown=1, loop="asyncio")
        server = uvicorn.Server(config)
        running = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        running.start()
        try:
            eventually(lambda: server.started)
            yield f"127.0.0.1:{listener.getsockname()[1]}", services
        finally:
            server.should_exit = True
            running.join()
            storage.close()


def eventually(is_so: Callable[[], bool], timeout_s: float = 20) -> None:
    give_up = time.monotonic() + timeout_s
    while not is_so():
        assert time.monotonic() < give_up
        time.sleep(0.01)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Services]]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(monitoring_hub, "EVERY_S", EVERY_S)
        with served(tmp_path_factory.mktemp("served")) as (address, services):
            for name in ("user_events", "other"):
                services.storage.log.create_stream(StreamConfig(name=name))
            yield address, services


@contextmanager
def live(address: str, **options: Any) -> Iterator[ClientConnection]:
    with connect(f"ws://{address}/ws/monitoring", **options) as client:
        yield client


def told(client: ClientConnection) -> dict[str, Any]:
    data: dict[str, Any] = json.loads(client.recv(timeout=20))
    return data


def told_of(client: ClientConnection, subscription: dict[str, Any]) -> dict[str, Any]:
    """The first message for this subscription."""
    client.send(json.dumps({"type": "subscribe", **subscription}))
    while True:
        message = told(client)
        if all(message["subscription"][name] == value for name, value in subscription.items()):
            return message


def until_closed(client: ClientConnection) -> tuple[list[dict[str, Any]], int]:
    """All messages, and the code with which the server closes the connection."""
    messages: list[dict[str, Any]] = []
    try:
        while True:
            messages.append(told(client))
    except ConnectionClosed as closed:
        return messages, 0 if closed.rcvd is None else closed.rcvd.code


def publish(services: Services, stream: str, *rows: Any) -> None:
    services.publishing.submit(EventConfig(event_type="test"), list(rows), stream_id=stream).result()


def test_everything_is_shown_until_something_is_asked_for(server: tuple[str, Services]) -> None:
    with live(server[0]) as client:
        message = told(client)
        assert message["message_type"] == "monitoring"
        assert message["subscription"] == {"streams": None, "metrics": list(METRICS)}
        assert set(message["data"]["streams"]) == {"user_events", "other"}
        assert message["data"].keys() == {"streams", "streams_left_out", "consumer_lag", "processors", "resources"}


def test_a_subscription_says_what_is_shown(server: tuple[str, Services]) -> None:
    address, services = server
    with live(address) as client:
        wanted = {"streams": ["user_events", "order_events"], "metrics": ["throughput", "latency", "error_rate"]}
        message = told_of(client, wanted)
        assert message["data"]["streams"].keys() == {"user_events"}
        assert message["unknown_streams"] == ["order_events"]
        services.storage.log.create_stream(StreamConfig(name="order_events"))
        publish(services, "user_events", 1, 2, 3)
        while message["unknown_streams"] or not message["data"]["streams"]["user_events"]["throughput"]["total"]:
            message = told(client)
        shown = message["data"]["streams"]["user_events"]
        assert shown["throughput"]["by_priority"] == {"critical": 0, "high": 0, "normal": 3, "low": 0}
        assert 0 < shown["latency"]["p95"] < 10
        assert shown["error_rate"] == {"errors_total": 0, "errors_per_second": 0.0, "by_type": {}}
        assert message["data"]["streams"]["order_events"]["latency"]["p95"] is None
        assert told_of(client, {"metrics": ["resources"], "streams": None})["data"].keys() == {"resources"}


def test_rates_are_those_between_two_messages(server: tuple[str, Services]) -> None:
    address, services = server
    with live(address) as client:
        told_of(client, {"streams": ["other"], "metrics": ["throughput"]})
        publish(services, "other", *range(100))
        rates = []
        while not any(rates):
            rates.append(told(client)["data"]["streams"]["other"]["throughput"]["events_per_second"])
        assert 10 < rates[-1] < 100 / EVERY_S * 2


def test_nothing_is_shown_after_unsubscribing_until_the_next_subscription(server: tuple[str, Services]) -> None:
    with live(server[0]) as client:
        told(client)
        client.send('{"type": "unsubscribe"}')
        quiet = 0
        while quiet < 3:
            try:
                client.recv(timeout=3 * EVERY_S)
                quiet = 0
            except TimeoutError:
                quiet += 1
        assert told_of(client, {"streams": ["other"]})["data"]["streams"].keys() == {"other"}


def test_a_message_that_is_not_understood_is_answered_and_the_third_in_a_row_ends_it(server: tuple[str, Services]) -> None:
    with live(server[0]) as client:
        client.send('{"type": "unsubscribe"}')
        for text in ("{", '{"type": "dance"}', '{"type": "subscribe"}', '{"type": "unsubscribe"}', "[]", "{}", b"\xff"):
            client.send(text)
        messages, code = until_closed(client)
        errors = [message["error"] for message in messages if message["message_type"] == "error"]
        assert (len(errors), code) == (5, 1008)


def test_a_message_that_is_too_large_is_refused(server: tuple[str, Services]) -> None:
    with live(server[0]) as client:
        client.send('{"type": "unsubscribe"}')
        for _ in range(3):
            client.send(json.dumps({"type": "subscribe", "streams": ["x" * 70_000]}))
        messages, code = until_closed(client)
        errors = [message.get("error") for message in messages]
        assert "the message has 70,038 bytes; at most 65,536 are accepted" in errors
        assert code == 1009


def test_only_pages_of_the_server_itself_may_connect(server: tuple[str, Services]) -> None:
    address = server[0]
    port = address.rsplit(":", 1)[1]
    with live(address, origin=f"http://{address}") as client:
        assert told(client)["message_type"] == "monitoring"
    for origin in ("http://evil.example", "http://127.0.0.1:1", f"http://evil.example:{port}", "null", "http://[", ""):
        with pytest.raises(InvalidStatus) as refused, live(address, origin=origin):
            pass
        assert refused.value.response.status_code == 403
    with (
        socket.create_connection(("127.0.0.1", int(port))) as opened,
        pytest.raises(InvalidStatus) as refused,
        connect("ws://evil.example/ws/monitoring", sock=opened),
    ):
        pass
    assert refused.value.response.status_code == 403


def test_a_client_sees_its_own_tenant(server: tuple[str, Services]) -> None:
    address, services = server
    services.storage.log.create_stream(StreamConfig(name="theirs", tenant_id="acme"))
    with live(address, additional_headers={"X-Tenant-Id": "acme"}) as client:
        assert told(client)["data"]["streams"].keys() == {"theirs"}
    with connect(f"ws://{address}/ws/monitoring?tenant_id=acme") as client:
        assert told(client)["data"]["streams"].keys() == {"theirs"}


def test_there_is_a_bound_on_clients_and_who_goes_makes_room(
    server: tuple[str, Services], monkeypatch: pytest.MonkeyPatch
) -> None:
    address, services = server
    monkeypatch.setattr(monitoring_hub, "MAX_CONNECTIONS", 3)
    eventually(lambda: services.monitoring.connections == 0)
    with ExitStack() as clients:
        for _ in range(3):
            told(clients.enter_context(live(address)))
        with live(address) as one_more, pytest.raises(ConnectionClosed) as closed:
            told(one_more)
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == 1013
    eventually(lambda: services.monitoring.connections == 0)
    with live(address) as client:
        told(client)


def test_a_client_that_does_not_read_is_dropped_and_the_others_go_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(monitoring_hub, "EVERY_S", 0.01)
    monkeypatch.setattr(monitoring, "SEND_S", 0.3)
    with served(tmp_path, send_buffer=4096) as (address, services):
        for n in range(200):
            services.storage.log.create_stream(StreamConfig(name=f"stream-{n}"))
        with live(address, close_timeout=0.2) as client, socket.socket() as sleeper:
            told_of(client, {"streams": None, "metrics": ["resources"]})
            sleeper.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            host, port = address.split(":")
            sleeper.connect((host, int(port)))
            sleeper.sendall(
                b"GET /ws/monitoring HTTP/1.1\r\nHost: %b\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n" % address.encode()
            )
            eventually(lambda: services.monitoring.connections == 2)
            eventually(lambda: services.monitoring.connections == 1)
            assert told(client)["message_type"] == "monitoring"


def test_nothing_is_sampled_while_nobody_asks(server: tuple[str, Services], monkeypatch: pytest.MonkeyPatch) -> None:
    address, services = server
    taken: list[None] = []
    sample = services.meter.sample

    def counted() -> Any:
        taken.append(None)
        return sample()

    monkeypatch.setattr(services.meter, "sample", counted)
    with live(address) as client:
        told(client)
    eventually(lambda: services.monitoring.connections == 0)
    time.sleep(2 * EVERY_S)
    before = len(taken)
    time.sleep(5 * EVERY_S)
    assert len(taken) == before > 0


def test_the_page_is_in_the_format_that_is_asked_for(server: tuple[str, Services]) -> None:
    url = f"http://{server[0]}/metrics"
    plain = httpx.get(url)
    assert plain.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    assert 'event_streaming_throughput_total{stream="user_events",priority="high"} 0\n' in plain.text
    modern = httpx.get(url, headers={"Accept": "application/openmetrics-text;version=1.0.0"})
    assert modern.headers["content-type"] == "application/openmetrics-text; version=1.0.0; charset=utf-8"
    assert list(openmetrics_parser.text_string_to_metric_families(modern.text))
    everybody = httpx.get(url, params={"all_tenants": "true"}).text
    assert 'event_streaming_stored_bytes{stream="user_events",tenant="default"} ' in everybody
    assert httpx.get(url, headers={"Host": "evil.example"}).status_code == 400


def test_events_that_are_refused_are_counted(server: tuple[str, Services]) -> None:
    address, services = server
    schema = services.schemas.register({"schema_name": "strict", "json_schema": {"type": "object"}})
    services.storage.log.create_stream(StreamConfig(name="strict", schema_id=schema.schema_id))
    body = {"event_type": "t", "stream_id": "strict", "payload": 1}
    assert httpx.post(f"http://{address}/api/v1/events", json=body).status_code == 422
    page = httpx.get(f"http://{address}/metrics").text
    assert [line for line in page.splitlines() if line.startswith('event_streaming_errors_total{type="validation"')]


# --- subscriptions ------------------------------------------------------------------------------------------------------


def test_streams_and_metrics_can_be_taken_away() -> None:
    both = Subscription(("a", "b"), ("throughput", "latency"))
    assert changed(both, '{"type": "unsubscribe", "streams": ["a"]}') == Subscription(("b",), both.metrics)
    assert changed(both, '{"type": "unsubscribe", "metrics": ["latency"]}') == Subscription(("a", "b"), ("throughput",))
    assert changed(both, '{"type": "unsubscribe", "streams": ["a", "b"]}') is None
    assert changed(None, '{"type": "unsubscribe", "streams": ["a"]}') is None
    assert changed(both, '{"type": "subscribe", "streams": ["c", "c"]}') == Subscription(("c",), METRICS)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ('{"type": "subscribe", "metrics": ["latency", "luck"]}', "metrics: unknown: luck; there is throughput, latency"),
        ('{"type": "subscribe", "stream": ["a"]}', "stream"),
        ('{"type": "subscribe", "streams": "a"}', "streams"),
        ('{"type": "unsubscribe", "streams": ["a"]}', "streams: all are shown"),
        (json.dumps({"type": "subscribe", "streams": [str(n) for n in range(201)]}), "at most 200 can be named, not 201"),
        ("[" * 60_000, "Expected `object`, got `array`"),
        ("{" * 60_000, "no JSON object"),
        ("", "no JSON object"),
    ],
)
def test_what_is_wrong_with_a_message_is_said(text: str, complaint: str) -> None:
    with pytest.raises(InvalidInputError) as refused:
        changed(Subscription(), text)
    assert complaint in refused.value.message
