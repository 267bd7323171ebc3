"""The flows of the test of replay equivalence: one for each kind of processor with state, and chains of them."""

from collections import defaultdict
from collections.abc import Callable
from typing import Any, Final, NamedTuple

import msgspec
from replay_harness import PARTITIONS, Outcome, Row
from replay_oracles import (
    AGGREGATIONS,
    Answer,
    Item,
    Rhythm,
    contents,
    counted,
    days,
    deduplicated,
    fixed,
    hopping,
    interval_joined,
    looked_up,
    sessions,
    sliding,
    updated_global,
    updated_sessions,
    updated_tumbling,
    window_joined,
)

from event_streaming_bus.models import rfc3339

GRACE: Final = 6
"""In steps of a family's time scale, like all the times below."""


class Seen:
    """What an oracle may look at: the events that were not late, and what the flow wrote for those that read it."""

    def __init__(self, rows: list[Row], outcome: Outcome) -> None:
        self._rows = rows
        self._outcome = outcome
        self._missed: dict[tuple[str, str], set[tuple[int, int]]] = defaultdict(set)
        for processor, event_id, start_ms, end_ms in outcome.late:
            self._missed[processor, event_id].add((start_ms, end_ms))

    def source(self, processor: str = "a", stream: str = "in") -> list[Item]:
        """The events of a stream that the processor took."""
        return [item for item in self.all_of(processor, stream) if not item.missed]

    def all_of(self, processor: str, stream: str = "in") -> list[Item]:
        """All of them, each with the windows that it missed."""
        return [
            Item(row.at_ms, row.event_id, row.payload, frozenset(self._missed[processor, row.event_id]))
            for row in self._rows
            if row.stream == stream
        ]

    def written(self, stream: str) -> list[Item]:
        """The events of a target stream."""
        return [Item(at_ms, event_id, msgspec.json.decode(data)) for event_id, at_ms, _, data in self._outcome.outputs[stream]]

    def parts(self, processor: str, stream: str) -> list[Item]:
        """The events of a target stream that the processor took. Of equal times they have the order of those that they were
        made of."""
        found = [item._replace(event_id=str(self._outcome.causes[item.event_id])) for item in self.written(stream)]
        return [item for item in found if (processor, item.event_id) not in self._missed]


class Family(NamedTuple):
    """A flow, and what is known of its answers by other means: by target stream.

    Times are multiples of ``scale_ms`` from ``first_ms`` on, but for some events at ``far_ms``. ``in_parts``: an event is taken
    more than once.
    """

    name: str
    processors: list[dict[str, Any]]
    answers: Callable[[Seen], dict[str, list[Answer]]]
    streams: tuple[str, ...] = ("in",)
    scale_ms: int = 1
    first_ms: int = 0
    targets: tuple[str, ...] = ("out",)
    keys: tuple[str | None, ...] = ("a", "b", "c", "d")
    payload: Callable[[Any, int], dict[str, Any]] = lambda k, x: {"k": k, "x": x}
    in_parts: bool = False
    far_ms: int | None = None

    def flow(self) -> dict[str, Any]:
        """The flow file."""
        sources = [{"name": name, "partitions": PARTITIONS} for name in self.streams]
        return {"streams": [*sources, *({"name": name} for name in self.targets)], "processors": self.processors}


NEVER: Final = {"close_when_idle_ms": "never", "max_future_ms": "never"}
TIMING: Final = {**NEVER, "grace_period_ms": GRACE}


def processor(name: str, kind: str, logic: dict[str, Any], window: dict[str, Any] | None = None, **more: Any) -> dict[str, Any]:
    config = {"processor_name": name, "processor_type": kind, "processing_logic": logic, "source_stream_id": "in"}
    return config | ({} if window is None else {"window_config": {**TIMING, **window}}) | more


def aggregate(window: dict[str, Any], name: str = "a", **more: Any) -> dict[str, Any]:
    return processor(
        name, "AGGREGATE", {"group_by": ["k"], "aggregations": AGGREGATIONS}, window, **{"target_stream_id": "out"} | more
    )


