"""What the speed should be, told from a report's figures."""

from collections.abc import Callable, Mapping
from typing import Any, Final, NamedTuple

Figures = Mapping[str, Mapping[str, Any]]
"""By name what ``report.py`` writes of a figure; a point of a law is named ``LAW @ X``."""


class Target(NamedTuple):
    """What should hold: ``value`` computes it from the figures (``None``: not measured) and ``at`` says at what load that was.

    ``limit`` is the least that is enough, or the most if ``is_most``. ``profile`` are the arguments of ``jobs.py profile`` that
    show where the time goes; FOLDER stands for the inputs. ``reason`` is what limits it when it is not met.
    """

    name: str
    limit: float
    unit: str
    value: Callable[[Figures], float | None]
    at: Callable[[Figures], str]
    reason: str
    profile: tuple[str, ...] | None = None
    is_most: bool = False
    is_enough: Callable[[Figures], bool] = lambda figures: True
    """Whether it was measured at the size that the target is for; a smaller one is told, and not judged."""

    def is_met(self, value: float, figures: Figures) -> bool | None:
        """``None`` if there is not enough to judge."""
        if not self.is_enough(figures):
            return None
        return value <= self.limit if self.is_most else value >= self.limit


def _ratio(ours: str, other: str) -> Callable[[Figures], float | None]:
    def value(figures: Figures) -> float | None:
        return figures[ours]["median"] / figures[other]["median"] if ours in figures and other in figures else None

    return value


def _median(name: str) -> Callable[[Figures], float | None]:
    return lambda figures: figures[name]["median"] if name in figures else None


def _largest(figures: Figures, ours: str, other: str) -> tuple[Mapping[str, Any], Mapping[str, Any]] | None:
    """Both figures at the largest size at which both were measured."""
    sizes = {f["events"] for f in figures.values() if f.get("subject") == ours} & {
        f["events"] for f in figures.values() if f.get("subject") == other
    }
    if not sizes:
        return None
    found = {f["subject"]: f for f in figures.values() if f.get("events") == max(sizes) and f.get("subject") in (ours, other)}
    return found[ours], found[other]


def _whole(ours: str, other: str) -> Callable[[Figures], float | None]:
    """How many times as fast ours is, the start of both included."""

    def value(figures: Figures) -> float | None:
        pair = _largest(figures, ours, other)
        return None if pair is None else pair[1]["whole_s"] / pair[0]["whole_s"]

    return value


def _size(ours: str, other: str, more: str = "") -> Callable[[Figures], str]:
    def at(figures: Figures) -> str:
        pair = _largest(figures, ours, other)
        return "" if pair is None else f"{pair[0]['events']:,} events{more}"

    return at


def _has(events: int, ours: str, other: str) -> Callable[[Figures], bool]:
    def is_enough(figures: Figures) -> bool:
        pair = _largest(figures, ours, other)
        return pair is not None and pair[0]["events"] >= events

    return is_enough


def _events_of(name: str) -> Callable[[Figures], str]:
    return lambda figures: f"{figures[name]['events']:,} events" if name in figures and figures[name].get("events") else ""


def _with_cpu(ours: str, other: str) -> Callable[[Figures], str]:
    """With the same ratio by CPU time, which a busy machine hardly changes."""

    def at(figures: Figures) -> str:
        ratio = figures[other]["cpu_s_per_million"] / figures[ours]["cpu_s_per_million"]
        return f"{_events_of(ours)(figures)}; by CPU time {ratio:.2f} x"

    return at


def _at_largest(subject: str) -> Callable[[Figures], str | None]:
    def name(figures: Figures) -> str | None:
        found = [(f["events"], key) for key, f in figures.items() if f.get("subject") == subject]
        return max(found)[1] if found else None

    return name


def _speed(subject: str) -> Callable[[Figures], float | None]:
    name = _at_largest(subject)

    def value(figures: Figures) -> float | None:
        found = name(figures)
        return None if found is None else figures[found]["median"]

    return value


def _speedup(figures: Figures) -> float | None:
    pair = _largest(figures, _SUM_2, SUM)
    return None if pair is None else pair[0]["median"] / pair[1]["median"]


def _recovery(figures: Figures) -> tuple[int, float] | None:
    """The largest state of which recovery was measured, and its seconds."""
    found = {int(name.rpartition(" ")[2]): f["median"] for name, f in figures.items() if name.startswith("recovery @ ")}
    return (max(found), found[max(found)]) if found else None


_WHOLE: Final = ", starts included"
SUM: Final = "log -> sum -> log, 1 worker"
_SUM_2: Final = "log -> sum -> log, 2 workers"
_Q1, _PLAIN_Q1 = "flow file: q1", "plain loop: q1"
_FLOW_SUM, _PLAIN_SUM, _FOLD = "flow file: sum", "plain loop: sum", "Bytewax item by item: sum"
_KAFKA: Final = "kafka: flow file, tumbling sum (beside {})"

