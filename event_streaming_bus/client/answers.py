"""Answers of the server as the structs that services return in process. Times come as text, and are milliseconds in structs."""

from collections.abc import Mapping
from typing import Any

import msgspec

from event_streaming_bus.consumers.model import Group, GroupConfig, GroupState, Member, Partition
from event_streaming_bus.erasure.certificates import ErasureCertificate
from event_streaming_bus.models import (
    Event,
    EventPriority,
    Position,
    Receipt,
    SerializationFormat,
    Split,
    StreamConfig,
    StreamInfo,
    time_ms,
)
from event_streaming_bus.routing.model import Route, Rule
from event_streaming_bus.store.aggregate_lifecycle import LifecycleChange
from event_streaming_bus.store.aggregates import AggregateInfo
from event_streaming_bus.store.recorded import Recorded, RecordedEvent
from event_streaming_bus.store.schemas import Deprecation, SchemaRecord, SchemaReference, SchemaText
from event_streaming_bus.store.tokens import TokenRecord

Data = Mapping[str, Any]


def _ms(text: str | None) -> int | None:
    return None if text is None else time_ms(text)


def _fields(kind: type[msgspec.Struct], told: Data, **other: Any) -> dict[str, Any]:
    """What is told of the fields of a struct, and what is said of others."""
    return {name: told[name] for name in kind.__struct_fields__ if name in told} | other


# --- events -----------------------------------------------------------------------------------------------------------


class ReceiptData(msgspec.Struct, frozen=True, gc=False):
    """A receipt as answers have it."""

    event_id: str
    stream_id: str
    partition: int
    lane: EventPriority
    offset: int
    duplicate: bool = False
    deliver_at: str | None = None

    def receipt(self, *, may_be_duplicate: bool) -> Receipt:
        """The receipt. Where the id was made for this very request, having it already is no duplicate, but a second try."""
        position = Position(Split(self.stream_id, self.lane, self.partition), self.offset)
        return Receipt(self.event_id, position, self.duplicate and may_be_duplicate, _ms(self.deliver_at))


class DeliveredData(msgspec.Struct, frozen=True, gc=False):
    """An event as members of consumer groups get it, and where it is."""

    event_id: str
    event_type: str
    timestamp: str
    stream: str
    partition: int
    lane: EventPriority
    offset: int
    key: str | None = None
    source_capability: str = ""
    aggregate_id: str | None = None
    aggregate_type: str | None = None
    metadata: dict[str, Any] | None = None
    correlation_id: str | None = None
    causation_id: str | None = None
    priority: EventPriority = EventPriority.NORMAL
    compression_type: str | None = None
    max_retries: int = 3
    tenant_id: str = "default"
    user_id: str | None = None
    schema_id: str | None = None
    traceparent: str | None = None
    deliver_at: str | None = None
    expires_at: str | None = None
    payload: msgspec.Raw = msgspec.Raw()
    payload_base64: bytes | None = None

    def event(self) -> Event:
        """The event. Its payload is JSON, whatever it is in its stream."""
        fields = _fields(Event, msgspec.structs.asdict(self))
        fields["data"] = bytes(self.payload) if self.payload_base64 is None else self.payload_base64
        fields["timestamp_ms"] = time_ms(self.timestamp)
        fields["deliver_at_ms"], fields["expires_at_ms"] = _ms(self.deliver_at), _ms(self.expires_at)
        fields["serialization_format"] = SerializationFormat.JSON
        return Event(**fields)


class PolledData(msgspec.Struct, frozen=True):
    """The answer to a poll."""

    batch: int
    generation: int
    is_rebalancing: bool
    events: list[DeliveredData]


def stream_of(told: Data) -> StreamInfo:
    """A stream."""
    config = msgspec.convert(_fields(StreamConfig, told), StreamConfig)
    return StreamInfo(stream_id=told["stream_id"], config=config, created_at_ms=time_ms(told["created_at"]))


# --- schemas and routes -----------------------------------------------------------------------------------------------


