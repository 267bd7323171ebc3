"""CUSTOM with state: functions called in order with the state of their key, and what stays of a call that fails."""

import collections
import datetime
import decimal
import enum
import pickle
import uuid
import zoneinfo
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from event_streaming_bus import KeyState, RetryableError
from event_streaming_bus.flows.folds.base import FOREVER, LEFT, Entry, Result, Tally
from event_streaming_bus.flows.folds.custom import KeyedFold
from event_streaming_bus.flows.retries import Retrier, Stopped
from event_streaming_bus.flows.retry_policy import RetryPolicy
from event_streaming_bus.models import Event


def entry(t: int, key: str, n: int, number: int | None = None) -> Entry:
    event_id = f"e{n if number is None else number:03}"
    event = Event(event_id, "t", t, msgspec.json.encode({"n": n}))
    return Entry(t, 0, event_id, LEFT, msgspec.json.encode([key]), event, 0)


def payloads(results: list[Result]) -> list[Any]:
    return [each.value.payload for each in results]


def run(function: Callable[..., Any], *entries: Entry, ttl_ms: int | None = None, retrier: Retrier | None = None) -> list[Any]:
    """The payloads that come out, with the balance looked at."""
    tally = Tally()
    results = KeyedFold(function, {}, ttl_ms, retrier).run(entries, FOREVER, tally)
    assert tally.released + tally.filtered + tally.dead == len(entries)
    assert tally.dead == len(tally.failures)
    return payloads(results)


def count(event: Event, state: KeyState) -> dict[str, Any]:
    state["count"] = state.get("count", 0) + 1
    return {"key": state.key[0], "count": state["count"], "is_new": state.is_new}


# --- the fold ---------------------------------------------------------------------------------------------------------


def test_each_key_has_a_state_of_its_own() -> None:
    assert run(count, entry(1, "a", 1), entry(2, "b", 2), entry(3, "a", 3)) == [
        {"key": "a", "count": 1, "is_new": True},
        {"key": "b", "count": 1, "is_new": True},
        {"key": "a", "count": 2, "is_new": False},
    ]


def test_a_result_is_due_right_after_its_event_and_has_a_number() -> None:
    def two(event: Event, state: KeyState) -> list[Any]:
        return [{"first": 1}, replace(event, event_id="mine", key="other")]

    tally = Tally()
    first = entry(7, "a", 1)
    results = KeyedFold(two, {}, None).run([first], 8, tally)
    assert results == [
        Result(8, 7, b'["a"]', ("e001", 0), replace(first.value, data=b'{"first":1}')),
        Result(8, 7, b'["a"]', ("e001", 1), replace(first.value, key="other")),
    ]
    assert (tally.released, tally.filtered, tally.dead) == (1, 0, 0)


def test_an_event_of_which_nothing_is_made_is_filtered() -> None:
    tally = Tally()
    KeyedFold(lambda event, state: None, {}, None).run([entry(1, "a", 1)], 2, tally)
    assert (tally.released, tally.filtered, tally.dead) == (0, 1, 0)


def test_params_are_passed_on() -> None:
    fold = KeyedFold(lambda event, state, limit: {"limit": limit}, {"limit": 5}, None)
    assert payloads(fold.run([entry(1, "a", 1)], 2, Tally())) == [{"limit": 5}]


def test_a_call_that_fails_leaves_the_state_as_it_was_nested_values_included() -> None:
    def collect(event: Event, state: KeyState) -> dict[str, Any]:
        state.setdefault("lists", {"seen": []})["seen"].append(event.payload["n"])
        state["last"] = event.payload["n"]
        if event.payload["n"] == 2:
            del state["lists"]
            raise ValueError("no twos")
        if event.payload["n"] == 3:
            state.clear()
            raise ValueError("no threes")
        return dict(state)

    tally = Tally()
    fold = KeyedFold(collect, {}, None)
    results = fold.run([entry(n, "a", n) for n in (1, 2, 3, 4)], FOREVER, tally)
    assert payloads(results) == [{"lists": {"seen": [1]}, "last": 1}, {"lists": {"seen": [1, 4]}, "last": 4}]
    assert [(f.at_ms, f.entry.event_id, str(f.error), f.attempts) for f in tally.failures] == [
        (3, "e002", "no twos", 1),
        (4, "e003", "no threes", 1),
    ]


