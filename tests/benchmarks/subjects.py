"""What a report measures: a quick one, and a full one."""

from collections.abc import Iterable, Mapping
from typing import Final, NamedTuple

from laws import LAWS

_MEMORY: Final = "From memory"
_LOG: Final = "From log to log, exactly once, with history"
_PEERS: Final = "Beside other engines, from a file of JSON lines to such a file"
_SALES: Final = "The sales of each day"
_PARTS: Final = "Parts"
_QUERIES: Final = {
    "q1": "q1",
    "q2": "q2",
    "q3": "q3",
    "q5": "q5",
    "q7": "q7",
    "q8": "q8",
    "q11": "q11",
    "sum": "sum_by_bidder",
}
_PEER_NAMES: Final = {
    "duckdb": "DuckDB (a bound)",
    "polars": "Polars (a bound)",
    "pathway": "Pathway",
    "pyflink": "PyFlink SQL",
}
_PLAIN_SUM: Final = "plain loop: sum"


class Subject(NamedTuple):
    """One figure. ``name`` is unique; ``subject`` is the same at every size. ``command`` are arguments of jobs.py, in which
    FOLDER stands for the inputs of ``events`` events (``needs_input``). ``baseline`` is the name of what it is told as a ratio
    to."""

    section: str
    name: str
    subject: str
    unit: str
    command: tuple[str, ...]
    events: int
    rounds: int
    baseline: str | None = None
    is_ours: bool = False
    needs_input: bool = True


class Point(NamedTuple):
    """A law with the points that a plan has of it."""

    group: str
    x_name: str
    y_name: str
    points: tuple[int, ...]


class Plan(NamedTuple):
    """How much is measured. ``installs``: peers that are missing are installed."""

    name: str
    memory_events: int
    memory_rounds: int
    log_events: tuple[int, ...]
    log_rounds: tuple[int, ...]
    log_queries: tuple[str, ...]
    workers: tuple[int, ...]
    peers: tuple[str, ...]
    installs: bool
    peer_queries: tuple[str, ...]
    figures: Mapping[str, str | None]
    figure_rounds: int
    kafka_events: int
    kafka_rounds: int
    laws: Mapping[str, Point]
    law_events: int
    law_rounds: int
    timeout_s: float

    def with_peers(self) -> "Plan":
        """The same with all peers, and with Kafka at 30,000 events, once."""
        return self._replace(peers=FULL.peers, installs=True, kafka_events=30_000, kafka_rounds=1)

    def scaled(self, factor: float) -> "Plan":
        """The same with other numbers of events, and one round if there are much fewer: to try the report out."""
        if factor == 1:
            return self

        def fewer(law: Point, name: str) -> Point:
            most = max(1000, factor * max(law.points))
            return law._replace(points=tuple(x for x in law.points if name in ("latency", "idle") or x <= most))

        rounds = self if factor > 0.1 else self._replace(memory_rounds=1, log_rounds=(1,) * len(self.log_rounds), law_rounds=1)
        return rounds._replace(
            memory_events=max(5000, int(self.memory_events * factor)),
            log_events=tuple(dict.fromkeys(max(100_000, int(size * factor)) for size in self.log_events)),
            kafka_events=int(self.kafka_events * factor),
            law_events=max(20_000, int(self.law_events * factor)),
            laws={name: fewer(law, name) for name, law in self.laws.items()},
        )


def subjects(plan: Plan, installed: Iterable[str]) -> list[Subject]:
    """All figures of a plan: a baseline in front of what is told as a ratio to it, peers right behind what they are beside."""
    log, beside = _log(plan), _beside(plan, installed)
    compared = {subject.baseline for subject in beside}
    ours, others = ([each for each in log if (each.name in compared) is so] for so in (True, False))
    return [*_memory(plan), *ours, *beside, *others, *_sales(plan), *_parts(plan)]


def _memory(plan: Plan) -> list[Subject]:
    baselines = {
        "plain loop: q1": None,
        _PLAIN_SUM: None,
        "Bytewax item by item: sum": _PLAIN_SUM,
        "Bytewax fused by hand: q1": "plain loop: q1",
        "Bytewax fused by hand: q2": None,
        "Bytewax fused by hand: sum": _PLAIN_SUM,
        "flow file: q1": "plain loop: q1",
        "flow file: q2": "Bytewax fused by hand: q2",
        "flow file: sum": _PLAIN_SUM,
    }
    return [
        Subject(
            _MEMORY,
            name,
            name,
            "events/s",
            ("memory", name, "FOLDER"),
            plan.memory_events,
            plan.memory_rounds,
            baseline,
            name.startswith("flow file"),
        )
        for name, baseline in baselines.items()
    ]


def _log(plan: Plan) -> list[Subject]:
    made = []
    for events, rounds in zip(plan.log_events, plan.log_rounds, strict=False):
        for query in plan.log_queries:
            for workers in plan.workers:
                words = f"log -> {query} -> log, {workers} worker{'s' * (workers > 1)}"
                first = _name(plan, f"log -> {query} -> log, 1 worker", events)
                made.append(
                    Subject(
                        _LOG,
                        _name(plan, words, events),
                        words,
                        "events/s",
                        ("log", _QUERIES[query], "FOLDER", str(workers)),
                        events,
                        rounds,
                        first if workers > 1 else _PLAIN_SUM,
                        True,
                    )
                )
    return made


