"""What every ``EventLog`` promises; see the docstrings of store/log/base.py."""

import threading
import time
from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from event_streaming_bus import ids
from event_streaming_bus.errors import (
    AlreadyExistsError,
    ClosedError,
    FencedError,
    InvalidInputError,
    InvalidStateError,
    OffsetOutOfRangeError,
    StreamChangedError,
    StreamNotFoundError,
)
from event_streaming_bus.models import (
    SCHEDULED_OFFSET,
    CompressionType,
    Event,
    EventPriority,
    Receipt,
    SerializationFormat,
    Split,
    StreamConfig,
    StreamInfo,
)
from event_streaming_bus.store.log.base import Append, AppendResult, EventLog, Mark, Released, Schedule
from event_streaming_bus.store.log.capabilities import capabilities_of
from event_streaming_bus.store.log.writer import partition_of as embedded_partition_of

OpenLog = Callable[[], EventLog]
PartitionOf = Callable[[str, int], int]
PARTITIONS_OF_7 = {"embedded": [4, 1, 3, 1], "kafka": [2, 5, 3, 4]}


@pytest.fixture
def partition_of(backend: str) -> PartitionOf:
    if backend == "embedded":
        return embedded_partition_of
    from event_streaming_bus.store.log.kafka_partitions import partition_of

    return partition_of


def event(event_id: str, data: bytes = b"{}", **fields: Any) -> Event:
    return Event(event_id, fields.pop("event_type", "t"), fields.pop("timestamp_ms", 0), data, **fields)


def stream(log: EventLog, name: str = "s", **config: Any) -> StreamInfo:
    return log.create_stream(StreamConfig(name=name, **config))


def put(log: EventLog, info: StreamInfo, *event_ids: str, **fields: Any) -> list[Receipt]:
    (result,) = log.append([Append(info.stream_id, [event(i, **fields) for i in event_ids])])
    return result.receipts()


def split_of(info: StreamInfo, partition: int = 0, lane: EventPriority = EventPriority.NORMAL) -> Split:
    return Split(info.stream_id, lane, partition)


def read_all(log: EventLog, info: StreamInfo) -> list[Event]:
    events = []
    for split in info.splits():
        offset = log.begin_offsets(info.stream_id)[split]
        while batches := log.read(split, offset):
            for batch in batches:
                assert batch.offset == offset or (batch.offset > offset and not capabilities_of(log).dense_offsets)
                events += batch.events()
                offset = batch.end_offset
    return events


def end_of(log: EventLog, info: StreamInfo, partition: int = 0) -> int:
    """Where the next event goes."""
    return log.end_offsets(info.stream_id)[split_of(info, partition)]


def has_dropped(log: EventLog, told: int, events: int) -> bool:
    """Whether retention told of so many events, or, where offsets may hold none, of no fewer offsets and not many more."""
    return told == events if capabilities_of(log).dense_offsets else events <= told <= 3 * events


# --- streams ----------------------------------------------------------------------------------------------------------


def test_a_stream_that_was_made_is_there_at_once(log: EventLog) -> None:
    for number in range(5):
        info = log.create_stream(StreamConfig(name=f"made-{number}"))
        assert set(log.end_offsets(info.stream_id).values()) == {0}
        changed = log.set_stream_schema(info.stream_id, "sch_1")
        assert log.find_stream("default", f"made-{number}") == changed
        log.drop_stream(info.stream_id)
        with pytest.raises(StreamNotFoundError):
            log.find_stream("default", f"made-{number}")


def test_what_was_checked_against_other_settings_is_not_appended(log: EventLog, log_factory: OpenLog) -> None:
    info = stream(log)
    checked = Append(info.stream_id, [event("a")], checked=info.config)
    log.append([checked])
    other = log_factory()
    changed = other.set_stream_schema(info.stream_id, "sch_1")
    with pytest.raises(StreamChangedError):
        log.append([msgspec.structs.replace(checked, events=[event("b")]), Append(info.stream_id, [event("c")])])
    log.append([Append(info.stream_id, [event("d")], checked=changed.config)])
    assert [each.event_id for each in read_all(log, info)] == ["a", "d"]
    other.close()


def test_a_stream_is_made_once(log: EventLog, log_factory: OpenLog) -> None:
    info = stream(log, partitions=3)
    assert stream(log, partitions=3) == info
    assert log_factory().find_stream("default", "s") == info
    with pytest.raises(AlreadyExistsError, match="partitions is 3, not 4"):
        stream(log, partitions=4)


def test_a_stream_keeps_the_id_it_was_given_and_no_other_can_have_it(log: EventLog) -> None:
    info = log.create_stream(StreamConfig(name="s"), "str_mine")
    assert info.stream_id == "str_mine"
    assert log.create_stream(StreamConfig(name="s"), "str_mine") == info
    with pytest.raises(AlreadyExistsError, match="str_mine"):
        log.create_stream(StreamConfig(name="other"), "str_mine")


@pytest.mark.parametrize("name", ["a", "_internal", "a.b-c_D9", "x" * 200])
def test_plain_names_are_taken(log: EventLog, name: str) -> None:
    assert stream(log, name).name == name


@pytest.mark.parametrize("name", ["", "a b", "a/b", "x" * 201, "ü", "a\n"])
def test_a_stream_needs_a_plain_name(log: EventLog, name: str) -> None:
    with pytest.raises(InvalidInputError, match="stream name"):
        stream(log, name)


@pytest.mark.parametrize(
    ("field", "value"), [("partitions", 0), ("partitions", 4097), ("retention_ms", 0), ("retention_bytes", -1)]
)
def test_settings_out_of_range_are_refused_by_name(log: EventLog, field: str, value: int) -> None:
    with pytest.raises(InvalidInputError, match=field):
        stream(log, **{field: value})


def test_a_stream_is_found_by_id_and_by_name_within_its_tenant(log: EventLog) -> None:
    mine, theirs = stream(log, tenant_id="a"), stream(log, tenant_id="b")
    assert log.find_stream("a", "s") == log.find_stream("a", mine.stream_id) == mine
    assert log.find_stream("b", "s") == theirs
    with pytest.raises(StreamNotFoundError):
        log.find_stream("a", theirs.stream_id)


def test_a_stream_that_is_not_there_comes_with_the_nearest_name(log: EventLog) -> None:
    stream(log, "orders")
    with pytest.raises(StreamNotFoundError, match="Did you mean 'orders'"):
        log.find_stream("default", "oders")


def test_streams_are_listed_by_name_and_internal_ones_only_when_asked_for(log: EventLog) -> None:
    for name in ("b", "_x", "a"):
        stream(log, name)
    stream(log, "c", tenant_id="other")
    assert [info.name for info in log.list_streams("default")] == ["a", "b"]
    assert [info.name for info in log.list_streams("default", internal=True)] == ["_x", "a", "b"]
    assert [info.name for info in log.list_streams()] == ["a", "b", "c"]