def test_an_output_that_cannot_be_written_fails_the_event_and_leaves_the_state() -> None:
    def broken(event: Event, state: KeyState) -> Any:
        state["n"] = event.payload["n"]
        return {"n": object()}

    tally = Tally()
    fold = KeyedFold(broken, {}, None)
    fold.run([entry(1, "a", 1)], 2, tally)
    assert isinstance(tally.failures[0].error, TypeError)
    assert fold.save() == []


def test_a_value_that_is_no_plain_data_fails_the_event_that_stored_it() -> None:
    class Customer:
        pass

    def broken(event: Event, state: KeyState) -> None:
        state["good"] = [1]
        state["customer"] = {"who": [Customer()]}

    tally = Tally()
    fold = KeyedFold(broken, {}, None)
    fold.run([entry(1, "a", 1)], 2, tally)
    told = str(tally.failures[0].error)
    assert told.startswith("state['customer']: expected plain data: None, bool, numbers")
    assert told.endswith("Customer")
    assert fold.save() == []


def test_a_call_that_is_tried_again_starts_from_the_same_state() -> None:
    calls = 0

    def flaky(event: Event, state: KeyState) -> dict[str, Any]:
        nonlocal calls
        calls += 1
        state.setdefault("seen", []).append(calls)
        if calls % 3:
            raise RetryableError
        return {"seen": state["seen"]}

    retrier = Retrier(RetryPolicy(max_attempts=3, backoff_ms=0))
    assert run(flaky, entry(1, "a", 1), entry(2, "a", 2), retrier=retrier) == [{"seen": [3]}, {"seen": [3, 6]}]


def test_the_number_of_attempts_is_told_with_the_failure() -> None:
    def down(event: Event, state: KeyState) -> None:
        raise ConnectionError

    tally = Tally()
    KeyedFold(down, {}, None, Retrier(RetryPolicy(max_attempts=4, backoff_ms=0))).run([entry(1, "a", 1)], 2, tally)
    assert tally.failures[0].attempts == 4


def test_a_stop_while_a_call_would_wait_goes_through() -> None:
    def down(event: Event, state: KeyState) -> None:
        raise ConnectionError

    tally = Tally()
    with pytest.raises(Stopped):
        KeyedFold(down, {}, None, Retrier(RetryPolicy(), lambda: True)).run([entry(1, "a", 1)], 2, tally)
    assert tally.dead == 0


def test_a_state_that_is_cleared_takes_no_memory_and_is_new_again() -> None:
    def clear_at_two(event: Event, state: KeyState) -> dict[str, Any]:
        said = count(event, state)
        if state["count"] == 2:
            state.clear()
        return said

    fold = KeyedFold(clear_at_two, {}, None)
    assert [p["is_new"] for p in payloads(fold.run([entry(n, "a", n) for n in (1, 2, 3)], 4, Tally()))] == [True, False, True]
    fold.run([entry(4, "a", 4)], 5, Tally())
    assert fold.save() == []


def test_a_state_is_forgotten_when_it_was_not_used_for_longer_than_its_ttl() -> None:
    entries = [entry(0, "a", 1), entry(10, "a", 2), entry(21, "a", 3)]
    assert [p["count"] for p in run(count, *entries, ttl_ms=10)] == [1, 2, 1]
    assert [p["count"] for p in run(count, *entries)] == [1, 2, 3]


def test_a_call_that_fails_is_no_use_of_the_state() -> None:
    def picky(event: Event, state: KeyState) -> dict[str, Any]:
        if event.payload["n"] == 2:
            raise ValueError
        return count(event, state)

    assert [p["count"] for p in run(picky, entry(0, "a", 1), entry(8, "a", 2), entry(12, "a", 3), ttl_ms=10)] == [1, 1]


