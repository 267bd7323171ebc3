from collections.abc import Awaitable, Callable
from typing import Any

import httpx

HISTORY = """
GET /api/v1/events/evt_123/processing-history
Authorization: Bearer {token}
"""
HISTORY_ANSWER = """
{
    "event_id": "evt_123",
    "processing_history": [
        {
            "history_id": "hist_456",
            "processor_id": "proc_validation",
            "processing_stage": "VALIDATION",
            "status": "COMPLETED",
            "started_at": "2025-01-26T10:30:00.000Z",
            "completed_at": "2025-01-26T10:30:00.125Z",
            "processing_duration_ms": 125.0,
            "retry_count": 0
        }
    ],
    "total_processing_time_ms": 240.0,
    "stages_completed": 2,
    "overall_status": "COMPLETED"
}
"""


async def history_with(client: httpx.AsyncClient, call: Callable[..., Awaitable[Any]], event_id: str, rows: int) -> Any:
    """The event's history once it has that many rows; ``None`` before."""
    if (await client.get(f"/api/v1/events/{event_id}/processing-history")).status_code == 404:
        return None  # history follows publishing by a moment
    history = await call(HISTORY, evt_123=event_id)
    return history if len(history["processing_history"]) >= rows else None


async def test_every_step_of_an_event_is_history(
    client: httpx.AsyncClient,
    call: Callable[..., Awaitable[Any]],
    same_shape: Callable[[object, str], None],
    make_streams: Callable[..., Awaitable[None]],
    publish: Callable[..., Awaitable[str]],
    eventually: Callable[..., Awaitable[Any]],
) -> None:
    await make_streams("signups", "real_signups")
    config = {
        "processor_name": "real_signups_only",
        "processor_type": "FILTER",
        "source_stream_id": "signups",
        "target_stream_id": "real_signups",
        "processing_logic": {"filter_expression": "payload.test == false"},
    }
    created = await client.post("/api/v1/stream-processors", json=config)
    assert created.is_success, created.text
    processor_id = created.json()["processor_id"]
    assert (await client.post(f"/api/v1/stream-processors/{processor_id}/start")).is_success
    try:
        event_id = await publish("signups", {"test": False}, event_type="user.created")
        history = await eventually(lambda: history_with(client, call, event_id, 2), "two rows of history")
    finally:
        stopped = await client.post(f"/api/v1/stream-processors/{processor_id}/stop")
    assert stopped.is_success, stopped.text

    same_shape(history, HISTORY_ANSWER)
    rows = history["processing_history"]
    assert history["event_id"] == event_id
    assert rows[-1]["processor_id"] == processor_id
    assert {row["status"] for row in rows} == {"COMPLETED"}
    assert [row["started_at"] for row in rows] == sorted(row["started_at"] for row in rows)
    assert all(row["started_at"] <= row["completed_at"] for row in rows)
    assert len({row["history_id"] for row in rows}) == len(rows)
    assert history["stages_completed"] == len(rows)
    assert history["overall_status"] == "COMPLETED"


async def test_an_event_that_never_was_has_no_history(client: httpx.AsyncClient) -> None:
    response = await client.get("/api/v1/events/evt_123/processing-history")
    assert response.status_code == 404
    assert response.headers["content-type"].startswith("application/problem+json")
