"""Publishing: the envelope, the checks, dead letters, and the history that goes with it."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest

from event_streaming_bus.bus import Bus
from event_streaming_bus.errors import (
    InvalidInputError,
    PayloadTooLargeError,
    StreamNotFoundError,
    ValidationFailedError,
)
from event_streaming_bus.models import (
    CompressionType,
    EventConfig,
    EventPriority,
    InvalidEventPolicy,
    SerializationFormat,
    StreamConfig,
)
from event_streaming_bus.publishing import EventPublishingService
from event_streaming_bus.store.history_records import Published, Refused, from_bytes
from event_streaming_bus.testing import read_all, temporary_bus

CONFIG = EventConfig(event_type="order.created")
SCHEMA = {
    "schema_name": "order",
    "json_schema": {"type": "object", "properties": {"total": {"type": "number"}}, "required": ["total"]},
    "validation_rules": {"business_rules": [{"name": "least", "rule": "total >= 10"}]},
}


@pytest.fixture
def bus() -> Iterator[Bus]:
    with temporary_bus() as opened:
        opened.create_stream("orders")
        yield opened


@pytest.fixture
def guarded(bus: Bus) -> Bus:
    schema_id = bus.schemas.register(SCHEMA).schema_id
    bus.log.create_stream(StreamConfig(name="strict", schema_id=schema_id))
    bus.log.create_stream(StreamConfig(name="lenient", schema_id=schema_id, on_invalid=InvalidEventPolicy.DEAD_LETTER))
    return bus


def records(bus: Bus) -> list[Any]:
    return [from_bytes(event.data) for event in read_all(bus, "_history", "_system")]


async def test_an_event_has_the_envelope_it_was_given(bus: Bus) -> None:
    config = EventConfig(
        event_type="system.alert",
        source_capability="monitoring",
        aggregate_id="alert_1",
        aggregate_type="Alert",
        metadata={"a": 1},
        correlation_id="corr",
        causation_id="cause",
        priority=EventPriority.CRITICAL,
        compression_type=CompressionType.NONE,
        max_retries=5,
        timestamp="2025-01-26T10:30:00+01:00",
        traceparent="00-x",
    )
    event_id = await bus.publishing.publish_event(config, {"x": 1}, "orders", "default", "user_1")
    (event,) = read_all(bus, "orders")
    assert event.event_id == event_id
    assert event.payload == {"x": 1}
    assert event.timestamp == datetime(2025, 1, 26, 9, 30, tzinfo=UTC)
    assert event.key == "alert_1"
    assert (event.priority, event.compression_type, event.max_retries) == (EventPriority.CRITICAL, CompressionType.NONE, 5)
    assert (event.user_id, event.tenant_id, event.metadata, event.traceparent) == ("user_1", "default", {"a": 1}, "00-x")
    assert (event.correlation_id, event.causation_id, event.aggregate_type) == ("corr", "cause", "Alert")


async def test_publishing_the_same_id_again_appends_nothing(bus: Bus) -> None:
    config = EventConfig(event_type="t", event_id="order-1")
    assert await bus.publishing.publish_event(config, {"n": 1}, "orders") == "order-1"
    assert await bus.publishing.publish_event(config, {"n": 2}, "orders") == "order-1"
    assert [event.payload for event in read_all(bus, "orders")] == [{"n": 1}]
    (receipt,) = await bus.publishing.publish_batch(config, [{"n": 3}], "orders")
    assert (receipt.duplicate, receipt.position.offset) == (True, 0)
    assert sum(isinstance(record, Published) for record in records(bus)) == 1


async def test_a_batch_has_keys_and_times_of_its_own(bus: Bus) -> None:
    receipts = await bus.publishing.publish_batch(
        CONFIG, [{"n": i} for i in range(3)], "orders", keys=["a", None, "b"], timestamps_ms=[5, 6, 7]
    )
    events = read_all(bus, "orders")
    assert [(e.payload["n"], e.key, e.timestamp_ms) for e in events] == [(0, "a", 5), (1, None, 6), (2, "b", 7)]
    assert [r.event_id for r in receipts] == [e.event_id for e in events]
    configs = [EventConfig(event_type=f"t{i}") for i in range(2)]
    await bus.publishing.publish_batch(configs, [{}, {}], "orders")
    assert [e.event_type for e in read_all(bus, "orders")[3:]] == ["t0", "t1"]


@pytest.mark.parametrize(
    ("timestamp", "expected_ms"),
    [
        (1_700_000_000_123, 1_700_000_000_123),
        ("2013-01-01T10:00:00Z", 1_357_034_400_000),
        ("2013-01-01", 1_356_998_400_000),
        (datetime(2013, 1, 1, 10, tzinfo=UTC), 1_357_034_400_000),
        (datetime(2013, 1, 1, 10, tzinfo=timezone(timedelta(hours=2))), 1_357_027_200_000),
    ],
)
async def test_the_event_time_comes_in_several_forms(bus: Bus, timestamp: Any, expected_ms: int) -> None:
    await bus.publishing.publish_event(EventConfig(event_type="t", timestamp=timestamp), {}, "orders")
    assert read_all(bus, "orders")[0].timestamp_ms == expected_ms


@pytest.mark.parametrize("timestamp", ["yesterday", 10**18, True, 1.5, "2013-13-01T00:00:00Z"])
async def test_a_time_that_is_none_is_refused(bus: Bus, timestamp: Any) -> None:
    with pytest.raises(InvalidInputError, match="timestamp"):
        await bus.publishing.publish_event(EventConfig(event_type="t", timestamp=timestamp), {}, "orders")


async def test_an_event_without_a_stream_goes_to_the_stream_events(bus: Bus) -> None:
    event_id = await bus.publishing.publish_event(CONFIG, {})
    assert [event.event_id for event in read_all(bus, "events")] == [event_id]


async def test_a_missing_stream_is_told_with_the_nearest_one(bus: Bus) -> None:
    with pytest.raises(StreamNotFoundError, match=r"'oders'.*Did you mean 'orders'.*esb stream create"):
        await bus.publishing.publish_event(CONFIG, {}, "oders")


@pytest.mark.parametrize("payload", [object(), b"{not json", {"x": {1: object()}}])
async def test_a_payload_that_is_no_json_is_refused(bus: Bus, payload: Any) -> None:
    with pytest.raises(InvalidInputError, match="payload"):
        await bus.publishing.publish_event(CONFIG, payload, "orders")
    assert read_all(bus, "orders") == []


async def test_bytes_are_taken_as_json_and_kept_as_they_are(bus: Bus) -> None:
    await bus.publishing.publish_event(CONFIG, b'{"b": 1,\n "a": 2}', "orders")
    assert read_all(bus, "orders")[0].data == b'{"b": 1,\n "a": 2}'


async def test_a_payload_over_the_limit_is_refused_by_its_place(bus: Bus) -> None:
    with pytest.raises(PayloadTooLargeError, match=r"payload\[1\]: .* at most 1,048,576"):
        await bus.publishing.publish_batch(CONFIG, [{}, {"x": "y" * (1 << 20)}], "orders")
    small = EventPublishingService(bus.storage, max_payload_bytes=10)
    with pytest.raises(PayloadTooLargeError, match="at most 10"):
        await small.publish_event(CONFIG, {"x": "12345678"}, "orders")
    assert read_all(bus, "orders") == []


async def test_avro_is_refused_where_no_avro_schema_is(bus: Bus) -> None:
    with pytest.raises(InvalidInputError, match="the stream orders has no Avro schema"):
        await bus.publishing.publish_event(
            EventConfig(event_type="t", serialization_format=SerializationFormat.AVRO), {}, "orders"
        )


async def test_lists_of_unequal_length_are_refused(bus: Bus) -> None:
    with pytest.raises(InvalidInputError, match="keys: expected one for each of the 2 payloads, got 1"):
        await bus.publishing.publish_batch(CONFIG, [{}, {}], "orders", keys=["a"])


@pytest.mark.parametrize(
    ("payload", "told"),
    [({"total": "x"}, "total: 'x' is not of type"), ({}, "'total' is a required"), ({"total": 5}, "total >= 10")],
)
async def test_an_event_that_breaks_the_schema_is_refused_with_the_path(guarded: Bus, payload: Any, told: str) -> None:
    with pytest.raises(ValidationFailedError) as caught:
        await guarded.publishing.publish_batch(CONFIG, [{"total": 20}, payload], "strict")
    assert told in caught.value.message
    assert "payload[1]" in caught.value.message
    assert "schema order 1.0 of stream strict" in caught.value.message
    assert caught.value.details["invalid_indexes"] == [1]
    assert read_all(guarded, "strict") == []
    await guarded.publishing.publish_event(CONFIG, {"total": 20}, "strict")
    assert read_all(guarded, "strict")[0].schema_id == guarded.schemas.find("default", "order").schema_id


async def test_what_another_process_makes_of_a_stream_counts_from_the_next_event_on(guarded: Bus) -> None:
    """The service remembers streams; the log is told behind its back, as another process would."""
    publishing = guarded.publishing
    await publishing.publish_event(CONFIG, {"x": 1}, "orders")
    stream, strict = guarded.log.find_stream("default", "orders"), guarded.log.find_stream("default", "strict")
    guarded.log.set_stream_schema(stream.stream_id, strict.config.schema_id)
    with pytest.raises(ValidationFailedError):
        await publishing.publish_event(CONFIG, {"x": 1}, "orders")
    guarded.log.set_stream_schema(stream.stream_id, None)
    await publishing.publish_event(CONFIG, {"x": 2}, "orders")
    guarded.log.drop_stream(stream.stream_id)
    with pytest.raises(StreamNotFoundError):
        await publishing.publish_event(CONFIG, {"x": 3}, "orders")
    guarded.create_stream("orders")
    await publishing.publish_event(CONFIG, {"x": 4}, "orders")
    assert [event.data for event in read_all(guarded, "orders")] == [b'{"x":4}']


async def test_the_default_stream_is_made_again_after_it_was_dropped(bus: Bus) -> None:
    await bus.publishing.publish_event(CONFIG, 1)
    bus.log.drop_stream(bus.log.find_stream("default", "events").stream_id)
    await bus.publishing.publish_event(CONFIG, 2)
    assert [event.data for event in read_all(bus, "events")] == [b"2"]


async def test_a_stream_that_changes_while_an_event_is_on_its_way_is_looked_at_again(
    guarded: Bus, monkeypatch: pytest.MonkeyPatch
) -> None:
    stream, strict = guarded.log.find_stream("default", "orders"), guarded.log.find_stream("default", "strict")
    submit, calls = guarded.log.submit, 0

    def change_first(*appends: Any, **how: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 1:
            guarded.log.set_stream_schema(stream.stream_id, strict.config.schema_id)
        return submit(*appends, **how)

    monkeypatch.setattr(guarded.log, "submit", change_first)
    with pytest.raises(ValidationFailedError):
        await guarded.publishing.publish_event(CONFIG, {"x": 1}, "orders")
    assert (calls, read_all(guarded, "orders")) == (1, [])
    await guarded.publishing.publish_event(CONFIG, {"total": 20}, "orders")


async def test_a_stream_may_dead_letter_what_breaks_its_schema(guarded: Bus) -> None:
    receipts = await guarded.publishing.publish_batch(CONFIG, [{"total": 1}, {"total": 20}, {"x": 1}], "lenient")
    (kept,), letters = read_all(guarded, "lenient"), read_all(guarded, "_dead_letters")
    assert kept.payload == {"total": 20}
    assert [letter.payload for letter in letters] == [{"total": 1}, {"x": 1}]
    assert [r.event_id for r in receipts] == [letters[0].event_id, kept.event_id, letters[1].event_id]
    why = (letters[1].metadata or {})["dead_letter"]
    assert (why["stream"], why["step"], why["error_type"]) == ("lenient", "validation", "ValidationFailedError")
    assert "'total' is a required" in why["error_message"]
    published, refused = records(guarded)
    assert isinstance(published, Published)
    assert isinstance(refused, Refused)
    assert (published.schema_version, refused.count) == ("1.0", 2)
