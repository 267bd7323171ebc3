"""The scaling laws: what is on their axes, and where they are measured. ``scaling.py`` runs the points."""

from typing import Final, NamedTuple


class Law(NamedTuple):
    """``group`` names the chart that a law is in; ``quick`` and ``full`` are its ``x`` in a report of that kind."""

    group: str
    x_name: str
    y_name: str
    quick: tuple[int, ...]
    full: tuple[int, ...]


_SIZES: Final = ((100, 10_000), (100, 300, 1000, 10_000, 100_000))
_EVENTS: Final = "events/s"

LAWS: Final = {
    "keys": Law("keys", "keys", _EVENTS, (1, 1000, 100_000), (1, 10, 100, 1000, 10_000, 100_000, 1_000_000)),
    "windows": Law("windows", "windows", _EVENTS, (1, 1000), (1, 10, 100, 1000, 10_000)),
    "event size: FILTER": Law("event-size", "bytes of payload", _EVENTS, *_SIZES),
    "event size: append": Law("event-size", "bytes of payload", _EVENTS, *_SIZES),
    "partitions": Law("partitions", "partitions", _EVENTS, (16,), (1, 2, 4, 16, 64)),
    "workers": Law("workers", "worker processes", _EVENTS, (), (1, 2, 4)),
    "streams": Law("streams", "streams", _EVENTS, (100,), (1, 10, 100, 1000)),
    "groups": Law("groups", "consumer groups", _EVENTS, (8,), (1, 2, 4, 8, 16, 32)),
    "aggregate": Law("aggregate", "events of the aggregate", "ms", (10_000,), (10, 100, 1000, 10_000, 100_000)),
    "history": Law("history", "events", "rows/s", (100_000,), (10_000, 100_000, 1_000_000, 33_340_000)),
    "recovery": Law("recovery", "keys of state", "s", (100_000,), (1000, 10_000, 100_000, 1_000_000)),
    "latency": Law(
        "latency", "events/s offered", "ms", (20_000,), (100, 1000, 5000, 10_000, 20_000, 50_000, 100_000, 200_000, 400_000)
    ),
    "idle": Law("idle", "running processors", "% of a core", (10,), (1, 10, 20)),
}