def test_states_are_dropped_when_no_event_can_meet_them_any_more() -> None:
    fold = KeyedFold(count, {}, 10)
    fold.run([entry(0, "a", 1), entry(1, "b", 2), entry(2, "a", 3)], 11, Tally())
    assert [(key, used_ms) for key, used_ms, _ in fold.save()] == [(b'["b"]', 1), (b'["a"]', 2)]
    fold.run([], 12, Tally())
    assert [key for key, _, _ in fold.save()] == [b'["a"]']


def test_a_snapshot_does_not_change_with_later_events() -> None:
    fold = KeyedFold(count, {}, None)
    fold.run([entry(0, "a", 1)], 1, Tally())
    saved = fold.save()
    other = KeyedFold(count, {}, None)
    other.load(saved)
    for each in (fold, other):
        assert [p["count"] for p in payloads(each.run([entry(1, "a", 2)], 2, Tally()))] == [2]


def machine(event: Event, state: KeyState) -> Any:
    """Touches all that a state can do, by the number of the event."""
    n = event.payload["n"]
    history = state.setdefault("history", [])
    history.append({"n": n, "at": event.timestamp_ms})
    state.set("sum", state.get("sum", 0) + n)
    if n == 0:
        state.clear()
        return None
    if n == 1:
        state.pop("sum")
        raise ValueError
    if n == 2:
        state["deep"] = {"of": (set(map(str, range(n))), decimal.Decimal(n))}
        del history[:-2]
    return [{"n": n, "new": state.is_new, "history": history, "sum": state["sum"], "names": list(state)}] * (n % 3 + 1)


def reference(entries: list[Entry], ttl_ms: int | None) -> tuple[list[Any], int]:
    """The same by hand: each key's state made anew by replaying every call that succeeded since the state began."""
    out: list[Any] = []
    dead = 0
    for i, now in enumerate(entries):
        mine = [each for each in entries[: i + 1] if each.key == now.key]
        state: dict[str, Any] = {}
        used_ms = None
        made: Any = None
        for each in mine:
            n, t = each.value.payload["n"], each.timestamp_ms
            if used_ms is not None and ttl_ms is not None and t - used_ms > ttl_ms:
                state = {}
            made = "dead"
            if n == 1:
                if not state:
                    used_ms = None
                continue
            is_new = not state
            state.setdefault("history", []).append({"n": n, "at": t})
            state["sum"] = state.get("sum", 0) + n
            used_ms = t
            if n == 0:
                state, made = {}, []
                continue
            if n == 2:
                state["deep"] = True
                del state["history"][:-2]
            payload = {"n": n, "new": is_new, "history": list(state["history"]), "sum": state["sum"], "names": list(state)}
            made = [payload] * (n % 3 + 1)
        if made == "dead":
            dead += 1
        else:
            out += made
    return out, dead


@given(
    st.lists(st.tuples(st.integers(-50, 50), st.sampled_from("ab"), st.integers(0, 5)), max_size=30),
    st.one_of(st.none(), st.integers(1, 30)),
    st.lists(st.integers(-60, 120), max_size=8).map(sorted),
)
def test_it_agrees_with_a_replay_by_hand_however_events_are_cut_up_and_whenever_it_is_restarted(
    rows: list[tuple[int, str, int]], ttl_ms: int | None, cuts: list[int]
) -> None:
    entries = [entry(t, key, n, i) for i, (t, key, n) in enumerate(sorted(rows, key=lambda row: row[0]))]
    fold, tally, found = KeyedFold(machine, {}, ttl_ms), Tally(), []
    before_ms = -FOREVER
    for horizon_ms in [*cuts, FOREVER]:
        due = [each for each in entries if before_ms <= each.timestamp_ms < horizon_ms]
        found += fold.run(due, horizon_ms, tally)
        saved = pickle.loads(pickle.dumps(fold.save()))
        fold = KeyedFold(machine, {}, ttl_ms)
        fold.load(saved)
        before_ms = horizon_ms
    expected, dead = reference(entries, ttl_ms)
    assert payloads(found) == expected
    assert tally.dead == dead
    assert tally.released + tally.filtered + tally.dead == len(entries)
    assert len({(each.key, each.identity) for each in found}) == len(found)