def test_a_dropped_stream_is_gone_with_its_events_and_ids(log: EventLog, log_factory: OpenLog) -> None:
    info, other = stream(log), log_factory()
    put(log, info, "x")
    other.drop_stream(info.stream_id)
    with pytest.raises(StreamNotFoundError):
        other.find_stream("default", "s")
    with pytest.raises(StreamNotFoundError):
        put(log, info, "y")  # this one has not heard of it yet
    again = stream(log)
    assert again.stream_id != info.stream_id
    assert not put(log, again, "x")[0].duplicate


def test_a_dropped_stream_takes_its_committed_offsets_with_it(log: EventLog) -> None:
    info, other = stream(log), stream(log, "other")
    log.commit("g", {split_of(info): 1, split_of(other): 2})
    log.drop_stream(info.stream_id)
    assert log.committed("g") == {split_of(other): 2}
    with pytest.raises(StreamNotFoundError):
        log.drop_stream(info.stream_id)


def test_a_stream_that_another_process_dropped_is_told_as_such(log: EventLog, log_factory: OpenLog) -> None:
    uses: list[Callable[[EventLog, Split], object]] = [
        lambda log, split: log.read(split, 0),
        lambda log, split: log.begin_offsets(split.stream_id),
        lambda log, split: log.end_offsets(split.stream_id),
        lambda log, split: log.stored_bytes(split.stream_id),
        lambda log, split: log.offset_for_time(split, 1),
        lambda log, split: log.commit("g", {split: 1}),
        lambda log, split: log.wait({split: 0}, 0.0),
    ]
    other = log_factory()
    for i, use in enumerate(uses):
        info = stream(log, f"s{i}")
        log.read(split_of(info), 0)  # it knows the stream now
        other.drop_stream(info.stream_id)
        with pytest.raises(StreamNotFoundError):
            use(log, split_of(info))


def test_a_partition_that_is_not_there_is_told_as_such(log: EventLog) -> None:
    info = stream(log, partitions=2)
    uses: list[Callable[[EventLog, Split], object]] = [
        lambda log, split: log.read(split, 0),
        lambda log, split: log.offset_for_time(split, 0),
        lambda log, split: log.commit("g", {split: 1}),
        lambda log, split: log.wait({split: 0}, 0.0),
    ]
    for use in uses:
        with pytest.raises(InvalidInputError, match="partitions 0 to 1"):
            use(log, split_of(info, 2))


# --- appending and reading --------------------------------------------------------------------------------------------


def test_what_was_appended_is_read_back_the_same(log: EventLog, log_factory: OpenLog) -> None:
    info = stream(log)
    full = Event(
        event_id="evt",
        event_type="type",
        timestamp_ms=1_700_000_000_123,
        data=b'{"a":1}',
        key="key",
        source_capability="capability",
        aggregate_id="agg",
        aggregate_type="Agg",
        metadata={"m": [1, None, {"x": "\u00e9"}]},
        correlation_id="corr",
        causation_id="cause",
        compression_type=CompressionType.ZSTD,
        serialization_format=SerializationFormat.AVRO,
        max_retries=7,
        user_id="user",
        schema_id="schema",
        traceparent="00-trace",
    )
    odd = [
        event("empty", b""),
        event("lines", b"a\nb\n\nc"),
        event("bytes", bytes(range(256))),
        event("ünï-code", b"x"),
        event("big", b"y" * (1 << 20)),
        event("early", timestamp_ms=-5_000_000_000_000),
    ]
    log.append([Append(info.stream_id, [full, *odd])])
    assert read_all(log_factory(), info) == [full, *odd]


@pytest.mark.parametrize("codec", list(CompressionType))
def test_every_codec_gives_back_what_it_was_given(log: EventLog, codec: CompressionType) -> None:
    info = stream(log, compression_type=codec)
    events = [event(f"e{i}", b'{"text":"%d"}' % (i % 7) * 20, key=f"k{i % 3}") for i in range(500)]
    log.append([Append(info.stream_id, events)])
    assert read_all(log, info) == events


@pytest.mark.needs("codec_of_events")
@pytest.mark.needs("stored_bytes")
def test_an_events_own_codec_goes_before_the_streams(log: EventLog) -> None:
    info = stream(log, compression_type=CompressionType.NONE)
    data = b"x" * 100_000
    put(log, info, "a", data=data)
    plain = log.stored_bytes(info.stream_id)
    put(log, info, "b", data=data, compression_type=CompressionType.ZSTD)
    assert plain > 100_000 > log.stored_bytes(info.stream_id) - plain
    assert [e.data for e in read_all(log, info)] == [data, data]


@pytest.mark.lacks("stored_bytes")
def test_a_size_that_is_not_known_is_zero(log: EventLog) -> None:
    info = stream(log)
    put(log, info, "a")
    assert log.stored_bytes(info.stream_id) == 0


def test_events_of_a_key_keep_their_order_in_one_partition(log: EventLog, partition_of: PartitionOf) -> None:
    info = stream(log, partitions=5)
    for i in range(20):
        put(log, info, f"a{i}", f"b{i}", key="k")
    (partition,) = {split.partition for split, end in log.end_offsets(info.stream_id).items() if end}
    assert partition == partition_of("k", 5)
    assert [e.event_id for e in read_all(log, info)] == [f"{x}{i}" for i in range(20) for x in "ab"]


def test_the_partition_of_a_key_is_the_same_for_ever(backend: str, partition_of: PartitionOf) -> None:
    assert [partition_of(key, 7) for key in ("", "a", "customer-1", "ключ")] == PARTITIONS_OF_7[backend]


def test_events_without_a_key_stay_together_within_an_append(log: EventLog) -> None:
    info = stream(log, partitions=4)
    for i in range(5):
        (result,) = log.append([Append(info.stream_id, [event(f"{i}-{n}") for n in range(10)])])
        assert [count for _, _, count in result.written] == [10]


def test_an_append_tells_where_its_runs_went_and_what_was_a_duplicate(log: EventLog) -> None:
    info = stream(log)
    put(log, info, "old")
    begin = end_of(log, info)
    events = [event("a"), event("old"), event("b", priority=EventPriority.LOW), event("c"), event("a")]
    (result,) = log.append([Append(info.stream_id, events)])
    assert list(result.event_ids) == ["a", "old", "b", "c", "a"]
    assert sorted(result.written) == sorted([(split_of(info), begin, 2), (split_of(info, lane=EventPriority.LOW), 0, 1)])
    assert result.duplicates == 2
    assert [(r.position.offset, r.duplicate) for r in result.receipts()] == [
        *((begin, False), (0, True), (0, False), (begin + 1, False), (begin, True))
    ]


def test_appending_nothing_is_allowed(log: EventLog) -> None:
    info = stream(log)
    assert log.append([]) == []
    (result,) = log.append([Append(info.stream_id, [])])
    assert (result.written, result.duplicates, result.receipts()) == ([], 0, [])


def test_more_events_than_fit_in_a_batch_come_back_in_order(log: EventLog) -> None:
    info = stream(log)
    names = ids.new_ids(ids.EVENT, 10_000)
    log.append([Append(info.stream_id, [event(i) for i in names], new_ids=True)])
    assert [e.event_id for e in read_all(log, info)] == names


