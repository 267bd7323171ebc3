"""What a consumer over HTTP has of its member's events: those read ahead, those in the user's hands, and what the server is to be
told of them."""

import threading
from collections import deque
from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from itertools import groupby
from typing import Any, Final

import msgspec

from event_streaming_bus.client.answers import DeliveredData
from event_streaming_bus.models import Event, EventPriority
from event_streaming_bus.store.redeliveries import redelivery_of

_MAX_AT_ONCE: Final = 5000
Lane = tuple[str, int, EventPriority]


class Place(msgspec.Struct, frozen=True):
    """Where an event is, as the server is told it: ``stream`` is a name."""

    stream: str
    partition: int
    lane: EventPriority
    offset: int


class Act(msgspec.Struct, frozen=True):
    """Something that is to be done with events in hand: ``kind`` is ack, nack or park, ``reason`` why. ``up_to``: all of a
    lane up to there is meant, and not only what is there."""

    kind: str
    places: Sequence[Place]
    reason: str = ""
    up_to: bool = False

    def body(self) -> dict[str, Any]:
        named: dict[str, Any] = {"up_to" if self.up_to else "positions": self.places}
        if self.kind == "ack":
            return named
        return named | {"error" if self.kind == "nack" else "reason": self.reason}


class Held:
    """An event that the server says is in hand."""

    def __init__(self, event: Event, place: Place) -> None:
        self.event = event
        self.place = place
        self.lane: Lane = (place.stream, place.partition, place.lane)


