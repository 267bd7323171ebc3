"""Publishing: an event is checked, given its envelope, and on disk when the call returns."""

import time
from collections.abc import Sequence
from concurrent.futures import Future
from functools import partial
from typing import Any, Final

import msgspec

from event_streaming_bus import release_notes
from event_streaming_bus.awaiting import result_of
from event_streaming_bus.envelopes import Sender, envelop
from event_streaming_bus.errors import (
    BusError,
    PayloadTooLargeError,
    StreamNotFoundError,
)
from event_streaming_bus.models import (
    DEFAULT_MAX_PAYLOAD_BYTES,
    DEFAULT_TENANT,
    Event,
    EventConfig,
    InvalidEventPolicy,
    JsonValue,
    Receipt,
    StreamConfig,
    StreamInfo,
    check_not_internal,
)
from event_streaming_bus.publication import Publication, Publications, made_of
from event_streaming_bus.refused_payloads import divert, refusal
from event_streaming_bus.registry.encoding import at, encode
from event_streaming_bus.registry.protection import protect_published
from event_streaming_bus.registry.service import SchemaRegistryService
from event_streaming_bus.routing.cache import cache_of
from event_streaming_bus.routing.router import Router
from event_streaming_bus.store.history_records import Published
from event_streaming_bus.store.log.base import Append, AppendResult
from event_streaming_bus.store.log.capabilities import capabilities_of
from event_streaming_bus.store.log.embedded import EmbeddedLog
from event_streaming_bus.store.log.event_columns import column_of
from event_streaming_bus.store.published_once import Once, Receipts
from event_streaming_bus.store.storage import Storage, open_storage
from event_streaming_bus.tracing.sending import sending

DEFAULT_STREAM: Final = "events"
"""Where an event goes that names no stream; made when it is first needed."""

_MAX_STREAMS: Final = 1_000
_TRIES: Final = 5


