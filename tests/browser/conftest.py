"""A server with a bit of everything, and a browser that must not complain and must not ask anybody else."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final, NamedTuple
from urllib.parse import urlsplit

import httpx
import pytest

try:
    from playwright.sync_api import sync_playwright
except ModuleNotFoundError:
    sync_playwright = None

ROOT: Final = Path(__file__).parents[2]
ESB: Final = Path(sys.executable).with_name("esb")
ARTIFACTS: Final = Path(os.environ.get("ESB_ARTIFACTS", ROOT / "test-artifacts"))  # read before tests hide such settings
CHROMIUM: Final = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
FLIGHTS: Final = ROOT / "deploy" / "demo" / "data" / "flights-2013-01.csv.gz"
BATCH: Final = 1000
WINDOW: Final = {"width": 1280, "height": 860}

sys.path.insert(0, str(ROOT / "deploy" / "demo"))
import load  # noqa: E402 - the loader of the demo


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    missing = "Playwright" if sync_playwright is None else "Chromium" if CHROMIUM is None else None
    for item in items:
        if missing and "browser" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.skip(f"{missing} is not installed"))
    # Playwright keeps an event loop running in this thread until the end, and other tests want one of their own.
    items.sort(key=lambda item: Path(__file__).parent in item.path.parents)


class Server(NamedTuple):
    """A server that runs: where, over which folder."""

    url: str
    folder: Path
    http: httpx.Client


@pytest.fixture(scope="session")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Server]]:
    """Starts servers on new folders, which let anybody in unless options say otherwise; they are stopped in the end."""
    running: list[tuple[subprocess.Popen[str], httpx.Client]] = []

    def start(*options: str) -> Server:
        folder = tmp_path_factory.mktemp("served")
        environment = {name: value for name, value in os.environ.items() if not name.startswith("ESB_")}
        command = [str(ESB), "--data", str(folder), "serve", "--port", "0", "--auth", "off", *options]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)
        assert process.stdout is not None
        told = process.stdout.readline()
        assert told.startswith("serving "), told
        url = json.loads((folder / "serve.json").read_text())["url"]
        http = httpx.Client(base_url=url, timeout=30)
        running.append((process, http))
        return Server(url, folder, http)

    try:
        yield start
    finally:
        for process, http in running:
            http.close()
            process.send_signal(signal.SIGTERM)
        for process, _ in running:
            process.communicate(timeout=60)


@pytest.fixture(scope="session")
def server(served: Callable[..., Server]) -> Server:
    """Flights that a schema guards and a processor filters, a group that reads them, dead letters, an aggregate."""
    server = served()
    fill(server)
    return server


def posted(server: Server, path: str, body: Any = None) -> Any:
    answer = server.http.post(f"/api/v1/{path}", json={} if body is None else body)
    assert answer.is_success, answer.text
    return answer.json()


def fill(server: Server) -> None:
    schema = {
        "type": "object",
        "properties": {"carrier": {"type": "string"}, "dest": {"type": "string"}, "dep_delay": {"type": ["integer", "null"]}},
        "required": ["carrier", "dest"],
        "additionalProperties": True,
    }
    rules = {"business_rules": [{"name": "elsewhere", "rule": "origin != dest", "description": "A flight goes elsewhere"}]}
    posted(server, "schemas/enhanced", {"schema_name": "flight", "json_schema": schema, "validation_rules": rules})
    posted(server, "streams", {"name": "flights", "partitions": 3, "schema": "flight", "on_invalid": "DEAD_LETTER"})
    posted(server, "streams", {"name": "late_flights", "description": "Departures more than an hour late"})
    flights = load.rows(FLIGHTS)[:3000]
    for first in range(0, len(flights), BATCH):
        events = [
            {"event_type": "flight.departure", "key": each["carrier"], "timestamp": load.departure_ms(each), "payload": each}
            for each in json.loads(json.dumps(flights[first : first + BATCH], default=str))
        ]
        posted(server, "events/batch", {"stream_id": "flights", "events": events})
    for number in range(3):
        wrong = {"carrier": "UA", "flight": number, "origin": "EWR", "dest": "EWR"}
        posted(server, "events", {"stream_id": "flights", "event_type": "flight.departure", "payload": wrong})
    strict = schema | {"required": ["carrier", "dest", "origin"]}
    second = {"schema_name": "flight", "json_schema": strict, "evolution_strategy": "BREAKING_CHANGE", "validation_rules": rules}
    posted(server, "schemas/enhanced", second)
    processor = {
        "processor_name": "late_ones",
        "processor_description": "Departures more than an hour late",
        "processor_type": "FILTER",
        "source_stream_id": "flights",
        "target_stream_id": "late_flights",
        "processing_logic": {"filter_expression": "payload.dep_delay != null", "additional_checks": ["payload.dep_delay > 60"]},
    }
    processor_id = posted(server, "stream-processors", processor)["processor_id"]
    posted(server, f"stream-processors/{processor_id}/start")
    posted(server, "consumer-groups", {"group_name": "billing"})
    posted(server, "consumer-groups/billing/members", {"streams": ["flights"]})
    for balance in (10, 30, 25):
        event = {"aggregate_id": "acc/1", "aggregate_type": "Account", "event_type": "account.changed"}
        posted(server, "event-sourcing/append", event | {"event_data": {"owner": "Ann", "balance": balance}})
    until_s = time.monotonic() + 30
    while server.http.get("/api/v1/streams/late_flights").json()["events"] == 0:
        assert time.monotonic() < until_s, "the processor gives nothing out"
        time.sleep(0.1)


# --- browser ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    arguments = ["--no-sandbox"] if os.geteuid() == 0 else []
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, headless=True, args=arguments)
        try:
            yield chromium
        finally:
            chromium.close()


class Watched:
    """Pages of a browser, and what they did that they must not: complain, or ask anything but the server."""

    def __init__(self, browser: Any) -> None:
        self._browser = browser
        self._contexts: list[Any] = []
        self.complaints: list[str] = []
        self.hosts: set[str] = set()

    def open(self, url: str, **settings: Any) -> Any:
        """A page that has shown a heading, with a storage and a cache of its own."""
        context = self._browser.new_context(**({"viewport": WINDOW} | settings))
        self._contexts.append(context)
        return self.visit(context, url)

    def visit(self, context: Any, url: str) -> Any:
        """A page that has shown a heading, in a browser context that others use too."""
        context.set_default_timeout(15_000)
        page = context.new_page()
        page.on("console", lambda told: told.type in ("error", "warning") and self.complaints.append(told.text))
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.on("request", lambda request: self.hosts.add(urlsplit(request.url).netloc))
        page.on("websocket", lambda socket: self.hosts.add(urlsplit(socket.url).netloc))
        page.goto(url)
        page.wait_for_selector("h1")
        return page

    def close(self) -> None:
        for context in self._contexts:
            context.close()


@pytest.fixture
def watched(browser: Any) -> Iterator[Watched]:
    """Opens pages. In the end none of them may have complained."""
    watched = Watched(browser)
    yield watched
    watched.close()
    assert not watched.complaints


@pytest.fixture(scope="session")
def context(browser: Any) -> Iterator[Any]:
    """What pages share that leave nothing behind."""
    context = browser.new_context(viewport=WINDOW)
    yield context
    context.close()


@pytest.fixture
def page(watched: Watched, context: Any, server: Server) -> Iterator[Any]:
    """The page in front of the filled server; it asks nobody else."""
    page = watched.visit(context, server.url)
    yield page
    page.close()
    assert watched.hosts <= {urlsplit(server.url).netloc, ""}


@pytest.fixture
def picture() -> Callable[[Any, str], None]:
    """Keeps a screenshot for whoever wants to look at it."""
    ARTIFACTS.mkdir(parents=True, exist_ok=True)

    def keep(page: Any, name: str) -> None:
        page.screenshot(path=ARTIFACTS / f"{name}.png", full_page=True)

    return keep
