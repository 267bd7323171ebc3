"""Record batches: any events in, the same events out, whole or in part."""

from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from event_streaming_bus.errors import CorruptLogError, InvalidInputError
from event_streaming_bus.models import CompressionType, Event, EventPriority, SerializationFormat, Split
from event_streaming_bus.store.log.record_batch import RecordBatch, StoredBatch, checksum, store_events

SPLIT = Split("str_1", EventPriority.HIGH, 3)
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
optional = st.none() | texts
json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False) | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=5,
)
events = st.builds(
    Event,
    texts,
    texts,
    st.integers(-(2**53), 2**53),
    st.binary(max_size=30) | st.just(b'{"a":1}'),
    optional,
    texts,
    optional,
    optional,
    st.none() | st.dictionaries(texts, json_values, max_size=3),
    optional,
    optional,
    st.sampled_from(EventPriority),
    st.none() | st.sampled_from(CompressionType),
    st.sampled_from(SerializationFormat),
    st.integers(0, 100),
    texts,
    optional,
    optional,
    optional,
    st.none() | st.integers(-(2**53), 2**53),
    st.none() | st.integers(-(2**53), 2**53),
)
VERSION_1 = (
    b"\xdc\x00\x15\x01\x02\x92\xa1a\xa1b\x91\xa1t\xc4\x10\x01\x00\x00\x00\x00\x00\x00\x00\x02\x00\x00\x00\x00\x00\x00\x00"
    b'\xc4\x0f{"n":1}\n{"n":2}\x92\xa1k\xc0\x91\xa0\x91\xc0\x91\xc0\x92\x81\xa1x\x01\xc0\x91\xc0\x91\xc0\x91\xa6NORMAL\x91\xc0\x91\xa4JSON'
    b"\x91\x03\x91\xa7default\x91\xc0\x91\xc0\x91\xc0"
)
"""Two events as the first version wrote them, without ``deliver_at_ms`` and ``expires_at_ms``."""


@given(st.lists(events, min_size=1, max_size=8), st.sampled_from(CompressionType), st.data())
def test_any_events_come_back_whole_and_in_slices(given_events: list[Event], codec: CompressionType, data: Any) -> None:
    batch = RecordBatch(SPLIT, store_events(given_events, 100, codec, 7))
    assert batch.events() == given_events
    begin = data.draw(st.integers(0, len(given_events) - 1))
    end = data.draw(st.integers(begin + 1, len(given_events)))
    part = batch.slice(100 + begin, 100 + end)
    assert (part.offset, part.end_offset) == (100 + begin, 100 + end)
    assert part.events() == given_events[begin:end]
    for name in Event.__struct_fields__:
        assert list(part.column(name)) == [getattr(e, name) for e in given_events[begin:end]]
    assert part.event(0) == given_events[begin]


@pytest.mark.parametrize("payloads", [[b""], [b"", b""], [b"\n"], [b"a\nb", b"c"], [b"", b"\n\n", b""], [bytes(range(256))] * 2])
def test_payloads_come_back_whatever_they_hold(payloads: list[bytes]) -> None:
    given = [Event(str(i), "t", 0, payload) for i, payload in enumerate(payloads)]
    batch = RecordBatch(SPLIT, store_events(given, 0, CompressionType.LZ4, 0))
    assert batch.payloads() == payloads
    assert [batch.event(i).data for i in range(len(payloads))] == payloads


@given(st.lists(st.none() | st.dictionaries(texts, json_values, max_size=2), min_size=1, max_size=6))
@example([{"v": 1}, {"v": True}])
@example([{"v": 1}, {"v": 1.0}])
def test_metadata_comes_back_the_same_and_not_only_equal(given_metadata: list[Any]) -> None:
    given_events = [Event(str(i), "t", 0, b"", metadata=metadata) for i, metadata in enumerate(given_metadata)]
    batch = RecordBatch(SPLIT, store_events(given_events, 0, CompressionType.NONE, 0))
    assert [repr(event.metadata) for event in batch.events()] == [repr(metadata) for metadata in given_metadata]


