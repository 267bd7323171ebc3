import logging
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import duckdb
import msgspec
import pytest

from event_streaming_bus import ids
from event_streaming_bus.errors import EventNotFoundError, InUseError, StorageError
from event_streaming_bus.models import CompressionType, Event, EventPriority, StreamConfig, StreamInfo
from event_streaming_bus.store.dead_letters import dead_letter
from event_streaming_bus.store.history import TABLES, History
from event_streaming_bus.store.history_records import (
    ACCEPTED,
    DEAD,
    DEAD_LETTER_STREAM,
    FILTERED,
    PASSED,
    EventError,
    HistoryRecord,
    Late,
    Processed,
    ProcessorRun,
    Published,
    Refused,
    Run,
    to_event,
)
from event_streaming_bus.store.log.base import Append, AppendResult
from event_streaming_bus.store.storage import Storage, open_storage

T0_MS = 1_357_034_400_000  # 2013-01-01T10:00:00Z
T0_US = T0_MS * 1000


class Bus:
    """A data folder that tests publish to as publishing and flows do: events and their history in one transaction."""

    def __init__(self, folder: Path) -> None:
        self.storage: Storage = open_storage(folder)
        self.history_id = self.storage.history().stream_id

    def stream(self, name: str = "orders", tenant_id: str = "default", **settings: Any) -> StreamInfo:
        return self.storage.log.create_stream(StreamConfig(name=name, tenant_id=tenant_id, **settings))

    def publish(self, stream: StreamInfo, events: Sequence[Event], **record: Any) -> list[Run]:
        runs: list[Run] = []

        def journal(results: Sequence[AppendResult]) -> Append:
            runs.extend(Run(s.stream_id, s.lane.value, s.partition, first, n) for r in results for s, first, n in r.written)
            given: dict[str, Any] = {"accepted_us": T0_US, "appended_us": T0_US + 1_500} | record
            published = Published(tenant_id=stream.tenant_id, runs=runs, **given)
            return Append(self.history_id, [to_event(published)], new_ids=True)

        self.storage.log.append([Append(stream.stream_id, events, new_ids=True, partition=0)], journal=journal)
        return runs

    def record(self, *records: HistoryRecord) -> None:
        self.storage.log.append([Append(self.history_id, [to_event(record) for record in records], new_ids=True)])

    def record_bytes(self, data: bytes) -> None:
        event = msgspec.structs.replace(to_event(run_record()), data=data)
        self.storage.log.append([Append(self.history_id, [event], new_ids=True)])


def events_of(*payloads: object, **fields: Any) -> list[Event]:
    made = zip(ids.new_ids(ids.EVENT, len(payloads)), payloads, strict=True)
    data = [(event_id, p if isinstance(p, bytes) else msgspec.json.encode(p)) for event_id, p in made]
    given = {"event_type": "order.created", "timestamp_ms": T0_MS} | fields
    return [Event(event_id=event_id, data=payload, **given) for event_id, payload in data]


def processed(run: Run, outcomes: Sequence[int], **fields: Any) -> Processed:
    given: dict[str, Any] = {"processor_id": "proc_1", "processor_name": "paid", "stage": "PROCESSING"} | fields
    times = {"started_us": T0_US + 2_000, "completed_us": T0_US + 4_000}
    return Processed(tenant_id="default", run=run, outcomes=bytes(outcomes), **{**times, **given})


def run_record(status: str = "RUNNING", observed_us: int = T0_US, **fields: Any) -> ProcessorRun:
    given: dict[str, Any] = {"run_id": "run_1", "processor_id": "proc_1", "processor_name": "paid", "flow": "sales"} | fields
    return ProcessorRun(tenant_id="default", status=status, workers=2, observed_us=observed_us, **given)


def ask(history: History, sql: str) -> list[tuple[Any, ...]]:
    return list(history.query(sql).rows())


def differences(one: Path, other: Path) -> dict[str, int]:
    """How many rows of each table are in only one of two history files, both of them closed."""
    with duckdb.connect() as db:
        db.execute(f"ATTACH '{one}' AS one (READ_ONLY); ATTACH '{other}' AS other (READ_ONLY)")
        return {
            table: db.execute(
                f"SELECT count(*) FROM ((FROM one.{table} EXCEPT ALL FROM other.{table}) "
                f"UNION ALL (FROM other.{table} EXCEPT ALL FROM one.{table}))"
            ).fetchall()[0][0]
            for table in (*TABLES, "base.state", "base.processor_run_events")
        }


