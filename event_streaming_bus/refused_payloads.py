"""What becomes of payloads that break their stream's schema: all of the call is refused, or they become dead letters."""

import time
from collections.abc import Sequence
from typing import Final

from event_streaming_bus.errors import ValidationFailedError
from event_streaming_bus.models import Event, StreamInfo
from event_streaming_bus.registry.encoding import Encoded, at
from event_streaming_bus.registry.guards import SchemaGuard
from event_streaming_bus.store.dead_letters import dead_letter

_SHOWN_VIOLATIONS: Final = 20


def refusal(stream: StreamInfo, guard: SchemaGuard, encoded: Encoded) -> ValidationFailedError:
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
        stream=stream.name,
        violations=violations,
        invalid_indexes=invalid,
    )


def divert(stream: StreamInfo, guard: SchemaGuard, events: Sequence[Event], encoded: Encoded) -> tuple[list[Event], list[Event]]:
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
