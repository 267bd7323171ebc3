from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Any

import httpx

CREATE = """
POST /api/v1/stream-processors
Content-Type: application/json
Authorization: Bearer {token}

{
    "processor_name": "user_verification_filter",
    "processor_description": "Filter only verified user events",
    "processor_type": "FILTER",
    "source_stream_id": "str_user_events_123",
    "target_stream_id": "str_verified_users_456",
    "processing_logic": {
        "filter_expression": "payload.verification_status == 'verified'",
        "additional_checks": [
            "payload.email_verified == true",
            "payload.phone_verified == true"
        ]
    },
    "parallelism": 3,
    "error_handling_strategy": "RETRY"
}
"""
CREATED = """
{
    "processor_id": "proc_789",
    "message": "Stream processor created successfully"
}
"""
START = """
POST /api/v1/stream-processors/proc_789/start
Authorization: Bearer {token}
"""
METRICS = """
GET /api/v1/stream-processors/proc_789/metrics
Authorization: Bearer {token}
"""
METRICS_ANSWER = """
{
    "processor_id": "proc_789",
    "processor_name": "user_verification_filter",
    "status": "RUNNING",
    "events_processed": 15432,
    "events_per_second": 47.3,
    "events_passed": 12876,
    "events_filtered": 2556,
    "processing_rate": 95.2,
    "avg_processing_time_ms": 12.5,
    "error_count": 3,
    "last_processed_at": "2025-01-26T10:30:00Z"
}
"""


async def test_a_filter_is_created_started_and_measured(
    client: httpx.AsyncClient,
    call: Callable[..., Awaitable[Any]],
    same_shape: Callable[[object, str], None],
    make_streams: Callable[..., Awaitable[None]],
    publish: Callable[..., Awaitable[str]],
    eventually: Callable[..., Awaitable[Any]],
) -> None:
    await make_streams("str_user_events_123", "str_verified_users_456")

    created = await call(CREATE)
    same_shape(created, CREATED)
    assert created["message"] == "Stream processor created successfully"
    processor_id = created["processor_id"]

    started = await call(START, proc_789=processor_id)
    assert started == {"message": "Stream processor started successfully"}
    try:
        verified = {"verification_status": "verified", "email_verified": True, "phone_verified": True}
        await publish("str_user_events_123", verified, key="user_1")
        await publish("str_user_events_123", {**verified, "phone_verified": False}, key="user_2")
        await publish("str_user_events_123", {**verified, "verification_status": "pending"}, key="user_3")

        async def metrics_of_three() -> Any:
            metrics = await call(METRICS, proc_789=processor_id)
            return metrics if metrics["events_processed"] >= 3 else None

        metrics = await eventually(metrics_of_three, "three events processed")
        same_shape(metrics, METRICS_ANSWER)
        assert metrics["processor_id"] == processor_id
        assert metrics["processor_name"] == "user_verification_filter"
        assert metrics["status"] == "RUNNING"
        assert metrics["events_processed"] == 3
        assert metrics["events_passed"] == 1
        assert metrics["events_filtered"] == 2
        assert metrics["error_count"] == 0
    finally:
        stopped = await client.post(f"/api/v1/stream-processors/{processor_id}/stop")
    assert stopped.is_success, stopped.text


async def test_sdk(
    make_sdk_stream: Callable[[str, str], None],
    read_sdk_stream: Callable[[str, str], list[Any]],
    eventually: Callable[..., Awaitable[Any]],
) -> None:
    make_sdk_stream("str_order_events", "tenant_001")
    make_sdk_stream("str_daily_sales", "tenant_001")

    from event_streaming_bus import StreamManagementService
    from event_streaming_bus.models import ProcessorType

    # Initialize service
    stream_service = StreamManagementService()

    # Create aggregation processor
    processor_config = {
        "processor_name": "daily_sales_aggregator",
        "processor_type": ProcessorType.AGGREGATE.value,
        "source_stream_id": "str_order_events",
        "target_stream_id": "str_daily_sales",
        "processing_logic": {
            "aggregation_function": "sum",
            "aggregation_field": "order_total",
            "group_by": ["customer_segment", "region"],
        },
        "window_config": {
            "window_type": "tumbling",
            "window_size_ms": 86400000,  # 24 hours
            "grace_period_ms": 3600000,  # 1 hour
        },
        "state_store_config": {"store_type": "rocksdb", "changelog_topic": "sales-aggregator-changelog"},
    }

    processor_id = await stream_service.create_stream_processor(
        processor_config=processor_config, tenant_id="tenant_001", user_id="user_456"
    )

    # Start processor
    await stream_service.start_stream_processor(processor_id=processor_id, tenant_id="tenant_001")

    try:
        assert processor_id.startswith("proc_")
        await publish_orders()
        rows = await eventually(
            lambda: len(found := read_sdk_stream("str_daily_sales", "tenant_001")) >= 2 and found, "two closed windows"
        )
    finally:
        await stream_service.stop_stream_processor(processor_id=processor_id, tenant_id="tenant_001")
    day = {"window_start": "2025-01-26T00:00:00.000Z", "window_end": "2025-01-27T00:00:00.000Z"}
    assert sorted((row.payload for row in rows), key=lambda row: row["region"]) == [
        {"customer_segment": "retail", "region": "eu", "sum_order_total": 30.5, **day},
        {"customer_segment": "trade", "region": "us", "sum_order_total": 7, **day},
    ]
    assert {row.timestamp for row in rows} == {datetime(2025, 1, 27, tzinfo=UTC)}


async def publish_orders() -> None:
    """Three orders of one day, and one two days later that closes the day's windows."""
    from event_streaming_bus import EventConfig, EventPublishingService

    orders = [
        ("2025-01-26T09:00:00Z", "retail", "eu", 10.5),
        ("2025-01-26T08:00:00Z", "trade", "us", 7),
        ("2025-01-26T23:59:59.999Z", "retail", "eu", 20),
        ("2025-01-28T12:00:00Z", "retail", "eu", 1000),
    ]
    publishing_service = EventPublishingService()
    for at, segment, region, total in orders:
        await publishing_service.publish_event(
            event_config=EventConfig(event_type="order.created", timestamp=at),
            payload={"customer_segment": segment, "region": region, "order_total": total},
            stream_id="str_order_events",
            tenant_id="tenant_001",
        )