@pytest.fixture
def bus(tmp_path: Path) -> Iterator[Bus]:
    bus = Bus(tmp_path)
    yield bus
    bus.storage.close()


@pytest.fixture
def history(bus: Bus) -> Iterator[History]:
    history = History(bus.storage)
    yield history
    history.close()


def publish_something_of_everything(bus: Bus) -> None:
    orders = bus.stream(partitions=2)
    letters = bus.storage.dead_letters("default")
    for i in range(6):
        made = events_of(*({"n": n, "carrier": "UA"} for n in range(20)), key=f"k{i % 3}", metadata={"i": i} if i % 2 else None)
        runs = bus.publish(orders, made, schema_id="sch_1" if i % 2 else None, schema_version="2.0")
        urgent = bus.publish(orders, events_of({"n": i}, priority=EventPriority.CRITICAL))
        bus.record(
            run_record(observed_us=T0_US + i, events_in=i),
            processed(runs[0], [PASSED, FILTERED, DEAD, 0] * 5, errors=[EventError(2, "ValueError", "no")]),
            processed(urgent[0], [ACCEPTED]),
            Late("default", "proc_1", "paid", runs[0].stream_id, runs[0].lane, runs[0].partition, [3, 1], [0, 0], [9, 9], 10, 11),
        )
        failed = {"step": "map", "error_type": "ValueError", "message": "no", "failed_at_ms": T0_MS}
        bus.publish(letters, [dead_letter(made[2], event_id=ids.new_id(ids.EVENT), stream=orders, **failed)])
    bus.publish(orders, events_of(b"\xff\xfe", b"no json", b""))


# --- rows ---------------------------------------------------------------------------------------------------------------


def test_a_published_event_is_a_row_with_its_whole_envelope(bus: Bus, history: History) -> None:
    orders = bus.stream(compression_type=CompressionType.ZSTD)
    event = Event(
        event_id=ids.new_id(ids.EVENT),
        event_type="order.created",
        timestamp_ms=T0_MS + 7,
        data=b'{"total":12.50,"items":["a","b"]}',
        key="k",
        source_capability="shop",
        aggregate_id="order_1",
        aggregate_type="Order",
        metadata={"source": "web"},
        correlation_id="corr",
        causation_id="cause",
        priority=EventPriority.HIGH,
        max_retries=5,
        user_id="user_1",
        schema_id="sch_1",
        traceparent="00-aa-bb-01",
        deliver_at_ms=T0_MS + 3_600_000,
    )
    bus.publish(orders, [event])
    assert history.catch_up() == 2
    assert history.event("default", event.event_id) == {
        "event_id": event.event_id,
        "tenant_id": "default",
        "stream_id": orders.stream_id,
        "stream": "orders",
        "lane": "HIGH",
        "partition": 0,
        "offset": 0,
        "event_type": "order.created",
        "source_capability": "shop",
        "aggregate_id": "order_1",
        "aggregate_type": "Order",
        "key": "k",
        "payload": {"total": 12.5, "items": ["a", "b"]},
        "metadata": {"source": "web"},
        "correlation_id": "corr",
        "causation_id": "cause",
        "user_id": "user_1",
        "schema_id": "sch_1",
        "traceparent": "00-aa-bb-01",
        "serialization_format": "JSON",
        "compression_type": "ZSTD",
        "max_retries": 5,
        "timestamp": "2013-01-01T10:00:00.007Z",
        "deliver_at": "2013-01-01T11:00:00.000Z",
        "expires_at": None,
        "published_at": "2013-01-01T10:00:00.001Z",
    }
    assert ask(history, "SELECT payload FROM events") == [('{"total":12.50,"items":["a","b"]}',)]


def test_an_event_knows_the_codec_it_asked_for_itself(bus: Bus, history: History) -> None:
    mixed = events_of(1, 2)
    mixed[1] = msgspec.structs.replace(mixed[1], compression_type=CompressionType.GZIP)
    bus.publish(bus.stream(), mixed)
    history.catch_up()
    assert ask(history, 'SELECT compression_type FROM events ORDER BY "offset"') == [("LZ4",), ("GZIP",)]


