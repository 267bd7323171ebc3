"""Aggregates and their events as plain data, for those who want JSON."""

from typing import Any

from event_streaming_bus.models import rfc3339
from event_streaming_bus.store.aggregates import AggregateInfo
from event_streaming_bus.store.recorded import Recorded, RecordedEvent


def recorded_data(recorded: Recorded) -> dict[str, Any]:
    """The proof that an event was recorded, as plain data."""
    return {
        "event_id": recorded.event_id,
        "aggregate_id": recorded.aggregate_id,
        "version": recorded.version,
        "position": recorded.position,
        "place": None if (place := recorded.place) is None else {**place.split._asdict(), "offset": place.offset},
        "duplicate": recorded.duplicate,
    }


def aggregate_data(info: AggregateInfo) -> dict[str, Any]:
    """An aggregate as plain data."""
    return {
        "aggregate_id": info.aggregate_id,
        "aggregate_type": info.aggregate_type,
        "status": info.status,
        "current_version": info.version,
        "gone_version": info.gone_version,
        "begin_version": info.begin_version,
        "created_at": rfc3339(info.created_at_ms),
    }


def event_data(event: RecordedEvent) -> dict[str, Any]:
    """An event of an aggregate as plain data."""
    return {
        "position": event.position,
        "event_id": event.event_id,
        "aggregate_id": event.aggregate_id,
        "aggregate_type": event.aggregate_type,
        "version": event.version,
        "event_type": event.event_type,
        "event_data": event.payload,
        "timestamp": rfc3339(event.timestamp_ms),
        "recorded_at": rfc3339(event.recorded_at_ms),
        "correlation_id": event.correlation_id,
        "causation_id": event.causation_id,
        "user_id": event.user_id,
        "metadata": event.metadata,
        "schema_id": event.schema_id,
    }