@given(st.lists(events, min_size=1, max_size=8), st.data())
def test_a_slice_of_a_slice_is_a_slice(given_events: list[Event], data: Any) -> None:
    batch = RecordBatch(SPLIT, store_events(given_events, 5, CompressionType.LZ4, 0))
    cuts = sorted(data.draw(st.lists(st.integers(0, len(given_events)), min_size=4, max_size=4)))
    if data.draw(st.booleans()):
        batch.events()  # decoded before it is cut
    part = batch.slice(5 + cuts[0], 5 + cuts[3]).slice(5 + cuts[1], 5 + cuts[2])
    assert part.events() == given_events[cuts[1] : cuts[2]]


def test_an_event_that_cannot_be_stored_is_named_among_those_that_can() -> None:
    bad = Event("bad", "t", 0, b"", metadata={"x": {1, 2}, "y": object()})
    with pytest.raises(InvalidInputError, match="'bad' cannot be stored") as caught:
        store_events([Event("a", "t", 0, b""), bad, Event("b", "t", 0, b"")], 0, CompressionType.LZ4, 0)
    assert caught.value.details == {"event_id": "bad"}


def test_lines_of_payloads_are_there_where_no_payload_has_a_line_feed() -> None:
    plain = RecordBatch(SPLIT, store_events([Event("a", "t", 0, b"1"), Event("b", "t", 0, b"2")], 0, CompressionType.LZ4, 0))
    assert plain.payload_lines() == b"1\n2"
    assert plain.slice(1, 2).payload_lines() is None
    broken = RecordBatch(SPLIT, store_events([Event("a", "t", 0, b"1\n")], 0, CompressionType.LZ4, 0))
    assert broken.payload_lines() is None
    assert broken.payloads() == [b"1\n"]


def test_equal_values_are_stored_once() -> None:
    same = store_events([Event(f"{i:04d}", "x" * 500, 0, b"") for i in range(100)], 0, CompressionType.NONE, 0)
    assert len(same.body) < 3000


@pytest.mark.parametrize(
    "change",
    [
        {"base_offset": 1},
        {"count": 2},
        {"min_timestamp_ms": 5},
        {"max_timestamp_ms": 5},
        {"appended_at_ms": 5},
        {"body": b"other"},
    ],
)
def test_the_checksum_covers_the_place_and_the_contents(change: dict[str, Any]) -> None:
    stored = store_events([Event("a", "t", 0, b"1")], 0, CompressionType.NONE, 0)
    fields = {name: getattr(stored, name) for name in StoredBatch.__struct_fields__}
    assert checksum(SPLIT, stored) != checksum(SPLIT, StoredBatch(**(fields | change)))
    assert checksum(SPLIT, stored) != checksum(SPLIT._replace(partition=4), stored)


@pytest.mark.parametrize("codec", list(CompressionType))
def test_a_body_that_is_no_batch_is_an_error_that_names_the_place(codec: CompressionType) -> None:
    batch = RecordBatch(SPLIT, StoredBatch(40, 2, codec, 0, 0, 0, b"\x01nonsense"))
    with pytest.raises(CorruptLogError, match="offsets 40 to 41 of stream str_1, partition 3, lane HIGH"):
        batch.events()


def test_a_batch_of_the_first_version_is_read_and_one_of_a_later_version_refused() -> None:
    given_events = [Event("a", "t", 1, b'{"n":1}', "k", metadata={"x": 1}), Event("b", "t", 2, b'{"n":2}')]
    batch = RecordBatch(SPLIT, StoredBatch(0, 2, CompressionType.NONE, 1, 2, 0, VERSION_1))
    assert batch.events() == given_events
    assert batch.column("expires_at_ms") == [None, None]
    assert batch.constant("deliver_at_ms") == (True, None)
    assert RecordBatch(SPLIT, batch.slice(1, 2).stored()).events() == given_events[1:]  # encoded anew, in the version of now
    later = RecordBatch(SPLIT, StoredBatch(0, 2, CompressionType.NONE, 1, 2, 0, VERSION_1.replace(b"\x15\x01", b"\x15\x03")))
    with pytest.raises(CorruptLogError, match="header"):
        later.events()
