from collections.abc import Awaitable, Callable
from typing import Any

PUBLISH = """
POST /api/v1/events
Content-Type: application/json
Authorization: Bearer {token}

{
    "event_type": "system.critical_alert",
    "source_capability": "monitoring",
    "aggregate_id": "alert_123",
    "aggregate_type": "SystemAlert",
    "payload": {
        "alert_type": "service_down",
        "service_name": "payment_service",
        "severity": "critical",
        "timestamp": "2025-01-26T10:30:00Z"
    },
    "priority": "CRITICAL",
    "compression_type": "NONE",
    "serialization_format": "JSON",
    "max_retries": 5
}
"""


async def test_a_critical_event_is_published(call: Callable[..., Awaitable[Any]]) -> None:
    published = await call(PUBLISH)
    assert published["event_id"].startswith("evt_")


async def test_sdk(make_sdk_stream: Callable[[str, str], None], read_sdk_stream: Callable[[str, str], list[Any]]) -> None:
    make_sdk_stream("critical_alerts_stream", "tenant_001")

    from event_streaming_bus import EventConfig, EventPublishingService
    from event_streaming_bus.models import CompressionType, EventPriority

    # Publish critical event
    event_config = EventConfig(
        event_type="system.critical_alert",
        source_capability="monitoring",
        aggregate_id="alert_123",
        aggregate_type="SystemAlert",
        priority=EventPriority.CRITICAL,
        compression_type=CompressionType.NONE,
        max_retries=5,
    )

    publishing_service = EventPublishingService()
    event_id = await publishing_service.publish_event(
        event_config=event_config,
        payload={"alert_type": "service_down", "service_name": "payment_service", "severity": "critical"},
        stream_id="critical_alerts_stream",
        tenant_id="tenant_001",
        user_id="system",
    )

    await publishing_service.publish_event(
        event_config=EventConfig(event_type="system.note"),
        payload={},
        stream_id="critical_alerts_stream",
        tenant_id="tenant_001",
    )
    alert, note = read_sdk_stream("critical_alerts_stream", "tenant_001")
    assert note.event_type == "system.note"
    assert alert.event_id == event_id
    assert alert.event_id.startswith("evt_")
    assert alert.payload == {"alert_type": "service_down", "service_name": "payment_service", "severity": "critical"}
    assert (alert.event_type, alert.source_capability) == ("system.critical_alert", "monitoring")
    assert (alert.aggregate_id, alert.aggregate_type, alert.key) == ("alert_123", "SystemAlert", "alert_123")
    assert (alert.priority, alert.max_retries) == (EventPriority.CRITICAL, 5)
    assert (alert.tenant_id, alert.user_id) == ("tenant_001", "system")