def test_codecs_change_within_an_append(log: EventLog) -> None:
    info = stream(log)
    codecs = [None, CompressionType.GZIP, CompressionType.GZIP, None, CompressionType.ZSTD, CompressionType.NONE]
    events = [event(f"e{i}", b"%d" % i, compression_type=codec) for i, codec in enumerate(codecs)]
    log.append([Append(info.stream_id, events)])
    assert read_all(log, info) == events


@pytest.mark.parametrize(
    "given",
    [
        [{"v": 1}, {"v": True}, {"v": 1.0}],
        [{"v": 0.0}, {"v": -0.0}],
        [{"v": [0]}, {"v": [False]}],
        [{}, None, {"v": None}],
        [None, None],
    ],
)
def test_metadata_that_is_equal_but_not_the_same_is_kept_apart(log: EventLog, given: list[dict[str, Any] | None]) -> None:
    info = stream(log)
    log.append([Append(info.stream_id, [event(f"e{i}", metadata=m) for i, m in enumerate(given)])])
    put(log, info, "one", metadata=given[0])
    assert [repr(e.metadata) for e in read_all(log, info)] == [repr(m) for m in [*given, given[0]]]


@pytest.mark.parametrize(
    "spoilt",
    [
        {"metadata": {"x": object()}},
        {"metadata": {"x": 2**70}},
        {"timestamp_ms": 2**63},
        {"user_id": "\ud800"},
        {"key": "\ud800"},
    ],
)
def test_an_event_that_cannot_be_written_is_refused_with_all_that_came_with_it(log: EventLog, spoilt: dict[str, Any]) -> None:
    info = stream(log, partitions=2)
    with pytest.raises(InvalidInputError, match=r"bad|ud800"):
        log.append([Append(info.stream_id, [event("good"), event("bad", **spoilt)])], marks=[Mark("me", "k", None, b"1")])
    assert (read_all(log, info), log.marks("me"), log.locate("default", "good")) == ([], {}, None)
    assert not put(log, info, "good")[0].duplicate


def test_events_without_a_key_go_where_they_are_sent(log: EventLog) -> None:
    info = stream(log, partitions=3)
    (result,) = log.append([Append(info.stream_id, [event("a"), event("b")], partition=2)])
    assert result.written == [(split_of(info, 2), 0, 2)]


def test_each_priority_has_a_lane_of_its_own(log: EventLog) -> None:
    info = stream(log)
    events = [event(p.value, priority=p) for p in EventPriority]
    (result,) = log.append([Append(info.stream_id, events)])
    assert [r.position.split.lane for r in result.receipts()] == list(EventPriority)
    for lane in EventPriority:
        (batch,) = log.read(split_of(info, lane=lane), 0)
        assert [e.priority for e in batch.events()] == [lane]


@pytest.mark.needs("dense_offsets")
def test_offsets_count_from_zero_without_gaps(log: EventLog) -> None:
    info = stream(log)
    receipts = [r for i in range(5) for r in put(log, info, f"a{i}", f"b{i}")]
    assert [r.position.offset for r in receipts] == list(range(10))
    assert log.end_offsets(info.stream_id)[split_of(info)] == 10
    assert log.begin_offsets(info.stream_id)[split_of(info)] == 0


@pytest.mark.lacks("dense_offsets")
def test_batches_reach_over_the_offsets_that_hold_no_event(log: EventLog) -> None:
    info = stream(log)
    receipts = [r for i in range(5) for r in put(log, info, f"a{i}", f"b{i}")]
    end, offset, found = end_of(log, info), 0, []
    assert end > 10
    while batches := log.read(split_of(info), offset, max_bytes=1):
        for batch in batches:
            assert batch.offset == offset
            assert batch.count == len(batch.events()) <= batch.end_offset - batch.offset
            found += [batch.position(i) for i in range(batch.count)]
            offset = batch.end_offset
    assert (found, offset) == ([r.position for r in receipts], end)


def test_reading_begins_at_the_offset_and_stops_at_the_end(log: EventLog) -> None:
    info = stream(log)
    put(log, info, *"abc")
    second = put(log, info, *"def")[0].position.offset
    batches = log.read(split_of(info), 1)
    assert [e.event_id for batch in batches for e in batch.events()] == list("bcdef")
    assert [batch.position(0).offset for batch in batches] == [1, second]
    assert log.read(split_of(info), end_of(log, info)) == []


def test_reading_takes_whole_batches_up_to_a_size_but_at_least_one(log: EventLog) -> None:
    info = stream(log, compression_type=CompressionType.NONE)
    for i in range(4):
        put(log, info, f"e{i}", data=b"x" * 1000)
    assert len(log.read(split_of(info), 0, max_bytes=1)) == 1
    assert len(log.read(split_of(info), 0, max_bytes=2500)) == 2


@pytest.mark.parametrize("beyond", [-1, 1, 97])
def test_an_offset_beyond_the_split_is_an_error_that_names_the_range(log: EventLog, beyond: int) -> None:
    info = stream(log)
    put(log, info, "a", "b")
    end = end_of(log, info)
    with pytest.raises(OffsetOutOfRangeError) as caught:
        log.read(split_of(info), beyond if beyond < 0 else end + beyond)
    assert (caught.value.details["begin"], caught.value.details["end"]) == (0, end)


def test_one_append_to_several_streams_is_all_or_nothing(log: EventLog) -> None:
    one, two = stream(log, "one"), stream(log, "two")
    log.append([Append(one.stream_id, [event("a")]), Append(two.stream_id, [event("b")])])
    spoilt = event("d", metadata={"x": object()})
    with pytest.raises(InvalidInputError, match="'d' cannot be stored"):
        log.append([Append(one.stream_id, [event("c")]), Append(two.stream_id, [spoilt])])
    assert [len(read_all(log, info)) for info in (one, two)] == [1, 1]
    with pytest.raises(StreamNotFoundError):
        log.append([Append(one.stream_id, [event("e")]), Append("str_none", [event("f")])])
    assert len(read_all(log, one)) == 1


def test_an_append_to_a_stream_that_another_process_drops_leaves_nothing_in_the_others(
    log: EventLog, log_factory: OpenLog
) -> None:
    one, two = stream(log, "one"), stream(log, "two")
    put(log, two, "known")
    log_factory().drop_stream(two.stream_id)
    appends = [Append(one.stream_id, [event("a")]), Append(two.stream_id, [event("b")])]
    with pytest.raises(StreamNotFoundError):
        log.append(appends, marks=[Mark("me", "k", None, b"1")])
    assert (read_all(log, one), log.marks("me")) == ([], {})


def test_a_spoilt_append_does_not_harm_those_that_are_written_with_it(log: EventLog) -> None:
    info = stream(log)
    good = [log.submit([Append(info.stream_id, [event(f"g{i}")])]) for i in range(20)]
    bad = log.submit([Append(info.stream_id, [event("bad", metadata={"x": object()})])])
    more = [log.submit([Append(info.stream_id, [event(f"h{i}")])]) for i in range(20)]
    assert isinstance(bad.exception(), InvalidInputError)
    assert all(not future.result()[0].duplicates for future in good + more)
    assert len(read_all(log, info)) == 40


