"""The clock on the wall is set ahead and back, and nothing is lost by it."""

import time
from collections.abc import Callable
from pathlib import Path

import pytest

from event_streaming_bus import EventConfig
from event_streaming_bus.consumers.coordinator import GroupCoordinator
from event_streaming_bus.consumers.model import GroupConfig, GroupState
from event_streaming_bus.models import StreamConfig
from event_streaming_bus.sourcing.service import EventSourcingService
from event_streaming_bus.store.idempotency import IdempotencyStore, KeptAnswer
from event_streaming_bus.store.patient_clock import BELIEVED_AFTER_MS, PatientClock
from event_streaming_bus.store.storage import open_storage
from event_streaming_bus.testing import read_all, temporary_bus

HOUR_S = 3600
DAY_S = 86_400
Jump = Callable[[float], None]


@pytest.fixture
def jump(monkeypatch: pytest.MonkeyPatch) -> Jump:
    """Lets the clock on the wall be off by so many seconds; the monotonic ones go on as they are."""
    off_ns, real_ns = 0, time.time_ns

    def jump(seconds: float) -> None:
        nonlocal off_ns
        off_ns = int(seconds * 1e9)

    monkeypatch.setattr(time, "time_ns", lambda: real_ns() + off_ns)
    monkeypatch.setattr(time, "time", lambda: (real_ns() + off_ns) / 1e9)
    return jump


# --- what is thrown away ----------------------------------------------------------------------------------------------


class Clocks:
    """The two clocks that a patient one goes by."""

    wall_ms = 1_000_000_000
    boot_ms = 5_000

    def pass_by(self, passed_ms: int) -> None:
        self.wall_ms += passed_ms
        self.boot_ms += passed_ms


def test_a_patient_clock_goes_on_evenly_when_the_wall_clock_jumps_ahead() -> None:
    clocks = Clocks()
    clock = PatientClock(lambda: clocks.wall_ms, lambda: clocks.boot_ms)
    before_ms = clock.now_ms()
    clocks.wall_ms += DAY_S * 1000
    clocks.pass_by(10_000)
    assert clock.now_ms() == before_ms + 10_000
    clocks.pass_by(BELIEVED_AFTER_MS - 20_000)
    assert clock.now_ms() == before_ms + BELIEVED_AFTER_MS - 10_000
    clocks.wall_ms -= DAY_S * 1000  # it was wrong
    assert clock.now_ms() == clocks.wall_ms


def test_a_patient_clock_believes_a_jump_that_lasts() -> None:
    clocks = Clocks()
    clock = PatientClock(lambda: clocks.wall_ms, lambda: clocks.boot_ms)
    clocks.wall_ms += DAY_S * 1000
    assert clock.now_ms() < clocks.wall_ms
    clocks.pass_by(BELIEVED_AFTER_MS)
    assert clock.now_ms() == clocks.wall_ms
    clocks.pass_by(5000)
    assert clock.now_ms() == clocks.wall_ms


def test_a_patient_clock_follows_a_clock_that_is_set_back_or_corrected_little_by_little() -> None:
    clocks = Clocks()
    clock = PatientClock(lambda: clocks.wall_ms, lambda: clocks.boot_ms)
    clocks.wall_ms -= DAY_S * 1000
    assert clock.now_ms() == clocks.wall_ms
    clocks.pass_by(DAY_S * 1000)
    clocks.wall_ms += 40_000  # half a thousandth of the day
    assert clock.now_ms() == clocks.wall_ms
    clocks.wall_ms += 900
    assert clock.now_ms() == clocks.wall_ms


async def test_a_clock_that_jumps_ahead_lets_no_young_event_be_dropped(jump: Jump) -> None:
    with temporary_bus() as bus:
        bus.log.create_stream(StreamConfig(name="orders", retention_ms=HOUR_S * 1000))
        await bus.publishing.publish_event(EventConfig(event_type="t"), {}, "orders")
        jump(2 * HOUR_S)
        assert bus.log.enforce_retention() == 0
        assert len(read_all(bus, "orders")) == 1


