"""Flows over REST: checked, planned, compared, drawn, applied, and run as a whole."""

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from running import served

from event_streaming_bus import ids
from event_streaming_bus.api.hosted_flows import HostedFlows
from event_streaming_bus.errors import InvalidStateError
from event_streaming_bus.flows.plan_diff import NOTHING_ALLOWED
from event_streaming_bus.flows.spec import parse_flow
from event_streaming_bus.models import ProcessorStatus
from event_streaming_bus.store.storage import open_storage

FLOWS = "/api/v1/flows"
SALES: dict[str, Any] = {
    "streams": [{"name": "orders", "schema": "order"}, {"name": "paid"}, {"name": "revenue"}],
    "schemas": [
        {
            "schema_name": "order",
            "json_schema": {"type": "object", "properties": {"total": {"type": "number"}, "state": {"enum": ["open", "paid"]}}},
        }
    ],
    "processors": [
        {
            "processor_name": "paid_orders",
            "processor_type": "FILTER",
            "source_stream_id": "orders",
            "target_stream_id": "paid",
            "processing_logic": {"filter_expression": "payload.state == 'paid'"},
        },
        {
            "processor_name": "sums",
            "processor_type": "AGGREGATE",
            "source_stream_id": "paid_orders",
            "target_stream_id": "revenue",
            "processing_logic": {"aggregation_function": "sum", "aggregation_field": "total"},
            "window_config": {"window_type": "tumbling", "window_size_ms": 1000},
        },
    ],
}


def changed(number: int, **fields: Any) -> dict[str, Any]:
    """The flow with other fields of its processor ``number``."""
    processors = [{**each, **fields} if i == number else each for i, each in enumerate(SALES["processors"])]
    return SALES | {"processors": processors}


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with served(tmp_path_factory.mktemp("served")) as url:
        yield url


@pytest.fixture
async def client(url: str) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=url, headers={"X-Tenant-Id": ids.new_id("tenant_")}, timeout=40) as client:
        yield client


def told(answer: httpx.Response, status: int = 200) -> Any:
    assert answer.status_code == status, answer.text
    return answer.json()


async def test_a_check_finds_what_cannot_work_and_where(client: httpx.AsyncClient) -> None:
    assert told(await client.post(f"{FLOWS}/validate", json=SALES)) == {"is_valid": True, "findings": []}
    wrong = changed(0, processing_logic={"filter_expression": "payload.state == 'payed'"})
    answer = told(await client.post(f"{FLOWS}/validate", json=wrong))
    codes = {(found["code"], found["path"]) for found in answer["findings"]}
    assert ("always-false", "processors[0].processing_logic.filter_expression") in codes
    text = "streams: []\nprocessors:\n  - processor_name: a\n    processor_typ: FILTER\n"
    answer = told(await client.post(f"{FLOWS}/validate", content=text, headers={"Content-Type": "application/yaml"}))
    assert not answer["is_valid"]
    assert (4, "processors[0].processor_typ") in {(found["line"], found["path"]) for found in answer["findings"]}


async def test_a_plan_says_what_each_processor_does(client: httpx.AsyncClient) -> None:
    yaml_text = yaml.safe_dump(SALES)
    answer = told(await client.post(f"{FLOWS}/plan", content=yaml_text, headers={"Content-Type": "text/yaml; charset=utf-8"}))
    assert answer["name"] == "flow"
    assert answer["processors"][1] == {
        "processor": "sums",
        "type": "AGGREGATE",
        "reads": ["paid_orders"],
        "does": "sum, tumbling 1 s",
        "state": "sums",
        "writes": "revenue",
    }


