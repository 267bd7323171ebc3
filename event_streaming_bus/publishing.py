"""Publishing: an event is checked, given its envelope, and on disk when the call returns."""

import asyncio
import time
from collections.abc import Sequence
from concurrent.futures import Future
from typing import Any, Final

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
from event_streaming_bus.registry.service import SchemaGuard, SchemaRegistryService
from event_streaming_bus.store.dead_letters import dead_letter
from event_streaming_bus.store.history_records import Published, Refused, Run, to_event
from event_streaming_bus.store.log.base import Append, AppendResult, Journal
from event_streaming_bus.store.storage import Storage, open_storage

DEFAULT_STREAM: Final = "events"
"""Where an event goes that names no stream; made when it is first needed."""

_SHOWN_VIOLATIONS: Final = 20


class EventPublishingService:
    """Publishes events to streams.

    ``publish_event`` and ``publish_batch`` return when the events are on disk. Events that break their stream's schema are
    refused with ``ValidationFailedError``, all of the batch with them, unless the stream says DEAD_LETTER: then they go to
    the stream ``_dead_letters`` with the reason, and the others to their stream.

    ``max_payload_bytes`` bounds one payload as JSON; larger ones are refused with ``PayloadTooLargeError``.
    """

    def __init__(self, storage: Storage | None = None, *, max_payload_bytes: int = DEFAULT_MAX_PAYLOAD_BYTES) -> None:
        self._storage = storage or open_storage()
        self._schemas = SchemaRegistryService(self._storage)
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
        events, own_ids = _build_events(
            event_config, payloads, tenant_id, user_id, keys, timestamps_ms, stream.config.schema_id, accepted_us // 1000
        )
        for i, event in enumerate(events):
            if len(event.data) > self._max_payload_bytes:
                raise PayloadTooLargeError(
                    f"payload{_at(i, events)}: {len(event.data):,} bytes as JSON; at most {self._max_payload_bytes:,} are "
                    "accepted. Publish a reference to the data instead.",
                    index=i,
                )
        published = Published(tenant_id=tenant_id, runs=[], accepted_us=accepted_us, appended_us=0)
        appends = [Append(stream.stream_id, events, own_ids, partition)]
        refused: list[int] = []
        guard = self._schemas.guard_of(stream)
        if guard is not None:
            started_us = time.time_ns() // 1000
            refused = self._check(stream, guard, events, payloads)
            published = msgspec.structs.replace(
                published,
                schema_id=guard.schema_id,
                schema_version=guard.schema_version,
                validation_started_us=started_us,
                validation_completed_us=time.time_ns() // 1000,
            )
            if refused:
                appends = self._divert(stream, guard, events, payloads, refused, own_ids, partition)
        done: Future[list[Receipt]] = Future()
        future = self._storage.log.submit(appends, journal=self._journal(stream, published, len(appends) > 1))

        def settle(appended: "Future[list[AppendResult]]") -> None:
            error = appended.exception()
            if error is not None:
                done.set_exception(error)
            else:
                done.set_result(_receipts(appended.result(), refused))

        future.add_done_callback(settle)
        return done

    def _stream(self, tenant_id: str, reference: str) -> StreamInfo:
        if reference == DEFAULT_STREAM:
            return self._storage.internal_stream(tenant_id, DEFAULT_STREAM)
        return self._storage.log.find_stream(tenant_id, reference)

    def _check(self, stream: StreamInfo, guard: SchemaGuard, events: Sequence[Event], payloads: Sequence[JsonValue]) -> list[int]:
        """The indexes of the events to divert; raises if the stream refuses instead."""
        values = [e.payload if isinstance(p, bytes | msgspec.Raw) else p for e, p in zip(events, payloads, strict=True)]
        invalid = guard.check_many(values)
        if not invalid or stream.config.on_invalid is InvalidEventPolicy.DEAD_LETTER:
            return invalid
        violations = [
            {"index": i, "at": _at(i, events), "path": v.path, "pointer": v.pointer, "rule": v.rule, "message": v.message}
            for i in invalid[:_SHOWN_VIOLATIONS]
            for v in guard.check(values[i])[:_SHOWN_VIOLATIONS]
        ]
        first = violations[0]
        raise ValidationFailedError(
            f"payload{first['at']}: {first['path'] or '(the payload itself)'}: {first['message']} "
            f"(schema {guard.schema_name} {guard.schema_version} of stream {stream.name}"
            + (f"; {len(invalid)} of {len(events)} events are invalid" if len(events) > 1 else "")
            + "; nothing was published)",
            violations=violations,
            invalid_indexes=invalid,
        )

    def _divert(
        self,
        stream: StreamInfo,
        guard: SchemaGuard,
        events: Sequence[Event],
        payloads: Sequence[JsonValue],
        refused: Sequence[int],
        own_ids: bool,
        partition: int | None,
    ) -> list[Append]:
        now_ms = time.time_ns() // 1_000_000
        dead = []
        for i in refused:
            event = events[i]
            value = event.payload if isinstance(payloads[i], bytes | msgspec.Raw) else payloads[i]
            dead.append(
                dead_letter(
                    event,
                    event_id=event.event_id,
                    stream=stream,
                    step="validation",
                    error_type="ValidationFailedError",
                    message=guard.told(value, _SHOWN_VIOLATIONS),
                    failed_at_ms=now_ms,
                )
            )
        aside = set(refused)
        kept = [event for i, event in enumerate(events) if i not in aside]
        target = self._storage.dead_letters(stream.tenant_id)
        return [Append(stream.stream_id, kept, own_ids, partition), Append(target.stream_id, dead, new_ids=own_ids)]

    def _journal(self, stream: StreamInfo, published: Published, diverted: bool) -> Journal:
        history = self._storage.history()

        def journal(results: Sequence[AppendResult]) -> Append | None:
            now_us = time.time_ns() // 1000
            entries = []
            if runs := _runs(results[:1]):
                entries.append(to_event(msgspec.structs.replace(published, runs=runs, appended_us=now_us)))
            if diverted and (runs := _runs(results[1:])):
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
            return Append(history.stream_id, entries, new_ids=True) if entries else None

        return journal


