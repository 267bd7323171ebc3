"""Back from a result to the events that made it, and forth from an event to the results that it is in.

The results of windows have no single cause, so none is written in them; those of joins name the newest event of their pair. What
is known of a result is who made it (its type and its source are the processor and the flow), its key, and for windows the window
in its payload. The events are those that the processor took into its state, with that key, in that window; for joins the pair
whose ids give the result's id.
"""

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from itertools import groupby
from typing import Any, Final

import msgspec

from event_streaming_bus import ids
from event_streaming_bus.store.catalog import Catalog, ProcessorRecord
from event_streaming_bus.story.asking import Row, Rows, epoch_ms, epoch_us, place
from event_streaming_bus.story.model import Origin, Place

MAX_PAIRS: Final = 250_000
_MAX_SIDE: Final = 2000
_CLOSED_AT_BOTH_ENDS: Final = ("session", "count")
_WINDOWED: Final = ("AGGREGATE", "WINDOW")


class Processor(msgspec.Struct, frozen=True):
    """A processor with state, as the catalog has it."""

    record: ProcessorRecord
    config: dict[str, Any]

    @property
    def kind(self) -> str:
        return str(self.config.get("processor_type", "")).upper()

    @property
    def logic(self) -> dict[str, Any]:
        logic = self.config.get("processing_logic")
        return logic if isinstance(logic, dict) else {}

    @property
    def window(self) -> dict[str, Any]:
        window = self.config.get("window_config")
        return window if isinstance(window, dict) else {}

    @property
    def origin(self) -> str:
        """What the ids of its output are derived from."""
        name = self.config.get("renamed_from") or self.record.processor_name
        return f"{self.record.tenant_id}/{self.record.flow}/{name}"

    def sides(self) -> list[tuple[str, list[str]]]:
        """What it reads, each with the paths of the fields that its key is made of."""
        source = str(self.config.get("source_stream_id", ""))
        if self.kind != "JOIN":
            return [(source, [str(path) for path in self.logic.get("group_by") or []])]
        on = self.logic.get("on") or []
        pairs = list(on.items()) if isinstance(on, dict) else [(path, path) for path in on]
        other = str(self.logic.get("join_stream_id", ""))
        return [(source, [str(left) for left, _ in pairs]), (other, [str(right) for _, right in pairs])]


def processors(catalog: Catalog, tenant_id: str) -> list[Processor]:
    """The tenant's processors."""
    return [Processor(record, msgspec.json.decode(record.config)) for record in catalog.list_processors(tenant_id)]


def maker_of(event: Row, known: Sequence[Processor]) -> Processor | None:
    """The processor that an event is a result of, if it is one of a window or a join."""
    for each in known:
        is_made = each.record.processor_name == event["event_type"] and each.record.flow == event["source_capability"]
        if is_made and each.kind in (*_WINDOWED, "JOIN"):
            return each
    return None


def origin_of(rows: Rows, event: Row, payload: Any, maker: Processor, known: Sequence[Processor], most: int) -> Origin:
    """The events that a result was made of, at most so many."""
    if maker.kind == "JOIN":
        return _pair(rows, event, maker, known)
    start, end = _bound(payload, "window_start"), _bound(payload, "window_end")
    is_closed = str(maker.window.get("window_type", "")) in _CLOSED_AT_BOTH_ENDS
    end_ms = None if end is None else epoch_ms(end) + is_closed
    is_update = isinstance(payload, dict) and payload.get("is_final") is False
    source, paths = maker.sides()[0]
    key = _key_values(event["key"], len(paths))
    told = [f"what {maker.record.processor_name} took into its state"]
    same_key, values = "true", dict[str, Any]()
    if any(each.record.processor_name == source and each.record.flow == maker.record.flow for each in known):
        told.append(f"before {source} changed it, so the key could not be compared" if paths else "of any key")
    elif key is None:
        told.append("the key could not be read, so it was not compared")
    elif paths:
        same_key, values = _same_key(paths, key)
        told.append("with the key of the result")
    if start is not None or end is not None:
        told.append("with a time in its window")
    if is_update:
        told.append("before it was published, for it is an update of a window that was open")
    given = {
        "processor_id": maker.record.processor_id,
        "start_ms": None if start is None else epoch_ms(start),
        "end_ms": end_ms,
        "until_us": epoch_us(event["published_at"]) if is_update and event["published_at"] else None,
        "most": most + 1,
    }
    found = rows.of("window_events", {**given, **values}, same_key=same_key)
    places = [place(row) for row in found[:most]]
    return Origin(
        found_by=", ".join(told),
        processor=maker.record.processor_name,
        processor_id=maker.record.processor_id,
        window_start=_text(payload, "window_start"),
        window_end=_text(payload, "window_end"),
        key=event["key"],
        events=tuple(places),
        offsets=tuple(_offsets(places)),
        is_cut_off=len(found) > most,
    )


def results_of(
    rows: Rows, event: Row, taken_by: set[str], known: Sequence[Processor], stream_names: Any, most: int
) -> list[Place]:
    """The results of windows that an event is in, of processors that took it."""
    found: list[Place] = []
    for each in known:
        target = each.config.get("target_stream_id")
        if each.record.processor_id not in taken_by or each.kind not in _WINDOWED or not target or event["timestamp"] is None:
            continue
        _, paths = each.sides()[0]
        values: dict[str, Any] = {}
        same_key = "true"
        if paths:
            own = _own_key(event, paths)
            if own is None:
                continue
            same_key, values = '"key" = $k', {"k": own}
        given = {
            "name": each.record.processor_name,
            "flow": each.record.flow,
            "stream": stream_names(str(target)),
            "at": event["timestamp"].isoformat(),
            "most": most - len(found) + 1,
        }
        found += [place(row, each.record.processor_name) for row in rows.of("results", {**given, **values}, same_key=same_key)]
    return found