async def test_two_versions_are_compared(client: httpx.AsyncClient) -> None:
    assert told(await client.post(f"{FLOWS}/diff", json=SALES))["state"] == "new"
    new = changed(1, window_config={"window_type": "tumbling", "window_size_ms": 5000})
    answer = told(await client.post(f"{FLOWS}/diff", json={"old": SALES, "new": new}))
    assert (answer["state"], [each["verdict"] for each in answer["processors"]]) == ("rebuild", ["keep", "rebuild"])
    gone = SALES | {"processors": SALES["processors"][:1]}
    assert told(await client.post(f"{FLOWS}/diff", json={"old": SALES, "new": gone}))["state"] == "lost"
    allowed = await client.post(f"{FLOWS}/diff", json={"old": SALES, "new": gone}, params={"drop_state": "sums"})
    assert told(allowed)["state"] == "kept"


@pytest.mark.parametrize(
    ("form", "media_type", "part"),
    [("json", "application/json", '"paid_orders"'), ("svg", "image/svg+xml", "<svg"), ("mermaid", "text/plain", "flowchart")],
)
async def test_a_flow_is_drawn(client: httpx.AsyncClient, form: str, media_type: str, part: str) -> None:
    answer = await client.post(f"{FLOWS}/graph", json=SALES, params={"format": form})
    assert (answer.status_code, part in answer.text) == (200, True)
    assert answer.headers["content-type"].startswith(media_type)


async def test_a_dry_run_says_what_would_come_of_the_events_that_are_there(client: httpx.AsyncClient) -> None:
    told(await client.post(f"{FLOWS}/dry-run", json=SALES), 404)
    told(await client.post("/api/v1/streams", json={"name": "orders"}), 201)
    for n in range(6):
        payload = {"total": n, "state": "paid" if n % 2 else "open"}
        body = {"stream_id": "orders", "event_type": "t", "timestamp": 1000 * n, "payload": payload}
        told(await client.post("/api/v1/events", json=body), 201)
    flow = SALES | {"streams": [{"name": "paid"}, {"name": "revenue"}], "schemas": []}
    answer = told(await client.post(f"{FLOWS}/dry-run", json=flow, params={"last": 4}))
    assert (answer["read"], answer["partial"], answer["dead_count"]) == ({"orders": 4}, True, 0)
    assert {each["stream"]: each["count"] for each in answer["written"]} == {"paid": 2, "revenue": 2}
    assert {each["name"] for each in told(await client.get("/api/v1/streams"))["streams"]} == {"orders"}
    custom = changed(0, processor_type="CUSTOM", processing_logic={"function": "os:getcwd", "form": "event"})
    assert "not allowed" in told(await client.post(f"{FLOWS}/dry-run", json=custom), 422)["detail"]
    assert told(await client.post(f"{FLOWS}/dry-run", json=flow, params={"last": 0}), 400)["path"] == "last"


async def test_applying_makes_what_is_declared_and_again_changes_nothing(client: httpx.AsyncClient) -> None:
    made = told(await client.put(f"{FLOWS}/sales", json=SALES), 201)
    assert (made["verdict"], made["status"], len(made["processors"])) == ("created", "CREATED", 2)
    assert told(await client.put(f"{FLOWS}/sales", json=SALES))["verdict"] == "unchanged"
    assert told(await client.put(f"{FLOWS}/sales", json=changed(0, parallelism=2)))["verdict"] == "changed"
    assert {each["name"] for each in told(await client.get("/api/v1/streams"))["streams"]} == {"orders", "paid", "revenue"}
    assert [each["name"] for each in told(await client.get(FLOWS))["flows"]] == ["sales"]
    shown = told(await client.get(f"{FLOWS}/sales"))
    assert shown["flow"]["processors"][0]["parallelism"] == 2
    assert told(await client.get(f"{FLOWS}/sales/graph"))["name"] == "sales"
    told(await client.delete(f"{FLOWS}/sales"))
    told(await client.get(f"{FLOWS}/sales"), 404)
    assert told(await client.get("/api/v1/stream-processors"))["processors"] == []
    assert len(told(await client.get("/api/v1/streams"))["streams"]) == 3


