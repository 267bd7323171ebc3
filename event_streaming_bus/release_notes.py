"""What history is told when a delayed event comes into its stream: noted at publishing, where it is known.

The notes of an event are the records that would be written of it if it were not delayed, without its place. The log keeps them
with the event, and tells them with the place in the transaction that appends the event.
"""

from collections.abc import Sequence
from typing import Final

import msgspec

from event_streaming_bus.models import Event, EventPriority, Position, Receipt, Split, StreamInfo
from event_streaming_bus.routing import journal as routing_journal
from event_streaming_bus.routing.router import Arrival, Part, Routed, Trail
from event_streaming_bus.store.history_records import NOWHERE, HistoryRecord, Processed, Published, Refused, to_note
from event_streaming_bus.store.log.base import AppendResult, Schedule

_HERE: Final = Split(NOWHERE.stream_id, EventPriority.NORMAL, NOWHERE.partition)
_ONE: Final = AppendResult(
    NOWHERE.stream_id, [""], [(_HERE, NOWHERE.offset, 1)], 0, lambda: [Receipt("", Position(_HERE, NOWHERE.offset))]
)
"""The result of appending one event, to a place that is not known yet."""
_NONE: Final = AppendResult(NOWHERE.stream_id, [], [], 0, list[Receipt])


def for_kept(history_id: str, events: Sequence[Event], published: Published, routed: Routed | None) -> Schedule:
    """The schedule of events that stay in the stream they were published to."""
    told: dict[Trail, list[bytes]] = {}
    trails: Sequence[Trail] = [()] * len(events) if routed is None else routed.trails
    for trail in trails:
        if trail not in told:
            records: list[HistoryRecord] = [msgspec.structs.replace(published, runs=[NOWHERE])]
            if routed is not None and trail:
                alone = msgspec.structs.replace(routed, kept=[], trails=[trail], parts=[])
                records += routing_journal.records(alone, _ONE, [], published, 0)
            told[trail] = _notes(records)
    return Schedule(history_id, [told[trail] for trail in trails])


def for_refused(history_id: str, stream: StreamInfo, letters: Sequence[Event], published: Published) -> Schedule:
    """The schedule of dead letters of events that broke the schema of the stream they were published to."""
    refused = Refused(
        tenant_id=published.tenant_id,
        runs=[NOWHERE],
        schema_id=published.schema_id or "",
        schema_version=published.schema_version or "",
        stream_id=stream.stream_id,
        observed_us=published.accepted_us,
        count=1,
    )
    return Schedule(history_id, [_notes([refused])] * len(letters))


def for_part(history_id: str, part: Part, published: Published, routed: Routed) -> Schedule:
    """The schedule of events that routing rules sent to another stream."""
    told: dict[tuple[Trail, tuple[str, str] | None], list[bytes]] = {}
    for arrival in part.arrivals:
        if (arrival.trail, arrival.why) not in told:
            told[arrival.trail, arrival.why] = _notes(_records(part, arrival, published, routed))
    return Schedule(history_id, [told[arrival.trail, arrival.why] for arrival in part.arrivals])


def _records(part: Part, arrival: Arrival, published: Published, routed: Routed) -> list[HistoryRecord]:
    alone = msgspec.structs.replace(routed, kept=[], trails=[], parts=[msgspec.structs.replace(part, arrivals=[arrival])])
    return list(routing_journal.records(alone, _NONE, [_ONE], published, 0))


def _notes(records: Sequence[HistoryRecord]) -> list[bytes]:
    return [to_note(record) for record in records if isinstance(record, Published | Processed | Refused)]
