"""What a client does with a bus, whichever way it gets there: in process, on the data folder, or over HTTP."""

import asyncio
import inspect
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, Final

import httpx
from history_operations import Found, Kept, Part, Sent

from event_streaming_bus import EventConfig, open_bus
from event_streaming_bus.client import ClientOptions, sync
from event_streaming_bus.errors import NotFoundError
from event_streaming_bus.models import Event, EventPriority, Split
from event_streaming_bus.sourcing.model import NewEvent, NewEvents
from event_streaming_bus.store.log.reading import batches_between
from event_streaming_bus.store.recorded import Recorded, RecordedEvent

AGGREGATE_TYPE: Final = "Ledger"
EVENTS: Final = "events"
STREAMS: Final = (EVENTS, AGGREGATE_TYPE)
GROUP: Final = "readers"
_PAGE: Final = 1000


class Hands:
    """A bus at a URL, with calls that block."""

    def __init__(self, url: str, retry_for_s: float = 10.0) -> None:
        self._loop = asyncio.new_event_loop()
        self._is_remote = url.startswith("http")
        self._web: httpx.Client | None = None
        self._cursors: dict[str, str] = {}
        if self._is_remote:
            options = ClientOptions(retry_for_s=retry_for_s, answer_timeout_s=retry_for_s)
            self.bus: Any = sync.connect(url, options=options)
            self._web = httpx.Client(base_url=f"{url}/api/v1", timeout=retry_for_s)
        else:
            self.bus = open_bus(url)
        self._names: dict[str, str] = {}

    def done(self, asked: Any) -> Any:
        """The result of a call, whether it has to be awaited or not."""
        return self._loop.run_until_complete(asked) if inspect.isawaitable(asked) else asked

    def close(self) -> None:
        self.bus.close()
        if self._web is not None:
            self._web.close()
        self._loop.close()

    # --- aggregates ---------------------------------------------------------------------------------------------------

    def append(self, parts: Sequence[Part], *, own_ids: bool) -> tuple[Kept, ...]:
        """Append; with ``own_ids`` the elements are the ids of their events."""
        appends = [
            NewEvents(
                aggregate_id=part.key,
                aggregate_type=AGGREGATE_TYPE,
                expected_version=part.expected,
                events=[
                    NewEvent(event_type="noted", event_data={"e": each}, event_id=each if own_ids else None)
                    for each in part.elements
                ],
            )
            for part in parts
        ]
        elements = [each for part in parts for each in part.elements]
        recorded: list[Recorded] = self.done(self.bus.sourcing.append(appends))
        return tuple(map(_receipt, elements, recorded))

    def read(self, key: str) -> tuple[Kept, ...]:
        """All of an aggregate."""
        try:
            events: list[RecordedEvent] = self.done(self.bus.sourcing.events(key))
        except NotFoundError:
            return ()
        return tuple(map(_kept, events))

    def page(self, after: int, limit: int = 200) -> tuple[tuple[Kept, ...], bool]:
        """``(the events after a position, whether that is all)``."""
        page = self.done(self.bus.sourcing.read(after_position=after, limit=limit))
        return tuple(map(_kept, page.events)), page.is_end

    # --- streams ------------------------------------------------------------------------------------------------------

    def publish(self, stream: str, sent: Sequence[Sent], *, own_ids: bool) -> tuple[tuple[str, int], ...]:
        """Publish; where each event is."""
        configs = [
            EventConfig(event_type="told", key=each.key, event_id=each.element if own_ids else None, deliver_at=each.due_ms)
            for each in sent
        ]
        receipts = self.done(self.bus.publishing.publish_batch(configs, [{"e": each.element} for each in sent], stream))
        return tuple((str(receipt.position.split), receipt.position.offset) for receipt in receipts)

    def scan(self, stream: str, begin: dict[str, int]) -> tuple[Found, ...]:
        """What each split of a stream has from the offsets ``begin`` on; over HTTP from where the last scan ended, which must be
        that."""
        return self._scan_pages(stream) if self._is_remote else self._scan_log(stream, begin)

    def _scan_log(self, stream: str, begin: dict[str, int]) -> tuple[Found, ...]:
        found: list[Found] = []
        info = self.bus.log.find_stream("default", stream)
        ends = self.bus.log.end_offsets(info.stream_id)
        for split, end in ends.items():  # those of now: the end that others move on might never be reached
            for batch in batches_between(self.bus.log, split, begin.get(str(split), 0), end):
                found += [_found(batch.position(i).split, batch.position(i).offset, e) for i, e in enumerate(batch.events())]
        return tuple(found)

    def _scan_pages(self, stream: str) -> tuple[Found, ...]:
        assert self._web is not None
        found: list[Found] = []
        stream_id = self.id_of(stream)
        while True:
            asked = {"limit": _PAGE} | ({"cursor": self._cursors[stream]} if stream in self._cursors else {"from": "earliest"})
            answer = self._web.get(f"/streams/{stream}/events", params=asked)
            answer.raise_for_status()
            page = answer.json()
            for told in page["events"]:
                split = Split(stream_id, EventPriority(told["lane"]), told["partition"])
                key = told["aggregate_id"] or told["key"] or ""
                found.append(Found(str(split), told["offset"], told["payload"]["e"], key))
            if page["next_cursor"] is None:
                self._cursors[stream] = page["tail_cursor"]
                return tuple(found)
            self._cursors[stream] = page["next_cursor"]

    def id_of(self, stream: str) -> str:
        """The id of a stream."""
        if stream not in self._names:
            catalog = self.bus.streams if self._is_remote else self.bus.log
            self._names[stream] = catalog.find_stream("default", stream).stream_id
        return self._names[stream]

    # --- groups -------------------------------------------------------------------------------------------------------

    def consumer(self) -> Any:
        """A member of the group."""
        return self.bus.consumer(GROUP, list(STREAMS), auto_commit=False)

    def committed(self) -> dict[str, int]:
        """What the group has committed."""
        lag = self.done(self.bus.consumers.get_consumer_lag(GROUP))
        return {
            str(Split(each["stream_id"], EventPriority(each["lane"]), each["partition"])): each["committed"]
            for each in lag["splits"]
            if each["committed"]
        }

    def end_offsets(self) -> dict[str, int]:
        """Where the streams of the group end; in process only."""
        ends: dict[str, int] = {}
        for stream in STREAMS:
            with suppress(NotFoundError):
                ends |= {str(split): end for split, end in self.bus.log.end_offsets(self.id_of(stream)).items() if end}
        return ends


def taken(consumer: Any, events: Sequence[Event]) -> tuple[Found, ...]:
    """What a poll has handed out."""
    places = [consumer.position(event) for event in events]
    return tuple(_found(place.split, place.offset, event) for place, event in zip(places, events, strict=True))


def _receipt(element: str, recorded: Recorded) -> Kept:
    place = recorded.place
    split, offset = (None, -1) if place is None else (str(place.split), place.offset)
    return Kept(recorded.aggregate_id, element, recorded.version, recorded.position, split, offset)


def _kept(event: RecordedEvent) -> Kept:
    payload: Any = event.payload
    return Kept(event.aggregate_id, payload["e"], event.version, event.position)


def _found(split: Split, offset: int, event: Event) -> Found:
    payload: Any = event.payload
    return Found(str(split), offset, payload["e"], event.aggregate_id or event.key or "")
