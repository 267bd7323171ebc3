"""Consumer lag: what waits and for how long, how fast it is worked off, and the verdict on it."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from event_streaming_bus import ids
from event_streaming_bus.consumers.lag import SplitLag, Verdict, judge, measured, rate_of
from event_streaming_bus.consumers.model import Commit, Group, GroupConfig, GroupState, Member, OffsetReset, Partition
from event_streaming_bus.models import Event, EventPriority, Split, StreamConfig, StreamInfo
from event_streaming_bus.store.log.base import Append
from event_streaming_bus.store.storage import Storage, open_storage

NOW_MS = 4_000_000_000_000
PATIENCE_MS = 30_000


@pytest.fixture
def storage(tmp_path: Path) -> Iterator[Storage]:
    storage = open_storage(tmp_path / "data")
    yield storage
    storage.close()


def commits(*told: tuple[float, int, int]) -> list[Commit]:
    """Commits of ``(seconds before now, offset, end)``."""
    return [Commit(NOW_MS - int(1000 * before_s), offset, end) for before_s, offset, end in told]


def verdict(window: list[Commit], lag: int, *, waits_s: float, silent_s: float | None = None) -> Verdict:
    silent_since_ms = window[-1].at_ms if silent_s is None else NOW_MS - int(1000 * silent_s)
    return judge(
        window,
        lag=lag,
        waiting_since_ms=NOW_MS - int(1000 * waits_s),
        silent_since_ms=silent_since_ms,
        patience_ms=PATIENCE_MS,
        now_ms=NOW_MS,
    ).verdict


# --- the verdict --------------------------------------------------------------------------------------------------------


def test_nothing_waits_is_ok_however_long_ago_the_last_commit_was() -> None:
    window = commits((90_000, 5, 9), (80_000, 9, 9))
    told = judge(window, lag=0, waiting_since_ms=None, silent_since_ms=window[-1].at_ms, patience_ms=1, now_ms=NOW_MS)
    assert told == (Verdict.OK, "every event is committed")


def test_a_consumer_that_falls_behind_is_warned_of_and_one_that_catches_up_is_ok() -> None:
    behind = commits((40, 10, 20), (30, 20, 35), (20, 30, 50), (10, 40, 65))
    assert verdict(behind, 30, waits_s=25) is Verdict.WARN
    ahead = commits((40, 10, 40), (30, 20, 45), (20, 30, 50), (10, 40, 55))
    assert verdict(ahead, 15, waits_s=25) is Verdict.OK


def test_a_consumer_that_commits_the_same_offset_while_events_wait_is_stalled() -> None:
    window = commits((40, 10, 20), (30, 10, 20), (20, 10, 25))
    assert verdict(window, 15, waits_s=60) is Verdict.STALLED
    assert verdict(window[1:], 15, waits_s=60) is Verdict.OK  # two that are alike say little


def test_a_consumer_that_no_longer_commits_is_stopped_after_the_span_of_its_commits_and_the_session_timeout() -> None:
    quick = [(1, 10, 20), (0.5, 12, 22), (0, 14, 24)]
    assert verdict(commits(*((29 + s, o, e) for s, o, e in quick)), 10, waits_s=99) is Verdict.WARN
    assert verdict(commits(*((31 + s, o, e) for s, o, e in quick)), 10, waits_s=99) is Verdict.STOPPED
    slow = [(600, 10, 20), (300, 12, 22), (0, 14, 24)]
    assert verdict(commits(*((599 + s, o, e) for s, o, e in slow)), 10, waits_s=9999) is Verdict.WARN
    assert verdict(commits(*((601 + s, o, e) for s, o, e in slow)), 10, waits_s=9999) is Verdict.STOPPED


def test_a_consumer_that_died_when_it_had_caught_up_is_stopped_and_not_ok_for_ever() -> None:
    window = commits((120, 10, 10), (110, 20, 20), (100, 30, 30))
    assert verdict(window, 50, waits_s=95) is Verdict.STOPPED


def test_a_consumer_of_a_slow_stream_is_not_stopped_when_an_event_comes_after_a_long_time() -> None:
    window = commits((7300, 1, 1), (7260, 2, 2), (7200, 3, 3))
    assert verdict(window, 1, waits_s=1) is Verdict.OK
    assert verdict(window, 1, waits_s=99) is Verdict.OK  # its commits span 100 s
    assert verdict(window, 1, waits_s=101) is Verdict.STOPPED


def test_an_offset_that_went_back_is_rewound_until_it_was_caught_up_with() -> None:
    window = commits((40, 50, 50), (30, 10, 50), (20, 20, 50))
    assert verdict(window, 30, waits_s=99) is Verdict.REWOUND
    assert verdict([*window, *commits((10, 50, 50))], 3, waits_s=5) is Verdict.OK


def test_a_group_that_has_never_committed_gets_time_to_begin() -> None:
    assert verdict([], 9, waits_s=9999, silent_s=10) is Verdict.OK
    assert verdict([], 9, waits_s=9999, silent_s=31) is Verdict.STOPPED
    assert verdict([], 9, waits_s=10, silent_s=9999) is Verdict.OK


def test_a_verdict_comes_with_the_sentence_that_says_why() -> None:
    window = commits((40, 10, 1020), (35, 10, 1020), (31, 10, 1020))
    told = judge(
        window, lag=1010, waiting_since_ms=0, silent_since_ms=window[-1].at_ms, patience_ms=PATIENCE_MS, now_ms=NOW_MS
    ).reason
    assert told == "1,010 events wait without a commit for 31.0 s; the session timeout is 30.0 s"


# --- the rate -----------------------------------------------------------------------------------------------------------


def test_the_rate_is_that_of_the_last_commits_and_falls_when_the_next_one_is_overdue() -> None:
    assert rate_of(commits((20, 0, 9), (10, 100, 900), (0, 200, 900)), NOW_MS) == 10
    assert rate_of(commits((29, 0, 9), (19, 100, 900), (9, 200, 900)), NOW_MS) == 10
    assert rate_of(commits((60, 0, 9), (50, 100, 900), (40, 200, 900)), NOW_MS) == 4
    assert rate_of(commits((81, 0, 9), (71, 100, 900), (61, 200, 900)), NOW_MS) == 0
    assert rate_of(commits((281, 0, 9), (181, 100, 900), (81, 200, 900)), NOW_MS) == 1
    assert rate_of(commits((801, 0, 9), (601, 100, 900), (81, 200, 900)), NOW_MS) == 0  # one alone is of the last ten minutes


def test_a_rate_needs_two_commits_and_does_not_count_what_went_back() -> None:
    assert rate_of([], NOW_MS) == 0
    assert rate_of(commits((1, 100, 100)), NOW_MS) == 0
    assert rate_of(commits((20, 100, 900), (10, 0, 900), (0, 50, 900)), NOW_MS) == 2.5


# --- measuring ----------------------------------------------------------------------------------------------------------


def append(storage: Storage, stream: StreamInfo, count: int, **fields: Any) -> None:
    events = [Event(each, "t", 1_000_000, b"1", **fields) for each in ids.new_ids(ids.EVENT, count)]
    storage.log.append([Append(stream.stream_id, events, partition=0)])


def group(*streams: StreamInfo, reset: OffsetReset = OffsetReset.EARLIEST) -> Group:
    member = Member(
        member_id="m",
        client_id="",
        host="h",
        pid=1,
        streams=tuple(stream.stream_id for stream in streams),
        generation=1,
        assignment=tuple(Partition(stream.stream_id, 0) for stream in streams),
        joined_at_ms=0,
        heartbeat_at_ms=0,
        polled_at_ms=0,
    )
    return Group(
        group_id="g",
        tenant_id="default",
        config=GroupConfig(group_name="g", auto_offset_reset=reset),
        state=GroupState.STABLE,
        generation=1,
        is_paused=False,
        created_at_ms=0,
        created_by=None,
        last_rebalance_at_ms=None,
        members=(member,),
    )


def lags(storage: Storage, group: Group, committed: Mapping[Split, int]) -> dict[str, SplitLag]:
    found = measured(storage.log, group, committed, {}, NOW_MS)
    return {f"{each.stream}/{each.split.partition}/{each.split.lane.value}": each for each in found}


def test_lag_is_counted_from_what_is_committed_or_else_from_where_the_group_begins(storage: Storage) -> None:
    orders = storage.log.create_stream(StreamConfig(name="orders", partitions=2))
    append(storage, orders, 5)
    append(storage, orders, 3, priority=EventPriority.HIGH)
    normal, high = (Split(orders.stream_id, lane, 0) for lane in (EventPriority.NORMAL, EventPriority.HIGH))
    found = lags(storage, group(orders), {normal: 4})
    assert {name: each.lag for name, each in found.items() if each.lag} == {"orders/0/NORMAL": 1, "orders/0/HIGH": 3}
    assert (found["orders/0/NORMAL"].member_id, found["orders/1/NORMAL"].member_id) == ("m", None)
    assert len(found) == 8
    latest = lags(storage, group(orders, reset=OffsetReset.LATEST), {normal: 4})
    assert (latest["orders/0/NORMAL"].lag, latest["orders/0/HIGH"].lag) == (1, 0)
    assert lags(storage, group(orders), {normal: 5, high: 3})["orders/0/HIGH"].seconds_behind == 0


def test_time_lag_is_the_age_of_the_oldest_waiting_event_by_when_it_was_appended(storage: Storage) -> None:
    orders = storage.log.create_stream(StreamConfig(name="orders"))
    append(storage, orders, 2)
    append(storage, orders, 2)
    split = Split(orders.stream_id, EventPriority.NORMAL, 0)
    batches = [storage.log.read(split, offset, 1)[0] for offset in (0, 2)]
    for committed, batch in ((1, batches[0]), (2, batches[1])):
        told = lags(storage, group(orders), {split: committed})["orders/0/NORMAL"]
        assert told.waiting_since_ms == batch.appended_at_ms
        assert told.seconds_behind == (NOW_MS - batch.appended_at_ms) / 1000


def test_events_that_retention_has_dropped_are_no_lag_but_told(storage: Storage) -> None:
    orders = storage.log.create_stream(StreamConfig(name="orders", retention_ms=1))
    append(storage, orders, 5)
    storage.log.enforce_retention(NOW_MS)
    append(storage, orders, 2)
    split = Split(orders.stream_id, EventPriority.NORMAL, 0)
    begin = storage.log.begin_offsets(orders.stream_id)[split]
    assert begin > 0
    told = lags(storage, group(orders), {split: 0})["orders/0/NORMAL"]
    assert (told.position, told.lag, told.expired) == (begin, 7 - begin, begin)


def test_a_dropped_stream_is_left_out(storage: Storage) -> None:
    orders = storage.log.create_stream(StreamConfig(name="orders"))
    split = Split(orders.stream_id, EventPriority.NORMAL, 0)
    storage.log.drop_stream(orders.stream_id)
    assert lags(storage, group(orders), {split: 0}) == {}
