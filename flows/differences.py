"""How the events that came differ from those that were expected, said so that a person sees what to change."""

from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from typing import Any, Final

import msgspec

from event_streaming_bus.flows.flow_tests import ExpectedEvent
from event_streaming_bus.models import Event, rfc3339

MAX_TOLD: Final = 5
"""So many differences of a kind are told of each place."""

_MAX_TEXT: Final = 300
_MISSING: Final = object()


class _Got:
    """An event that came, its payload decoded once."""

    __slots__ = ("event", "payload")

    def __init__(self, event: Event) -> None:
        self.event = event
        self.payload: Any = event.payload


def event_differences(place: str, expected: Sequence[ExpectedEvent], found: Sequence[Event], *, ordered: bool) -> list[str]:
    """What is different, empty if nothing is. ``place`` says of which stream or processor; lines that go on begin with blanks.

    ``ordered``: the events come in the order given. Otherwise each expected event stands for one that came, and as many as
    possible find theirs.
    """
    got = [_Got(event) for event in found]
    if ordered:
        return _told_in_order(place, expected, got)
    missing, more = _unmatched(expected, got)
    wrong: list[str] = []
    alone: list[ExpectedEvent] = []
    for number, want in enumerate(missing):
        nearest = max(more, key=lambda each: _likeness(want, each), default=None) if number < MAX_TOLD else None
        if nearest is None or _likeness(want, nearest) == 0:
            alone.append(want)
            continue
        more.remove(nearest)
        wrong.append(_difference(place, want, nearest))
    return _told_all(place, wrong, alone, more)


def told(value: Any) -> str:
    """The value as JSON, shortened if it is long."""
    text = msgspec.json.encode(value).decode()
    return text if len(text) <= _MAX_TEXT else f"{text[: _MAX_TEXT - 3]}..."


def _told_in_order(place: str, expected: Sequence[ExpectedEvent], got: Sequence[_Got]) -> list[str]:
    """What is alike at the beginning and at the end is left out, so that one missing event is told as just that."""
    shorter = min(len(expected), len(got))
    begin = next((i for i in range(shorter) if not _matches(expected[i], got[i])), shorter)
    end = next((i for i in range(shorter - begin) if not _matches(expected[-1 - i], got[-1 - i])), shorter - begin)
    wanted, came = expected[begin : len(expected) - end], got[begin : len(got) - end]
    both = min(len(wanted), len(came))
    wrong = [
        _difference(f"{place}[{begin + i}]", want, each)
        for i, (want, each) in enumerate(zip(wanted, came, strict=False))
        if not _matches(want, each)
    ]
    return _told_all(place, wrong, list(wanted[both:]), list(came[both:]))


def _told_all(place: str, wrong: list[str], missing: Sequence[ExpectedEvent], more: Sequence[_Got]) -> list[str]:
    problems = wrong[:MAX_TOLD]
    problems += [f"{place}: missing {told(want.payload)}" for want in missing[:MAX_TOLD]]
    problems += [f"{place}: not expected {told(each.payload)}" for each in more[:MAX_TOLD]]
    left = len(wrong) + len(missing) + len(more) - len(problems)
    return [*problems, f"{place}: and {left:,} more"] if left else problems


# --- which stands for which -------------------------------------------------------------------------------------------


def _unmatched(expected: Sequence[ExpectedEvent], got: Sequence[_Got]) -> tuple[list[ExpectedEvent], list[_Got]]:
    """The expected events that none stands for, and the others that came; no other pairing leaves fewer."""
    groups: dict[Hashable, tuple[list[int], list[int]]] = {}
    for i, want in enumerate(expected):
        groups.setdefault(_identity(want.payload), ([], []))[0].append(i)
    for i, each in enumerate(got):
        groups.setdefault(_identity(each.payload), ([], []))[1].append(i)
    missing: list[int] = []
    more: list[int] = []
    for wants, gots in groups.values():
        wanted_by = _matching([expected[i] for i in wants], [got[i] for i in gots])
        found = set(wanted_by.values())
        missing += [wants[i] for i in range(len(wants)) if i not in found]
        more += [gots[i] for i in range(len(gots)) if i not in wanted_by]
    return [expected[i] for i in sorted(missing)], [got[i] for i in sorted(more)]


