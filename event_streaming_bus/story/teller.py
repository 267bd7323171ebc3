"""Tells the story of an event from what the history and the catalog have of it."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any, Final

import msgspec

from event_streaming_bus.errors import EventNotFoundError
from event_streaming_bus.models import ProcessingStage
from event_streaming_bus.store.history import History
from event_streaming_bus.store.history.bounded import bounded
from event_streaming_bus.store.storage import Storage
from event_streaming_bus.story.asking import Row, Rows, ms_between, place, utc
from event_streaming_bus.story.model import Delivery, Failure, Origin, Place, Step, Story
from event_streaming_bus.story.origins import Processor, maker_of, origin_of, processors, results_of

LATE: Final = "LATE"
_CONSUMER: Final = "consumer:"
_OF_PROCESSORS: Final = (ProcessingStage.PROCESSING, ProcessingStage.ENRICHMENT)
_FIRST_WORK: Final = (*_OF_PROCESSORS, ProcessingStage.DELIVERY)
_OF_GROUPS: Final = (ProcessingStage.DELIVERY, ProcessingStage.RETRY, ProcessingStage.DEAD_LETTER)
_RETRIES: Final = "_retries."


def tell(storage: Storage, history: History, tenant_id: str, event_id: str, *, most: int, timeout_s: float = 60.0) -> Story:
    """The story of a tenant's event, each of its lists with at most ``most`` items. Raises ``EventNotFoundError``.

    The history is asked as it is: who wants what happened last loads it first.
    """
    rows = Rows(history, tenant_id, timeout_s)
    asked = {"event_id": event_id, "most": most + 1}
    steps = rows.of("steps", asked)
    letters = rows.of("dead_letters", asked)
    event = next(iter(rows.of("event", {"event_id": event_id})), None)
    if event is None and not steps and not letters:
        raise EventNotFoundError(f"There is no event '{event_id}' in the history.", event_id=event_id)
    late, outputs = rows.of("late", asked), rows.of("outputs", asked)
    known = processors(storage.catalog, tenant_id)
    names = {info.stream_id: info.name for info in storage.log.list_streams(tenant_id, internal=True)}
    targets = _targets(known, names)
    made = [place(row, targets.get(row["stream"])) for row in outputs[:most]]
    payload = None if event is None else _decoded(event["payload"])
    origin = None if event is None else _origin(rows, event, payload, known, most)
    taken_by = {step["processor_id"] for step in steps if step["processing_stage"] in _OF_PROCESSORS}
    results = [] if event is None else results_of(rows, event, taken_by, known, lambda name: names.get(name, name), most)
    told = _steps(steps[:most], late[:most], made)
    deliveries = _deliveries(steps, names)
    is_cut_off = any(len(each) > most for each in (steps, letters, late, outputs, results))
    return Story(
        event_id=event_id,
        summary=_summary(event, told, origin, made, results[:most], deliveries, letters),
        event={} if event is None else _envelope(event, payload),
        waits={} if event is None else _waits(event, steps),
        steps=tuple(told),
        origin=origin,
        outputs=tuple(made),
        results=tuple(results[:most]),
        deliveries=tuple(deliveries),
        dead_letters=tuple(_letter(row) for row in letters[:most]),
        totals=_totals(steps, event, outputs, deliveries, letters),
        is_cut_off=is_cut_off or (origin is not None and origin.is_cut_off),
    )


def _origin(rows: Rows, event: Row, payload: Any, known: Sequence[Processor], most: int) -> Origin | None:
    cause, maker = event["causation_id"], maker_of(event, known)
    if maker is not None and (cause is None or maker.kind == "JOIN"):
        origin = origin_of(rows, event, payload, maker, known, most)
        if origin.events or cause is None:
            return origin
    if cause is not None:
        found = rows.of("event", {"event_id": cause})
        places = tuple(place(row) for row in found) or (Place(event_id=cause),)
        missing = "" if found else "; the history has no event of this id"
        return Origin(found_by=f"the causation_id of the event{missing}", events=places)
    return None


def _targets(known: Sequence[Processor], names: dict[str, str]) -> dict[str, str]:
    """Who writes to a stream, for streams to which one processor writes."""
    writers: dict[str, list[str]] = {}
    for each in known:
        target = str(each.config.get("target_stream_id") or "")
        writers.setdefault(names.get(target, target), []).append(each.record.processor_name)
    return {stream: made_by[0] for stream, made_by in writers.items() if stream and len(made_by) == 1}


def _steps(rows: Sequence[Row], late: Sequence[Row], made: Sequence[Place]) -> list[Step]:
    """In the order in which they began."""
    told: list[tuple[datetime, Step]] = []
    for row in rows:
        failed = row["error_type"] is not None or row["error_message"] is not None
        error = Failure(error_type=row["error_type"], message=row["error_message"], stack_trace=row["stack_trace"])
        name, stage = row["processor_name"], row["processing_stage"]
        step = Step(
            at=utc(row["started_at"]) or "",
            stage=stage,
            status=row["status"],
            by=name.removeprefix(_CONSUMER),
            by_id=row["processor_id"],
            completed_at=utc(row["completed_at"]),
            duration_ms=row["processing_duration_ms"],
            told=_decoded(row["output"]),
            error=error if failed else None,
            outputs=tuple(each.event_id for each in made if each.by == name) if stage in _OF_PROCESSORS else (),
        )
        told.append((row["started_at"], step))
    for row in late:
        window = {
            "window_start": utc(row["window_start"]),
            "window_end": utc(row["window_end"]),
            "watermark": utc(row["watermark"]),
        }
        at, who = row["observed_at"], {"by": row["processor_name"], "by_id": row["processor_id"]}
        told.append((at, Step(at=utc(at) or "", stage=LATE, status="LATE", told=window, **who)))
    return [step for _, step in sorted(told, key=lambda each: each[0])]


def _deliveries(rows: Sequence[Row], names: dict[str, str]) -> list[Delivery]:
    by_group: dict[str, list[Row]] = {}
    for row in rows:
        if row["processing_stage"] in _OF_GROUPS and row["processor_name"].startswith(_CONSUMER):
            by_group.setdefault(row["processor_id"], []).append(row)
    told = []
    for group_id, mine in by_group.items():
        of_stage = {stage: [row for row in mine if row["processing_stage"] == stage] for stage in _OF_GROUPS}
        delivered = of_stage[ProcessingStage.DELIVERY]
        again = [row for row in delivered if names.get(row["stream_id"], "").startswith(_RETRIES)]
        last = mine[-1]
        told.append(
            Delivery(
                group=last["processor_name"].removeprefix(_CONSUMER),
                group_id=group_id,
                state=_state(mine),
                deliveries=len(delivered) - len(again),
                redeliveries=len(again),
                retries=len(of_stage[ProcessingStage.RETRY]),
                dead_letters=len(of_stage[ProcessingStage.DEAD_LETTER]),
                first_at=utc(delivered[0]["completed_at"]) if delivered else None,
                last_at=utc(delivered[-1]["completed_at"]) if delivered else None,
            )
        )
    return told


def _state(rows: Sequence[Row]) -> str:
    """Where the event stands with a group. That it was delivered in vain is told when that is committed: after what became of
    it."""
    state = ""
    for row in rows:
        if row["processing_stage"] == ProcessingStage.DEAD_LETTER:
            state = "DEAD_LETTER"
        elif row["processing_stage"] == ProcessingStage.RETRY:
            state = "TO_BE_RETRIED"
        elif row["status"] != "FAILED" or not state:
            state = "DELIVERED" if row["status"] == "COMPLETED" else str(row["status"])
    return state


def _waits(event: Row, steps: Sequence[Row]) -> dict[str, float]:
    waits: dict[str, float] = {}
    published = next((row for row in steps if row["processing_stage"] == ProcessingStage.PUBLISH), None)
    if published is not None:
        name = "append_ms" if event["deliver_at"] is None else "scheduled_ms"
        waits[name] = ms_between(published["started_at"], published["completed_at"])
    began = [row["started_at"] for row in steps if row["processing_stage"] in _FIRST_WORK]
    if began and event["published_at"] is not None:
        waits["lane_ms"] = max(0.0, ms_between(event["published_at"], min(began)))
    return waits


def _totals(
    steps: Sequence[Row], event: Row | None, outputs: Sequence[Row], deliveries: Sequence[Delivery], letters: Sequence[Row]
) -> dict[str, Any]:
    begun = min((row["started_at"] for row in steps), default=None)
    ended = max((row["completed_at"] for row in steps), default=None)
    return {
        "steps": len(steps),
        "failed_steps": sum(row["status"] == "FAILED" for row in steps),
        "processing_ms": round(sum(row["processing_duration_ms"] or 0 for row in steps), 3),
        "from_first_to_last_ms": ms_between(begun, ended) if begun is not None and ended is not None else 0.0,
        "outputs": len(outputs),
        "deliveries": sum(each.deliveries + each.redeliveries for each in deliveries),
        "retries": sum(row["processing_stage"] == ProcessingStage.RETRY for row in steps),
        "dead_letters": len(letters),
        "payload_bytes": 0 if event is None or event["payload"] is None else len(event["payload"].encode()),
    }


def _envelope(event: Row, payload: Any) -> dict[str, Any]:
    told = {name: utc(value) if isinstance(value, datetime) else value for name, value in event.items()}
    del told["payload"], told["is_raw"]
    return told | bounded("payload", event["payload"], payload)


def _letter(row: Row) -> dict[str, Any]:
    return {name: utc(value) if isinstance(value, datetime) else value for name, value in row.items()}


def _decoded(text: str | None) -> Any:
    try:
        return None if text is None else msgspec.json.decode(text)
    except msgspec.DecodeError:
        return text


def _summary(
    event: Row | None,
    steps: Sequence[Step],
    origin: Origin | None,
    made: Sequence[Place],
    results: Sequence[Place],
    deliveries: Sequence[Delivery],
    letters: Sequence[Row],
) -> str:
    """In one sentence why the event is where it is."""
    if event is None:
        return "It is in no stream: " + ("it was put aside as a dead letter." if letters else "only steps of it are known.")
    parts = [f"It is at {event['stream']}/{event['lane']}/{event['partition']}@{event['offset']}"]
    routes = [step for step in steps if step.stage == ProcessingStage.ROUTING]
    if origin is not None and origin.processor is not None:
        window = "" if origin.window_start is None else f" over {origin.window_start} to {origin.window_end}"
        parts.append(f"as a result of {origin.processor}{window}, made of {len(origin.events)} events")
    elif origin is not None:
        parts.append(f"because of {origin.events[0].event_id}")
    elif not routes:
        parts.append("because it was published there")
    if routes:
        parts.append("routed by " + ", ".join(step.by for step in routes))
    failed = [step.by for step in steps if step.status == "FAILED"]
    if failed:
        parts.append("it failed in " + ", ".join(dict.fromkeys(failed)))
    if made or results:
        parts.append(f"{len(made) + len(results)} events were made of it")
    if deliveries:
        parts.append("; ".join(f"{each.group}: {each.state.lower().replace('_', ' ')}" for each in deliveries))
    if letters:
        parts.append(f"it is {len(letters)} times a dead letter" if len(letters) > 1 else "it is a dead letter")
    return ", ".join(parts) + "."