async def test_aggregates_keep_what_is_young_when_the_clock_was_set_back_between(jump: Jump) -> None:
    """Times grow with positions, whatever the clock does: otherwise what lies before an event that seems old would go with it."""
    with temporary_bus() as bus:
        service = EventSourcingService(bus.storage)
        for seconds in (0, 2 * HOUR_S, 0, 0):
            jump(seconds)
            await service.append_event("a", "Account", {}, "t")
        events = await service.events("a")
        times_ms = [event.recorded_at_ms for event in events]
        assert times_ms == sorted(times_ms)
        lifecycle = service.lifecycle
        await lifecycle.set_retention("Account", max_age_ms=HOUR_S * 1000)
        jump(DAY_S)
        assert (await lifecycle.scavenge()).events == 0
        assert len(await service.events("a")) == 4


def test_an_answer_is_kept_when_the_clock_jumps_ahead_and_is_none_of_the_oldest_when_it_jumps_back(
    jump: Jump, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("event_streaming_bus.store.idempotency.MAX_KEYS", 3)
    store = IdempotencyStore(tmp_path / "answers.db")
    answer = KeptAnswer("hash", 201, "application/json", b"{}")
    store.keep("default", "POST /events", "a", answer)
    jump(2 * DAY_S)
    store.keep("default", "POST /events", "b", answer)
    assert store.find("default", "POST /events", "a") == answer
    jump(-2 * DAY_S)
    for key in ("c", "d", "e"):
        store.keep("default", "POST /events", key, answer)
        assert store.find("default", "POST /events", key) == answer
    assert store.find("default", "POST /events", "a") is None  # there are three now, and it is the oldest
    store.close()


# --- consumer groups --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seconds", [HOUR_S, -HOUR_S, -20])
def test_members_stay_when_the_clock_is_set_and_go_when_they_are_silent(seconds: float, jump: Jump, tmp_path: Path) -> None:
    storage = open_storage(tmp_path)
    orders = storage.log.create_stream(StreamConfig(name="orders", partitions=2)).stream_id
    here, there = GroupCoordinator(storage), GroupCoordinator(storage)
    config = GroupConfig(group_name="g", session_timeout_ms=1000, heartbeat_interval_ms=100, rebalance_timeout_ms=1000)
    group = here.create("default", config)
    silent, living = (each.join(group.group_id, [orders]) for each in (here, there))
    silent = here.join(group.group_id, [orders], member_id=silent.member_id)
    living = there.heartbeat(group.group_id, living.member_id, living.generation)
    assert here.get("default", "g").state is GroupState.STABLE
    jump(seconds)
    told = here.get("default", "g")
    assert (len(told.members), told.state, told.generation) == (2, GroupState.STABLE, silent.generation)
    there.heartbeat(group.group_id, living.member_id, living.generation)
    until_s = time.monotonic() + 3
    while len(here.get("default", "g").members) == 2 and time.monotonic() < until_s:
        time.sleep(0.1)
        living = there.heartbeat(group.group_id, living.member_id, living.generation)
        if living.must_rejoin:
            living = there.join(group.group_id, [orders], member_id=living.member_id)
    told = here.get("default", "g")
    assert [member.member_id for member in told.members] == [living.member_id]
    heard_ms = told.members[0].heartbeat_at_ms
    assert heard_ms is not None
    assert abs(heard_ms - time.time_ns() // 1_000_000) < 2000  # what is shown is the new time
    storage.close()


def test_members_from_before_the_machine_was_started_anew_are_put_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    storage = open_storage(tmp_path)
    orders = storage.log.create_stream(StreamConfig(name="orders")).stream_id
    coordinator = GroupCoordinator(storage)
    group = coordinator.create("default", GroupConfig(group_name="g", session_timeout_ms=1000, heartbeat_interval_ms=100))
    coordinator.join(group.group_id, [orders])
    monkeypatch.setattr("event_streaming_bus.store.groups.since_boot_ms", lambda: 7)
    assert coordinator.join(group.group_id, [orders]).is_rebalancing is False
    assert len(coordinator.get("default", "g").members) == 1
    storage.close()
