"""Events in columns are the same events: one by one, in parts, and in the log."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest
from columns import in_columns
from hypothesis import given
from hypothesis import strategies as st

from event_streaming_bus import ids
from event_streaming_bus.errors import InvalidInputError
from event_streaming_bus.models import CompressionType, Event, EventPriority, StreamConfig
from event_streaming_bus.store.log import tail
from event_streaming_bus.store.log.base import Append
from event_streaming_bus.store.log.embedded import EmbeddedLog
from event_streaming_bus.store.log.event_columns import EventColumns, column_of, different, joined, selected
from event_streaming_bus.store.log.record_batch import encode_columns
from event_streaming_bus.store.log.writer import partition_of

FIELDS = Event.__struct_fields__

events = st.builds(
    Event,
    event_id=st.uuids().map(str),
    event_type=st.sampled_from(["a", "b"]),
    timestamp_ms=st.integers(0, 1 << 40),
    data=st.binary(max_size=5),
    key=st.sampled_from([None, "k", "l"]),
    metadata=st.sampled_from([None, {"n": 1}, {"n": True}, {"n": 1.0}]),
    priority=st.sampled_from(EventPriority),
    compression_type=st.sampled_from([None, *CompressionType]),
)


@given(st.lists(events, min_size=1, max_size=6), st.data())
def test_they_are_what_a_list_of_the_events_is(rows: list[Event], data: st.DataObject) -> None:
    columns = in_columns(rows)
    assert list(columns) == rows
    assert (len(columns), columns[-1], columns) == (len(rows), rows[-1], rows)
    begin, end = sorted(data.draw(st.tuples(st.integers(0, 6), st.integers(0, 6))))
    assert list(columns[begin:end]) == rows[begin:end]
    indexes = sorted(data.draw(st.sets(st.integers(0, len(rows) - 1))))
    assert list(selected(columns, indexes)) == [rows[i] for i in indexes] == list(selected(rows, indexes))
    for name in FIELDS:
        assert list(column_of(columns, name)) == column_of(rows, name)
    for name in ("priority", "compression_type"):
        assert different(columns, name) == different(rows, name)


@given(st.lists(st.lists(events, min_size=1, max_size=4), min_size=1, max_size=3))
def test_joined_they_are_stored_as_the_events_one_by_one_are(parts: list[list[Event]]) -> None:
    rows = [row for part in parts for row in part]
    together = joined([in_columns(part) for part in parts])
    assert isinstance(together, EventColumns)
    assert list(together) == rows
    mixed = joined([in_columns(parts[0]), *parts[1:]])
    assert list(mixed) == rows
    assert _stored(together) == _stored(rows) == _stored(mixed)


def _stored(rows: Sequence[Event]) -> list[Any]:
    """The columns as they are written, each in full length; what is written of a value tells ``1`` from ``1.0`` and ``True``."""
    encode = msgspec.msgpack.Encoder().encode
    columns = msgspec.msgpack.decode(encode_columns(rows))
    return [encode(values * len(rows) if isinstance(values, list) and len(values) == 1 else values) for values in columns]


@pytest.mark.parametrize("partitions", [1, 3])
def test_they_go_where_the_events_one_by_one_go(tmp_path: Path, partitions: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tail, "MAX_BATCH_EVENTS", 4)
    rows = [
        Event(event_id, "t", i, b"{}", f"k{i % 5}", priority=EventPriority.HIGH if i % 3 else EventPriority.LOW)
        for i, event_id in enumerate(ids.new_ids(ids.EVENT, 30))
    ]
    log = EmbeddedLog(tmp_path)
    info = log.create_stream(StreamConfig(name="s", partitions=partitions))
    (result,) = log.append([Append(info.stream_id, in_columns(rows), new_ids=True)])
    assert result.event_ids == [row.event_id for row in rows]
    for row, receipt in zip(rows, result.receipts(), strict=True):
        split, offset = receipt.position.split, receipt.position.offset
        assert (split.lane, split.partition) == (row.priority, partition_of(row.key or "", partitions))
        assert log.read(split, offset)[0].event(0) == row
    log.close()


def test_an_event_that_cannot_be_stored_is_named() -> None:
    rows = [Event("fine", "t", 0, b"{}"), Event("bad", "t", 0, b"{}", "\ud800")]
    with pytest.raises(InvalidInputError, match="'bad' cannot be stored"):
        encode_columns(in_columns(rows))


def test_many_are_packed_before_the_transaction_that_writers_take_turns_in(tmp_path: Path) -> None:
    """And each append of many is record batches of its own, those of few share one."""
    log = EmbeddedLog(tmp_path)
    info = log.create_stream(StreamConfig(name="s"))
    parts = [
        in_columns([Event(event_id, "t", i, b"{}") for i, event_id in enumerate(ids.new_ids(ids.EVENT, n))])
        for n in (600, 10, 20, 5000)
    ]
    with log._db.write_lock():
        futures = [log.submit([Append(info.stream_id, part, new_ids=True)]) for part in parts]
        assert [part.packed is not None for part in parts[:3]] == [True, False, False]
        assert [len(piece) for piece in parts[3].pieces(4096) if piece.packed is not None] == [4096, 904]
        assert not any(future.done() for future in futures)
    receipts = [receipt for future in futures for receipt in future.result()[0].receipts()]
    (split,) = (split for split, end in log.end_offsets(info.stream_id).items() if end)
    batches = [batch for offset in (0, 600, 630, 4726) for batch in log.read(split, offset, max_bytes=1)]
    assert [receipt.position.offset for receipt in receipts] == list(range(5630))
    assert [event for batch in batches for event in batch.events()] == [event for part in parts for event in part]
    assert [batch.count for batch in batches[-2:]] == [4096, 904]
    log.close()


def test_many_that_cannot_be_stored_are_told_of_by_the_append(tmp_path: Path) -> None:
    log = EmbeddedLog(tmp_path)
    info = log.create_stream(StreamConfig(name="s"))
    rows = [
        Event(event_id, "t", 0, b"{}", "\ud800" if i == 700 else "k") for i, event_id in enumerate(ids.new_ids(ids.EVENT, 800))
    ]
    future = log.submit([Append(info.stream_id, in_columns(rows), new_ids=True)])
    with pytest.raises(InvalidInputError, match=f"'{rows[700].event_id}' cannot be stored"):
        future.result()
    assert not any(log.end_offsets(info.stream_id).values())
    log.close()