def _name(plan: Plan, words: str, events: int) -> str:
    """With the size, if there are several."""
    return words if len(plan.log_events) == 1 else f"{words}, {events / 1e6:g} M"


def _beside(plan: Plan, installed: Iterable[str]) -> list[Subject]:
    """Peers, told as a ratio to what we do from log to log."""
    made = []
    for events, rounds in zip(plan.log_events, plan.log_rounds, strict=False):
        for query in plan.peer_queries:
            for peer in [name for name in _PEER_NAMES if name in installed]:
                words = f"{_PEER_NAMES[peer]}: {query}"
                command = ("peer", peer, _QUERIES[query], "FOLDER", "1")
                ours = _name(plan, f"log -> {query} -> log, 1 worker", events)
                name = _name(plan, words, events)
                made.append(Subject(_PEERS, name, words, "events/s", command, events, rounds, ours))
    return made


def _sales(plan: Plan) -> list[Subject]:
    plain, flow = "plain loop: sales of each day", "flow file: sales of each day, log to log"
    events = plan.memory_events

    def subject(name: str, how: str, baseline: str | None) -> Subject:
        command = ("sales", how, str(events))
        ours = baseline is not None
        return Subject(_SALES, name, name, "events/s", command, events, plan.figure_rounds, baseline, ours, needs_input=False)

    return [subject(plain, "plain", None), subject(flow, "flow", plain)]


def _parts(plan: Plan) -> list[Subject]:
    def unit(name: str) -> str:
        if "rebuild" in name or ", p" in name:
            return "ms"
        return "rows/s" if name.startswith("history") else "appends/s" if name.startswith("event sourcing: ") else "events/s"

    return [
        Subject(
            _PARTS,
            name,
            name,
            "events/s" if "read a category" in name else unit(name),
            ("figure", name),
            0,
            plan.figure_rounds,
            baseline,
            not name.startswith(("bare", "validate: jsonschema", "event sourcing: the package")),
            needs_input=False,
        )
        for name, baseline in plan.figures.items()
    ]


_BARE: Final = "bare SQLite, a blob per 1000 events"
_QUICK_FIGURES: Final[dict[str, str | None]] = {
    _BARE: None,
    "log: append in batches of 1000": _BARE,
    "log: append in batches of 1000, eight under way": _BARE,
    "log: read and decode to envelopes": "log: append in batches of 1000",
    "publish: JSON with a schema": "log: append in batches of 1000",
    "consumer: polls of 500": "log: read and decode to envelopes",
    "validate: jsonschema alone": None,
    "validate: 10 fields, 2 rules": "validate: jsonschema alone",
    "event sourcing: the package eventsourcing, one thread": None,
    "event sourcing: append at a version, one thread": "event sourcing: the package eventsourcing, one thread",
    "event sourcing: rebuild 10,000 events": None,
    "history: rows loaded with steps": None,
}
_FULL_FIGURES: Final[dict[str, str | None]] = {
    **_QUICK_FIGURES,
    "log: append with ids of the publisher": "log: append in batches of 1000",
    "log: append, codec NONE": _BARE,
    "log: single publishes, 32 publishers": None,
    "log: append in batches of 1000 objects": "log: append in batches of 1000",
    "publish: JSON without a schema": "log: append in batches of 1000",
    "publish: Avro": "publish: JSON with a schema",
    "consumer: polls of 500, each acknowledged": "consumer: polls of 500",
    "event sourcing: the package eventsourcing, 8 threads": None,
    "event sourcing: append at a version, 32 callers": "event sourcing: the package eventsourcing, 8 threads",
    "event sourcing: rebuild from a snapshot": "event sourcing: rebuild 10,000 events",
    "event sourcing: read a category": "log: read and decode to envelopes",
}


def _laws(is_full: bool) -> dict[str, Point]:
    chosen = {name: law.full if is_full else law.quick for name, law in LAWS.items()}
    return {name: Point(law.group, law.x_name, law.y_name, chosen[name]) for name, law in LAWS.items() if chosen[name]}


QUICK: Final = Plan(
    name="quick",
    memory_events=150_000,
    memory_rounds=3,
    log_events=(500_000,),
    log_rounds=(1,),
    log_queries=("q1", "q5", "sum"),
    workers=(1, 2),
    peers=("duckdb", "polars"),
    installs=False,
    peer_queries=("sum",),
    figures=_QUICK_FIGURES,
    figure_rounds=1,
    kafka_events=0,
    kafka_rounds=0,
    laws=_laws(False),
    law_events=200_000,
    law_rounds=1,
    timeout_s=120,
)
FULL: Final = Plan(
    name="full",
    memory_events=2_000_000,
    memory_rounds=3,
    log_events=(2_000_000, 20_000_000),
    log_rounds=(2, 1),
    log_queries=tuple(_QUERIES),
    workers=(1, 2),
    peers=("duckdb", "polars", "pathway", "pyflink", "faust"),
    installs=True,
    peer_queries=("q1", "sum"),
    figures=_FULL_FIGURES,
    figure_rounds=3,
    kafka_events=200_000,
    kafka_rounds=2,
    laws=_laws(True),
    law_events=1_000_000,
    law_rounds=1,
    timeout_s=3600,
)
