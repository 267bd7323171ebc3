"""Publishing: an event is checked, given its envelope, and on disk when the call returns."""

import asyncio
import time
from collections.abc import Sequence
from concurrent.futures import Future
from typing import Final

import msgspec

from event_streaming_bus import ids
from event_streaming_bus.errors import InvalidInputError, PayloadTooLargeError, ValidationFailedError
from event_streaming_bus.models import (
    DEFAULT_MAX_PAYLOAD_BYTES,
    DEFAULT_TENANT,
    Event,
    EventConfig,
    InvalidEventPolicy,
    JsonValue,
    Receipt,
    SerializationFormat,
    StreamInfo,
    time_ms,
)
from event_streaming_bus.registry.encoding import Encoded, at, encode
from event_streaming_bus.registry.guards import SchemaGuard
from event_streaming_bus.registry.service import SchemaRegistryService
from event_streaming_bus.routing import journal as routing_journal
from event_streaming_bus.routing.cache import cache_of
from event_streaming_bus.routing.journal import runs_of
from event_streaming_bus.routing.router import Routed, Router
from event_streaming_bus.store.dead_letters import dead_letter
from event_streaming_bus.store.history_records import Published, Refused, to_event
from event_streaming_bus.store.log.base import Append, AppendResult, Journal
from event_streaming_bus.store.storage import Storage, open_storage

DEFAULT_STREAM: Final = "events"
"""Where an event goes that names no stream; made when it is first needed."""

_SHOWN_VIOLATIONS: Final = 20