def _matching(wants: Sequence[ExpectedEvent], gots: Sequence[_Got]) -> dict[int, int]:
    """A largest matching of events with equal payloads: by the index of what came, the index of what was expected.

    Those that say more than the payload choose first, and make way for one another along augmenting paths; the others take
    what is left.
    """
    owner: dict[int, int] = {}
    held: dict[int, int] = {}
    by_key: dict[str | None, list[int]] = {}
    for i, each in enumerate(gots):
        by_key.setdefault(each.event.key, []).append(i)

    def fitting(number: int) -> Iterator[int]:
        want = wants[number]
        candidates = range(len(gots)) if want.key is None else by_key.get(want.key, ())
        return (i for i in candidates if not any(_envelope_differences(want, gots[i])))

    undemanding = [
        i for i, want in enumerate(wants) if want.key is None and want.timestamp_ms is None and want.event_type is None
    ]
    for i in sorted(set(range(len(wants))).difference(undemanding)):
        _augment(i, fitting, owner, held)
    left = [i for i in range(len(gots)) if i not in owner]
    return owner | dict(zip(left, undemanding, strict=False))


def _augment(start: int, fitting: Callable[[int], Iterable[int]], owner: dict[int, int], held: dict[int, int]) -> None:
    """Find a place for one more expected event, moving others if need be. ``owner`` has who holds each place, ``held`` the place
    that each holds."""
    reached_from: dict[int, int] = {}
    queue = [start]
    for want in queue:  # it grows while it is walked
        for place in fitting(want):
            if place in reached_from:
                continue
            reached_from[place] = want
            if place in owner:
                queue.append(owner[place])
                continue
            while True:  # everybody on the way moves up one place
                mover = reached_from[place]
                owner[place] = mover
                before, held[mover] = held.get(mover), place
                if before is None:  # the new one: it held none
                    return
                place = before


def _identity(value: Any) -> Hashable:
    """Equal for equal payloads only: numbers by value, true and false apart from 1 and 0, and a list apart from both."""
    if isinstance(value, dict):
        return frozenset((name, _identity(item)) for name, item in value.items())
    if isinstance(value, list):
        return ("list", *map(_identity, value))
    return ("bool", value) if isinstance(value, bool) else value


def _matches(want: ExpectedEvent, got: _Got) -> bool:
    return _identity(want.payload) == _identity(got.payload) and not any(_envelope_differences(want, got))


def _likeness(want: ExpectedEvent, got: _Got) -> int:
    """How many fields of the payload are equal."""
    payload = got.payload
    if not isinstance(want.payload, dict) or not isinstance(payload, dict):
        return 0
    return sum(payload.get(name, _MISSING) == value for name, value in want.payload.items())


# --- what is different ------------------------------------------------------------------------------------------------


def _difference(place: str, want: ExpectedEvent, got: _Got) -> str:
    lines = [f"{place}: expected {told(want.payload)}", f"    got      {told(got.payload)}"]
    differences = [*_payload_differences(want.payload, got.payload, "payload"), *_envelope_differences(want, got)]
    return "\n".join([*lines, *(f"      {line}" for line in differences)])


def _envelope_differences(want: ExpectedEvent, got: _Got) -> Iterator[str]:
    event = got.event
    for name, expected, found in (("key", want.key, event.key), ("event_type", want.event_type, event.event_type)):
        if expected is not None and expected != found:
            yield f"{name}: expected {expected!r}, got {found!r}"
    if want.timestamp_ms is not None and want.timestamp_ms != event.timestamp_ms:
        yield f"timestamp: expected {rfc3339(want.timestamp_ms)}, got {rfc3339(event.timestamp_ms)}"


def _payload_differences(want: Any, got: Any, path: str) -> Iterator[str]:
    if isinstance(want, dict) and isinstance(got, dict):
        for name in dict.fromkeys([*want, *got]):
            if name not in got:
                yield f"{path}.{name}: missing, expected {told(want[name])}"
            elif name not in want:
                yield f"{path}.{name}: not expected, got {told(got[name])}"
            else:
                yield from _payload_differences(want[name], got[name], f"{path}.{name}")
    elif isinstance(want, list) and isinstance(got, list) and len(want) == len(got):
        for i, (a, b) in enumerate(zip(want, got, strict=True)):
            yield from _payload_differences(a, b, f"{path}[{i}]")
    elif _identity(want) != _identity(got):
        yield f"{path}: expected {told(want)}, got {told(got)}"