@pytest.mark.parametrize("payload", [b"\xff\xfe\x00", b"not json", b"", b'{"a":1} {"a":2}'])
def test_a_payload_that_is_no_json_is_kept_as_bytes(bus: Bus, history: History, payload: bytes) -> None:
    (bad, good) = events_of(payload, {"a": 1})
    bus.publish(bus.stream(), [bad, good])
    history.catch_up()
    rows = ask(history, "SELECT payload, payload_raw, payload->>'a' FROM events ORDER BY \"offset\"")
    assert rows == [(None, payload, None), ('{"a":1}', None, "1")]


def test_a_value_that_its_column_cannot_hold_is_null_and_the_row_is_there(bus: Bus, history: History) -> None:
    (odd, plain) = events_of(1, 2)
    odd = msgspec.structs.replace(odd, max_retries=1 << 40, timestamp_ms=1 << 62)
    bus.publish(bus.stream(), [odd, plain])
    history.catch_up()
    rows = ask(history, 'SELECT max_retries, "timestamp" IS NULL, payload FROM events ORDER BY "offset"')
    assert rows == [(None, True, "1"), (3, False, "2")]


def test_an_event_checked_against_a_schema_has_a_validation_and_a_publish_row(bus: Bus, history: History) -> None:
    (event,) = events_of({"a": 1})
    times = {"validation_started_us": T0_US + 100, "validation_completed_us": T0_US + 225_100}
    bus.publish(bus.stream(), [event], schema_id="sch_1", schema_version="1.0", appended_us=T0_US + 300_000, **times)
    history.catch_up()
    answer = history.processing_history("default", event.event_id)
    published, validated = answer["processing_history"]
    assert validated == {
        "history_id": validated["history_id"],
        "processor_id": "proc_validation",
        "processor_name": "validation",
        "processing_stage": "VALIDATION",
        "status": "COMPLETED",
        "started_at": "2013-01-01T10:00:00.000Z",
        "completed_at": "2013-01-01T10:00:00.225Z",
        "processing_duration_ms": 225,
        "input_data": {"event_type": "order.created", "payload": {"a": 1}},
        "output_data": {"validation_result": "passed", "schema_version": "1.0"},
        "retry_count": 0,
    }
    assert (published["processor_id"], published["processing_stage"]) == ("proc_publisher", "PUBLISH")
    assert validated["history_id"] != published["history_id"]
    assert {name: answer[name] for name in answer if name != "processing_history"} == {
        "event_id": event.event_id,
        "total_processing_time_ms": 525,
        "stages_completed": 2,
        "overall_status": "COMPLETED",
    }


def test_durations_are_whole_numbers_where_they_can_be(bus: Bus, history: History) -> None:
    (event,) = events_of(1)
    (run,) = bus.publish(bus.stream(), [event])
    bus.record(processed(run, [PASSED]))
    history.catch_up()
    answer = history.processing_history("default", event.event_id)
    assert [repr(step["processing_duration_ms"]) for step in answer["processing_history"]] == ["1.5", "2"]
    assert answer["total_processing_time_ms"] == 3.5


def test_each_outcome_of_a_processor_is_a_row_and_an_unseen_event_has_none(bus: Bus, history: History) -> None:
    made = events_of(*range(5))
    (run,) = bus.publish(bus.stream(), made)
    error = EventError(3, "ZeroDivisionError", "division by zero", "Traceback ...")
    bus.record(processed(run, [PASSED, 0, FILTERED, DEAD, ACCEPTED], errors=[error]))
    history.catch_up()
    rows = ask(
        history,
        "SELECT event_id, status, error_type, error_message, stack_trace FROM processing_history "
        "WHERE processor_id = 'proc_1' ORDER BY \"offset\"",
    )
    nothing = (None, None, None)
    assert rows == [
        (made[0].event_id, "COMPLETED", *nothing),
        (made[2].event_id, "FILTERED", *nothing),
        (made[3].event_id, "FAILED", "ZeroDivisionError", "division by zero", "Traceback ..."),
        (made[4].event_id, "COMPLETED", *nothing),
    ]


def test_one_outcome_stands_for_all_events_of_a_run(bus: Bus, history: History) -> None:
    (run,) = bus.publish(bus.stream(), events_of(*range(100)))
    bus.record(processed(run, [FILTERED]))
    history.catch_up()
    assert ask(history, "SELECT status, count(*) FROM processing_history GROUP BY ALL ORDER BY ALL") == [
        ("COMPLETED", 100),
        ("FILTERED", 100),
    ]


