from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

APPEND = """
POST /api/v1/event-sourcing/append
Content-Type: application/json
Authorization: Bearer {token}

{
    "aggregate_id": "user_123",
    "aggregate_type": "User",
    "event_type": "user.updated",
    "event_data": {
        "email": "john.doe@company.com",
        "last_login": "2025-01-26T10:30:00Z"
    },
    "expected_version": 5,
    "correlation_id": "corr_456",
    "metadata": {
        "source": "user_service",
        "user_agent": "mobile_app_v1.2"
    }
}
"""
APPENDED = """
{
    "event_id": "evt_789",
    "message": "Event appended successfully"
}
"""
RECONSTRUCT = """
POST /api/v1/event-sourcing/reconstruct
Content-Type: application/json
Authorization: Bearer {token}

{
    "aggregate_id": "user_123",
    "aggregate_type": "User",
    "update_snapshots": true
}
"""
RECONSTRUCTED = """
{
    "aggregate_id": "user_123",
    "aggregate_type": "User",
    "current_version": 6,
    "state": {
        "user_name": "john.doe",
        "email": "john.doe@company.com",
        "status": "active",
        "last_login": "2025-01-26T10:30:00Z"
    },
    "last_event_timestamp": "2025-01-26T10:30:00Z"
}
"""
HISTORY = [
    ("user.created", {"user_name": "john.doe", "email": "john@old.example", "status": "new"}),
    ("user.updated", {"status": "invited"}),
    ("user.updated", {"status": "active"}),
    ("user.updated", {"email": "john.doe@old.example"}),
    ("user.updated", {"last_login": "2025-01-25T08:00:00Z"}),
]


async def test_an_event_is_appended_at_the_expected_version_and_the_state_is_rebuilt(
    client: httpx.AsyncClient, call: Callable[..., Awaitable[Any]], same_shape: Callable[[object, str], None]
) -> None:
    for version, (event_type, data) in enumerate(HISTORY):
        response = await client.post(
            "/api/v1/event-sourcing/append",
            json={
                "aggregate_id": "user_123",
                "aggregate_type": "User",
                "event_type": event_type,
                "event_data": data,
                "expected_version": version,
            },
        )
        assert response.is_success, response.text

    appended = await call(APPEND)
    same_shape(appended, APPENDED)
    assert appended["message"] == "Event appended successfully"

    aggregate = await call(RECONSTRUCT)
    same_shape(aggregate, RECONSTRUCTED)
    assert aggregate["current_version"] == 6
    assert aggregate["state"] == {
        "user_name": "john.doe",
        "email": "john.doe@company.com",
        "status": "active",
        "last_login": "2025-01-26T10:30:00Z",
    }

    head, body = APPEND.replace("{token}", "t").strip().split("\n\n")
    again = await client.post(head.split()[1], content=body, headers={"Content-Type": "application/json"})
    assert again.status_code == 409


async def test_sdk(data_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from event_streaming_bus import EventSourcingService

    # Initialize service
    sourcing_service = EventSourcingService()

    for version, (event_type, data) in enumerate(HISTORY):
        await sourcing_service.append_event(
            aggregate_id="user_123",
            aggregate_type="User",
            event_data=data,
            event_type=event_type,
            expected_version=version,
            tenant_id="tenant_001",
            user_id="user_456",
        )

    # Append event with concurrency control
    event_id = await sourcing_service.append_event(
        aggregate_id="user_123",
        aggregate_type="User",
        event_data={"email": "john.doe@company.com"},
        event_type="user.updated",
        expected_version=5,  # Prevent concurrent modifications
        tenant_id="tenant_001",
        user_id="user_456",
    )

    # Reconstruct aggregate state
    aggregate_state = await sourcing_service.reconstruct_aggregate(
        aggregate_id="user_123", aggregate_type="User", update_snapshots=True, tenant_id="tenant_001"
    )

    print(f"Current version: {aggregate_state['version']}")
    print(f"User email: {aggregate_state['data']['email']}")

    assert event_id.startswith("evt_")
    assert capsys.readouterr().out == "Current version: 6\nUser email: john.doe@company.com\n"