# --- the state --------------------------------------------------------------------------------------------------------

PLAIN = [
    *(
        None,
        True,
        5,
        1 << 80,
        2.5,
        "text",
        b"bytes",
        1j,
        [1, [2]],
        (1, (2,)),
        {"a": {1: 2}},
        {1, 2},
        frozenset({1}),
        bytearray(b"x"),
    ),
    *(datetime.datetime(2013, 1, 1, tzinfo=datetime.UTC), datetime.date(2013, 1, 1), datetime.timedelta(days=1)),
    datetime.datetime(2013, 1, 1, tzinfo=zoneinfo.ZoneInfo("Europe/Oslo")),
    *(decimal.Decimal("1.10"), uuid.UUID(int=7), collections.Counter("aab"), collections.deque([1, 2], maxlen=2)),
    collections.defaultdict(list, {"a": [1]}),
    collections.OrderedDict(b=1, a=2),
]


@pytest.mark.parametrize("value", PLAIN, ids=lambda value: type(value).__name__)
def test_plain_data_comes_back_as_it_was(value: Any) -> None:
    state = KeyState({"value": value})
    assert state["value"] == value
    assert type(state["value"]) is type(value)


class Color(enum.StrEnum):
    RED = "red"


class Struct(msgspec.Struct):
    n: int = 1


@pytest.mark.parametrize("value", [Color.RED, Struct(), object(), len, lambda: 1, [Color.RED], Struct, (n for n in [1]), print])
def test_other_data_is_refused(value: Any) -> None:
    with pytest.raises(TypeError, match=r"state\['value'\]: expected plain data"):
        KeyState({"value": value})


def test_a_state_is_used_like_a_dict() -> None:
    state = KeyState({"a": 1, "b": [1], "c": 3})
    state["d"] = 4
    state.set("a", 2)
    del state["c"]
    assert dict(state) == {"a": 2, "b": [1], "d": 4}
    assert list(state) == ["a", "b", "d"]
    assert len(state) == 3
    assert ("a" in state, "c" in state, "x" in state, 5 in state) == (True, False, False, False)
    assert (state.pop("d"), state.get("d"), state.get("d", 0)) == (4, None, 0)
    assert state == {"a": 2, "b": [1]}
    state.update(e=5)
    assert repr(state) == "KeyState({'a': 2, 'b': [1], 'e': 5}, key=[])"
    state.clear()
    assert (len(state), list(state), dict(state)) == (0, [], {})


@pytest.mark.parametrize("name", ["gone", "never"])
def test_a_name_that_is_not_there_is_a_key_error(name: str) -> None:
    state = KeyState({"gone": 1})
    del state["gone"]
    with pytest.raises(KeyError, match=name):
        state[name]
    with pytest.raises(KeyError, match=name):
        del state[name]


def test_a_removed_name_can_be_set_again() -> None:
    state = KeyState({"a": 1})
    state.clear()
    state["a"] = 2
    assert dict(state) == {"a": 2}


def test_names_are_text() -> None:
    with pytest.raises(TypeError, match="the names in a state are text, got 5 of type int"):
        KeyState()[5] = 1  # type: ignore[index]


def test_a_state_is_new_while_nothing_is_stored() -> None:
    state = KeyState()
    state["a"] = 1
    assert state.is_new
    state.commit()
    assert not state.is_new


def test_what_the_function_keeps_hold_of_is_not_what_is_stored() -> None:
    values = [1]
    state = KeyState({"values": values})
    values.append(2)
    assert state["values"] == [1]


def test_a_key_has_the_values_of_its_fields() -> None:
    assert KeyState(key=["a", 5, None]).key == ["a", 5, None]
