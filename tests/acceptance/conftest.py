"""The examples of the product description, run as they are written.

An HTTP example is a text: request line, headers, body. ``call`` sends it to a real ``esb serve``, with the administrator's token
that this has made in place of the example's; ``same_shape`` compares the answer with the example's. An SDK example is code in a
test, as written, on the data folder in ``ESB_DATA``.

Each is run on an embedded log, and with the log on Kafka and the tables on PostgreSQL, where these are.
"""

import asyncio
import base64
import json
import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import httpx
import pytest

from event_streaming_bus.bus import Bus, open_bus

ROOT = Path(__file__).parents[1]
sys.path += [str(ROOT / "kafka"), str(ROOT / "postgres")]  # tests there tell if a broker or a server is missing

import kafka_broker  # noqa: E402
import postgres_server  # noqa: E402

BACKENDS = ["embedded", *(["kafka"] if kafka_broker.jars() is not None and postgres_server.programs() is not None else [])]
WITHOUT_TOKEN = {"test_monitoring"}  # its WebSocket, as it is written, has none to show
START_TIMEOUT_S = 60
WAIT_TIMEOUT_S = 60


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


@pytest.fixture(scope="module", params=BACKENDS)
def backend(request: pytest.FixtureRequest) -> str:
    """Where the log is: ``embedded``, or ``kafka``, with PostgreSQL beside it."""
    name: str = request.param
    return name


def environment(backend: str, folder: Path) -> dict[str, str]:
    """The settings of a bus of its own with this data folder."""
    if backend == "embedded":
        return {"ESB_DATA": str(folder)}
    place = postgres_server.shared_server().new_database()
    master_key = base64.b64encode(b"k" * 32).decode()
    return {"ESB_DATA": kafka_broker.kafka_url(folder), "ESB_DATABASE": place.url, "ESB_MASTER_KEY": master_key}


@pytest.fixture(scope="module")
def new_bus(backend: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[], Bus]]:
    """Opens new buses in this process; they are closed after the file's tests."""
    with ExitStack() as opened, pytest.MonkeyPatch.context() as patch:

        def new() -> Bus:
            for name, value in environment(backend, tmp_path_factory.mktemp("bus")).items():
                patch.setenv(name, value)
            return opened.enter_context(open_bus())

        yield new


