"""Publishing to a server."""

from collections.abc import Sequence
from concurrent.futures import Future
from typing import Any, Final, NoReturn

import msgspec

from event_streaming_bus import ids
from event_streaming_bus.client.answers import ReceiptData
from event_streaming_bus.client.client_errors import not_remote
from event_streaming_bus.client.remote_service import RemoteService
from event_streaming_bus.client.requests import path_of
from event_streaming_bus.errors import InvalidInputError
from event_streaming_bus.models import (
    DEFAULT_TENANT,
    CompressionType,
    EventConfig,
    EventPriority,
    JsonValue,
    Receipt,
    SerializationFormat,
)
from event_streaming_bus.publishing import DEFAULT_STREAM
from event_streaming_bus.registry.encoding import as_json

_MANY_EVENTS: Final = 32


class _NewEvent(msgspec.Struct, omit_defaults=True, gc=False):
    """An event as it is sent: the configuration, and what goes with it."""

    event_type: str
    payload: msgspec.Raw
    source_capability: str = ""
    aggregate_id: str | None = None
    aggregate_type: str | None = None
    metadata: dict[str, JsonValue] | None = None
    correlation_id: str | None = None
    causation_id: str | None = None
    priority: EventPriority = EventPriority.NORMAL
    compression_type: CompressionType | None = None
    serialization_format: SerializationFormat = SerializationFormat.JSON
    max_retries: int = 3
    event_id: str | None = None
    key: str | None = None
    timestamp: Any = None
    traceparent: str | None = None
    deliver_at: Any = None
    expires_at: Any = None
    user_id: str | None = None


class _Receipts(msgspec.Struct):
    receipts: list[ReceiptData]


class EventPublishingService(RemoteService):
    """Publishes events to the streams of a server.

    A call is one request, and one transaction there: all of it is on disk when the call returns, or it raises. Where it has to be
    sent again, because the connection was lost, the ids of the events, or an idempotency key, keep it from being there twice.
    The server accepts 16 MiB in one request.
    """

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
        configs = [event_config] * len(payloads) if isinstance(event_config, EventConfig) else event_config
        # A few events are known by their ids if they come twice, many by one key for all of them, which is quicker.
        is_safe = self._connection.target.options.is_idempotent
        is_keyed = len(payloads) >= _MANY_EVENTS and not any(config.event_id for config in configs)
        own_ids = ids.new_ids(ids.EVENT, len(payloads)) if is_safe and not is_keyed else None
        events = _new_events(configs, payloads, user_id, keys, timestamps_ms, own_ids)
        answer = await self._asked(
            _Receipts,
            "POST",
            path_of("events", "batch"),
            tenant_id,
            {"events": events, "stream_id": stream_id},
            is_repeatable=own_ids is not None,
            is_keyed=is_keyed,
        )
        return [
            told.receipt(may_be_duplicate=config.event_id is not None)
            for told, config in zip(answer.receipts, configs, strict=True)
        ]

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
        """As ``publish_batch``, from any thread: the future has the receipts, or what was raised."""
        if partition is not None:
            raise not_remote("publishing to a partition by its number", "give the events a key")
        return self._connection.submit(
            self.publish_batch(event_config, payloads, stream_id, tenant_id, user_id, keys=keys, timestamps_ms=timestamps_ms)
        )

    async def publish_once(self, *given: object, **named: object) -> NoReturn:
        """Raises ``NotRemoteError``: every call of ``publish_batch`` is one that the server carries out once."""
        raise not_remote("naming a publication that is to be made once", "publish_batch is carried out once, whatever happens")

    def prepare(self, *given: object, **named: object) -> NoReturn:
        """Raises ``NotRemoteError``: what is to be appended is made by the server."""
        raise not_remote("preparing a publication", "publish_batch publishes it")


def _new_events(
    configs: Sequence[EventConfig],
    payloads: Sequence[JsonValue],
    user_id: str | None,
    keys: Sequence[str | None] | None,
    timestamps_ms: Sequence[int] | None,
    own_ids: Sequence[str] | None,
) -> list[_NewEvent]:
    """``own_ids`` are for events that have none."""
    for name, values in (("event_config", configs), ("keys", keys), ("timestamps_ms", timestamps_ms)):
        if values is not None and len(values) != len(payloads):
            raise InvalidInputError(f"{name}: expected one for each of the {len(payloads)} payloads, got {len(values)}")
    return [
        _NewEvent(
            config.event_type,
            msgspec.Raw(as_json(payload, i, payloads)),
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
            config.event_id or (None if own_ids is None else own_ids[i]),
            keys[i] if keys is not None else config.key,
            timestamps_ms[i] if timestamps_ms is not None else config.timestamp,
            config.traceparent,
            config.deliver_at,
            config.expires_at,
            user_id,
        )
        for i, (config, payload) in enumerate(zip(configs, payloads, strict=True))
    ]