def test_submitted_appends_of_one_thread_keep_their_order(log: EventLog) -> None:
    info = stream(log)
    futures = [log.submit([Append(info.stream_id, [event(f"e{i:03d}", key="k")])]) for i in range(300)]
    for future in futures:
        future.result()
    assert [e.event_id for e in read_all(log, info)] == [f"e{i:03d}" for i in range(300)]


def test_the_journal_is_written_with_what_it_tells_of(log: EventLog) -> None:
    info, journal_stream = stream(log), stream(log, "journal")

    def journal(results: Any) -> Append:
        ((split, offset, count),) = results[0].written
        return Append(journal_stream.stream_id, [event(f"j-{split.partition}-{offset}-{count}")])

    log.append([Append(info.stream_id, [event("a")])])
    begin = end_of(log, info)
    log.append([Append(info.stream_id, [event("b"), event("c")])], journal=journal)
    log.append([Append(info.stream_id, [event("d")])], journal=lambda results: None)
    assert [e.event_id for e in read_all(log, journal_stream)] == [f"j-0-{begin}-2"]


def test_journals_of_appends_that_are_written_together_have_the_right_positions(log: EventLog) -> None:
    info, journal_stream = stream(log), stream(log, "journal")

    def journal(results: Any) -> Append:
        ((_, offset, _),) = results[0].written
        return Append(journal_stream.stream_id, [event(f"j-{results[0].event_ids[0]}-{offset}")])

    futures = [log.submit([Append(info.stream_id, [event(f"e{i}")])], journal=journal) for i in range(100)]
    told = {f"j-{r.event_id}-{r.position.offset}" for future in futures for r in future.result()[0].receipts()}
    assert {e.event_id for e in read_all(log, journal_stream)} == told
    assert len(told) == 100


def test_no_journal_is_written_for_an_append_that_was_fenced(log: EventLog) -> None:
    info, journal_stream = stream(log), stream(log, "journal")
    with pytest.raises(FencedError):
        log.append(
            [Append(info.stream_id, [event("a")])],
            marks=[Mark("me", "k", b"not there", b"1")],
            journal=lambda results: Append(journal_stream.stream_id, [event("j")]),
        )
    assert read_all(log, journal_stream) == []


# --- idempotency ------------------------------------------------------------------------------------------------------


def test_an_id_that_was_used_gives_the_first_receipt_and_appends_nothing(log: EventLog, log_factory: OpenLog) -> None:
    info, elsewhere = stream(log), stream(log, "elsewhere")
    (first,) = put(log, info, "order-1")
    for again in (put(log, info, "order-1"), put(log_factory(), elsewhere, "order-1", data=b"other")):
        assert again == [Receipt("order-1", first.position, duplicate=True)]
    assert len(read_all(log, info)) == 1
    assert read_all(log, elsewhere) == []


def test_an_id_may_stand_twice_in_one_append(log: EventLog) -> None:
    info = stream(log)
    first, again, third = put(log, info, "a", "a", "b")
    assert (first.duplicate, again.duplicate, again.position) == (False, True, first.position)
    assert third.position.offset == 1


@pytest.mark.parametrize("make", [lambda: ids.new_id(ids.EVENT), lambda: ids.derived_id(ids.EVENT, 7, "origin")])
def test_ids_of_our_own_making_are_known_as_well(log: EventLog, log_factory: OpenLog, make: Callable[[], str]) -> None:
    info, own = stream(log), make()
    (result,) = log.append([Append(info.stream_id, [event(own)], new_ids=True)])
    put(log, info, *[f"between-{i}" for i in range(10)])
    assert put(log_factory(), info, own) == [Receipt(own, result.receipts()[0].position, duplicate=True)]


def test_a_new_id_is_known_to_what_is_written_in_the_same_transaction(log: EventLog) -> None:
    info, own = stream(log), ids.new_id(ids.EVENT)
    first, again = log.append([Append(info.stream_id, [event(own)], new_ids=True), Append(info.stream_id, [event(own)])])
    assert again.receipts() == [Receipt(own, first.receipts()[0].position, duplicate=True)]
    assert len(read_all(log, info)) == 1


def test_ids_are_known_whoever_made_them_among_many_and_after_reopening(log: EventLog, log_factory: OpenLog) -> None:
    info = stream(log, partitions=3)
    first: dict[str, Receipt] = {}
    for n in range(10):
        own = ids.new_ids(ids.EVENT, 30)
        (result,) = log.append([Append(info.stream_id, [event(i, key=i) for i in own], new_ids=True)])
        first |= {r.event_id: r for r in [*result.receipts(), *put(log, info, *[f"explicit-{n}-{i}" for i in range(30)])]}
    log.close()
    again = log_factory()
    chosen = list(first)[::7]
    assert put(again, info, *chosen, "fresh")[:-1] == [Receipt(i, first[i].position, duplicate=True) for i in chosen]
    assert len(read_all(again, info)) == len(first) + 1


def test_any_text_is_an_id(log: EventLog) -> None:
    info = stream(log)
    for event_id in ("", "ключ-1", "日本", "a\nb", "a\0b", "x" * 5000, "evt_" + "Z" * 26, "' OR 1=1 --"):
        (first,) = put(log, info, event_id)
        assert not first.duplicate
        assert put(log, info, event_id)[0] == Receipt(event_id, first.position, duplicate=True)
        assert log.locate("default", event_id) == first


def test_ids_are_unique_per_tenant(log: EventLog) -> None:
    mine, theirs = stream(log, tenant_id="a"), stream(log, tenant_id="b")
    assert not put(log, mine, "x", tenant_id="a")[0].duplicate
    assert not put(log, theirs, "x", tenant_id="b")[0].duplicate
    assert put(log, theirs, "x", tenant_id="b")[0].duplicate