def summed(window: dict[str, Any], name: str, source: str, **more: Any) -> dict[str, Any]:
    """An AGGREGATE over the results of another: of their ``count``, with no grace period."""
    logic = {"group_by": ["k"], "aggregations": [{"function": "sum", "field": "count", "as": "total"}]}
    return processor(name, "AGGREGATE", logic, {"grace_period_ms": 0, **window}, source_stream_id=source, **more)


def join(**logic: Any) -> dict[str, Any]:
    more = {"target_stream_id": "out"} | {
        k: logic.pop(k) for k in ("name", "source_stream_id", "target_stream_id", "window") if k in logic
    }
    window = more.pop("window", None)
    timing = TIMING if window is None else {}
    full = {"join_stream_id": "other", "on": ["k"], **timing, **logic}
    return processor(more.pop("name", "j"), "JOIN", full, window, **more)


def totals(key: str, items: Any, start_ms: int | None, end_ms: int | None) -> dict[str, Any]:
    """The payload of ``summed``."""
    bounds = {"window_start": rfc3339(start_ms or 0), "window_end": rfc3339(end_ms or 0)}
    return {"k": key, **bounds, "total": sum(item.payload["count"] for item in items)}


TUMBLING: Final = {"window_type": "tumbling", "window_size_ms": 10}
PAIR_KEYS: Final = ("a", "b", None)
TWO: Final = ("in", "other")
DAY_MS: Final = 86_400_000
YEAR_2100_MS: Final = 4_102_444_800_000
FLATTEN: Final = {"flatten": "list", "mode": "replace", "fields": {"k": "payload.k", "x": "payload.list"}}


def _pairs(seen: Seen) -> list[Item]:
    """The pairs of a JOIN under the key of the left side."""
    return [Item(item.at_ms, item.event_id, {"k": item.payload["left"]["k"], "count": 1}) for item in seen.written("pairs")]