def test_a_run_over_a_part_of_several_record_batches_finds_its_events(bus: Bus, history: History) -> None:
    orders = bus.stream()
    made = [events_of(*range(10)) for _ in range(3)]
    for events in made:
        bus.publish(orders, events)
    bus.record(processed(Run(orders.stream_id, "NORMAL", 0, 7, 16), [PASSED] * 16))
    history.catch_up()
    rows = ask(history, "SELECT event_id FROM processing_history WHERE processor_id = 'proc_1' ORDER BY history_id")
    assert [row[0] for row in rows] == [event.event_id for events in made for event in events][7:23]


def test_a_failed_step_makes_the_event_failed(bus: Bus, history: History) -> None:
    (event,) = events_of(1)
    (run,) = bus.publish(bus.stream(), [event])
    bus.record(processed(run, [DEAD], errors=[EventError(0, "ValueError", "no")]))
    history.catch_up()
    answer = history.processing_history("default", event.event_id)
    assert (answer["overall_status"], answer["stages_completed"]) == ("FAILED", 1)
    assert answer["processing_history"][-1]["error_message"] == "no"


def test_an_event_of_another_tenant_has_no_history(bus: Bus, history: History) -> None:
    (event,) = events_of(1)
    bus.publish(bus.stream(), [event])
    history.catch_up()
    assert history.event("other", event.event_id) is None
    with pytest.raises(EventNotFoundError, match=event.event_id):
        history.processing_history("other", event.event_id)


def test_a_dead_letter_tells_where_and_why_and_keeps_the_bytes(bus: Bus, history: History) -> None:
    orders = bus.stream()
    (event,) = events_of(b"\xff{", metadata={"mine": 1})
    bus.publish(orders, [event])
    letter = dead_letter(
        event,
        event_id=ids.new_id(ids.EVENT),
        stream=orders,
        step="map",
        error_type="DecodeError",
        message="malformed",
        failed_at_ms=T0_MS + 5,
        position={"lane": "NORMAL", "partition": 0, "offset": 0},
        attempts=4,
        processor_id="proc_1",
        processor_name="paid",
        stack_trace="Traceback ...",
    )
    bus.publish(bus.storage.dead_letters("default"), [letter])
    history.catch_up()
    result = history.query("SELECT * REPLACE (epoch_ms(failed_at) AS failed_at) FROM dead_letters")
    (row,) = [dict(zip(result.columns, row, strict=True)) for row in result.rows()]
    assert row == {
        "dead_letter_id": letter.event_id,
        "tenant_id": "default",
        "event_id": event.event_id,
        "event_type": "order.created",
        "stream_id": orders.stream_id,
        "stream": "orders",
        "lane": "NORMAL",
        "partition": 0,
        "offset": 0,
        "processor_id": "proc_1",
        "processor_name": "paid",
        "step": "map",
        "error_type": "DecodeError",
        "error_message": "malformed",
        "stack_trace": "Traceback ...",
        "attempts": 4,
        "failed_at": T0_MS + 5,
        "payload_raw": b"\xff{",
    }
    assert ask(history, f"SELECT count(*) FROM events WHERE stream = '{DEAD_LETTER_STREAM}'") == [(1,)]


@pytest.mark.parametrize(
    "metadata", [None, {}, {"dead_letter": "why"}, {"dead_letter": {"attempts": "x", "offset": {}, "step": 3}}]
)
def test_a_dead_letter_that_tells_nonsense_is_still_a_row(bus: Bus, history: History, metadata: Any) -> None:
    bus.publish(bus.storage.dead_letters("default"), events_of(b"raw", metadata=metadata))
    history.catch_up()
    assert ask(history, 'SELECT payload_raw, attempts, "offset", step FROM dead_letters') == [(b"raw", None, None, None)]
    assert history.skipped() == (0, 0)