@pytest.fixture(scope="module")
def server_folder(backend: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("server")


@pytest.fixture(scope="module")
def server(server_folder: Path, backend: str, request: pytest.FixtureRequest) -> Iterator[str]:
    """The address of an ``esb serve`` of its own for each file of tests, on a new data folder."""
    folder = server_folder
    options = ["--auth", "off"] if request.module.__name__.rpartition(".")[2] in WITHOUT_TOKEN else []
    port = free_port()
    log = folder / "server.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [Path(sys.executable).with_name("esb"), "serve", "--port", str(port), *options],
            cwd=folder,
            env={**os.environ, **environment(backend, folder / "data")},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    try:
        give_up = time.monotonic() + START_TIMEOUT_S
        while True:
            with suppress(httpx.TransportError):  # it listens before it answers, and there is a token only then
                httpx.get(f"http://127.0.0.1:{port}/health/live", timeout=START_TIMEOUT_S)
                break
            if process.poll() is not None or time.monotonic() > give_up:
                raise RuntimeError(f"esb serve did not start (exit code {process.poll()}):\n{log.read_text()}")
            time.sleep(0.05)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        try:
            process.wait(timeout=30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            raise


@pytest.fixture
def token(server: str, server_folder: Path) -> str:
    """What stands for ``{token}`` in the examples: the administrator's, where the server asks for one."""
    file = server_folder / "data" / "admin.token"
    return file.read_text().strip() if file.exists() else "any"


@pytest.fixture
async def client(server: str, token: str) -> AsyncIterator[httpx.AsyncClient]:
    headers = {"Authorization": f"Bearer {token}"}
    async with httpx.AsyncClient(base_url=server, headers=headers, timeout=30) as http:
        yield http


@pytest.fixture
def call(client: httpx.AsyncClient, token: str) -> Callable[..., Awaitable[Any]]:
    """``await call(example, proc_789=real_id)`` sends an HTTP example and returns the decoded answer of a success."""

    async def send(example: str, **replacements: str) -> Any:
        for placeholder, value in replacements.items():
            assert placeholder in example
            example = example.replace(placeholder, value)
        head, _, body = example.replace("{token}", token).strip().partition("\n\n")
        request, *lines = head.splitlines()
        method, path = request.split()
        headers = dict(line.split(": ", 1) for line in lines)
        response = await client.request(method, path, headers=headers, content=body.encode() or None)
        assert response.is_success, f"{request}: {response.status_code} {response.text}"
        assert response.headers["content-type"].startswith("application/json")
        return response.json()

    return send


@pytest.fixture
def make_streams(client: httpx.AsyncClient) -> Callable[..., Awaitable[None]]:
    """``await make_streams("orders", ...)`` over HTTP, in three partitions each."""

    async def make(*names: str) -> None:
        for name in names:
            response = await client.post("/api/v1/streams", json={"name": name, "partitions": 3})
            assert response.is_success, response.text

    return make


@pytest.fixture
def publish(client: httpx.AsyncClient) -> Callable[..., Awaitable[str]]:
    """``await publish(stream, payload, ...)`` over HTTP; returns the event's id."""

    async def post(stream: str, payload: object, event_type: str = "user.verified", **fields: object) -> str:
        body = {"event_type": event_type, "stream_id": stream, "payload": payload, **fields}
        response = await client.post("/api/v1/events", json=body)
        assert response.is_success, response.text
        event_id: str = response.json()["event_id"]
        return event_id

    return post


@pytest.fixture
def data_folder(backend: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A new data folder that services made without arguments use."""
    folder = tmp_path / "data"
    for name, value in environment(backend, folder).items():
        monkeypatch.setenv(name, value)
    yield folder
    if folder.exists():
        from event_streaming_bus.store.storage import open_storage

        open_storage().close()


@pytest.fixture
def make_sdk_stream(data_folder: Path) -> Callable[[str, str], None]:
    """``make_sdk_stream(name, tenant_id)`` in the data folder."""

    def make(name: str, tenant_id: str) -> None:
        from event_streaming_bus.models import StreamConfig
        from event_streaming_bus.store.storage import open_storage

        open_storage().log.create_stream(StreamConfig(name=name, tenant_id=tenant_id))

    return make


@pytest.fixture
def read_sdk_stream(data_folder: Path) -> Callable[[str, str], list[Any]]:
    """``read_sdk_stream(name, tenant_id)``: the events of a stream in the data folder, urgent lanes first."""

    def read(name: str, tenant_id: str) -> list[Any]:
        from event_streaming_bus.store.storage import open_storage

        log = open_storage().log
        splits = log.find_stream(tenant_id, name).splits()
        return [event for split in splits for batch in log.read(split, 0) for event in batch.events()]

    return read


@pytest.fixture
def eventually() -> Callable[..., Awaitable[Any]]:
    """``await eventually(probe)`` calls ``probe`` (it may be async) until it returns something true, and returns that."""

    async def wait(probe: Callable[[], Any], what: str) -> Any:
        give_up = time.monotonic() + WAIT_TIMEOUT_S
        while True:
            found = probe()
            if asyncio.iscoroutine(found):
                found = await found
            if found:
                return found
            assert time.monotonic() < give_up, f"{what}: not within {WAIT_TIMEOUT_S} s"
            await asyncio.sleep(0.05)

    return wait


def check_shape(actual: object, example: object, path: str) -> None:
    if isinstance(example, dict):
        assert isinstance(actual, dict), path
        assert actual.keys() >= example.keys(), f"{path} lacks {example.keys() - actual.keys()}"
        for key, value in example.items():
            check_shape(actual[key], value, f"{path}.{key}")
    elif isinstance(example, list):
        assert isinstance(actual, list), path
        if example:
            for index, item in enumerate(actual):
                check_shape(item, example[0], f"{path}[{index}]")
    elif isinstance(example, bool) or example is None:
        assert type(actual) is type(example), path
    elif isinstance(example, int):
        assert type(actual) is int, f"{path} is {actual!r}"
    elif isinstance(example, float):
        assert type(actual) in (int, float), f"{path} is {actual!r}"
    else:
        assert isinstance(actual, str), f"{path} is {actual!r}"
        if re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z", str(example)):
            assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z", actual), f"{path} is {actual!r}"
        elif prefix := re.match(r"(evt|str|proc|sch|grp|hist)_", str(example)):
            assert actual.startswith(prefix[0]), f"{path} is {actual!r}"


@pytest.fixture
def same_shape() -> Callable[[object, str], None]:
    """``same_shape(actual, example)``: every key of the example's JSON is there, with a value of its kind.

    Kinds are JSON's, and beyond them: whole numbers, UTC times, and ids by their prefix.
    """

    def check(actual: object, example: str) -> None:
        check_shape(actual, json.loads(example), "response")

    return check
