"""Several nodes that serve one bus: the log on Kafka, all else on PostgreSQL. A client may ask any of them; one of them leads,
and when it is gone another does."""

import asyncio
import base64
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import kafka_broker
import pytest
from websockets.asyncio.client import connect

sys.path.append(str(Path(__file__).parents[1] / "postgres"))

import postgres_server

pytestmark = pytest.mark.skipif(postgres_server.programs() is None, reason="needs PostgreSQL")
ESB = Path(sys.executable).with_name("esb")
API = "/api/v1"


def until(what: Any, seconds: float = 30.0) -> Any:
    """What it returns, once that is true."""
    deadline = time.monotonic() + seconds
    while True:
        found = what()
        if found:
            return found
        assert time.monotonic() < deadline, found
        time.sleep(0.05)


class Node:
    """A serving process with a data folder of its own. ``client`` asks it."""

    def __init__(self, url: str, database: str, folder: Path) -> None:
        master = base64.b64encode(b"k" * 32).decode()
        folder.mkdir()
        self.errors = folder / "errors.txt"
        with self.errors.open("w") as errors:
            self.process = subprocess.Popen(
                [ESB, "--data", url, "serve", "--port", "0", "--auth", "off"],
                env=os.environ | {"ESB_DATABASE": database, "ESB_MASTER_KEY": master},
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
            )
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert " on http" in line, self.errors.read_text()
        self.url = line.split(" on ")[1].split()[0]
        self.client = httpx.Client(base_url=f"{self.url}{API}", timeout=30)

    def post(self, path: str, body: Any) -> Any:
        answer = self.client.post(path, json=body)
        assert answer.is_success, (answer.status_code, answer.text)
        return answer.json()

    def leads(self) -> bool:
        try:
            return bool(httpx.get(f"{self.url}/health").json()["leads"])
        except httpx.TransportError:  # it has ended, or is about to
            return False

    def count(self, sql: str) -> int:
        return int(self.post("/history/query", {"sql": sql})["rows"][0][0])

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def end(self) -> None:
        self.client.close()
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGCONT)
            self.process.terminate()
            self.process.wait(30)
        assert self.process.stdout is not None
        self.process.stdout.close()


class Nodes:
    """The nodes of one bus."""

    def __init__(self, server: postgres_server.Server, folder: Path) -> None:
        self._database = server.new_database().url
        self._folder = folder
        self._prefix = f"n{os.urandom(4).hex()}."
        self._started = 0
        self._ending = ExitStack()

    def start(self) -> Node:
        self._started += 1
        folder = self._folder / f"node-{self._started}"
        node = Node(kafka_broker.kafka_url(folder, prefix=self._prefix), self._database, folder)
        self._ending.callback(node.end)
        return node

    def close(self) -> None:
        self._ending.close()


@pytest.fixture
def nodes(tmp_path: Path) -> Iterator[Nodes]:
    nodes = Nodes(postgres_server.shared_server(), tmp_path)
    yield nodes
    nodes.close()


@pytest.fixture
def pair(nodes: Nodes) -> tuple[Node, Node]:
    """``(the one that leads, the other)``."""
    leader = nodes.start()
    other = nodes.start()
    until(leader.leads)
    assert not other.leads()
    return leader, other


def publish(node: Node, *numbers: int) -> None:
    events = [{"event_type": "counted", "payload": {"n": n}} for n in numbers]
    node.post("/events/batch", {"stream_id": "numbers", "events": events})


def numbers(node: Node, stream: str) -> list[int]:
    """What is in a stream, in order of numbers."""
    found = node.client.get(f"/streams/{stream}/events", params={"limit": 1000, "from": "earliest"}).json()["events"]
    return sorted(each["payload"]["n"] for each in found)


def test_whichever_node_is_asked_the_answer_is_the_same(pair: tuple[Node, Node]) -> None:
    leader, other = pair
    other.post("/streams", {"name": "numbers"})
    publish(leader, 1, 2)
    publish(other, 3)
    schema = other.post("/schemas/enhanced", {"schema_name": "n", "json_schema": {"type": "object"}, "schema_version": "1.0"})
    assert leader.client.get(f"/schemas/{schema['schema_id']}").is_success
    other.client.put("/settings/history.keep_days", json={"value": 9})
    assert until(lambda: leader.client.get("/settings/history.keep_days").json()["value"] == 9)
    for node in pair:
        assert numbers(node, "numbers") == [1, 2, 3]
        until(lambda node=node: node.count("SELECT count(DISTINCT event_id) FROM events") == 3)
        refused = node.client.post("/history/query", json={"sql": "SELECT nonsense FROM nowhere"})
        assert (refused.status_code, refused.headers["content-type"]) == (400, "application/problem+json")
    other.post("/consumer-groups", {"group_name": "readers"})
    member = other.post("/consumer-groups/readers/members", {"streams": ["numbers"]})
    poll = f"/consumer-groups/readers/members/{member['member_id']}/poll"
    found = until(lambda: leader.post(poll, {"timeout_ms": 1000})["events"])
    assert {each["payload"]["n"] for each in found} <= {1, 2, 3}