FAMILIES: Final = [
    Family("tumbling", [aggregate(TUMBLING)], lambda s: {"out": fixed(s.all_of("a"), hopping(10, 10))}),
    Family(
        "tumbling_with_an_offset",
        [aggregate({**TUMBLING, "offset_ms": 3})],
        lambda s: {"out": fixed(s.all_of("a"), hopping(10, 10, 3))},
        first_ms=-100,
    ),
    Family(
        "hopping",
        [aggregate({"window_type": "hopping", "window_size_ms": 20, "advance_ms": 5})],
        lambda s: {"out": fixed(s.all_of("a"), hopping(20, 5))},
    ),
    Family(
        "hopping_uneven",
        [aggregate({"window_type": "hopping", "window_size_ms": 10, "advance_ms": 4, "offset_ms": 1})],
        lambda s: {"out": fixed(s.all_of("a"), hopping(10, 4, 1))},
        first_ms=1_700_000_000_000,
    ),
    Family(
        "calendar",
        [
            aggregate(
                {
                    "window_type": "calendar",
                    "calendar_unit": "day",
                    "time_zone": "Europe/Berlin",
                    "grace_period_ms": GRACE * DAY_MS // 6,
                }
            )
        ],
        lambda s: {"out": fixed(s.all_of("a"), days("Europe/Berlin"))},
        scale_ms=DAY_MS // 6,
        first_ms=1_711_700_000_000,
    ),
    Family(
        "sliding",
        [aggregate({"window_type": "sliding", "window_size_ms": 12})],
        lambda s: {"out": sliding(s.source(), 12)},
    ),
    Family("session", [aggregate({"window_type": "session", "gap_ms": 7})], lambda s: {"out": sessions(s.source(), 7)}),
    Family(
        "count",
        [aggregate({"window_type": "count", "window_size_events": 3})],
        lambda s: {"out": counted(s.source(), 3, 3)},
    ),
    Family(
        "count_overlapping",
        [aggregate({"window_type": "count", "window_size_events": 4, "advance_events": 2})],
        lambda s: {"out": counted(s.source(), 4, 2)},
        first_ms=-1_000,
    ),
    Family(
        "updates_by_time",
        [aggregate({"window_type": "tumbling", "window_size_ms": 20, "emit": {"every_ms": 6, "retract": True}})],
        lambda s: {"out": updated_tumbling(s.source(), 20, Rhythm(every_ms=6, retract=True))},
        first_ms=-35,
    ),
    Family(
        "updates_by_events",
        [aggregate({"window_type": "tumbling", "window_size_ms": 20, "emit": {"every_events": 2}})],
        lambda s: {"out": updated_tumbling(s.source(), 20, Rhythm(every_events=2))},
    ),
    Family(
        "session_updates_by_time",
        [aggregate({"window_type": "session", "gap_ms": 9, "emit": {"every_ms": 8}})],
        lambda s: {"out": updated_sessions(s.source(), 9, Rhythm(every_ms=8))},
        first_ms=-20,
    ),
    Family(
        "session_updates_by_events",
        [aggregate({"window_type": "session", "gap_ms": 9, "emit": {"every_events": 2, "retract": True}})],
        lambda s: {"out": updated_sessions(s.source(), 9, Rhythm(every_events=2, retract=True))},
    ),
    Family(
        "global_updates",
        [aggregate({"window_type": "global", "emit": {"every_events": 2, "retract": True}})],
        lambda s: {"out": updated_global(s.source(), Rhythm(every_events=2, retract=True))},
    ),
    Family(
        "window_contents",
        [processor("a", "WINDOW", {"group_by": ["k"]}, TUMBLING, target_stream_id="out")],
        lambda s: {"out": fixed(s.all_of("a"), hopping(10, 10), contents)},
    ),
    Family(
        "session_contents",
        [processor("a", "WINDOW", {"group_by": ["k"]}, {"window_type": "session", "gap_ms": 5}, target_stream_id="out")],
        lambda s: {"out": sessions(s.source(), 5, contents)},
    ),
    Family(
        "deduplicate",
        [processor("a", "DEDUPLICATE", {"deduplicate_by": ["k"], "within_ms": 9, **TIMING}, target_stream_id="out")],
        lambda s: {"out": deduplicated(s.source(), 9)},
    ),
    *(
        Family(
            f"interval_join_{kind}",
            [join(join_type=kind, within={"before_ms": 4, "after_ms": 7})],
            lambda s, kind=kind: {"out": interval_joined(s.source("j"), s.source("j", "other"), kind, 4, 7)},
            streams=TWO,
            keys=PAIR_KEYS,
        )
        for kind in ("inner", "left", "outer")
    ),
    *(
        Family(
            f"window_join_{kind}",
            [join(join_type=kind, window=TUMBLING)],
            lambda s, kind=kind: {"out": window_joined(s.source("j"), s.source("j", "other"), kind, 10)},
            streams=TWO,
            keys=PAIR_KEYS,
            first_ms=-50,
        )
        for kind in ("inner", "outer")
    ),
    *(
        Family(
            f"lookup_join_{kind}",
            [join(join_type=kind, lookup={"ttl_ms": 15})],
            lambda s, kind=kind: {"out": looked_up(s.source("j"), s.source("j", "other"), kind, 15)},
            streams=TWO,
            keys=PAIR_KEYS,
        )
        for kind in ("inner", "left")
    ),
    Family(
        "self_join",
        [join(join_stream_id="in", within={"before_ms": 3, "after_ms": 0})],
        lambda s: {"out": interval_joined(s.source("j"), s.source("j"), "inner", 3, 0)},
        in_parts=True,
    ),
    Family(
        "aggregate_of_aggregate",
        [
            aggregate(TUMBLING, target_stream_id="sums"),
            summed({**TUMBLING, "window_size_ms": 30}, "b", "a", target_stream_id="out"),
        ],
        lambda s: {
            "sums": fixed(s.all_of("a"), hopping(10, 10)),
            "out": fixed(s.written("sums"), hopping(30, 30), totals),
        },
        targets=("sums", "out"),
    ),
    Family(
        "sessions_of_hops_then_counts",
        [
            aggregate({"window_type": "hopping", "window_size_ms": 10, "advance_ms": 5}, target_stream_id="sums"),
            summed({"window_type": "session", "gap_ms": 6}, "b", "a", target_stream_id="runs"),
            processor("m", "MAP", {"mode": "replace", "fields": {"k": "payload.k", "count": "1"}}, source_stream_id="b"),
            summed({"window_type": "count", "window_size_events": 2}, "c", "m", target_stream_id="out"),
        ],
        lambda s: {
            "sums": fixed(s.all_of("a"), hopping(10, 5)),
            "runs": sessions(s.written("sums"), 6, totals),
        },
        targets=("sums", "runs", "out"),
    ),
    Family(
        "aggregate_of_join",
        [
            join(join_type="left", within={"before_ms": 4, "after_ms": 7}, target_stream_id="pairs"),
            processor("m", "MAP", {"mode": "replace", "fields": {"k": "payload.left.k", "count": "1"}}, source_stream_id="j"),
            summed(TUMBLING, "b", "m", target_stream_id="out"),
        ],
        lambda s: {
            "pairs": interval_joined(s.source("j"), s.source("j", "other"), "left", 4, 7),
            "out": fixed(_pairs(s), hopping(10, 10), totals),
        },
        streams=TWO,
        targets=("pairs", "out"),
    ),
    Family(
        "join_of_aggregates",
        [
            aggregate(TUMBLING, target_stream_id="sums"),
            aggregate({"window_type": "session", "gap_ms": 7}, "b", source_stream_id="other", target_stream_id="runs"),
            join(
                source_stream_id="a",
                join_stream_id="b",
                join_type="outer",
                within={"before_ms": 10, "after_ms": 5},
                grace_period_ms=0,
            ),
        ],
        lambda s: {
            "sums": fixed(s.all_of("a"), hopping(10, 10)),
            "runs": sessions(s.source("b", "other"), 7),
            "out": interval_joined(s.written("sums"), s.written("runs"), "outer", 10, 5),
        },
        streams=TWO,
        targets=("sums", "runs", "out"),
    ),
    Family(
        "join_of_an_aggregate_with_its_source",
        [
            aggregate({"window_type": "session", "gap_ms": 4}, target_stream_id="runs"),
            join(source_stream_id="in", join_stream_id="a", join_type="outer", window={**TUMBLING, "window_size_ms": 20}),
        ],
        lambda s: {
            "runs": sessions(s.source("a"), 4),
            "out": window_joined(s.source("j"), s.written("runs"), "outer", 20),
        },
        targets=("runs", "out"),
    ),
    Family(
        "flatten_before_an_aggregate",
        [
            processor("m", "MAP", FLATTEN, target_stream_id="parts"),
            aggregate({"window_type": "session", "gap_ms": 7}, source_stream_id="m"),
        ],
        lambda s: {"out": sessions(s.parts("a", "parts"), 7)},
        targets=("parts", "out"),
        payload=lambda k, x: {"k": k, "list": [x] * (x % 3)},
        in_parts=True,
    ),
    Family(
        "times_in_the_future",
        [aggregate({"window_type": "session", "gap_ms": 7, "max_future_ms": DAY_MS})],
        lambda s: {
            "out": sessions([i for i in s.source() if i.at_ms != YEAR_2100_MS], 7),
            "_dead_letters": [(i.at_ms, i.payload) for i in s.source() if i.at_ms == YEAR_2100_MS],
        },
        far_ms=YEAR_2100_MS,
    ),
    Family(
        "ports",
        [
            aggregate(TUMBLING),
            processor(
                "b", "FILTER", {"filter_expression": "payload.x >= -2"}, source_stream_id="a.late", target_stream_id="late"
            ),
            processor("c", "FILTER", {"filter_expression": "true"}, source_stream_id="a.errors", target_stream_id="errors"),
        ],
        lambda s: {
            "out": fixed([i for i in s.all_of("a") if i.payload["x"] != "bad"], hopping(10, 10)),
            "late": [(i.at_ms, i.payload) for i in s.all_of("a") if i.missed and i.payload["x"] >= -2],
            "errors": [(i.at_ms, i.payload) for i in s.all_of("a") if i.payload["x"] == "bad"],
        },
        payload=lambda k, x: {"k": k, "x": "bad" if x == 0 else x},
        targets=("out", "late", "errors"),
    ),
]
