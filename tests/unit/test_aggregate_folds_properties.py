"""Folding in one go, in any split of batches and by way of snapshots gives the same state, for folds of every kind."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from event_streaming_bus.sourcing.folds.aggregate import Aggregate, applies
from event_streaming_bus.sourcing.folds.base import Fold
from event_streaming_bus.sourcing.folds.class_fold import ClassFold
from event_streaming_bus.sourcing.folds.events import AppliedEvent
from event_streaming_bus.sourcing.folds.fold_file import read_folds
from event_streaming_bus.sourcing.folds.merging import MergeFold
from event_streaming_bus.sourcing.folds.upcasts import Upcasting, upcasts
from event_streaming_bus.sourcing.sourcing_errors import FoldError
from event_streaming_bus.store.recorded import RecordedEvent


class Part(msgspec.Struct):
    n: float
    tags: list[str] = []


class Totals(Aggregate):
    total: float = 0
    count: int = 0
    parts: dict[str, Part] = msgspec.field(default_factory=dict)
    seen: set[int] = msgspec.field(default_factory=set)
    history: list[Any] = msgspec.field(default_factory=list)

    @applies("added")
    def added(self, part: Part, event: AppliedEvent) -> None:
        self.total += part.n
        self.count += 1
        self.parts[event.event_id[-1]] = part
        self.seen.add(event.version % 5)

    @applies("noted")
    def noted(self, event: AppliedEvent) -> None:
        self.history.append(event.payload)
        if len(self.history) > 3:
            del self.history[0]
        for part in self.parts.values():
            part.tags.append(event.event_type)
            del part.tags[:-2]


(DECLARED,) = read_folds(
    {
        "aggregate_type": "Totals",
        "initial": {"total": 0, "log": [], "below": {"n": 0}},
        "apply": {
            "added": {
                "total": "state.total + payload.n",
                "below.n": "coalesce(state.below.n, 0) + version",
                "last": "(event_id, payload.tags)",
                "mean": "(state.total + payload.n) / version",
            },
            "noted": {
                "log": "(state.log + [payload, timestamp])[-4:null]",
                "before": "{'last': state.last, 'below': state.below}",
            },
        },
        "merge": ["noted"],
        "remove": {"noted": ["below.n", "last"]},
        "otherwise": "merge",
        "unversioned": "1.0",
        "upcasts": [{"event_type": "added", "from_version": "1.0", "fields": {"n": "n * 3"}}],
    }
)


@upcasts("noted", from_version="1.0")
def noted_with_more(payload: dict[str, Any]) -> dict[str, Any]:
    payload["more"] = [len(payload)]
    return payload


FOLDS: dict[str, Fold[Any]] = {
    "merge": MergeFold(Upcasting([noted_with_more], unversioned="1.0")),
    "declared": DECLARED.fold,
    "class": ClassFold(Totals),
}

scalars = st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats(-1e9, 1e9) | st.text(max_size=4)
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3)
)
payloads = st.dictionaries(st.sampled_from(["a", "b", "last", "log", "x"]), values, max_size=3)
added = st.fixed_dictionaries(
    {"n": st.integers(-(10**6), 10**6) | st.floats(-1e6, 1e6)}, optional={"tags": st.lists(st.text(max_size=3), max_size=2)}
)
others = st.dictionaries(st.sampled_from(["a", "b", "x"]), values, max_size=3)
things = st.one_of(
    added.map(lambda payload: ("added", payload)),
    payloads.map(lambda payload: ("noted", {key: value for key, value in payload.items() if key not in ("log", "last")})),
    others.map(lambda payload: ("other", payload)),
)


def recorded(given_events: Sequence[tuple[str, Any]]) -> list[RecordedEvent]:
    return [
        RecordedEvent(
            i * 3,
            "t_1",
            "Totals",
            i,
            event_type,
            f"evt_{i}",
            i * 1000,
            i * 1000,
            msgspec.json.encode(payload),
            metadata={"k": [i]},
        )
        for i, (event_type, payload) in enumerate(given_events, 1)
    ]


@pytest.mark.parametrize("kind", FOLDS)
@settings(max_examples=80, deadline=None)
@given(given_events=st.lists(things, max_size=14), cuts=st.lists(st.integers(0, 14), max_size=4))
def test_splits_and_snapshots_do_not_change_the_state(kind: str, given_events: Any, cuts: list[int]) -> None:
    fold = FOLDS[kind]
    events = recorded(given_events)
    whole = fold.apply_many(fold.initial(), events)
    in_parts = by_snapshots = fold.initial()
    bounds = sorted({0, len(events), *(cut for cut in cuts if cut < len(events))})
    for begin, end in pairwise(bounds):
        part = events[begin:end]
        before = msgspec.json.encode(fold.to_json(in_parts))
        after = fold.apply_many(in_parts, part)
        assert msgspec.json.encode(fold.to_json(in_parts)) == before
        in_parts = after
        by_snapshots = fold.apply_many(fold.from_json(msgspec.json.decode(msgspec.json.encode(fold.to_json(by_snapshots)))), part)
    assert repr(in_parts) == repr(by_snapshots) == repr(whole)
    assert events == recorded(given_events)


@pytest.mark.parametrize("kind", FOLDS)
@settings(max_examples=30, deadline=None)
@given(given_events=st.lists(things, max_size=8), broken=st.integers(0, 7), data=st.sampled_from([b"", b"[1]", b'{"n":"x"}']))
def test_an_event_that_cannot_be_applied_is_named_and_the_state_stays(
    kind: str, given_events: Any, broken: int, data: bytes
) -> None:
    fold = FOLDS[kind]
    state = fold.apply_many(fold.initial(), recorded([("added", {"n": 1, "tags": ["a"]}), ("noted", {"a": [1]})]))
    before = repr(state)
    events = recorded([*given_events[:broken], ("added", {}), *given_events[broken:]])
    place = min(broken, len(given_events))
    events[place] = msgspec.structs.replace(events[place], data=data)
    if kind == "merge" and data.startswith(b"{"):
        return
    with pytest.raises(FoldError) as caught:
        fold.apply_many(state, events)
    assert caught.value.details["version"] == place + 1
    assert repr(state) == before