def test_refused_events_that_were_dead_lettered_failed_validation(bus: Bus, history: History) -> None:
    orders = bus.stream()
    (event,) = events_of({"a": "x"})
    why = {"step": "validation", "error_type": "ValidationFailedError", "message": "a: not a number", "failed_at_ms": T0_MS}
    letter = dead_letter(event, event_id=event.event_id, stream=orders, **why)  # type: ignore[arg-type]
    letters = bus.storage.dead_letters("default")
    (result,) = bus.storage.log.append([Append(letters.stream_id, [letter])])
    runs = [Run(s.stream_id, s.lane.value, s.partition, first, n) for s, first, n in result.written]
    bus.record(Refused("default", runs, "sch_1", "2.0", orders.stream_id, T0_US, 1))
    assert history.catch_up() == 3
    answer = history.processing_history("default", event.event_id)
    (step,) = answer["processing_history"]
    assert (step["processing_stage"], step["status"], answer["overall_status"]) == ("VALIDATION", "FAILED", "FAILED")
    assert step["output_data"] == {"validation_result": "failed", "schema_version": "2.0"}
    assert step["error_message"] == "a: not a number"
    assert ask(history, "SELECT event_id, stream FROM dead_letters") == [(event.event_id, "orders")]


def test_late_events_name_the_window_they_missed(bus: Bus, history: History) -> None:
    made = events_of(*range(5))
    (run,) = bus.publish(bus.stream(), made)
    late = Late(
        *("default", "proc_1", "daily", run.stream_id, run.lane, run.partition),
        offsets=[4, 1, 1],
        window_start_ms=[0, 1000, 2000],
        window_end_ms=[1000, 2000, 3000],
        watermark_ms=9000,
        observed_us=T0_US,
    )
    bus.record(late)
    history.catch_up()
    rows = ask(
        history,
        'SELECT event_id, stream, "offset", epoch_ms(window_start), epoch_ms(window_end), epoch_ms(watermark), '
        "epoch_us(observed_at) FROM late_events ORDER BY window_start",
    )
    assert rows == [
        (made[4].event_id, "orders", 4, 0, 1000, 9000, T0_US),
        (made[1].event_id, "orders", 1, 1000, 2000, 9000, T0_US),
        (made[1].event_id, "orders", 1, 2000, 3000, 9000, T0_US),
    ]


def test_a_run_of_a_processor_is_one_row_that_follows_its_records(bus: Bus, history: History) -> None:
    sql = "SELECT run_id, status, epoch_us(started_at) - ?, epoch_us(ended_at) - ?, events_in, error FROM processor_runs"
    sql = sql.replace("?", str(T0_US))
    bus.record(run_record("STARTING"), run_record("RUNNING", T0_US + 5, events_in=10))
    history.catch_up()
    assert ask(history, sql) == [("run_1", "RUNNING", 0, None, 10, None)]
    bus.record(run_record("FAILED", T0_US + 5, events_in=12, error="it broke"))
    history.catch_up()
    assert ask(history, sql) == [("run_1", "FAILED", 0, 5, 12, "it broke")]


# --- loading ------------------------------------------------------------------------------------------------------------


def test_a_deleted_history_is_built_again_with_the_same_rows(bus: Bus, tmp_path: Path) -> None:
    publish_something_of_everything(bus)
    followed = History(bus.storage)
    rows = followed.catch_up()
    followed.close()
    kept = followed.path.rename(tmp_path / "kept.duckdb")
    again = History(bus.storage)
    assert again.catch_up() == rows > 300
    again.close()
    assert set(differences(kept, again.path).values()) == {0}


def test_rebuilding_gives_the_same_rows_as_following(bus: Bus, tmp_path: Path) -> None:
    orders = bus.stream()
    followed = History(bus.storage, tmp_path / "followed.duckdb")
    rebuilt = History(bus.storage, tmp_path / "rebuilt.duckdb")
    for i in range(10):
        runs = bus.publish(orders, events_of(*range(i + 1)), appended_us=T0_US + i)
        followed.catch_up()
        bus.record(processed(runs[0], [PASSED]))
        followed.catch_up()
    rebuilt.catch_up()
    seen: list[tuple[int, int]] = []
    assert rebuilt.rebuild(lambda done, total: seen.append((done, total))) == 55 * 3
    assert seen[-1] == (20, 20)
    followed.close()
    rebuilt.close()
    assert set(differences(followed.path, rebuilt.path).values()) == {0}


