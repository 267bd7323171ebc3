"""Dead letters: events that could not be processed, kept as they were, with what happened to them."""

from collections.abc import Mapping
from typing import Any

import msgspec

from event_streaming_bus.models import Event, StreamInfo


def dead_letter(
    event: Event,
    *,
    event_id: str,
    stream: StreamInfo,
    step: str,
    error_type: str,
    message: str,
    failed_at_ms: int,
    position: Mapping[str, Any] | None = None,
    attempts: int = 1,
    **more: Any,
) -> Event:
    """``event`` as a dead letter: payload and envelope as they were, and in ``metadata['dead_letter']`` what happened.

    A letter neither waits nor expires: ``deliver_at_ms`` and ``expires_at_ms`` of the event are kept with what happened.
    """
    why = {
        "event_id": event.event_id,
        "stream_id": stream.stream_id,
        "stream": stream.name,
        **(position or {}),
        "step": step,
        "error_type": error_type,
        "error_message": message,
        "attempts": attempts,
        "failed_at_ms": failed_at_ms,
        **({"causation_id": event.causation_id} if event_id != event.event_id and event.causation_id is not None else {}),
        **({"deliver_at_ms": event.deliver_at_ms} if event.deliver_at_ms is not None else {}),
        **({"expires_at_ms": event.expires_at_ms} if event.expires_at_ms is not None else {}),
        **more,
    }
    return msgspec.structs.replace(
        event,
        event_id=event_id,
        causation_id=event.event_id if event_id != event.event_id else event.causation_id,
        metadata={**(event.metadata or {}), "dead_letter": why},
        deliver_at_ms=None,
        expires_at_ms=None,
    )


def told_of(metadata: object) -> dict[str, Any]:
    """What the metadata of a dead letter tells of its death; nothing for an event that is no dead letter."""
    why = metadata.get("dead_letter") if isinstance(metadata, dict) else None
    return why if isinstance(why, dict) else {}


def original(letter: Event) -> Event:
    """The event that a dead letter was made of, as ``dead_letter`` was given it, but for ``deliver_at_ms``: that has passed."""
    why = told_of(letter.metadata)
    event_id = why.get("event_id", letter.event_id)
    metadata = {name: value for name, value in (letter.metadata or {}).items() if name != "dead_letter"}
    return msgspec.structs.replace(
        letter,
        event_id=event_id,
        causation_id=why.get("causation_id") if event_id != letter.event_id else letter.causation_id,
        metadata=metadata or None,
        expires_at_ms=why.get("expires_at_ms"),
    )
