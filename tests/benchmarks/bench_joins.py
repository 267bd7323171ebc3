"""The folds of JOIN beside Bytewax's ``join_window`` over the same events, payloads left as bytes."""

import random
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import Any, Final

import bytewax.operators as op
from bytewax.dataflow import Dataflow
from bytewax.operators.windowing import EventClock, TumblingWindower, join_window
from bytewax.testing import TestingSink, TestingSource, run_main
from harness import Figure

from event_streaming_bus.expressions import Scope, parse
from event_streaming_bus.flows.folds.base import FOREVER, LEFT, RIGHT, Entry, Fold, Tally
from event_streaming_bus.flows.folds.interval_join import IntervalJoinFold
from event_streaming_bus.flows.folds.joins import JoinedPair
from event_streaming_bus.flows.folds.lookup_join import LookupJoinFold
from event_streaming_bus.flows.folds.window_join import WindowJoinFold
from event_streaming_bus.flows.joined_payloads import payload_maker
from event_streaming_bus.flows.processors.join import JoinLogic, JoinType

EVENTS: Final = 200_000
_KEYS: Final = 10_000
_WINDOW_MS: Final = 20_000
_CHUNK: Final = 10_000
_BASELINE: Final = "join: Bytewax join_window"


@cache
def _entries() -> list[Entry]:
    """Left and right events in turns, one each millisecond; in a window a left event meets about one right one."""
    numbers = random.Random(1)
    entries = []
    for i in range(EVENTS):
        key = b'["k%d"]' % numbers.randrange(_KEYS)
        payload = b'{"k":%s,"total":%d,"note":"%s","n":%d}' % (key[1:-1], i % 997, b"x" * 80, i)
        entries.append(Entry(i, 0, f"e{i:09}", i % 2, key, payload, i))
    return entries


def _horizons() -> Iterator[tuple[Sequence[Entry], int]]:
    entries = _entries()
    for start in range(0, EVENTS, _CHUNK):
        chunk = entries[start : start + _CHUNK]
        yield chunk, chunk[-1].timestamp_ms + 1
    yield [], FOREVER


def _pairs(fold: Fold) -> tuple[list[JoinedPair], float]:
    tally, pairs = Tally(), []
    horizons = list(_horizons())
    started_s = time.perf_counter()
    for chunk, horizon_ms in horizons:
        pairs += [result.value for result in fold.run(chunk, horizon_ms, tally)]
    return pairs, time.perf_counter() - started_s


def _fold(make: Callable[[], Fold]) -> Callable[[], float]:
    def run() -> float:
        pairs, took_s = _pairs(make())
        assert len(pairs) > EVENTS // 4
        return EVENTS / took_s

    return run


def _interval() -> Fold:
    return IntervalJoinFold(JoinType.INNER, _WINDOW_MS // 2, _WINDOW_MS // 2)


def _window() -> Fold:
    return WindowJoinFold(JoinType.INNER, lambda t: (t - t % _WINDOW_MS, t - t % _WINDOW_MS + _WINDOW_MS))


def _lookup() -> Fold:
    return LookupJoinFold(JoinType.LEFT, None)


def bytewax_join() -> float:
    """The same inner join over windows, as Bytewax's own operator does it: all pairs, given out at the window's end."""
    epoch = datetime(1970, 1, 1, tzinfo=UTC)
    sides: tuple[list[Any], list[Any]] = ([], [])
    for entry in _entries():
        at = epoch + timedelta(milliseconds=entry.timestamp_ms)
        sides[entry.side].append((entry.key.decode(), (at, entry.value)))
    out: list[Any] = []
    flow = Dataflow("join")
    left = op.input("left", flow, TestingSource(sides[LEFT], batch_size=_CHUNK // 2))
    right = op.input("right", flow, TestingSource(sides[RIGHT], batch_size=_CHUNK // 2))
    clock = EventClock(lambda value: value[0], wait_for_system_duration=timedelta(seconds=10))
    windower = TumblingWindower(length=timedelta(milliseconds=_WINDOW_MS), align_to=epoch)
    joined = join_window("joined", clock, windower, left, right, insert_mode="product", emit_mode="final")
    complete = op.filter("inner", joined.down, lambda item: None not in item[1][1])
    op.output("out", complete, TestingSink(out))
    started_s = time.perf_counter()
    run_main(flow)
    took_s = time.perf_counter() - started_s
    assert len(out) == len(_pairs(_window())[0]), "both must find the same pairs"
    return EVENTS / took_s


def _payloads(*fields: tuple[str, str]) -> Callable[[], float]:
    def run() -> float:
        pairs, _ = _pairs(_interval())
        logic = JoinLogic(
            join_stream_id="right",
            on=((("k",), ("k",)),),
            fields=tuple((tuple(path.split(".")), parse(text, Scope.PAYLOAD)) for path, text in fields),
        )
        make = payload_maker(logic)
        started_s = time.perf_counter()
        payloads, failures = make(pairs)
        took_s = time.perf_counter() - started_s
        assert (len(payloads), failures) == (len(pairs), [])
        return len(pairs) / took_s

    return run


FIGURES: Final = [
    Figure(_BASELINE, "events/s", bytewax_join),
    Figure("join: fold within an interval", "events/s", _fold(_interval), None, _BASELINE),
    Figure("join: fold within a window", "events/s", _fold(_window), None, _BASELINE),
    Figure("join: fold of a lookup", "events/s", _fold(_lookup), None, _BASELINE),
    Figure("join: payloads with three fields", "pairs/s", _payloads(("k", "left.k"), ("a", "left.total"), ("b", "right.n"))),
    Figure("join: payloads of both sides", "pairs/s", _payloads()),
]
