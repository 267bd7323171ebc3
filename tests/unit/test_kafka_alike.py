"""Records of many events that are alike in all but what is their own are those that each of them has by itself."""

from collections.abc import Callable, Iterable

import msgspec
import pytest
from columns import in_columns
from hypothesis import given, settings
from hypothesis import strategies as st

from event_streaming_bus.errors import InvalidInputError
from event_streaming_bus.models import CompressionType, Event, EventPriority, SerializationFormat
from event_streaming_bus.store.log.kafka_events import Record, to_record, to_records

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
MAYBE = st.none() | TEXT
TIME = st.integers(-(1 << 63), (1 << 63) - 1) | st.integers(1_700_000_000_000, 1_700_000_000_003)
LIKE = st.builds(
    Event,
    event_id=TEXT,
    event_type=TEXT,
    timestamp_ms=TIME,
    data=st.binary(max_size=5),
    key=MAYBE,
    source_capability=TEXT,
    aggregate_id=MAYBE,
    aggregate_type=MAYBE,
    metadata=st.none() | st.dictionaries(TEXT, st.integers(-(1 << 63), (1 << 63) - 1), max_size=2),
    correlation_id=MAYBE,
    causation_id=MAYBE,
    priority=st.sampled_from(EventPriority),
    compression_type=st.sampled_from(CompressionType),
    serialization_format=st.sampled_from(SerializationFormat),
    max_retries=st.integers(0, 9),
    tenant_id=TEXT,
    user_id=MAYBE,
    schema_id=MAYBE,
    traceparent=MAYBE,
    deliver_at_ms=st.none() | st.integers(0, 1 << 42),
    expires_at_ms=st.none() | st.integers(0, 1 << 42),
)
OWN = st.lists(st.tuples(TEXT, TIME, st.binary(max_size=5), MAYBE), min_size=8, max_size=12)


def in_order(record: Record) -> tuple[object, ...]:
    """The record with its headers in one order, but for the last, which is the bus's own."""
    value, key, headers = record
    return value, key, sorted(headers[:-1], key=repr), headers[-1]


def alike(like: Event, own: list[tuple[str, int, bytes, str | None]]) -> list[Event]:
    return [
        msgspec.structs.replace(like, event_id=event_id, timestamp_ms=at_ms, data=data, key=key)
        for event_id, at_ms, data, key in own
    ]


def outcome(make: Callable[[], Iterable[Record]]) -> object:
    """The records, or why there are none."""
    try:
        return list(map(in_order, make()))
    except InvalidInputError as refused:
        return refused.message


@settings(max_examples=50)
@given(LIKE, OWN)
def test_many_that_are_alike_have_the_records_of_each(like: Event, own: list[tuple[str, int, bytes, str | None]]) -> None:
    events = alike(like, own)
    each = outcome(lambda: map(to_record, events))
    assert outcome(lambda: to_records(events)) == each
    assert outcome(lambda: to_records(in_columns(events))) == each


@settings(max_examples=50)
@given(LIKE, OWN, st.sampled_from(Event.__struct_fields__), LIKE)
def test_one_that_differs_keeps_what_is_its_own(
    like: Event, own: list[tuple[str, int, bytes, str | None]], field: str, other: Event
) -> None:
    events = alike(like, own)
    events[5] = msgspec.structs.replace(events[5], **{field: getattr(other, field)})
    each = outcome(lambda: map(to_record, events))
    assert outcome(lambda: to_records(events)) == each
    assert outcome(lambda: to_records(in_columns(events))) == each


def test_one_that_cannot_be_written_is_named() -> None:
    events = alike(Event("", "t", 0, b""), [(f"e{i}", 0, b"1", "\ud800" if i == 6 else "k") for i in range(9)])
    for form in (events, in_columns(events), in_columns(events * 20)):
        with pytest.raises(InvalidInputError, match="'e6' cannot be stored"):
            list(to_records(form))


def test_of_events_in_columns_none_is_made_but_the_first() -> None:
    columns = in_columns(alike(Event("", "t", 0, b""), [(f"e{i}", 0, b"1", "k") for i in range(100)]))
    assert len(list(to_records(columns))) == 100
    assert columns._events is None
