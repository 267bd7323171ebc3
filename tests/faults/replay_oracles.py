"""What a flow must answer, in plain Python by brute force, from nothing but the events that were not late."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime, timedelta
from itertools import pairwise
from typing import Any, NamedTuple, TypeAlias
from zoneinfo import ZoneInfo

from event_streaming_bus.models import rfc3339


class Item(NamedTuple):
    """An event as an oracle sees it. ``missed``: the windows that it was late for."""

    at_ms: int
    event_id: str
    payload: dict[str, Any]
    missed: frozenset[tuple[int, int]] = frozenset()


Answer: TypeAlias = tuple[int, dict[str, Any]]
"""``(time, payload)``."""

Window: TypeAlias = tuple[int, int]
Windows: TypeAlias = Callable[[int], list[Window]]
Retelling: TypeAlias = Callable[[str, Sequence[Item], int | None, int | None], dict[str, Any]]


def stats(key: str, items: Sequence[Item], start_ms: int | None, end_ms: int | None) -> dict[str, Any]:
    """The payload of ``AGGREGATIONS`` below for a window of a key."""
    items = sorted(items)
    xs = [item.payload["x"] for item in items]
    return {
        "k": key,
        "window_start": None if start_ms is None else rfc3339(start_ms),
        "window_end": None if end_ms is None else rfc3339(end_ms),
        "count": len(xs),
        "sum_x": sum(xs),
        "min_x": min(xs),
        "max_x": max(xs),
        "first_x": xs[0],
        "last_x": xs[-1],
    }


AGGREGATIONS: list[dict[str, str]] = [
    {"function": "count"},
    *({"function": name, "field": "x"} for name in ("sum", "min", "max", "first", "last")),
]


def contents(key: str, items: Sequence[Item], start_ms: int | None, end_ms: int | None) -> dict[str, Any]:
    """The payload of a WINDOW that writes contents."""
    payload = {name: value for name, value in stats(key, items, start_ms, end_ms).items() if name in ("k", "count")}
    bounds = {"window_start": rfc3339(start_ms or 0), "window_end": rfc3339(end_ms or 0)}
    return payload | bounds | {"events": [item.payload for item in sorted(items)]}


def by_key(items: Iterable[Item]) -> dict[str, list[Item]]:
    """The items of each key, in order."""
    found: dict[str, list[Item]] = defaultdict(list)
    for item in sorted(items, key=lambda item: item[:2]):
        found[item.payload["k"]].append(item)
    return found


def hopping(size_ms: int, advance_ms: int, offset_ms: int = 0) -> Windows:
    def windows(at_ms: int) -> list[Window]:
        start_ms = at_ms - (at_ms - offset_ms) % advance_ms
        return [(s, s + size_ms) for s in range(start_ms, at_ms - size_ms, -advance_ms)]

    return windows


def days(time_zone: str) -> Windows:
    zone = ZoneInfo(time_zone)

    def windows(at_ms: int) -> list[Window]:
        day = datetime.fromtimestamp(at_ms / 1000, zone).replace(hour=0, minute=0, second=0, microsecond=0)
        following = (day.replace(tzinfo=None) + timedelta(days=1)).replace(tzinfo=zone)
        return [(int(day.timestamp() * 1000), int(following.timestamp() * 1000))]

    return windows


def fixed(items: Iterable[Item], windows: Windows, tell: Retelling = stats) -> list[Answer]:
    """Windows that lie fixed in time."""
    found: dict[tuple[str, Window], list[Item]] = defaultdict(list)
    for item in items:
        for window in windows(item.at_ms):
            if window not in item.missed:
                found[item.payload["k"], window].append(item)
    return [(end_ms, tell(key, held, start_ms, end_ms)) for (key, (start_ms, end_ms)), held in found.items()]


def runs(items: Sequence[Item], gap_ms: int) -> list[list[Item]]:
    """The sessions of one key's items."""
    found = [[items[0]]]
    for before, item in pairwise(items):
        if item.at_ms - before.at_ms > gap_ms:
            found.append([])
        found[-1].append(item)
    return found


def sessions(items: Iterable[Item], gap_ms: int, tell: Retelling = stats) -> list[Answer]:
    return [
        (run[-1].at_ms + gap_ms, tell(key, run, run[0].at_ms, run[-1].at_ms + gap_ms))
        for key, of_key in by_key(items).items()
        for run in runs(of_key, gap_ms)
    ]


def sliding(items: Iterable[Item], size_ms: int) -> list[Answer]:
    answers: list[Answer] = []
    for key, of_key in by_key(items).items():
        for at_ms in {item.at_ms for item in of_key}:
            held = [item for item in of_key if at_ms - size_ms < item.at_ms <= at_ms]
            answers.append((at_ms, stats(key, held, at_ms - size_ms, at_ms)))
    return answers


def counted(items: Iterable[Item], size: int, advance: int) -> list[Answer]:
    answers: list[Answer] = []
    for key, of_key in by_key(items).items():
        for end in range(size, len(of_key) + 1, advance):
            held = of_key[end - size : end]
            answers.append((held[-1].at_ms, stats(key, held, held[0].at_ms, held[-1].at_ms)))
    return answers


class Rhythm(NamedTuple):
    """When updates come."""

    every_ms: int = 0
    every_events: int = 0
    retract: bool = False


