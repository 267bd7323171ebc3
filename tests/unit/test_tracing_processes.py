"""A trace across processes: a publisher, a server, a worker and a consumer, each of which sends its spans to a collector."""

import gzip
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import NamedTuple

import httpx
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from running import ESB

CALLER = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
FLOW = """
name: shop
streams:
  - name: big
processors:
  - processor_name: only_big
    processor_type: FILTER
    source_stream_id: copies
    target_stream_id: big
    processing_logic: {filter_expression: payload.total > 10}
"""
CONSUMER = """
import asyncio
from event_streaming_bus.bus import open_bus

async def main() -> None:
    with open_bus("data") as bus:
        async with bus.consumer("billing", ["big"]) as consumer:
            print(len(await consumer.poll(timeout_s=5)))

asyncio.run(main())
"""


class Received(NamedTuple):
    """A span as it came to the collector, and the name of the service that sent it."""

    name: str
    service: str
    trace_id: str
    span_id: str
    parent_id: str


class Collector:
    """Takes spans over OTLP/HTTP."""

    def __init__(self) -> None:
        received: list[Received] = []
        self.received = received

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                if self.headers.get("Content-Encoding") == "gzip":
                    body = gzip.decompress(body)
                for of_resource in ExportTraceServiceRequest.FromString(body).resource_spans:
                    named = {each.key: each.value.string_value for each in of_resource.resource.attributes}
                    for scope in of_resource.scope_spans:
                        for span in scope.spans:
                            ids = (span.trace_id.hex(), span.span_id.hex(), span.parent_span_id.hex())
                            received.append(Received(span.name, named["service.name"], *ids))
                self.send_response(200)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, format: str, *args: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01})
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


@pytest.fixture
def collector() -> Iterator[Collector]:
    opened = Collector()
    yield opened
    opened.close()


def test_one_trace_goes_through_all_processes(tmp_path: Path, collector: Collector) -> None:
    (tmp_path / "flow.yaml").write_text(FLOW)
    environment = {**os.environ, "OTEL_EXPORTER_OTLP_ENDPOINT": collector.url}

    def run(*command: str, service: str) -> str:
        given = environment if not service else {**environment, "OTEL_SERVICE_NAME": service}
        done = subprocess.run(command, cwd=tmp_path, env=given, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    command = [ESB, "--data", "data", "serve", "--port", "0", "--auth", "off"]
    with subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        url = server.stdout.readline().split(" on ")[1].split()[0]
        try:
            with httpx.Client(base_url=f"{url}/api/v1", timeout=30) as http:
                for name in ("orders", "copies"):
                    assert http.post("/streams", json={"name": name}).is_success
                rule = {"stream": "orders", "to": ["copies"]}
                assert http.put("/routes/copying", json=rule).is_success
                order = {"event_type": "order.created", "stream_id": "orders", "payload": {"total": 20}}
                assert http.post("/events", json=order, headers={"traceparent": CALLER}).is_success
        finally:
            server.terminate()
            server.wait(60)
    run(str(ESB), "--data", "data", "run", "flow.yaml", "--until-end", service="shop-flow")
    assert run(sys.executable, "-c", CONSUMER, service="billing").strip() == "1"

    _, trace_id, caller, _ = CALLER.split("-")
    spans = {span.name: span for span in collector.received}
    assert len(spans) == len(collector.received) == 4
    assert {span.trace_id for span in spans.values()} == {trace_id}
    way = ["publish orders", "route orders", "process copies", "deliver big"]
    assert [spans[name].parent_id for name in way] == [caller, *(spans[name].span_id for name in way[:-1])]
    assert [spans[name].service for name in way] == ["event-streaming-bus", "event-streaming-bus", "shop-flow", "billing"]


def test_what_cannot_be_exported_is_told_and_stops_nothing(tmp_path: Path) -> None:
    code = """if True:
        from event_streaming_bus.models import EventConfig
        from event_streaming_bus.testing import read_all, temporary_bus
        with temporary_bus() as bus:
            bus.create_stream("orders")
            bus.publishing.submit(EventConfig(event_type="t"), [1], stream_id="orders").result()
            print([event.traceparent for event in read_all(bus, "orders")])
    """
    environment = {**os.environ, "OTEL_TRACES_EXPORTER": "pigeon"}
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout.strip()) == (0, "[None]")
    assert done.stderr.strip() == "no trace exporter pigeon is installed; spans do not go there"
