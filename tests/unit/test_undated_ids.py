"""Ids of the time 0, as the copies have that a routing rule makes: they are found, and however long the log is, looking for them
takes no longer."""

import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from event_streaming_bus import ids
from event_streaming_bus.models import Event, StreamConfig, StreamInfo
from event_streaming_bus.store.log.base import Append
from event_streaming_bus.store.log.embedded import EmbeddedLog
from event_streaming_bus.store.log.stored import find_ids


@pytest.fixture
def log(tmp_path: Path) -> Iterator[EmbeddedLog]:
    opened = EmbeddedLog(tmp_path, synchronous="NORMAL")
    yield opened
    opened.close()


def undated(name: str) -> str:
    return ids.derived_id(ids.EVENT, 0, "routed", name, "target")


def put(log: EmbeddedLog, stream: StreamInfo, *event_ids: str, new_ids: bool) -> list[bool]:
    events = [Event(event_id, "t", 0, b"{}", key="k") for event_id in event_ids]
    (result,) = log.append([Append(stream.stream_id, events, new_ids=new_ids)])
    return [receipt.duplicate for receipt in result.receipts()]


@pytest.mark.parametrize("new_ids", [True, False])
@pytest.mark.parametrize("with_dated", [True, False])
def test_an_undated_id_is_known_however_it_was_appended(log: EmbeddedLog, new_ids: bool, with_dated: bool) -> None:
    stream = log.create_stream(StreamConfig(name="s"))
    dated = ids.new_ids(ids.EVENT, 2) if with_dated else []
    put(log, stream, undated("a"), *dated, undated("b"), new_ids=new_ids)
    put(log, stream, *ids.new_ids(ids.EVENT, 3), new_ids=True)
    again = [undated("b"), undated("c"), *dated, undated("a")]
    assert put(log, stream, *again, new_ids=False) == [True, False, *([True] * len(dated)), True]
    assert log.locate("default", undated("a")) is not None
    assert log.locate("default", undated("d")) is None


def test_looking_for_an_undated_id_takes_no_longer_in_a_longer_log(log: EmbeddedLog) -> None:
    stream = log.create_stream(StreamConfig(name="s"))

    def steps() -> int:
        taken = 0

        def count() -> None:
            nonlocal taken
            taken += 1

        with sqlite3.connect(log.path) as db:
            db.set_progress_handler(count, 10)
            assert find_ids(db, "default", {undated("a"): 0, undated("b"): 1}) == {}
        db.close()
        return taken

    put(log, stream, *ids.new_ids(ids.EVENT, 2), new_ids=True)
    few = steps()
    for _ in range(300):
        put(log, stream, *ids.new_ids(ids.EVENT, 1), new_ids=True)
    assert steps() <= few + 5
