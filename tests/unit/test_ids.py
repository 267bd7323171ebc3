import multiprocessing
import os
import re
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given
from hypothesis import strategies as st

from event_streaming_bus import ids

CROCKFORD = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
MAX_TIME_MS = (1 << 48) - 1


def time_of(identifier: str) -> int:
    """The milliseconds in an id, decoded here on its own: ten base-32 digits after the prefix."""
    value = 0
    for digit in identifier.partition("_")[2][:10]:
        value = value * 32 + CROCKFORD.index(digit)
    return value


@pytest.mark.parametrize("prefix", [ids.EVENT, ids.STREAM, ids.PROCESSOR, ids.SCHEMA, ids.GROUP, ids.HISTORY, ids.RUN])
def test_an_id_is_its_prefix_and_26_crockford_digits(prefix: str) -> None:
    assert re.fullmatch(prefix + f"[{CROCKFORD}]{{26}}", ids.new_id(prefix))


def test_the_prefixes_are_those_of_the_contract() -> None:
    assert [ids.EVENT, ids.STREAM, ids.PROCESSOR, ids.SCHEMA, ids.GROUP, ids.HISTORY] == [
        "evt_", "str_", "proc_", "sch_", "grp_", "hist_",
    ]  # fmt: skip


def test_new_ids_ascend_and_differ_across_many_blocks() -> None:
    made = [new for count in (1, 5000, 1, 1024, 3) for new in ids.new_ids("evt_", count)]
    assert made == sorted(set(made))
    assert len(made) == 6029


def test_an_id_holds_the_time_it_was_made(monkeypatch: pytest.MonkeyPatch) -> None:
    ids._forget_block()
    monkeypatch.setattr(ids.time, "time_ns", lambda: 1_737_887_400_123_456_789)
    assert time_of(ids.new_id("evt_")) == 1_737_887_400_123
    ids._forget_block()


def test_ids_go_on_ascending_when_the_clock_runs_backwards(monkeypatch: pytest.MonkeyPatch) -> None:
    ids._forget_block()
    clock_ns = [2_000_000_000_000_000_000]
    monkeypatch.setattr(ids.time, "time_ns", lambda: clock_ns[0])
    before = ids.new_ids("evt_", 2000)
    clock_ns[0] -= 3_600_000_000_000
    after = ids.new_ids("evt_", 2000)
    assert before + after == sorted(set(before + after))
    ids._forget_block()


def test_threads_never_share_an_id() -> None:
    with ThreadPoolExecutor(8) as pool:
        made = [new for part in pool.map(lambda _: ids.new_ids("evt_", 700), range(32)) for new in part]
    assert len(set(made)) == 32 * 700


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_child_makes_other_ids_than_its_parent() -> None:
    ids.new_id("evt_")
    reader, writer = multiprocessing.Pipe(duplex=False)
    child = os.fork()
    if child == 0:
        writer.send(ids.new_ids("evt_", 500))
        os._exit(0)
    here = ids.new_ids("evt_", 500)
    there = reader.recv()
    os.waitpid(child, 0)
    assert not set(here) & set(there)


def test_no_ids_are_asked_for_and_none_made() -> None:
    assert ids.new_ids("evt_", 0) == []


@given(st.integers(0, MAX_TIME_MS), st.text(), st.integers())
def test_a_derived_id_depends_on_nothing_but_its_arguments(time_ms: int, name: str, number: int) -> None:
    first = ids.derived_id("evt_", time_ms, name, number)
    assert first == ids.derived_id("evt_", time_ms, name, number)
    assert first != ids.derived_id("evt_", time_ms, name, number + 1)
    assert time_of(first) == time_ms


def test_a_derived_id_is_the_same_in_every_version() -> None:
    """Replays of data written long ago must find the ids they made then: this text must never change."""
    assert ids.derived_id("evt_", 1_737_887_400_000, "orders", 0, 7) == "evt_01JJH2JG20V9ED9MT8T2KDN17B"


def number_of(digits: str) -> int:
    """What base-32 digits stand for."""
    value = 0
    for digit in digits:
        value = value * 32 + CROCKFORD.index(digit)
    return value


@given(st.lists(st.tuples(st.integers(-5000, 1 << 49), st.integers(0, (1 << 40) - 1)), max_size=20), st.integers(0, 1 << 20))
def test_ids_of_one_origin_hold_their_times_a_hash_of_the_origin_and_their_offsets(
    places: list[tuple[int, int]], begin: int
) -> None:
    places += [(1_700_000_000_000 + offset // 3, offset) for offset in range(begin, begin + 2000, 500)]
    made = ids.derived_ids("evt_", [time_ms for time_ms, _ in places], [offset for _, offset in places], "bids", "a/0/normal")
    assert [time_of(each) for each in made] == [min(max(time_ms, 0), MAX_TIME_MS) for time_ms, _ in places]
    assert [number_of(each[-8:]) for each in made] == [offset for _, offset in places]
    assert {each[14:22] for each in made} == {made[0][14:22]}
    assert made[0][14:22] != ids.derived_ids("evt_", [0], [0], "bids", "a/1/normal")[0][14:22]


def test_ids_of_one_origin_stay_as_they_were_in_logs_written_before() -> None:
    made = ids.derived_ids("evt_", [1_700_000_000_123, 1_700_000_001_024], [1023, 1 << 30], "bids", "a/0/normal")
    assert made == ["evt_01HF7YAT3V8WZD3CJ4000000ZZ", "evt_01HF7YAV008WZD3CJ401000000"]


def test_an_offset_that_an_id_cannot_hold_is_refused() -> None:
    with pytest.raises(IndexError):
        ids.derived_ids("evt_", [0], [1 << 40], "bids")


def test_derived_ids_stay_as_they_were_in_logs_written_before() -> None:
    assert ids.derived_id("evt_", 1_700_000_000_123, "sums", 1, b'["a"]', None) == "evt_01HF7YAT3VJAMCVWW7Z1FXHQ3B"
    assert ids.derived_id("evt_", -1, "é", 2.5) == "evt_0000000000FJM7DKC8DSM94V7C"


@given(st.lists(st.tuples(st.integers(-5000, 1 << 49), st.text(), st.integers()), max_size=20))
def test_many_ids_are_those_of_one_after_the_other(made_of: list[tuple[int, str, int]]) -> None:
    texts = [ids.origin_text(name, number) for _, name, number in made_of]
    assert ids.hashed_ids("evt_", [time_ms for time_ms, _, _ in made_of], texts) == [
        ids.derived_id("evt_", time_ms, name, number) for time_ms, name, number in made_of
    ]


@given(st.integers(0, MAX_TIME_MS), st.integers(0, MAX_TIME_MS))
def test_derived_ids_sort_by_time(a_ms: int, b_ms: int) -> None:
    a, b = ids.derived_id("evt_", a_ms, "x"), ids.derived_id("evt_", b_ms, "x")
    assert (a < b) == (a_ms < b_ms)


@pytest.mark.parametrize(("time_ms", "clamped_ms"), [(-5, 0), (1 << 60, MAX_TIME_MS)])
def test_a_time_that_does_not_fit_is_clamped(time_ms: int, clamped_ms: int) -> None:
    assert time_of(ids.derived_id("evt_", time_ms, "x")) == clamped_ms