def test_rows_and_position_move_together_when_loading_is_broken_off(
    bus: Bus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("event_streaming_bus.store.history.history.MAX_ROWS", 50)
    monkeypatch.setattr("event_streaming_bus.store.history.rows.MAX_ROWS", 20)
    publish_something_of_everything(bus)
    broken = History(bus.storage, tmp_path / "broken.duckdb")
    calls = 0

    def break_off(done: int, total: int) -> None:
        nonlocal calls
        calls += 1
        raise KeyboardInterrupt

    while broken.backlog():
        with pytest.raises(KeyboardInterrupt):
            broken.catch_up(break_off)
    broken.close()
    assert calls > 3
    whole = History(bus.storage, tmp_path / "whole.duckdb")
    whole.catch_up()
    whole.close()
    assert set(differences(broken.path, whole.path).values()) == {0}


def test_killed_while_loading_the_history_goes_on_where_it_was(bus: Bus, tmp_path: Path) -> None:
    publish_something_of_everything(bus)
    script = (
        "import os, signal, sys\n"
        "from event_streaming_bus.store.history import History, history\n"
        "from event_streaming_bus.store.storage import open_storage\n"
        "history.MAX_ROWS = 50\n"
        "kill = lambda done, total: os.kill(os.getpid(), signal.SIGKILL) if done > 10 else None\n"
        "History(open_storage(sys.argv[1])).catch_up(kill)\n"
    )
    died = subprocess.run([sys.executable, "-c", script, str(bus.storage.folder)], check=False)
    assert died.returncode == -signal.SIGKILL
    again = History(bus.storage)
    assert 0 < again.backlog() < bus.storage.log.end_offsets(bus.history_id)[again._split]
    again.catch_up()
    again.close()
    whole = History(bus.storage, tmp_path / "whole.duckdb")
    whole.catch_up()
    whole.close()
    assert set(differences(again.path, whole.path).values()) == {0}


def test_deleting_only_the_database_file_of_a_killed_process_is_harmless(bus: Bus) -> None:
    publish_something_of_everything(bus)
    script = (
        "import os, signal, sys\n"
        "from event_streaming_bus.store.history import History\n"
        "from event_streaming_bus.store.storage import open_storage\n"
        "History(open_storage(sys.argv[1])).catch_up(lambda done, total: os.kill(os.getpid(), signal.SIGKILL))\n"
    )
    subprocess.run([sys.executable, "-c", script, str(bus.storage.folder)], check=False)
    file = bus.storage.folder / "history.duckdb"
    assert file.with_name("history.duckdb.wal").stat().st_size > 0
    file.unlink()
    history = History(bus.storage)
    rows = history.catch_up()
    total = " + ".join(f"(SELECT count(*) FROM {t})" for t in ("events", "processing_history", "dead_letters", "late_events"))
    assert ask(history, f"SELECT {total} + (SELECT count(*) FROM base.processor_run_events)") == [(rows,)]
    history.close()


def test_events_that_retention_dropped_make_no_rows_and_leave_the_ids_of_the_others(bus: Bus, tmp_path: Path) -> None:
    orders = bus.stream(retention_ms=1000)
    first = bus.publish(orders, events_of(*range(10)))
    bus.publish(orders, events_of(*range(10), priority=EventPriority.LOW))
    before = History(bus.storage, tmp_path / "before.duckdb")
    time.sleep(0.01)
    late = Late("default", "p", "p", first[0].stream_id, "NORMAL", 0, [2], [0], [1], 2, 3)
    both = Published("default", [*first, Run(orders.stream_id, "LOW", 0, 0, 10)], T0_US, T0_US)
    bus.record(late, both)
    before.catch_up()
    kept = bus.storage.log.read(before._split, 0)  # history itself is kept
    assert kept
    with sqlite3.connect(bus.storage.folder / "log.db") as db:  # the NORMAL lane was appended long ago
        db.execute("UPDATE batches SET appended_at_ms = 0 WHERE split_no = (SELECT min(split_no) FROM batches WHERE count = 10)")
    db.close()
    assert bus.storage.log.enforce_retention() == 10
    after = History(bus.storage, tmp_path / "after.duckdb")
    assert after.catch_up() == 40
    assert after.skipped() == (10 + 1 + 10, 0)
    rows = "SELECT history_id, event_id FROM processing_history WHERE lane = 'LOW' ORDER BY ALL"
    assert ask(after, rows) == ask(before, rows)
    before.close()
    after.close()


def test_events_of_a_dropped_stream_make_no_rows(bus: Bus, history: History) -> None:
    orders = bus.stream()
    bus.publish(orders, events_of(*range(10)))
    bus.storage.log.drop_stream(orders.stream_id)
    bus.publish(bus.stream("others"), events_of(1))
    assert history.catch_up() == 2
    assert history.skipped() == (10, 0)


@pytest.mark.parametrize("data", [b"\xc1", msgspec.msgpack.encode({"type": "of the future", "tenant_id": "default"}), b""])
def test_a_record_that_cannot_be_read_is_counted_and_the_rest_goes_on(
    bus: Bus, history: History, caplog: pytest.LogCaptureFixture, data: bytes
) -> None:
    orders = bus.stream()
    bus.publish(orders, events_of(1))
    bus.record_bytes(data)
    bus.publish(orders, events_of(2))
    assert history.catch_up() == 4
    assert history.skipped() == (0, 1)
    assert "the history record at offset 1 cannot be read" in caplog.text


def test_a_record_with_too_few_outcomes_is_not_guessed_at(bus: Bus, history: History) -> None:
    (run,) = bus.publish(bus.stream(), events_of(1, 2, 3))
    bus.record(processed(run, [PASSED, PASSED]))
    assert history.catch_up() == 6
    assert history.skipped() == (0, 1)


def test_events_of_a_damaged_record_batch_make_no_rows_and_do_not_stop_history(
    bus: Bus, history: History, caplog: pytest.LogCaptureFixture
) -> None:
    orders = bus.stream()
    for _ in range(3):
        bus.publish(orders, events_of(*range(5)))
    with sqlite3.connect(bus.storage.folder / "log.db") as db:
        db.execute("UPDATE batches SET body = zeroblob(length(body)) WHERE base_offset = 0 AND count = 5")
    db.close()
    assert history.catch_up() == 20
    assert history.skipped() == (5, 0)
    assert caplog.text.count("is damaged") == 1


def test_damaged_records_of_the_history_are_counted_and_those_behind_them_are_loaded(
    bus: Bus, history: History, caplog: pytest.LogCaptureFixture
) -> None:
    orders = bus.stream()
    for n in range(4):
        bus.publish(orders, events_of(n))
    stream_id = bus.storage.history().stream_id
    with sqlite3.connect(bus.storage.folder / "log.db") as db:
        db.execute(
            "UPDATE batches SET body = zeroblob(length(body)) WHERE base_offset = 1 AND split_no IN "
            "(SELECT split_no FROM splits JOIN streams USING (stream_no) WHERE stream_id = ?)",
            (stream_id,),
        )
    db.close()
    assert history.catch_up() == 6
    assert history.skipped() == (0, 1)
    assert history.backlog() == 0
    assert "There is no history of what it tells" in caplog.text


def test_a_history_that_is_stopped_with_much_to_load_leaves_it_for_the_next_opening(
    bus: Bus, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("event_streaming_bus.store.history.history.MAX_ROWS", 1)
    monkeypatch.setattr("event_streaming_bus.store.history.history._LAST_LOOK_S", 0.0)
    orders = bus.stream()
    for n in range(60):
        bus.publish(orders, events_of(n))
    first = History(bus.storage)
    first.start()
    first.stop()
    left = first.backlog()
    first.close()
    assert left > 0
    again = History(bus.storage)
    assert again.catch_up() == 2 * left
    assert ask(again, "SELECT count(*), count(DISTINCT event_id) FROM events") == [(60, 60)]
    again.close()


def test_the_backlog_counts_the_records_that_are_not_loaded(bus: Bus, history: History) -> None:
    orders = bus.stream()
    for _ in range(3):
        bus.publish(orders, events_of(*range(5)))
    assert history.backlog() == 3
    history.catch_up()
    assert history.backlog() == 0


def test_more_rows_than_one_load_holds_come_in_several(bus: Bus, history: History, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("event_streaming_bus.store.history.history.MAX_ROWS", 100)
    orders = bus.stream()
    for _ in range(10):
        bus.publish(orders, events_of(*range(50)))
    seen: list[int] = []
    assert history.catch_up(lambda done, total: seen.append(done)) == 1000
    assert seen == list(range(1, 11))


# --- following ----------------------------------------------------------------------------------------------------------


def eventually(condition: Any, timeout_s: float = 10.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_started_history_follows_what_is_published(bus: Bus, history: History) -> None:
    orders = bus.stream()
    history.start()
    for n in range(1, 4):
        bus.publish(orders, events_of(n))
        eventually(lambda n=n: ask(history, "SELECT count(*) FROM events") == [(n,)])
    history.stop()


def test_stopping_loads_what_is_left_and_starting_again_follows_again(bus: Bus, history: History) -> None:
    orders = bus.stream()
    history.start()
    for n in range(20):
        bus.publish(orders, events_of(n))
    history.stop()
    assert ask(history, "SELECT count(*) FROM events") == [(20,)]
    history.start()
    bus.publish(orders, events_of(1))
    eventually(lambda: ask(history, "SELECT count(*) FROM events") == [(21,)])
    history.close()
    history.close()


def test_following_outlives_trouble(bus: Bus, history: History, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.ERROR)
    orders = bus.stream()
    history._db.execute("ALTER TABLE base.processing_history RENAME COLUMN status TO broken")
    bus.publish(orders, events_of(1))
    history.start()
    eventually(lambda: "trying again" in caplog.text)
    history._db.execute("ALTER TABLE base.processing_history RENAME COLUMN broken TO status")
    eventually(lambda: ask(history, "SELECT count(*) FROM processing_history") == [(1,)])
    assert ask(history, "SELECT count(*) FROM events") == [(1,)]


# --- the file -----------------------------------------------------------------------------------------------------------


def test_a_second_process_is_told_who_has_the_history(bus: Bus, history: History) -> None:
    script = (
        "import sys\n"
        "from event_streaming_bus.errors import InUseError\n"
        "from event_streaming_bus.store.history import History\n"
        "from event_streaming_bus.store.storage import open_storage\n"
        "try:\n    History(open_storage(sys.argv[1]))\n"
        "except InUseError as error:\n    print(error.details['pid'], error.message)\n"
    )
    argv = [sys.executable, "-c", script, str(bus.storage.folder)]
    told = subprocess.run(argv, check=True, capture_output=True, text=True).stdout
    assert told.startswith(f"{os.getpid()} The history {history.path} is open in another process (pid {os.getpid()})")


def test_a_second_history_in_one_process_is_refused_until_the_first_is_closed(bus: Bus, history: History) -> None:
    with pytest.raises(InUseError, match="in this process"):
        History(bus.storage)
    history.close()
    History(bus.storage).close()


def test_the_history_of_another_log_is_not_taken_over(tmp_path: Path) -> None:
    for name, count in (("one", 3), ("two", 1)):
        bus = Bus(tmp_path / name)
        bus.publish(bus.stream(), events_of(*range(count)))
        history = History(bus.storage, tmp_path / "history.duckdb")
        history.catch_up()
        assert ask(history, "SELECT count(*) FROM events") == [(count,)]
        history.close()
        bus.storage.close()


def test_a_history_of_an_older_layout_is_built_anew(bus: Bus) -> None:
    bus.publish(bus.stream(), events_of(1))
    history = History(bus.storage)
    history.catch_up()
    history._db.execute("UPDATE base.state SET format = 0")
    history.close()
    history = History(bus.storage)
    assert history.catch_up() == 2
    assert ask(history, "SELECT count(*) FROM events") == [(1,)]
    history.close()


def test_a_history_that_is_ahead_of_its_log_is_built_anew(bus: Bus, history: History) -> None:
    bus.publish(bus.stream(), events_of(1))
    history.catch_up()
    history._db.execute("UPDATE base.state SET next_offset = 99")
    assert history.backlog() == 0
    assert history.catch_up() == 2
    assert ask(history, "SELECT count(*) FROM events") == [(1,)]


def test_a_database_that_is_no_history_is_left_alone(bus: Bus, tmp_path: Path) -> None:
    mine = tmp_path / "mine.duckdb"
    with duckdb.connect(mine) as db:
        db.execute("CREATE TABLE precious AS SELECT 42 AS answer")
    with pytest.raises(StorageError, match="no history of the bus"):
        History(bus.storage, mine)
    with duckdb.connect(mine) as db:
        assert db.execute("FROM precious").fetchall() == [(42,)]


def test_a_damaged_history_file_says_what_to_do(bus: Bus, tmp_path: Path) -> None:
    damaged = tmp_path / "damaged.duckdb"
    damaged.write_bytes(os.urandom(100_000))
    with pytest.raises(StorageError, match="esb history rebuild"):
        History(bus.storage, damaged)


def test_a_closed_history_says_so(bus: Bus) -> None:
    history = History(bus.storage)
    history.close()
    with pytest.raises(StorageError):
        history.event("default", "evt_1")
    with pytest.raises(StorageError):
        history.query("SELECT 1")