class EventPublishingService:
    """Publishes events to streams.

    ``publish_event`` and ``publish_batch`` return when the events are on disk. Events that break their stream's schema are
    refused with ``ValidationFailedError``, all of the batch with them, unless the stream says DEAD_LETTER: then they go to
    the stream ``_dead_letters`` with the reason, and the others to their stream. Routing rules then send events on, change them
    or put them aside: in the same transaction, so that an event is wherever it belongs, or nowhere.

    ``max_payload_bytes`` bounds one payload as it is written; larger ones are refused with ``PayloadTooLargeError``.
    """

    def __init__(self, storage: Storage | None = None, *, max_payload_bytes: int = DEFAULT_MAX_PAYLOAD_BYTES) -> None:
        self._storage = storage or open_storage()
        self._schemas = SchemaRegistryService(self._storage)
        self._rules = cache_of(self._storage.routes)
        self._router = Router(self._storage, self._schemas)
        self._max_payload_bytes = max_payload_bytes

    async def publish_event(
        self,
        event_config: EventConfig,
        payload: JsonValue,
        stream_id: str = DEFAULT_STREAM,
        tenant_id: str = DEFAULT_TENANT,
        user_id: str | None = None,
    ) -> str:
        """Publish one event; returns its id. ``stream_id`` is a stream's id or name."""
        receipts = await asyncio.wrap_future(
            self.submit(event_config, [payload], stream_id=stream_id, tenant_id=tenant_id, user_id=user_id)
        )
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
        future = self.submit(
            event_config,
            payloads,
            stream_id=stream_id,
            tenant_id=tenant_id,
            user_id=user_id,
            keys=keys,
            timestamps_ms=timestamps_ms,
        )
        return await asyncio.wrap_future(future)

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
        accepted_us = time.time_ns() // 1000
        stream = self._stream(tenant_id, stream_id)
        guard = self._schemas.guard_of(stream)
        started_us = time.time_ns() // 1000
        if guard is not None:
            guard.check_producer(accepted_us // 1000)
        encoded = encode(self._schemas, guard, payloads)
        validated_us = time.time_ns() // 1000
        events, own_ids = _build_events(
            event_config, encoded, tenant_id, user_id, keys, timestamps_ms, stream, accepted_us // 1000
        )
        for i, event in enumerate(events):
            if len(event.data) > self._max_payload_bytes:
                raise PayloadTooLargeError(
                    f"payload{at(i, events)}: {len(event.data):,} bytes as {event.serialization_format}; at most "
                    f"{self._max_payload_bytes:,} are accepted. Publish a reference to the data instead.",
                    index=i,
                )
        published = Published(tenant_id=tenant_id, runs=[], accepted_us=accepted_us, appended_us=0)
        kept = events
        letters: list[Event] = []
        refused = encoded.invalid
        if guard is not None:
            if refused and stream.config.on_invalid is not InvalidEventPolicy.DEAD_LETTER:
                raise _refusal(stream, guard, encoded)
            published = msgspec.structs.replace(
                published,
                schema_id=guard.schema_id,
                schema_version=guard.schema_version,
                validation_started_us=started_us,
                validation_completed_us=validated_us,
            )
            if refused:
                kept, letters = _divert(stream, guard, events, encoded)
        rules = self._rules.get(self._storage.routes, tenant_id)
        routed = self._router.route(rules, stream, kept, own_ids=own_ids) if rules.published(stream.name) else None
        if routed is not None:
            kept = routed.kept
        appends = [Append(stream.stream_id, kept, own_ids, partition)]
        if letters:
            appends.append(Append(self._storage.dead_letters(tenant_id).stream_id, letters, new_ids=own_ids))
        if routed is not None:
            for part in routed.parts:
                arrived = [arrival.event for arrival in part.arrivals]
                to = part.stream_id or self._storage.dead_letters(tenant_id).stream_id
                appends.append(Append(to, arrived, own_ids, partition))
        done: Future[list[Receipt]] = Future()
        future = self._storage.log.submit(appends, journal=self._journal(stream, published, bool(letters), routed))

        def settle(appended: "Future[list[AppendResult]]") -> None:
            error = appended.exception()
            if error is not None:
                done.set_exception(error)
            else:
                done.set_result(_receipts(appended.result(), refused, routed))

        future.add_done_callback(settle)
        return done

    def _stream(self, tenant_id: str, reference: str) -> StreamInfo:
        if reference == DEFAULT_STREAM:
            return self._storage.internal_stream(tenant_id, DEFAULT_STREAM)
        return self._storage.log.find_stream(tenant_id, reference)

    def _journal(self, stream: StreamInfo, published: Published, diverted: bool, routed: Routed | None) -> Journal:
        history = self._storage.history()

        def journal(results: Sequence[AppendResult]) -> Append | None:
            now_us = time.time_ns() // 1000
            entries = []
            if runs := runs_of(results[0]):
                entries.append(to_event(msgspec.structs.replace(published, runs=runs, appended_us=now_us)))
            if diverted and (runs := runs_of(results[1])):
                refused = Refused(
                    tenant_id=published.tenant_id,
                    runs=runs,
                    schema_id=published.schema_id or "",
                    schema_version=published.schema_version or "",
                    stream_id=stream.stream_id,
                    observed_us=now_us,
                    count=sum(run.count for run in runs),
                )
                entries.append(to_event(refused))
            if routed is not None:
                parts = results[1 + diverted :]
                entries += map(to_event, routing_journal.records(routed, results[0], parts, published, now_us))
            return Append(history.stream_id, entries, new_ids=True) if entries else None

        return journal


def _refusal(stream: StreamInfo, guard: SchemaGuard, encoded: Encoded) -> ValidationFailedError:
    """The error for payloads that the stream refuses."""
    invalid, values = encoded.invalid, encoded.values
    violations = [
        {"index": i, "at": at(i, values), "path": v.path, "pointer": v.pointer, "rule": v.rule, "message": v.message}
        for i in invalid[:_SHOWN_VIOLATIONS]
        for v in guard.check(values[i])[:_SHOWN_VIOLATIONS]
    ]
    first = violations[0]
    return ValidationFailedError(
        f"payload{first['at']}: {first['path'] or '(the payload itself)'}: {first['message']} "
        f"(schema {guard.schema_name} {guard.schema_version} of stream {stream.name}"
        + (f"; {len(invalid)} of {len(values)} events are invalid" if len(values) > 1 else "")
        + "; nothing was published)",
        violations=violations,
        invalid_indexes=invalid,
    )


def _build_events(
    event_config: EventConfig | Sequence[EventConfig],
    encoded: Encoded,
    tenant_id: str,
    user_id: str | None,
    keys: Sequence[str | None] | None,
    timestamps_ms: Sequence[int] | None,
    stream: StreamInfo,
    now_ms: int,
) -> tuple[list[Event], bool]:
    """``(events, whether every id was made here)``."""
    payloads = encoded.data
    count = len(payloads)
    schema_id = stream.config.schema_id
    formats = [encoded.format] * count
    for i in encoded.invalid:
        formats[i] = SerializationFormat.JSON
    configs = [event_config] * count if isinstance(event_config, EventConfig) else event_config
    for name, values in (("event_config", configs), ("keys", keys), ("timestamps_ms", timestamps_ms)):
        if values is not None and len(values) != count:
            raise InvalidInputError(f"{name}: expected one for each of the {count} payloads, got {len(values)}")
    own_ids = ids.new_ids(ids.EVENT, count)
    events = []
    for i, config in enumerate(configs):
        if config.serialization_format is SerializationFormat.AVRO and encoded.format is SerializationFormat.JSON:
            raise InvalidInputError(
                f"serialization_format{at(i, payloads)}: the stream {stream.name} has no Avro schema, so its events are JSON"
            )
        key = keys[i] if keys is not None else config.key
        if timestamps_ms is not None:
            at_ms = timestamps_ms[i]
        else:
            at_ms = now_ms if config.timestamp is None else time_ms(config.timestamp)
        events.append(
            Event(
                config.event_id or own_ids[i],
                config.event_type,
                at_ms,
                payloads[i],
                config.aggregate_id if key is None else key,
                config.source_capability,
                config.aggregate_id,
                config.aggregate_type,
                config.metadata,
                config.correlation_id,
                config.causation_id,
                config.priority,
                config.compression_type,
                formats[i],
                config.max_retries,
                tenant_id,
                user_id,
                encoded.schema_ids.get(i, schema_id),
                config.traceparent,
            )
        )
    return events, not any(config.event_id for config in (configs if configs is event_config else configs[:1]))


def _divert(stream: StreamInfo, guard: SchemaGuard, events: Sequence[Event], encoded: Encoded) -> tuple[list[Event], list[Event]]:
    """``(the valid events, the others as dead letters)``."""
    now_ms = time.time_ns() // 1_000_000
    dead = [
        dead_letter(
            events[i],
            event_id=events[i].event_id,
            stream=stream,
            step="validation",
            error_type="ValidationFailedError",
            message=guard.told(encoded.values[i], _SHOWN_VIOLATIONS),
            failed_at_ms=now_ms,
        )
        for i in encoded.invalid
    ]
    aside = set(encoded.invalid)
    return [event for i, event in enumerate(events) if i not in aside], dead


def _receipts(results: Sequence[AppendResult], refused: Sequence[int], routed: Routed | None) -> list[Receipt]:
    receipts = results[0].receipts() if routed is None else _routed_receipts(results, bool(refused), routed)
    if refused:
        for index, receipt in zip(refused, results[1].receipts(), strict=True):
            receipts.insert(index, receipt)
    return receipts


def _routed_receipts(results: Sequence[AppendResult], diverted: bool, routed: Routed) -> list[Receipt]:
    """The receipts of the events that were routed, wherever they went."""
    by_part = {-1: results[0].receipts()}
    receipts: list[Receipt] = []
    for i, (part, place) in enumerate(routed.places):
        if i in routed.again:
            receipts.append(msgspec.structs.replace(receipts[routed.again[i]], duplicate=True))
            continue
        if part not in by_part:
            by_part[part] = results[1 + diverted + part].receipts()
        receipts.append(by_part[part][place])
    return receipts