def schema_of(told: Data, tenant_id: str) -> SchemaRecord:
    """A version of a schema, told with its text."""
    refused = told.get("deprecated")
    fields = _fields(SchemaRecord, told, tenant_id=tenant_id, created_at_ms=time_ms(told["created_at"]))
    return SchemaRecord(
        **fields,
        text=SchemaText(
            format=told["format"],
            definition=told["definition"],
            references=tuple(msgspec.convert(told.get("references") or [], list[SchemaReference])),
            metadata=told.get("metadata"),
            rule_set=told["rule_set"],
        ),
        deprecation=None
        if refused is None
        else Deprecation(time_ms(refused["since"]), _ms(refused["refuse_producers_after"]), refused["message"]),
    )


def rule_of(told: Data) -> Rule:
    """A routing rule."""
    route = msgspec.convert(_fields(Route, told), Route)
    return Rule(route, told["version"], time_ms(told["changed_at"]), told["changed_by"])


# --- aggregates -------------------------------------------------------------------------------------------------------


class RecordedEventData(msgspec.Struct, frozen=True, gc=False):
    """An event of an aggregate as answers have it."""

    position: int
    event_id: str
    aggregate_id: str
    aggregate_type: str
    version: int
    event_type: str
    event_data: msgspec.Raw
    timestamp: str
    recorded_at: str
    correlation_id: str | None = None
    causation_id: str | None = None
    user_id: str | None = None
    metadata: dict[str, Any] | None = None
    schema_id: str | None = None

    def event(self, tenant_id: str) -> RecordedEvent:
        """The event. Its payload is JSON, whatever it was recorded as."""
        return RecordedEvent(
            **_fields(RecordedEvent, msgspec.structs.asdict(self)),
            timestamp_ms=time_ms(self.timestamp),
            recorded_at_ms=time_ms(self.recorded_at),
            data=bytes(self.event_data),
            tenant_id=tenant_id,
        )


def recorded_of(told: Data) -> Recorded:
    """The proof that an event was recorded."""
    place = told["place"]
    if place is not None:
        place = Position(Split(place["stream_id"], EventPriority(place["lane"]), place["partition"]), place["offset"])
    return Recorded(**_fields(Recorded, told) | {"place": place})


def aggregate_of(told: Data) -> AggregateInfo:
    """An aggregate without its state."""
    fields = _fields(AggregateInfo, told, version=told["current_version"], created_at_ms=time_ms(told["created_at"]))
    return msgspec.convert(fields, AggregateInfo)


def change_of(told: Data) -> LifecycleChange:
    """What was done to an aggregate."""
    return msgspec.convert(_fields(LifecycleChange, told, version=told["current_version"]), LifecycleChange)


# --- groups, certificates, tokens -------------------------------------------------------------------------------------


def group_of(told: Data, tenant_id: str, stream_ids: Mapping[str, str]) -> Group:
    """A consumer group with the members that are told of. ``stream_ids``: of the streams that these read, by name."""
    return Group(
        group_id=told["group_id"],
        tenant_id=tenant_id,
        config=msgspec.convert(_fields(GroupConfig, told), GroupConfig),
        state=GroupState(told["state"]),
        generation=told["generation"],
        is_paused=told["is_paused"],
        created_at_ms=time_ms(told["created_at"]),
        created_by=told["created_by"],
        last_rebalance_at_ms=_ms(told["last_rebalance"]),
        members=tuple(_member_of(each, stream_ids) for each in told.get("members", ())),
    )


def _member_of(told: Data, stream_ids: Mapping[str, str]) -> Member:
    return Member(
        **_fields(
            Member,
            told,
            streams=tuple(stream_ids.get(name, name) for name in told["streams"]),
            assignment=tuple(Partition(each["stream_id"], each["partition"]) for each in told["assignment"]),
            joined_at_ms=_ms(told["joined_at"]),
            heartbeat_at_ms=_ms(told["last_heartbeat"]),
            polled_at_ms=_ms(told["last_poll"]),
        )
    )


def certificate_of(told: Data) -> ErasureCertificate:
    """A certificate of erasure."""
    return msgspec.convert(_fields(ErasureCertificate, told), ErasureCertificate)


def token_of(told: Data) -> TokenRecord:
    """A token, without the hash of its secret, which nobody is told."""
    times = {f"{name}_ms": _ms(told[name]) for name in ("created_at", "expires_at", "revoked_at", "last_used_at")}
    return msgspec.convert(_fields(TokenRecord, told) | times, TokenRecord)
