import asyncio
import base64
import json
import os
import re
import struct
from collections.abc import Awaitable, Callable
from urllib.parse import urlsplit

import httpx
import pytest

# What the description's browser sends: JSON.stringify of this, to /ws/monitoring.
SUBSCRIBE = {
    "type": "subscribe",
    "streams": ["user_events", "order_events"],
    "metrics": ["throughput", "latency", "error_rate"],
}


async def open_websocket(url: str, path: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A WebSocket client of its own (RFC 6455): the handshake, which the server must accept."""
    address = urlsplit(url)
    reader, writer = await asyncio.open_connection(address.hostname, address.port)
    key = base64.b64encode(os.urandom(16)).decode()
    writer.write(
        f"GET {path} HTTP/1.1\r\nHost: {address.netloc}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        f"Sec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n\r\n".encode()
    )
    status = (await reader.readuntil(b"\r\n\r\n")).split(b"\r\n")[0]
    if b" 101 " not in status + b" ":
        writer.close()
        await writer.wait_closed()
        pytest.fail(f"the handshake was refused: {status.decode()}")
    return reader, writer


def send_text(writer: asyncio.StreamWriter, text: str) -> None:
    data = text.encode()
    assert 126 <= len(data) < 1 << 16 or len(data) < 126
    length = bytes([0x80 | len(data)]) if len(data) < 126 else b"\xfe" + struct.pack(">H", len(data))
    # A client must mask; a mask of zeros leaves the bytes as they are.
    writer.write(b"\x81" + length + bytes(4) + data)


async def receive_text(reader: asyncio.StreamReader) -> str:
    while True:
        opcode, length = await reader.readexactly(2)
        if length == 126:
            (length,) = struct.unpack(">H", await reader.readexactly(2))
        elif length == 127:
            (length,) = struct.unpack(">Q", await reader.readexactly(8))
        data = await reader.readexactly(length)
        if opcode == 0x81:
            return data.decode()


async def test_live_metrics_arrive_over_websocket(
    server: str, make_streams: Callable[..., Awaitable[None]], publish: Callable[..., Awaitable[str]]
) -> None:
    reader, writer = await open_websocket(server, "/ws/monitoring")
    try:
        send_text(writer, json.dumps(SUBSCRIBE))
        await make_streams("user_events", "order_events")
        await publish("user_events", {"a": 1})
        data = json.loads(await asyncio.wait_for(receive_text(reader), timeout=30))
        assert data["message_type"] == "monitoring"
        assert isinstance(data["data"], dict)
        assert data["data"]
    finally:
        writer.close()
        await writer.wait_closed()


async def test_metrics_are_there_for_prometheus(
    backend: str, client: httpx.AsyncClient, make_streams: Callable[..., Awaitable[None]], publish: Callable[..., Awaitable[str]]
) -> None:
    response = await client.get("/metrics")
    assert response.status_code == 200
    assert response.headers["content-type"].startswith("text/plain")

    await make_streams("prometheus_events")
    await publish("prometheus_events", {"a": 1}, priority="HIGH")
    text = (await client.get("/metrics")).text
    sample = re.search(r'^event_streaming_throughput_total\{stream="prometheus_events",priority="high"\} (\S+)$', text, re.M)
    assert sample
    assert float(sample[1]) == (1 if backend == "embedded" else 2)  # Kafka's offsets count the ends of transactions as well
    assert re.search(r'^event_streaming_latency_seconds\{quantile="0\.95",stream="prometheus_events"\} \S+$', text, re.M)
    for name in ("event_streaming_consumer_lag_total", "event_streaming_errors_total"):
        assert f"# TYPE {name} " in text