def test_the_page_s_live_view_is_there_on_every_node(pair: tuple[Node, Node]) -> None:
    async def first(node: Node) -> Any:
        async with connect(f"ws{node.url.removeprefix('http')}/ws/monitoring", origin=node.url) as socket:  # type: ignore[arg-type]
            return json.loads(await asyncio.wait_for(socket.recv(), 10))

    kinds = [set(asyncio.run(first(node))) for node in pair]
    assert kinds[0] == kinds[1]

    async def from_elsewhere(node: Node) -> None:
        async with connect(f"ws{node.url.removeprefix('http')}/ws/monitoring", origin="http://elsewhere.example"):  # type: ignore[arg-type]
            pass

    for node in pair:
        with pytest.raises(Exception, match="403"):
            asyncio.run(from_elsewhere(node))
        assert node.client.get("/history/queries", headers={"host": "elsewhere.example"}).status_code == 400


def test_a_processor_goes_on_at_the_next_leader(pair: tuple[Node, Node]) -> None:
    leader, other = pair
    for name in ("numbers", "evens"):
        other.post("/streams", {"name": name})
    config = {
        "processor_name": "even",
        "processor_type": "FILTER",
        "source_stream_id": "numbers",
        "target_stream_id": "evens",
        "processing_logic": {"filter_expression": "payload.n % 2 == 0"},
    }
    made = other.post("/stream-processors", config)
    other.post(f"/stream-processors/{made['processor_id']}/start", {})
    publish(other, *range(20))
    until(lambda: numbers(other, "evens") == list(range(0, 20, 2)))
    leader.kill()
    until(other.leads)
    publish(other, *range(20, 40))
    until(lambda: numbers(other, "evens") == list(range(0, 40, 2)), 60)


def test_what_was_acknowledged_is_there_once_when_a_node_is_killed_in_the_middle(pair: tuple[Node, Node]) -> None:
    leader, other = pair
    acknowledged: list[tuple[str, int]] = []

    def append(node: Node, aggregate: str) -> None:
        for version in range(200):
            body = {
                "aggregate_id": aggregate,
                "aggregate_type": "Counter",
                "event_type": "counted",
                "event_data": {"n": version},
                "expected_version": version,
            }
            try:
                acknowledged.append((aggregate, node.post("/event-sourcing/append", body)["version"]))
            except httpx.TransportError:
                return

    threads = [threading.Thread(target=append, args=(node, f"a-{i}")) for i, node in enumerate((leader, leader, other, other))]
    for thread in threads:
        thread.start()
    until(lambda: len(acknowledged) > 100)
    leader.kill()
    for thread in threads:
        thread.join()
    for i in range(4):
        events = other.client.get(f"/event-sourcing/aggregates/a-{i}/events", params={"limit": 1000}).json()["events"]
        versions = [each["version"] for each in events]
        known = [version for aggregate, version in acknowledged if aggregate == f"a-{i}"]
        assert versions == list(range(1, len(versions) + 1))
        assert len(versions) - 1 <= len(known) <= len(versions)  # one may have been written whose answer was lost
    everything = other.client.get("/event-sourcing/events", params={"limit": 1000})
    assert everything.is_success


def test_a_leader_that_stands_still_is_replaced_and_ends_when_it_wakes(pair: tuple[Node, Node]) -> None:
    leader, other = pair
    leader.process.send_signal(signal.SIGSTOP)
    until(other.leads, 30)
    other.post("/streams", {"name": "numbers"})
    publish(other, 1)
    leader.process.send_signal(signal.SIGCONT)
    assert leader.process.wait(30) == 1
    assert re.search("leads no more; it ends", leader.errors.read_text())
    assert "Traceback" not in leader.errors.read_text()
    until(lambda: other.count("SELECT count(DISTINCT event_id) FROM events") == 1)


def test_nodes_go_on_when_the_database_is_back(tmp_path: Path) -> None:
    with postgres_server.new_server() as server:
        nodes = Nodes(server, tmp_path)
        try:
            first, second = nodes.start(), nodes.start()
            first.post("/streams", {"name": "numbers"})
            body = {"aggregate_id": "a", "aggregate_type": "T", "event_type": "e", "event_data": {}}
            first.post("/event-sourcing/append", body)
            if second.leads():  # who leads ends with the database
                first, second = second, first
            server.stop(kill=True)
            refused = second.client.post("/event-sourcing/append", json=body)
            assert (refused.status_code, refused.headers["retry-after"]) == (503, "1")
            assert "no connection to postgresql://" in refused.json()["detail"]
            server.start()
            until(lambda: second.client.post("/event-sourcing/append", json=body).is_success)
            alive = [node for node in (first, second) if node.process.poll() is None]
            until(lambda: any(node.leads() for node in alive if node.process.poll() is None))
            assert second.post("/event-sourcing/append", body)["version"] >= 3
        finally:
            nodes.close()