def updated(
    key: str, held: Sequence[Item], since_ms: int, close_ms: int | None, span: Callable[[Sequence[Item]], Any], rhythm: Rhythm
) -> list[Answer]:
    """The revisions of one window of one key; ``close_ms`` is when the last one comes, ``span`` says when the window of some
    of its events starts and ends. The final answer's time is the window's end."""
    held = sorted(held)
    said: list[tuple[int, Sequence[Item], bool]] = []
    if rhythm.every_events:
        said += [(held[n - 1].at_ms, held[:n], False) for n in range(rhythm.every_events, len(held) + 1, rhythm.every_events)]
    else:
        at_ms = since_ms + (held[0].at_ms - since_ms) // rhythm.every_ms * rhythm.every_ms + rhythm.every_ms
        told = 0
        while told < len(held) and (close_ms is None or at_ms < close_ms):
            upto = sum(item.at_ms < at_ms for item in held)
            if upto > told:
                said.append((at_ms, held[:upto], False))
            told = upto
            at_ms += rhythm.every_ms
    if close_ms is not None:
        said.append((span(held)[1], held, True))
    answers: list[Answer] = []
    before: dict[str, Any] | None = None
    for revision, (at_ms, events, is_final) in enumerate(said, 1):
        if before is not None and rhythm.retract:
            answers.append((at_ms, before | {"retraction": True}))
        before = stats(key, events, *span(events)) | {"revision": revision, "is_final": is_final}
        answers.append((at_ms, before))
    return answers


def updated_tumbling(items: Iterable[Item], size_ms: int, rhythm: Rhythm) -> list[Answer]:
    found: dict[tuple[str, int], list[Item]] = defaultdict(list)
    for item in items:
        found[item.payload["k"], item.at_ms - item.at_ms % size_ms].append(item)
    return [
        answer
        for (key, start_ms), held in found.items()
        for answer in updated(
            key, held, start_ms, start_ms + size_ms, lambda _, start_ms=start_ms: (start_ms, start_ms + size_ms), rhythm
        )
    ]


def updated_sessions(items: Iterable[Item], gap_ms: int, rhythm: Rhythm) -> list[Answer]:
    return [
        answer
        for key, of_key in by_key(items).items()
        for run in runs(of_key, gap_ms)
        for answer in updated(
            key, run, 0, run[-1].at_ms + gap_ms + 1, lambda held: (held[0].at_ms, held[-1].at_ms + gap_ms), rhythm
        )
    ]


def updated_global(items: Iterable[Item], rhythm: Rhythm) -> list[Answer]:
    return [
        answer
        for key, of_key in by_key(items).items()
        for answer in updated(key, of_key, 0, None, lambda _: (None, None), rhythm)
    ]


def deduplicated(items: Iterable[Item], within_ms: int) -> list[Answer]:
    answers: list[Answer] = []
    for of_key in by_key(items).values():
        passed_ms: int | None = None
        for item in of_key:
            if passed_ms is None or item.at_ms - passed_ms > within_ms:
                passed_ms = item.at_ms
                answers.append((item.at_ms, item.payload))
    return answers


def joined(
    lefts: Iterable[Item],
    rights: Iterable[Item],
    kind: str,
    match: Callable[[Item, Item], bool],
    pair_ms: Callable[[Item, Item], int],
    alone_ms: Callable[[Item], int],
) -> list[Answer]:
    """A JOIN of events with the same key (null equals none); ``match`` says which meet."""
    lefts, rights = list(lefts), list(rights)
    pairs = [(a, b) for a in lefts for b in rights if a.payload["k"] == b.payload["k"] is not None and match(a, b)]
    answers: list[Answer] = [(pair_ms(a, b), {"left": a.payload, "right": b.payload}) for a, b in pairs]
    met = {item.event_id for pair in pairs for item in pair}
    if kind != "inner":
        answers += [(alone_ms(a), {"left": a.payload, "right": None}) for a in lefts if a.event_id not in met]
    if kind == "outer":
        answers += [(alone_ms(b), {"left": None, "right": b.payload}) for b in rights if b.event_id not in met]
    return answers


def interval_joined(lefts: Iterable[Item], rights: Iterable[Item], kind: str, before_ms: int, after_ms: int) -> list[Answer]:
    def match(a: Item, b: Item) -> bool:
        return a.at_ms - before_ms <= b.at_ms <= a.at_ms + after_ms

    return joined(lefts, rights, kind, match, lambda a, b: max(a.at_ms, b.at_ms), lambda item: item.at_ms)


def window_joined(lefts: Iterable[Item], rights: Iterable[Item], kind: str, size_ms: int) -> list[Answer]:
    def end_ms(item: Item) -> int:
        return item.at_ms - item.at_ms % size_ms + size_ms

    return joined(lefts, rights, kind, lambda a, b: end_ms(a) == end_ms(b), lambda a, _: end_ms(a), end_ms)


def looked_up(lefts: Iterable[Item], rights: Iterable[Item], kind: str, ttl_ms: int) -> list[Answer]:
    table = by_key(rights)
    answers: list[Answer] = []
    for left in lefts:
        key = left.payload["k"]
        rows = [row for row in table.get(key, ()) if row.at_ms <= left.at_ms] if key is not None else []
        row = rows[-1] if rows and left.at_ms - rows[-1].at_ms <= ttl_ms else None
        if row is not None or kind == "left":
            answers.append((left.at_ms, {"left": left.payload, "right": None if row is None else row.payload}))
    return answers
