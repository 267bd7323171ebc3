"""Metrics of one processor over REST: of those of flow files as of those that were made by themselves."""

import asyncio
import time
from collections.abc import Iterator

import httpx
import pytest
from running import served

FLOW = {
    "streams": [{"name": "orders"}, {"name": "large"}, {"name": "sums"}],
    "processors": [
        {
            "processor_name": "large_ones",
            "processor_type": "FILTER",
            "source_stream_id": "orders",
            "target_stream_id": "large",
            "processing_logic": {"filter_expression": "payload.n > 1"},
        },
        {
            "processor_name": "doubled",
            "processor_type": "MAP",
            "source_stream_id": "large_ones",
            "target_stream_id": "sums",
            "processing_logic": {"fields": {"n": "payload.n * 2"}},
        },
    ],
}
BY_ITSELF = FLOW["processors"][0] | {"processor_name": "alone", "target_stream_id": "sums"}  # type: ignore[operator]


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with served(tmp_path_factory.mktemp("served")) as url:
        yield url


async def test_a_processor_of_a_flow_tells_what_it_has_done(url: str) -> None:
    async with httpx.AsyncClient(base_url=f"{url}/api/v1", timeout=40) as client:

        async def metrics(processor_id: str) -> dict[str, object]:
            answer = await client.get(f"/stream-processors/{processor_id}/metrics")
            assert answer.status_code == 200, answer.text
            told: dict[str, object] = answer.json()
            return told

        assert (await client.put("/flows/sales", json=FLOW)).status_code == 201
        alone = (await client.post("/stream-processors", json=BY_ITSELF)).json()["processor_id"]
        listed = (await client.get("/stream-processors")).json()["processors"]
        ids = {each["processor_name"]: each["processor_id"] for each in listed}
        before = await metrics(ids["doubled"])
        assert (before["events_processed"], before["processing_rate"], before["status"]) == (0, 100.0, "CREATED")
        events = [{"event_type": "order", "payload": {"n": n}} for n in (1, 2, 3)]
        assert (await client.post("/events/batch", json={"stream_id": "orders", "events": events})).is_success
        assert (await metrics(ids["doubled"]))["processing_rate"] == 0.0
        assert (await client.post("/flows/sales/start")).is_success
        until_s = time.monotonic() + 30
        while (await metrics(ids["doubled"]))["events_processed"] != 2:
            assert time.monotonic() < until_s
            await asyncio.sleep(0.05)
        first, second = await metrics(ids["large_ones"]), await metrics(ids["doubled"])
        assert (first["processor_id"], first["processor_name"], first["status"]) == (ids["large_ones"], "large_ones", "RUNNING")
        assert [first[name] for name in ("events_processed", "events_passed", "events_filtered")] == [3, 2, 1]
        counted = ("events_processed", "events_passed", "events_out", "processing_rate")
        assert [second[name] for name in counted] == [2, 2, 2, 100.0]
        assert first.keys() == second.keys() == (await metrics(alone)).keys()
        assert (await client.get("/stream-processors/proc_none/metrics")).status_code == 404
        assert (await client.post("/flows/sales/stop")).is_success