def _pair(rows: Rows, event: Row, maker: Processor, known: Sequence[Processor]) -> Origin:
    """The pair of a join: its ids are what the result's id was made of, so it is known for certain, if it is found."""
    name = maker.record.processor_name
    sides = maker.sides()
    key = _key_values(event["key"], len(sides[0][1]))
    ports = {each.record.processor_name for each in known if each.record.flow == maker.record.flow}
    candidates: list[list[Row]] = []
    for source, paths in sides:
        same_key, values = ("true", {}) if key is None or source in ports else _same_key(paths, key)
        given = {"processor_id": maker.record.processor_id, "start_ms": None, "end_ms": None, "until_us": None}
        candidates.append(rows.of("window_events", {**given, **values, "most": _MAX_SIDE}, same_key=same_key))
    size_ms = int(maker.window.get("window_size_ms") or 0)
    timestamp_ms = epoch_ms(event["timestamp"])
    more = (timestamp_ms - size_ms,) if size_ms else ()
    key_bytes = msgspec.json.encode([] if key is None else key)
    told = {"processor": name, "processor_id": maker.record.processor_id, "key": event["key"]}
    empty: Row = {"event_id": ""}
    cause, tried = event["causation_id"], 0
    for left in (*candidates[0], empty):
        for right in (*candidates[1], empty):
            if cause is not None and cause not in (left["event_id"], right["event_id"]):
                continue
            tried += 1
            text = ids.origin_text(maker.origin, left["event_id"], right["event_id"], *more, str(key_bytes))
            if ids.hashed_ids(ids.EVENT, [timestamp_ms], [text])[0] == event["event_id"]:
                places = [place(row) for row in (left, right) if row["event_id"]]
                found_by = f"the events whose ids {name} made the id of the result of: there is no doubt about them"
                return Origin(found_by=found_by, events=tuple(places), offsets=tuple(_offsets(places)), **told)
            if tried >= MAX_PAIRS:
                break
    found_by = f"nothing: of the events with its key that {name} took, no two give its id; one may come from another processor"
    return Origin(found_by=found_by, is_cut_off=any(len(side) >= _MAX_SIDE for side in candidates), **told)


def _same_key(paths: Sequence[str], key: Sequence[Any]) -> tuple[str, dict[str, Any]]:
    """The condition that the payload of ``e`` has these values at these paths, and the values that it needs."""
    conditions, values = ["json_valid(e.payload)"], {}
    for i, (path, value) in enumerate(zip(paths, key, strict=True)):
        values[f"p{i}"] = "$" + "".join(f'."{part}"' for part in path.replace('"', "").split("."))
        if value is None:
            conditions.append(f"coalesce(json_extract_string(e.payload, $p{i}), 'null') = 'null'")
        elif isinstance(value, str):
            conditions.append(f"json_extract_string(e.payload, $p{i}) = $k{i}")
            values[f"k{i}"] = value
        else:
            conditions.append(f"json_extract(e.payload, $p{i})::VARCHAR = $k{i}")
            values[f"k{i}"] = msgspec.json.encode(value).decode()
    return " AND ".join(conditions), values


def _key_values(key: str | None, count: int) -> list[Any] | None:
    """The values that a result's key is made of: one text stands as it is, all else as JSON."""
    if count == 0:
        return []
    if key is None:
        return None
    try:
        values = msgspec.json.decode(key)
    except msgspec.DecodeError:
        values = None
    if isinstance(values, list) and len(values) == count:
        return values
    return [key] if count == 1 else None


def _own_key(event: Row, paths: Sequence[str]) -> str | None:
    """The key that a result would have that this event is in; None if its payload cannot be read."""
    try:
        payload = msgspec.json.decode(event["payload"] or "")
    except msgspec.DecodeError:
        return None
    values: list[Any] = []
    for path in paths:
        value = payload
        for part in path.split("."):
            value = value.get(part) if isinstance(value, dict) else None
        values.append(value)
    return values[0] if len(values) == 1 and isinstance(values[0], str) else msgspec.json.encode(values).decode()


def _bound(payload: Any, name: str) -> datetime | None:
    text = _text(payload, name)
    try:
        return None if text is None else datetime.fromisoformat(text).astimezone(UTC)
    except ValueError:
        return None


def _text(payload: Any, name: str) -> str | None:
    value = payload.get(name) if isinstance(payload, dict) else None
    return value if isinstance(value, str) else None


def _offsets(places: Sequence[Place]) -> Iterator[dict[str, Any]]:
    """The events by split."""

    def split(each: Place) -> tuple[str, str, int]:
        return each.stream or "", each.lane or "", each.partition or 0

    for (stream, lane, partition), group in groupby(sorted(places, key=split), key=split):
        offsets = [each.offset or 0 for each in group]
        yield {
            "stream": stream,
            "lane": lane,
            "partition": partition,
            "first": min(offsets),
            "last": max(offsets),
            "events": len(offsets),
        }