def _build_events(
    event_config: EventConfig | Sequence[EventConfig],
    payloads: Sequence[JsonValue],
    tenant_id: str,
    user_id: str | None,
    keys: Sequence[str | None] | None,
    timestamps_ms: Sequence[int] | None,
    schema_id: str | None,
    now_ms: int,
) -> tuple[list[Event], bool]:
    """``(events, whether every id was made here)``."""
    count = len(payloads)
    configs = [event_config] * count if isinstance(event_config, EventConfig) else event_config
    for name, values in (("event_config", configs), ("keys", keys), ("timestamps_ms", timestamps_ms)):
        if values is not None and len(values) != count:
            raise InvalidInputError(f"{name}: expected one for each of the {count} payloads, got {len(values)}")
    own_ids = ids.new_ids(ids.EVENT, count)
    events = []
    for i, config in enumerate(configs):
        if config.serialization_format is not SerializationFormat.JSON:
            raise InvalidInputError(
                f"serialization_format{_at(i, payloads)}: {config.serialization_format} is not available in this version; JSON is"
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
                _encode(payloads[i], i, payloads),
                config.aggregate_id if key is None else key,
                config.source_capability,
                config.aggregate_id,
                config.aggregate_type,
                config.metadata,
                config.correlation_id,
                config.causation_id,
                config.priority,
                config.compression_type,
                config.serialization_format,
                config.max_retries,
                tenant_id,
                user_id,
                schema_id,
                config.traceparent,
            )
        )
    return events, not any(config.event_id for config in (configs if configs is event_config else configs[:1]))


def _encode(payload: JsonValue, index: int, all_payloads: Sequence[Any]) -> bytes:
    if isinstance(payload, bytes | msgspec.Raw):
        data = bytes(payload)
        try:
            msgspec.json.decode(data)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise InvalidInputError(f"payload{_at(index, all_payloads)}: not JSON: {error}", index=index) from error
        return data
    try:
        return msgspec.json.encode(payload)
    except (TypeError, ValueError, RecursionError, msgspec.MsgspecError) as error:
        raise InvalidInputError(f"payload{_at(index, all_payloads)}: not expressible as JSON: {error}", index=index) from error


def _receipts(results: Sequence[AppendResult], refused: Sequence[int]) -> list[Receipt]:
    receipts = results[0].receipts()
    if refused:
        for index, receipt in zip(refused, results[1].receipts(), strict=True):
            receipts.insert(index, receipt)
    return receipts


def _runs(results: Sequence[AppendResult]) -> list[Run]:
    return [
        Run(split.stream_id, split.lane.value, split.partition, offset, count)
        for result in results
        for split, offset, count in result.written
    ]


def _at(index: int, many: Sequence[Any]) -> str:
    return f"[{index}]" if len(many) > 1 else ""