TARGETS: Final = [
    Target(
        "filter and map from a flow file, beside a plain loop with msgspec",
        0.9,
        "x",
        _ratio(_Q1, _PLAIN_Q1),
        _with_cpu(_Q1, _PLAIN_Q1),
        "Both decode and encode every event with msgspec. The flow also makes the id of each event, its counts and its "
        "history, and hands batches through Bytewax.",
        ("memory", _Q1, "FOLDER"),
    ),
    Target(
        "tumbling sum from a flow file, beside a plain loop with msgspec",
        0.8,
        "x",
        _ratio(_FLOW_SUM, _PLAIN_SUM),
        _with_cpu(_FLOW_SUM, _PLAIN_SUM),
        "The combiner's loop is the plain loop; beside it are what each key of each chunk costs on its way into its key group, "
        "watermarks and the results' envelopes.",
        ("memory", _FLOW_SUM, "FOLDER"),
    ),
    Target(
        "tumbling sum from a flow file, beside Bytewax's fold_window",
        15,
        "x",
        _ratio(_FLOW_SUM, _FOLD),
        _with_cpu(_FLOW_SUM, _FOLD),
        "fold_window is called for each event, ours for each batch; the more events, the less the start of a run counts.",
        ("memory", _FLOW_SUM, "FOLDER"),
    ),
    Target(
        "log -> sum -> log, exactly once",
        500_000,
        "events/s",
        _speed(SUM),
        lambda figures: _events_of(_at_largest(SUM)(figures) or "")(figures),
        "Beside the sum, each batch is read, verified and decompressed, and the history of its events is written.",
        ("here", "sum_by_bidder", "FOLDER"),
    ),
    Target(
        "log -> sum -> log, beside Pathway",
        5,
        "x",
        _whole(SUM, "Pathway: sum"),
        _size(SUM, "Pathway: sum", _WHOLE),
        "Pathway reads a file and keeps no log, history or snapshot.",
        ("here", "sum_by_bidder", "FOLDER"),
    ),
    Target(
        "log -> sum -> log, beside PyFlink SQL",
        3,
        "x",
        _whole(SUM, "PyFlink SQL: sum"),
        _size(SUM, "PyFlink SQL: sum", _WHOLE),
        "Flink compiles its SQL to Java, and its start counts for less the more events there are.",
        ("here", "sum_by_bidder", "FOLDER"),
        is_enough=_has(20_000_000, SUM, "PyFlink SQL: sum"),
    ),
    *(
        Target(
            f"Kafka -> sum -> Kafka, exactly once, beside {peer}",
            10,
            "x",
            _ratio(_KAFKA.format(peer), other),
            _events_of(_KAFKA.format(peer)),
            "Our flow reads, writes and commits through the same broker on the same cores; a short run is mostly the "
            "first commit.",
        )
        for peer, other in (("Faust", "kafka: Faust, at least once"), ("Quix Streams", "kafka: Quix Streams"))
    ),
    Target(
        "two worker processes beside one, keyed work",
        1.7,
        "x",
        _speedup,
        _size(SUM, _SUM_2),
        "Two workers exchange their combined batches and write to one log, whose writers take turns; with two cores the rest of "
        "the machine runs on the same ones.",
        ("here", "sum_by_bidder", "FOLDER"),
    ),
    Target(
        "embedded append, durable, in batches of 1000",
        800_000,
        "events/s",
        _median("log: append in batches of 1000"),
        lambda figures: "150,000 events",
        "An append packs the columns of a batch, compresses them and waits for the disk, one batch after the other: with a disk "
        "that takes 2 ms, 500,000 a second is the most.",
        ("figure", "log: append in batches of 1000"),
    ),
    Target(
        "recovery of a worker with a million keys of state",
        10,
        "s",
        lambda figures: found[1] if (found := _recovery(figures)) else None,
        lambda figures: f"{found[0]:,} keys" if (found := _recovery(figures)) else "",
        "A worker reads its snapshots, unpickles each key group and builds its windows anew.",
        is_most=True,
        is_enough=lambda figures: (_recovery(figures) or (0, 0.0))[0] >= 1_000_000,
    ),
    Target(
        "idle: esb serve with ten running processors",
        3,
        "% of a core",
        _median("idle @ 10"),
        lambda figures: _woken(figures),
        "Each processor is a worker process; one that rests wakes up a few times a second, to see whether it is to stop, "
        "whether its parent is there, and whether its streams have more partitions.",
        is_most=True,
    ),
]


def _woken(figures: Figures) -> str:
    more = figures.get("idle @ 10", {}).get("more") or {}
    if not more:
        return ""
    return f"server {more['server']:.1f} %, each worker woken {more['wake_ups_per_s_of_a_worker']:.0f} times a second"