class Hands:
    """Safe to use from any thread; nothing here waits."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._ahead: deque[Held] = deque()
        self._out: dict[int, Held] = {}  # by serial number, in the order in which they were handed out
        self._serials: dict[str, list[int]] = {}
        self._next = 0
        self._acts: list[Act] = []
        self._newest: dict[Lane, int] = {}  # the last offset of each lane of what is here
        self._is_mixed = False  # whether something of it is redelivered: then it is not in the order of offsets
        self._paused: frozenset[tuple[str, int]] = frozenset()
        self.following: dict[Lane, int] = {}
        """Of each lane, the offset behind the last event that was handed out."""

    # --- coming and going ---------------------------------------------------------------------------------------------

    def add(self, events: Iterable[DeliveredData]) -> None:
        """These came from the server."""
        with self._lock:
            if not self._ahead and not self._out:
                self._newest, self._is_mixed = {}, False
            for each in events:
                held = Held(each.event(), Place(each.stream, each.partition, each.lane, each.offset))
                self._ahead.append(held)
                if each.offset <= self._newest.get(held.lane, -1) or redelivery_of(held.event):
                    self._is_mixed = True
                self._newest[held.lane] = each.offset

    def take(self, most: int) -> list[Event]:
        """The next events that came, for the user; those of paused partitions stay."""
        with self._lock:
            taken = self._next_ahead(most)
            for held in taken:
                self._out[self._next] = held
                self._serials.setdefault(held.event.event_id, []).append(self._next)
                self._next += 1
                self.following[held.lane] = max(self.following.get(held.lane, 0), held.place.offset + 1)
            return [held.event for held in taken]

    def _next_ahead(self, most: int) -> list[Held]:
        if not self._paused:
            return [self._ahead.popleft() for _ in range(min(most, len(self._ahead)))]
        taken: list[Held] = []
        left: list[Held] = []
        for held in self._ahead:
            (left if len(taken) == most or self._is_paused(held) else taken).append(held)
        self._ahead = deque(left)
        return taken

    def _is_paused(self, held: Held) -> bool:
        return held.lane[:2] in self._paused and redelivery_of(held.event) is None

    def pause(self, partitions: Iterable[tuple[str, int]]) -> None:
        """These partitions, of streams by name, are paused, and no others."""
        with self._lock:
            self._paused = frozenset(partitions)

    def clear(self) -> None:
        """The member is gone, and what it had in hand with it."""
        with self._lock:
            self._paused = frozenset()
            self._ahead.clear()
            self._out.clear()
            self._serials.clear()
            self._acts.clear()
            self.following.clear()

    def forget(self, is_meant: Callable[[Place], bool]) -> None:
        """Nothing of these places is in hand any more."""
        with self._lock:
            self._ahead = deque(held for held in self._ahead if not is_meant(held.place))
            for serial in [serial for serial, held in self._out.items() if is_meant(held.place)]:
                self._drop(serial)
            self.following = {lane: at for lane, at in self.following.items() if not is_meant(Place(*lane, at))}

    def keep_of(self, partitions: Container[tuple[str, int]]) -> None:
        """The member reads these partitions, of streams by name, and no others any more: what is here of those is forgotten, but
        for what is redelivered, which is the group's wherever it was at first."""
        with self._lock:
            self._ahead = deque(held for held in self._ahead if _is_of(held, partitions))
            for serial in [serial for serial, held in self._out.items() if not _is_of(held, partitions)]:
                self._drop(serial)

    def put_back(self) -> None:
        """What the user has is handed out again, first of all."""
        with self._lock:
            back = list(self._out.values())
            self._out.clear()
            self._serials.clear()
            self._ahead.extendleft(reversed(back))

    # --- what becomes of events ---------------------------------------------------------------------------------------

    def place(self, event: Event) -> Place | None:
        """Where an event in the user's hands is; None for another."""
        with self._lock:
            serial = self._find(event)
            return None if serial is None else self._out[serial].place

    def done_with(self, event: Event, kind: str, reason: str = "") -> bool:
        """The server is to be told so of an event; whether it was in the user's hands."""
        with self._lock:
            serial = self._find(event)
            if serial is None:
                return False
            self._acts.append(Act(kind, [self._out[serial].place], reason))
            self._drop(serial)
            return True

    def settle(self) -> None:
        """All that is in the user's hands is done."""
        with self._lock:
            if not self._out:
                return
            done = list(self._out.values())
            self._out.clear()
            self._serials.clear()
            if self._is_mixed:
                self._acts.append(Act("ack", [held.place for held in done]))
                return
            # Up to a place the server takes all that is in hand: in order, that is no more than is meant.
            self._acts.append(Act("ack", list({held.lane: held.place for held in done}.values()), up_to=True))

    def _find(self, event: Event) -> int | None:
        serials = self._serials.get(event.event_id, ())
        same = next((each for each in serials if self._out[each].event is event), None)
        return next((each for each in serials if self._out[each].event == event), None) if same is None else same

    def _drop(self, serial: int) -> None:
        held = self._out.pop(serial)
        serials = self._serials[held.event.event_id]
        serials.remove(serial)
        if not serials:
            del self._serials[held.event.event_id]

    # --- for the server -----------------------------------------------------------------------------------------------

    @property
    def has_acts(self) -> bool:
        """Whether there is something that the server has not been told."""
        return bool(self._acts)

    def acts(self) -> list[Act]:
        """What the server is to be told, in order; it is here no more. Neighbours of one kind are put together."""
        with self._lock:
            taken, self._acts = self._acts, []
        return [each for run in _runs(taken) for each in _together(run)]

    def give_back(self, acts: Iterable[Act]) -> None:
        """The server could not be told; it is to be told later."""
        with self._lock:
            self._acts = [*acts, *self._acts]


def _is_of(held: Held, partitions: Container[tuple[str, int]]) -> bool:
    return held.lane[:2] in partitions or redelivery_of(held.event) is not None


def _runs(acts: Iterable[Act]) -> Iterator[list[Act]]:
    """The acts in order, neighbours together that differ in nothing but the events meant."""
    for _, run in groupby(acts, lambda act: (act.kind, act.reason, act.up_to)):
        yield list(run)


def _together(run: Sequence[Act]) -> Iterator[Act]:
    """One act in place of several that differ in nothing but the events meant, or a few, if these are many."""
    first = run[0]
    places = [place for act in run for place in act.places]
    if first.up_to:  # the last place of a lane stands for those before it
        places = list({(place.stream, place.partition, place.lane): place for place in places}.values())
    for i in range(0, len(places), _MAX_AT_ONCE):
        yield Act(first.kind, places[i : i + _MAX_AT_ONCE], first.reason, first.up_to)