def test_the_same_id_from_many_threads_at_once_is_appended_once(log: EventLog, log_factory: OpenLog) -> None:
    info = stream(log)
    logs = [log, log_factory(), log_factory()]
    receipts: list[Receipt] = []

    def work(mine: EventLog) -> None:
        for i in range(25):
            receipts.extend(put(mine, info, f"e{i}"))

    threads = [threading.Thread(target=work, args=(logs[n % 3],)) for n in range(9)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(not r.duplicate for r in receipts) == 25
    assert len({(r.event_id, r.position) for r in receipts}) == 25
    assert len(read_all(log, info)) == 25


def test_an_event_is_found_by_its_id(log: EventLog) -> None:
    info = stream(log)
    put(log, info, "a")
    (b,) = put(log, info, "b")
    assert log.locate("default", "b") == b
    assert log.locate("other", "b") is None
    assert log.locate("default", "c") is None


# --- marks ------------------------------------------------------------------------------------------------------------


def test_marks_are_set_with_the_events_they_stand_for(log: EventLog, log_factory: OpenLog) -> None:
    info = stream(log)
    log.append([Append(info.stream_id, [event("a")])], marks=[Mark("me", "k", None, b"1"), Mark("me", "l", None, b"x")])
    log.append([Append(info.stream_id, [event("b")])], marks=[Mark("me", "k", b"1", b"2")])
    assert log_factory().marks("me") == {"k": b"2", "l": b"x"}
    assert log.marks("you") == {}


@pytest.mark.parametrize("expected", [None, b"0"])
def test_who_was_overtaken_is_fenced_and_writes_nothing(log: EventLog, expected: bytes | None) -> None:
    info = stream(log)
    log.append([], marks=[Mark("me", "k", None, b"1")])
    with pytest.raises(FencedError):
        log.append([Append(info.stream_id, [event("a")])], marks=[Mark("me", "k", expected, b"2")])
    assert read_all(log, info) == []
    assert log.marks("me") == {"k": b"1"}


def test_who_is_fenced_does_not_harm_those_that_are_written_with_it(log: EventLog) -> None:
    info = stream(log)
    log.append([], marks=[Mark("me", "k", None, b"0")])
    futures = [
        log.submit([Append(info.stream_id, [event(f"e{i}")])], marks=[Mark("me", "k", expected, b"%d" % (i + 1))])
        for i, expected in enumerate([b"0", b"1", b"wrong", b"2"])
    ]
    assert [type(future.exception()) for future in futures] == [type(None), type(None), FencedError, type(None)]
    assert [e.event_id for e in read_all(log, info)] == ["e0", "e1", "e3"]
    assert log.marks("me") == {"k": b"4"}


def test_dropped_marks_are_forgotten(log: EventLog) -> None:
    log.append([], marks=[Mark("me", "k", None, b"1"), Mark("you", "k", None, b"1")])
    log.drop_marks("me")
    assert (log.marks("me"), log.marks("you")) == ({}, {"k": b"1"})


# --- positions and waiting --------------------------------------------------------------------------------------------


def test_a_groups_offsets_are_kept(log: EventLog, log_factory: OpenLog) -> None:
    info = stream(log, partitions=2)
    log.commit("g", {split_of(info, 0): 3, split_of(info, 1): 5})
    log.commit("g", {split_of(info, 0): 4})
    assert log_factory().committed("g") == {split_of(info, 0): 4, split_of(info, 1): 5}
    assert log.committed("h") == {}


def test_the_offset_for_a_time_is_that_of_the_first_batch_that_reaches_it(log: EventLog) -> None:
    info = stream(log)
    first, second, third = (put(log, info, f"a{i}", f"b{i}", timestamp_ms=i * 100)[0].position.offset for i in range(3))
    expected = [first, first, second, second, third, end_of(log, info)]
    assert [log.offset_for_time(split_of(info), t) for t in (-5, 0, 1, 100, 150, 201)] == expected


def test_waiting_ends_when_an_event_is_there(log: EventLog, log_factory: OpenLog) -> None:
    info = stream(log)
    put(log, info, "a")
    assert log.wait({split_of(info): 0}, 0.0)
    assert not log.wait({split_of(info): 1}, 0.01)
    threading.Timer(0.05, lambda: put(log_factory(), info, "b")).start()
    assert log.wait({split_of(info): 1}, 30.0)


def test_waiting_for_several_splits_ends_with_the_first_that_moves(log: EventLog) -> None:
    one, two = stream(log, "one", partitions=2), stream(log, "two")
    positions = dict.fromkeys([*one.splits(), *two.splits()], 0)
    assert not log.wait(positions, 0.0)
    threading.Timer(0.05, lambda: put(log, two, "a", priority=EventPriority.LOW)).start()
    assert log.wait(positions, 30.0)
    assert not log.wait(positions | {split_of(two, lane=EventPriority.LOW): 1}, 0.0)


def test_the_version_changes_with_every_append_of_anybody(log: EventLog, log_factory: OpenLog) -> None:
    info, other = stream(log), log_factory()
    versions = [log.version()]
    for i in range(2):
        put(log, info, f"a{i}")
        versions.append(log.version())
        put(other, info, f"b{i}")
        versions.append(log.version())
    assert len(set(versions)) == 5
    assert log.version() == versions[-1]


# --- retention --------------------------------------------------------------------------------------------------------


def test_retention_by_age_drops_whole_batches_that_are_older(log: EventLog) -> None:
    info = stream(log, retention_ms=1000)
    put(log, info, "a", "b")
    assert log.enforce_retention() == 0
    time.sleep(0.02)
    third = put(log, info, "c")[0].position.offset
    (batch,) = log.read(split_of(info), third)
    assert has_dropped(log, log.enforce_retention(batch.appended_at_ms + 1000), 2)
    assert 2 <= log.begin_offsets(info.stream_id)[split_of(info)] <= third
    assert [e.event_id for e in read_all(log, info)] == ["c"]
    with pytest.raises(OffsetOutOfRangeError, match="no longer kept"):
        log.read(split_of(info), 0)
    assert not put(log, info, "a")[0].duplicate


@pytest.mark.needs("retention_by_size_at_once")
def test_retention_by_size_keeps_the_newest(log: EventLog) -> None:
    info = stream(log, retention_bytes=3000, compression_type=CompressionType.NONE, partitions=2)
    for i in range(6):
        put(log, info, f"e{i}", data=b"x" * 1000, key=f"k{i % 2}")
    assert log.enforce_retention() == 4
    assert sorted(e.event_id for e in read_all(log, info)) == ["e4", "e5"]
    assert log.stored_bytes(info.stream_id) <= 3000
    assert log.enforce_retention() == 0


@pytest.mark.lacks("retention_by_size_at_once")
def test_retention_by_size_is_left_to_the_servers_below(log: EventLog) -> None:
    info = stream(log, retention_bytes=3000)
    for i in range(6):
        put(log, info, f"e{i}", data=b"x" * 1000)
    assert log.enforce_retention() == 0
    assert len(read_all(log, info)) == 6


@pytest.mark.needs("retention_by_size_at_once")
def test_what_retention_leaves_is_the_same_after_reopening(log: EventLog, log_factory: OpenLog) -> None:
    info = stream(log, retention_bytes=2500, compression_type=CompressionType.NONE)
    own = ids.new_ids(ids.EVENT, 5)
    for i in own:
        log.append([Append(info.stream_id, [event(i, b"x" * 1000)], new_ids=True)])
    assert log.enforce_retention() == 3
    log.close()
    log = log_factory()
    assert [e.event_id for e in read_all(log, info)] == own[3:]
    assert (log.begin_offsets(info.stream_id)[split_of(info)], log.end_offsets(info.stream_id)[split_of(info)]) == (3, 5)
    assert [r.duplicate for r in put(log, info, own[0], own[4])] == [False, True]
    assert log.locate("default", own[0]) == Receipt(own[0], (split_of(info), 5))
    assert log.locate("default", own[1]) is None


def test_a_stream_of_which_nothing_is_kept_goes_on_counting(log: EventLog) -> None:
    info = stream(log, retention_ms=1)
    put(log, info, "a", "b")
    end = end_of(log, info)
    assert has_dropped(log, log.enforce_retention(time.time_ns() // 1_000_000 + 60_000), 2)
    assert log.begin_offsets(info.stream_id)[split_of(info)] == end == end_of(log, info)
    assert log.read(split_of(info), end) == []
    assert log.stored_bytes(info.stream_id) == 0
    assert log.offset_for_time(split_of(info), 0) == end
    assert put(log, info, "c")[0].position.offset == end


def test_retention_leaves_other_streams_alone(log: EventLog) -> None:
    kept, dropped = stream(log, "kept"), stream(log, "dropped", retention_ms=1)
    put(log, kept, "a")
    put(log, dropped, "b")
    assert has_dropped(log, log.enforce_retention(time.time_ns() // 1_000_000 + 60_000), 1)
    assert len(read_all(log, kept)) == 1


def test_the_events_of_a_split_before_an_offset_are_dropped(log: EventLog) -> None:
    info, other = stream(log, partitions=2), stream(log, "other")

    def put_in(partition: int, *names: str) -> int:
        (appended,) = log.append([Append(info.stream_id, [event(name) for name in names], partition=partition)])
        return appended.receipts()[0].position.offset

    offsets = [put_in(0, f"e{i}", f"f{i}") for i in range(3)]
    put_in(1, "beside")
    put(log, other, "another")
    assert log.drop_before(split_of(info), offsets[0]) == 0
    assert has_dropped(log, log.drop_before(split_of(info), offsets[1]), 2)
    assert log.drop_before(split_of(info), offsets[1]) == 0
    assert sorted(e.event_id for e in read_all(log, info)) == ["beside", "e1", "e2", "f1", "f2"]
    assert len(read_all(log, other)) == 1
    assert offsets[0] < log.begin_offsets(info.stream_id)[split_of(info)] <= offsets[1]
    assert put_in(0, "e0") > offsets[2]  # its id is as good as new
    log.drop_before(split_of(info), end_of(log, info) + 100)
    assert sorted(e.event_id for e in read_all(log, info)) == ["beside"]


# --- closing ----------------------------------------------------------------------------------------------------------


def test_closing_finishes_what_was_submitted(log_factory: OpenLog) -> None:
    log = log_factory()
    info = stream(log)
    futures = [log.submit([Append(info.stream_id, [event(f"e{i}")])]) for i in range(100)]
    log.close()
    log.close()
    assert all(future.done() for future in futures)
    assert len(read_all(log_factory(), info)) == 100
    with pytest.raises(ClosedError):
        put(log, info, "x")


def test_a_closed_log_says_so(log: EventLog) -> None:
    info = stream(log)
    put(log, info, "a")
    log.read(split_of(info), 0)
    log.close()
    uses: list[Callable[[], object]] = [
        lambda: stream(log, "other"),
        lambda: log.drop_stream(info.stream_id),
        lambda: log.find_stream("default", "s"),
        lambda: log.list_streams(),
        lambda: log.submit([Append(info.stream_id, [event("x")])]),
        lambda: log.read(split_of(info), 0),
        lambda: log.locate("default", "x"),
        lambda: log.begin_offsets(info.stream_id),
        lambda: log.end_offsets(info.stream_id),
        lambda: log.offset_for_time(split_of(info), 0),
        lambda: log.stored_bytes(info.stream_id),
        lambda: log.commit("g", {split_of(info): 0}),
        lambda: log.committed("g"),
        lambda: log.marks("me"),
        lambda: log.drop_marks("me"),
        lambda: log.version(),
        lambda: log.wait({split_of(info): 0}, 0.0),
        lambda: log.enforce_retention(),
        lambda: log.drop_before(split_of(info), 1),
    ]
    for use in uses:
        with pytest.raises(ClosedError):
            use()


def test_what_was_kept_is_there_after_reopening(log: EventLog, log_factory: OpenLog) -> None:
    info = stream(log, partitions=2, description="kept")
    receipts = [put(log, info, f"e{i}", key=f"k{i}", timestamp_ms=i)[0] for i in range(10)]
    log.append([], marks=[Mark("me", "k", None, b"1")])
    log.commit("g", {split_of(info, 1): 3})
    before = read_all(log, info), log.begin_offsets(info.stream_id), log.end_offsets(info.stream_id)
    stored = log.stored_bytes(info.stream_id)
    log.close()
    again = log_factory()
    assert again.list_streams() == [info]
    assert (read_all(again, info), again.begin_offsets(info.stream_id), again.end_offsets(info.stream_id)) == before
    assert [again.locate("default", r.event_id) for r in receipts] == receipts
    assert (again.marks("me"), again.committed("g")) == ({"k": b"1"}, {split_of(info, 1): 3})
    assert again.stored_bytes(info.stream_id) == stored
    assert (stored > 0) == capabilities_of(log).stored_bytes


# --- concurrency ------------------------------------------------------------------------------------------------------


def test_sixteen_threads_lose_nothing_double_nothing_and_keep_the_order_of_their_keys(log: EventLog) -> None:
    info = stream(log, partitions=3)
    receipts: list[Receipt] = []

    def work(n: int) -> None:
        for i in range(40):
            receipts.extend(put(log, info, f"{n}-{i}-a", f"{n}-{i}-b", key=f"k{n}"))

    threads = [threading.Thread(target=work, args=(n,)) for n in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    events = read_all(log, info)
    assert len(events) == 16 * 80
    for n in range(16):
        mine = [e.event_id for e in events if e.key == f"k{n}"]
        assert mine == [f"{n}-{i}-{x}" for i in range(40) for x in "ab"]
    by_split: dict[Split, list[int]] = {}
    for receipt in receipts:
        assert not receipt.duplicate
        by_split.setdefault(receipt.position.split, []).append(receipt.position.offset)
    assert all(len(set(offsets)) == len(offsets) for offsets in by_split.values())
    if capabilities_of(log).dense_offsets:
        assert sum(log.end_offsets(info.stream_id).values()) == 16 * 80
        assert all(sorted(offsets) == list(range(len(offsets))) for offsets in by_split.values())


def test_a_reader_beside_a_writer_sees_each_event_once_and_in_order(log: EventLog, log_factory: OpenLog) -> None:
    info, reader = stream(log), log_factory()
    seen: list[int] = []

    def follow() -> None:
        offset = 0
        while len(seen) < 150:
            if reader.wait({split_of(info): offset}, 10.0):
                for batch in reader.read(split_of(info), offset, max_bytes=500):
                    seen.extend(batch.timestamps_ms())
                    offset = batch.end_offset

    thread = threading.Thread(target=follow)
    thread.start()
    for i in range(50):
        put(log, info, *[f"{i}-{n}" for n in range(3)])
        log.append([], marks=[Mark("noise", f"{i}", None, b"")])
    thread.join(30.0)
    assert len(seen) == 150
    assert [e.event_id for e in read_all(reader, info)] == [f"{i}-{n}" for i in range(50) for n in range(3)]


# --- scheduled events -------------------------------------------------------------------------------------------------

HOUR_MS = 3_600_000


def now_ms() -> int:
    return time.time_ns() // 1_000_000


def schedule(log: EventLog, info: StreamInfo, due: dict[str, int], **fields: Any) -> list[Receipt]:
    """Append events that are due at these times."""
    events = [event(event_id, deliver_at_ms=due_ms, **fields) for event_id, due_ms in due.items()]
    (result,) = log.append([Append(info.stream_id, events, schedule=Schedule())])
    return result.receipts()


@pytest.mark.lacks("scheduling")
def test_what_is_to_come_later_is_refused_where_it_cannot_be_kept(log: EventLog) -> None:
    info = stream(log)
    with pytest.raises(InvalidStateError, match="'later'"):
        schedule(log, info, {"later": now_ms() + HOUR_MS})
    assert not schedule(log, info, {"past": now_ms() - 1, "later": 0})[1].duplicate
    assert [e.event_id for e in read_all(log, info)] == ["past", "later"]
    assert (log.scheduled("default").events, log.cancel_scheduled("default", "later")) == ([], False)


def comes(log: EventLog, info: StreamInfo, offset: int = 1, timeout_s: float = 5) -> bool:
    """Wait until the stream's first split has so many events."""
    if capabilities_of(log).dense_offsets:
        return log.wait({split_of(info): offset - 1}, timeout_s)
    until = time.monotonic() + timeout_s
    while sum(batch.count for batch in log.read(split_of(info), 0)) < offset:
        if time.monotonic() > until:
            return False
        time.sleep(0.01)
    return True


def soon_ms(log: EventLog, delay_ms: int) -> int:
    """When an event is due that waits no longer than a test needs, which is longer where appending takes its time."""
    return now_ms() + delay_ms * (5 if capabilities_of(log).outbox else 1)


def at_the_latest_ms(log: EventLog, due_ms: int) -> int:
    """When an event that is due has come, on a machine that has much to do: an outbox needs a transaction of another log."""
    return due_ms + (3000 if capabilities_of(log).outbox else 500)


@pytest.mark.needs("scheduling")
def test_an_event_comes_into_its_stream_when_it_is_due_and_not_before(log: EventLog) -> None:
    info = stream(log)
    due_ms = soon_ms(log, 200)
    (receipt,) = schedule(log, info, {"later": due_ms}, key="k")
    assert receipt == Receipt("later", (split_of(info), SCHEDULED_OFFSET), deliver_at_ms=due_ms)
    put(log, info, "now")
    assert not comes(log, info, 2, 0.1)
    assert [e.event_id for e in read_all(log, info)] == ["now"]
    assert log.locate("default", "later") is None
    assert comes(log, info, 2)
    assert due_ms <= now_ms() <= at_the_latest_ms(log, due_ms)
    (batch,) = log.read(split_of(info), 1)
    assert batch.events() == [event("later", deliver_at_ms=due_ms, key="k")]
    assert batch.appended_at_ms >= due_ms
    assert log.locate("default", "later") == Receipt("later", (split_of(info), batch.offset))
    assert log.scheduled("default").events == []


def some_of_which_one_is_to_come(log: EventLog, info: StreamInfo) -> AppendResult:
    put(log, info, "unscheduled", deliver_at_ms=now_ms() + HOUR_MS)
    events = [event("past", deliver_at_ms=5), event("later", deliver_at_ms=now_ms() + HOUR_MS), event("plain")]
    (result,) = log.append([Append(info.stream_id, events, schedule=Schedule())])
    return result


@pytest.mark.needs("scheduling")
@pytest.mark.lacks("outbox")
def test_only_events_of_an_append_with_a_schedule_wait_and_only_those_whose_time_is_to_come(log: EventLog) -> None:
    info = stream(log)
    result = some_of_which_one_is_to_come(log, info)
    assert [e.event_id for e in read_all(log, info)] == ["unscheduled", "past", "plain"]
    assert [r.position.offset for r in result.receipts()] == [1, SCHEDULED_OFFSET, 2]
    assert (result.written, result.scheduled, result.duplicates) == ([(split_of(info), 1, 2)], 1, 0)


@pytest.mark.needs("outbox")
def test_all_of_an_append_goes_through_the_outbox_if_the_time_of_one_is_to_come(log: EventLog) -> None:
    info = stream(log)
    result = some_of_which_one_is_to_come(log, info)
    assert [(r.position.offset, r.deliver_at_ms is not None) for r in result.receipts()] == [
        (SCHEDULED_OFFSET, False),
        (SCHEDULED_OFFSET, True),
        (SCHEDULED_OFFSET, False),
    ]
    assert (result.written, result.scheduled, result.duplicates) == ([], 3, 0)
    assert [e.event.event_id for e in log.scheduled("default").events] == ["later"]
    assert not log.cancel_scheduled("default", "plain")  # it does not wait for its time
    assert comes(log, info, 3)
    assert [e.event_id for e in read_all(log, info)] == ["unscheduled", "past", "plain"]


@pytest.mark.needs("outbox")
def test_an_append_with_marks_cannot_wait_in_the_outbox(log: EventLog) -> None:
    info = stream(log)
    append = Append(info.stream_id, [event("later", deliver_at_ms=now_ms() + HOUR_MS)], schedule=Schedule())
    with pytest.raises(InvalidStateError, match="marks"):
        log.append([append], marks=[Mark("me", "k", None, b"1")])
    assert (log.marks("me"), log.scheduled("default").events) == ({}, [])


@pytest.mark.needs("scheduling")
@pytest.mark.parametrize("new_ids", [False, True])
def test_events_that_are_due_together_come_in_the_order_of_their_times_then_of_their_appends(
    log: EventLog, log_factory: OpenLog, new_ids: bool
) -> None:
    info, second = stream(log), log_factory()
    due_ms = soon_ms(log, 150)
    names = ids.new_ids(ids.EVENT, 4) if new_ids else ["a", "b", "c", "d"]
    events = [event(name, deliver_at_ms=due_ms - 20 * (i == 3)) for i, name in enumerate(names)]
    for i, part in enumerate((events[:2], events[2:])):
        (log, second)[i].append([Append(info.stream_id, part, new_ids=new_ids, schedule=Schedule())])
    assert comes(log, info, 4)
    assert [e.event_id for e in read_all(log, info)] == [names[3], *names[:3]]


@pytest.mark.needs("scheduling")
def test_the_id_of_an_event_that_waits_is_taken(log: EventLog, log_factory: OpenLog) -> None:
    info, other, second = stream(log), stream(log, "other"), log_factory()
    due_ms = soon_ms(log, 200)
    (mine,) = ids.new_ids(ids.EVENT, 1)
    (first,) = schedule(log, info, {"x": due_ms})
    log.append([Append(info.stream_id, [event(mine, deliver_at_ms=due_ms)], new_ids=True, schedule=Schedule())])
    again = Receipt("x", first.position, duplicate=True, deliver_at_ms=due_ms)
    assert put(second, other, "x", mine, "x")[::2] == [again, again]
    assert schedule(log, other, {"x": due_ms + HOUR_MS}) == [again]
    (in_one,) = log.append([Append(info.stream_id, [event("y", deliver_at_ms=due_ms)] * 2, schedule=Schedule())])
    assert (in_one.scheduled, in_one.duplicates, [r.duplicate for r in in_one.receipts()]) == (1, 1, [False, True])
    assert put(log, info, "x", tenant_id="other")[0].duplicate  # the tenant is the stream's
    assert put(log, stream(log, tenant_id="other"), "x") != [again]
    assert comes(log, info, 3)
    places = [log.locate("default", event_id) for event_id in ("x", mine, "y")]
    assert put(log, other, "x", mine, "y") == [
        Receipt(place.event_id, place.position, duplicate=True) for place in places if place is not None
    ]
    assert [place.position.split for place in places if place is not None] == [split_of(info)] * 3
    assert read_all(log, other) == []


@pytest.mark.needs("scheduling")
def test_what_is_due_is_released_by_whoever_has_the_log_open(
    log: EventLog, log_factory: OpenLog, partition_of: PartitionOf
) -> None:
    info, reader = stream(log, partitions=3), log_factory()
    due_ms = now_ms() + 100
    schedule(log, info, {str(i): due_ms for i in range(20)}, key="k")
    log.close()
    split = split_of(info, partition_of("k", 3))
    assert reader.wait({split: 0}, 5)
    assert now_ms() <= at_the_latest_ms(reader, due_ms)
    assert [e.event_id for e in read_all(reader, info)] == [str(i) for i in range(20)]


@pytest.mark.needs("scheduling")
def test_what_came_due_while_nobody_had_the_log_open_is_there_at_the_next_opening(log: EventLog, log_factory: OpenLog) -> None:
    info = stream(log)
    schedule(log, info, {"a": now_ms() + 50, "b": now_ms() + HOUR_MS})
    log.close()
    time.sleep(0.1)
    again = log_factory()
    assert [e.event_id for e in read_all(again, info)] == ["a"]
    assert [e.event.event_id for e in again.scheduled("default").events] == ["b"]


@pytest.mark.needs("scheduling")
def test_an_append_releases_what_is_due_before_its_own_events(log: EventLog) -> None:
    info = stream(log)
    schedule(log, info, {"due": now_ms() + 50})
    time.sleep(0.15)
    if capabilities_of(log).outbox:  # the log itself knows nothing of what waits
        assert comes(log, info)
    (own,) = put(log, info, "own")
    assert own.position.offset == 1 or not capabilities_of(log).dense_offsets
    assert [e.event_id for e in read_all(log, info)] == ["due", "own"]


@pytest.mark.needs("scheduling")
def test_a_cancelled_event_never_comes_and_gives_its_id_free(log: EventLog) -> None:
    info = stream(log)
    schedule(log, info, {"x": now_ms() + 100, "y": now_ms() + 100})
    assert not log.cancel_scheduled("other", "x")
    assert log.cancel_scheduled("default", "x")
    assert not log.cancel_scheduled("default", "x")
    assert not put(log, info, "x")[0].duplicate
    assert comes(log, info, 2)
    assert not log.cancel_scheduled("default", "y")
    assert [e.event_id for e in read_all(log, info)] == ["x", "y"]


@pytest.mark.needs("scheduling")
def test_scheduled_events_are_listed_page_by_page_those_due_first_in_front(log: EventLog) -> None:
    one, two = stream(log, "one"), stream(log, "two")
    theirs = stream(log, tenant_id="other")
    at_ms = now_ms() + HOUR_MS
    schedule(log, one, {f"one-{i}": at_ms + i % 3 for i in range(7)}, expires_at_ms=at_ms + 9)
    schedule(log, two, {f"two-{i}": at_ms - 1 for i in range(3)})
    schedule(log, theirs, {"theirs": at_ms})
    whole = log.scheduled("default").events
    assert [e.event.event_id for e in whole[:6]] == ["two-0", "two-1", "two-2", "one-0", "one-3", "one-6"]
    assert (whole[3].split, whole[3].due_ms, whole[3].event.expires_at_ms) == (split_of(one), at_ms, at_ms + 9)
    assert abs(whole[3].scheduled_at_ms - now_ms()) < 5000
    found, cursor = [], None
    while True:
        page = log.scheduled("default", limit=4, cursor=cursor)
        found += page.events
        cursor = page.next_cursor
        if cursor is None:
            break
        assert len(page.events) == 4
    assert found == whole
    assert [e.event.event_id for e in log.scheduled("default", two.stream_id).events] == ["two-0", "two-1", "two-2"]
    assert [e.event.event_id for e in log.scheduled("other").events] == ["theirs"]
    for cursor in ("", "x", "1", "1-x", "1-2-3-" + "4" * 50):
        with pytest.raises(InvalidInputError, match="cursor"):
            log.scheduled("default", cursor=cursor)


@pytest.mark.needs("scheduling")
def test_dropping_a_stream_drops_what_waits_for_it_and_retention_does_not(log: EventLog) -> None:
    info, kept = stream(log), stream(log, "kept", retention_ms=1)
    schedule(log, info, {"x": now_ms() + 100})
    schedule(log, kept, {"y": now_ms() + 100})
    log.drop_stream(info.stream_id)
    assert log.enforce_retention(now_ms() + HOUR_MS) == 0
    again = stream(log)
    assert comes(log, kept)
    assert not put(log, again, "x")[0].duplicate


@pytest.mark.needs("scheduling")
def test_notes_are_told_in_the_transaction_of_the_release_neighbours_together(log: EventLog, partition_of: PartitionOf) -> None:
    info, notes = stream(log, partitions=2), stream(log, "_notes", tenant_id="other")
    due_ms = now_ms() + 100
    keys, same, alone = ["k", "k", "d", "k"], [b"1", b"2"], [b"3"]
    assert partition_of("k", 2) != partition_of("d", 2)
    events = [event(str(i), key=key, deliver_at_ms=due_ms) for i, key in enumerate(keys)]
    events.append(event("now", priority=EventPriority.HIGH))
    log.append([Append(info.stream_id, events, schedule=Schedule(notes.stream_id, [same, same, same, alone, alone]))])
    assert read_all(log, notes) == []
    count = 6 if capabilities_of(log).outbox else 5  # there, the event that was not delayed went the same way
    assert comes(log, notes, count)
    told = [msgspec.msgpack.decode(e.data, type=Released) for e in read_all(log, notes)]
    assert [t.note for t in told if t.lane == "HIGH"] == [b"3"] * (count - 5)
    told = [t for t in told if t.lane != "HIGH"]
    k, d = partition_of("k", 2), partition_of("d", 2)
    assert sorted((t.note, t.partition, t.offset, t.count) for t in told) == sorted(
        [(b"1", k, 0, 2), (b"2", k, 0, 2), (b"1", d, 0, 1), (b"2", d, 0, 1), (b"3", k, 2, 1)]
    )
    assert {(t.stream_id, t.lane) for t in told} == {(info.stream_id, "NORMAL")}
    assert all(due_ms * 1000 <= t.released_us <= time.time_ns() // 1000 for t in told)