class EventPublishingService:
    """Publishes events to streams.

    ``publish_event`` and ``publish_batch`` return when the events are on disk. Events that break their stream's schema are
    refused with ``ValidationFailedError``, all of the batch with them, unless the stream says DEAD_LETTER: then they go to
    the stream ``_dead_letters`` with the reason, and the others to their stream. Routing rules then send events on, change them
    or put them aside: in the same transaction, so that an event is wherever it belongs, or nowhere. All this happens at
    publishing for events with ``deliver_at`` as well; they come into their streams later.

    ``max_payload_bytes`` bounds one payload as it is written; larger ones are refused with ``PayloadTooLargeError``.
    """

    def __init__(self, storage: Storage | None = None, *, max_payload_bytes: int = DEFAULT_MAX_PAYLOAD_BYTES) -> None:
        self._storage = storage or open_storage()
        self._schemas = SchemaRegistryService(self._storage)
        self._rules = cache_of(self._storage.routes)
        self._router = Router(self._storage, self._schemas)
        self._max_payload_bytes = max_payload_bytes
        self._known: dict[tuple[str, str], StreamInfo] = {}  # as they were when they were last looked up

    async def publish_event(
        self,
        event_config: EventConfig,
        payload: JsonValue,
        stream_id: str = DEFAULT_STREAM,
        tenant_id: str = DEFAULT_TENANT,
        user_id: str | None = None,
    ) -> str:
        """Publish one event; returns its id. ``stream_id`` is a stream's id or name."""
        receipts = await self.publish_batch(event_config, [payload], stream_id, tenant_id, user_id)
        return receipts[0].event_id

    async def publish_batch(
        self,
        event_config: EventConfig | Sequence[EventConfig],
        payloads: Sequence[JsonValue],
        stream_id: str = DEFAULT_STREAM,
        tenant_id: str = DEFAULT_TENANT,
        user_id: str | None = None,
        *,
        keys: Sequence[str | None] | None = None,
        timestamps_ms: Sequence[int] | None = None,
    ) -> list[Receipt]:
        """Publish many events in one transaction; returns a receipt for each, in order.

        ``event_config`` is one for all, or one for each payload. ``keys`` and ``timestamps_ms``, one for each payload, go
        before what the configuration says.
        """
        how = {"user_id": user_id, "keys": keys, "timestamps_ms": timestamps_ms}
        return await self.publish_once(None, event_config, payloads, stream_id, tenant_id, **how)

    async def publish_once(
        self,
        once: Once | None,
        event_config: EventConfig | Sequence[EventConfig],
        payloads: Sequence[JsonValue],
        stream_id: str = DEFAULT_STREAM,
        tenant_id: str = DEFAULT_TENANT,
        **how: Any,
    ) -> list[Receipt]:
        """As ``publish_batch``, unless ``once`` knows that it was done before: then nothing is written, and the receipts are the
        first ones, as duplicates."""
        place = tenant_id, stream_id
        stream = self._known.get(place) or self._look_up(place)
        for left in reversed(range(_TRIES)):
            try:
                receipts, appended = self._append(
                    event_config, payloads, stream, once, is_checked_again=True, tenant_id=tenant_id, **how
                )
                results = await result_of(appended)
                return receipts(results)
            except BusError:
                # A refusal counts only if it is about the stream as it is. What was refused is not written: it is tried again.
                there = self._look_up(place)
                if not left or there == stream:
                    raise
                stream = there
        raise AssertionError("the last try returns or raises")

    def _look_up(self, place: tuple[str, str]) -> StreamInfo:
        if len(self._known) >= _MAX_STREAMS:
            self._known.clear()
        self._known.pop(place, None)
        stream = self._known[place] = self._stream(*place)
        return stream

    def submit(
        self,
        event_config: EventConfig | Sequence[EventConfig],
        payloads: Sequence[JsonValue],
        *,
        stream_id: str = DEFAULT_STREAM,
        tenant_id: str = DEFAULT_TENANT,
        user_id: str | None = None,
        keys: Sequence[str | None] | None = None,
        timestamps_ms: Sequence[int] | None = None,
        partition: int | None = None,
    ) -> "Future[list[Receipt]]":
        """As ``publish_batch``, from any thread, without waiting for the disk: the future has the receipts.

        ``partition`` is where events without a key go; None: to one that is picked for this call. What can be known beforehand
        (schema, sizes, stream) is checked, and raised, by this call.
        """
        receipts, appended = self._append(
            event_config,
            payloads,
            self._stream(tenant_id, stream_id),
            tenant_id=tenant_id,
            user_id=user_id,
            keys=keys,
            timestamps_ms=timestamps_ms,
            partition=partition,
        )
        return made_of(appended, receipts)

    def _append(
        self,
        event_config: EventConfig | Sequence[EventConfig],
        payloads: Sequence[JsonValue],
        stream: StreamInfo,
        once: Once | None = None,
        **how: Any,
    ) -> "tuple[Receipts, Future[list[AppendResult]]]":
        """Append what ``prepare`` makes of events, with a span from here to the disk if tracing is on."""
        traced = sending(stream, event_config, len(payloads))
        try:
            publication = self.prepare(event_config if traced is None else traced.configs, payloads, stream, **how)
            together = Publications(self._storage, [publication])
            if once is None:
                receipts: Receipts = together.receipts
                appended = self._storage.log.submit(together.appends, journal=together.journal)
            else:
                log: EmbeddedLog = self._storage.log  # type: ignore[assignment]  # whoever gives a condition has asked the log
                condition = once(together.receipts)
                receipts = condition.told
                appended = log.submit(together.appends, journal=together.journal, condition=condition)
        except BaseException as error:
            if traced is not None:
                traced.failed(error)
            raise
        if traced is not None:
            appended.add_done_callback(partial(traced.finish, publication.events))
        return receipts, appended

    def prepare(
        self,
        event_config: EventConfig | Sequence[EventConfig],
        payloads: Sequence[JsonValue],
        stream: StreamInfo,
        *,
        tenant_id: str = DEFAULT_TENANT,
        user_id: str | None = None,
        keys: Sequence[str | None] | None = None,
        timestamps_ms: Sequence[int] | None = None,
        partition: int | None = None,
        refuse_invalid: bool = False,
        is_checked_again: bool = False,
        may_wait: bool = False,
    ) -> Publication:
        """What ``submit`` appends: the events checked, encoded and routed. Nothing is written.

        ``refuse_invalid``: events that break the stream's schema are refused, also where the stream says DEAD_LETTER.
        ``is_checked_again``: the append fails with ``StreamChangedError`` if the stream is no longer as ``stream`` says.
        ``may_wait``: the events come into their streams after the append, also those that are not to be delivered later.
        """
        accepted_us = time.time_ns() // 1000
        guard = self._schemas.guard_of(stream)
        started_us = time.time_ns() // 1000
        if guard is not None:
            guard.check_producer(accepted_us // 1000)
        encoded = encode(self._schemas, guard, payloads)
        validated_us = time.time_ns() // 1000
        sender = Sender(tenant_id, user_id, accepted_us // 1000)
        events, own_ids, is_delayed = envelop(event_config, encoded, stream, sender, keys, timestamps_ms)
        self._check_sizes(events)
        published = Published(tenant_id=tenant_id, runs=[], accepted_us=accepted_us, appended_us=0)
        kept = events
        letters: list[Event] = []
        refused = encoded.invalid
        if guard is not None:
            if refused and (refuse_invalid or stream.config.on_invalid is not InvalidEventPolicy.DEAD_LETTER):
                raise refusal(stream, guard, encoded)
            if guard.personal is not None:
                kept = events = list(protect_published(guard, events, refused))
                self._check_sizes(events)
            published = msgspec.structs.replace(
                published,
                schema_id=guard.schema_id,
                schema_version=guard.schema_version,
                validation_started_us=started_us,
                validation_completed_us=validated_us,
            )
            if refused:
                kept, letters = divert(stream, guard, events, encoded)
        rules = self._rules.get(self._storage.routes, tenant_id)
        routed = self._router.route(rules, stream, kept, own_ids=own_ids) if rules.published(stream.name) else None
        if routed is not None:
            kept = routed.kept
        by_outbox = may_wait or (is_delayed and capabilities_of(self._storage.log).outbox)  # then the whole publication waits
        waits = is_delayed or by_outbox
        history_id = self._storage.history().stream_id if waits else ""
        schedule = release_notes.for_kept(history_id, kept, published, routed) if waits else None
        checked = stream.config if is_checked_again else None
        appends = [Append(stream.stream_id, kept, own_ids, partition, schedule, checked)]
        if letters:
            schedule = release_notes.for_refused(history_id, stream, letters, published) if by_outbox else None
            appends.append(Append(self._storage.dead_letters(tenant_id).stream_id, letters, own_ids, schedule=schedule))
        if routed is not None:
            for part in routed.parts:
                arrived = [arrival.event for arrival in part.arrivals]
                to = part.stream_id or self._storage.dead_letters(tenant_id).stream_id
                part_waits = by_outbox or (is_delayed and part.stream_id is not None)
                schedule = release_notes.for_part(history_id, part, published, routed) if part_waits else None
                appends.append(Append(to, arrived, own_ids, partition, schedule))
        return Publication(stream=stream, events=events, appends=appends, published=published, refused=refused, routed=routed)

    def _check_sizes(self, events: Sequence[Event]) -> None:
        if max(map(len, column_of(events, "data")), default=0) <= self._max_payload_bytes:
            return
        for i, event in enumerate(events):
            if len(event.data) > self._max_payload_bytes:
                raise PayloadTooLargeError(
                    f"payload{at(i, events)}: {len(event.data):,} bytes as {event.serialization_format}; at most "
                    f"{self._max_payload_bytes:,} are accepted. Publish a reference to the data instead.",
                    index=i,
                )

    def _stream(self, tenant_id: str, reference: str) -> StreamInfo:
        try:
            stream = self._storage.log.find_stream(tenant_id, reference)
        except StreamNotFoundError:
            if reference != DEFAULT_STREAM:
                raise
            return self._storage.log.create_stream(StreamConfig(name=DEFAULT_STREAM, tenant_id=tenant_id))
        check_not_internal(stream.name)
        return stream
