"""Redeliveries: dead letters of a consumer group, on their way to that group alone.

Each group that ever had letters retried has an internal stream of its own, which its members read beside the streams that they
ask for. What lies on it is the event that was parked, under an id of its own, with the place it comes from in
``metadata['redelivery']``; a consumer is given it as it was, with that metadata left in, so that it can tell.
"""

from typing import Any, Final

import msgspec

from event_streaming_bus import ids
from event_streaming_bus.models import Event, StreamInfo
from event_streaming_bus.store.dead_letters import original, told_of
from event_streaming_bus.store.log.record_batch import RecordBatch

_PREFIX: Final = "_retries."
_KEPT: Final = ("stream_id", "stream", "lane", "partition", "offset", "attempts")


def retry_stream_name(group_id: str) -> str:
    """The name of the stream of a group's redeliveries."""
    return _PREFIX + group_id


def is_retry_stream(name: str) -> bool:
    """Whether a stream of this name is one of redeliveries."""
    return name.startswith(_PREFIX)


def redelivery(letter: Event) -> Event:
    """What is written to the group's stream for one of its dead letters. The id is derived from the letter's: a letter is
    redelivered once, whoever tries how often."""
    why = told_of(letter.metadata)
    event = original(letter)
    told: dict[str, Any] = {name: why[name] for name in _KEPT if name in why}
    told |= {"event_id": event.event_id, "causation_id": event.causation_id, "dead_letter_id": letter.event_id}
    return msgspec.structs.replace(
        event,
        event_id=ids.derived_id(ids.EVENT, event.timestamp_ms, "redelivered", letter.event_id),
        causation_id=letter.event_id,
        metadata={**(event.metadata or {}), "redelivery": told},
    )


def redelivery_of(event: Event) -> dict[str, Any] | None:
    """Where an event that is redelivered comes from: ``event_id``, ``stream_id``, ``stream``, ``lane``, ``partition``,
    ``offset``, ``attempts`` and ``dead_letter_id``; ``None`` for any other event."""
    told = (event.metadata or {}).get("redelivery")
    return told if isinstance(told, dict) and "event_id" in told else None


def as_delivered(event: Event) -> Event:
    """An event of a group's stream of redeliveries as its consumer is given it: with the id that it had at first."""
    told = redelivery_of(event)
    if told is None:
        return event
    return msgspec.structs.replace(event, event_id=told["event_id"], causation_id=told.get("causation_id"))


def delivered_ids(batch: RecordBatch, stream: StreamInfo | None) -> list[str]:
    """The ids that consumers know the events of a record batch of this stream by."""
    event_ids = list(batch.column("event_id"))
    if stream is None or not is_retry_stream(stream.name):
        return event_ids
    told = [metadata.get("redelivery") if metadata else None for metadata in batch.column("metadata")]
    return [(each or {}).get("event_id", event_id) for each, event_id in zip(told, event_ids, strict=True)]