async def test_a_flow_runs_as_a_whole(client: httpx.AsyncClient) -> None:
    told(await client.put(f"{FLOWS}/sales", json=SALES), 201)
    assert told(await client.get(f"{FLOWS}/sales/logs"))["lines"] == []
    told(await client.post(f"{FLOWS}/sales/start"))
    assert told(await client.post(f"{FLOWS}/sales/start"), 409)["title"] == "InvalidState"
    for n in range(10):
        body = {"stream_id": "orders", "event_type": "t", "payload": {"total": n, "state": "paid" if n % 2 else "open"}}
        told(await client.post("/api/v1/events", json=body), 201)
    deadline_s = time.monotonic() + 30
    while (metrics := told(await client.get(f"{FLOWS}/sales/metrics"))["processors"])[0]["events_processed"] < 10:
        assert time.monotonic() < deadline_s, metrics
        await asyncio.sleep(0.1)
    assert (metrics[0]["events_passed"], metrics[0]["events_filtered"]) == (5, 5)
    assert told(await client.get(f"{FLOWS}/sales"))["status"] == "RUNNING"
    assert told(await client.put(f"{FLOWS}/sales", json=SALES))["verdict"] == "unchanged"
    assert told(await client.put(f"{FLOWS}/sales", json=changed(0, parallelism=2)), 409)["flow"] == "sales"
    told(await client.delete(f"{FLOWS}/sales"), 409)
    told(await client.post(f"{FLOWS}/sales/stop"))
    told(await client.post(f"{FLOWS}/sales/stop"), 409)
    assert told(await client.get(f"{FLOWS}/sales"))["status"] == "STOPPED"
    moved = changed(1, window_config={"window_type": "tumbling", "window_size_ms": 5000})
    assert told(await client.put(f"{FLOWS}/sales", json=moved), 422)["steps"][0]["processor"] == "sums"
    assert told(await client.put(f"{FLOWS}/sales", json=moved, params={"rebuild": "sums"}))["verdict"] == "changed"
    told(await client.delete(f"{FLOWS}/sales"))


async def test_a_flow_that_ran_goes_on_with_the_next_server(tmp_path: Path) -> None:
    storage = open_storage(tmp_path)
    spec = parse_flow(SALES, name="sales")
    flows = HostedFlows(storage)
    flows.apply(spec, NOTHING_ALLOWED)
    flows.start("sales", "default")
    flows.close()
    following = HostedFlows(storage)
    await following.resume()
    assert following.find("sales", "default").status is ProcessorStatus.RUNNING
    following.stop("sales", "default")
    following.close()
    last = HostedFlows(storage)
    await last.resume()
    with pytest.raises(InvalidStateError):
        last.stop("sales", "default")
    storage.close()


async def test_a_function_of_a_custom_processor_must_be_allowed(client: httpx.AsyncClient) -> None:
    custom = {"processor_type": "CUSTOM", "processing_logic": {"function": "os:getcwd", "form": "event"}}
    answer = told(await client.put(f"{FLOWS}/sales", json=changed(0, **custom)), 422)
    assert "not allowed" in answer["detail"]


async def test_what_is_refused_says_why(client: httpx.AsyncClient) -> None:
    assert told(await client.put(f"{FLOWS}/a b", json=SALES), 400)["path"] == "name"
    assert told(await client.put(f"{FLOWS}/sales", json=SALES | {"name": "other"}), 400)["path"] == "name"
    assert told(await client.put(f"{FLOWS}/sales", json=SALES | {"tenant_id": "other"}), 422)["path"] == "tenant_id"
    answer = told(await client.put(f"{FLOWS}/sales", content="{", headers={"Content-Type": "application/json"}), 422)
    assert "esb-flow" not in answer["detail"]
    told(await client.post(f"{FLOWS}/plan", content="x", headers={"Content-Type": "image/png"}), 400)
    told(await client.post(f"{FLOWS}/plan", content=b" " * (1 << 20) + b"x"), 413)
    told(await client.post(f"{FLOWS}/nowhere/start"), 404)
    told(await client.post(f"{FLOWS}/graph", json=SALES, params={"format": "png"}), 400)
