"""Events made of the results of processors with state."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any, Final

import msgspec

from event_streaming_bus import ids
from event_streaming_bus.flows.aggregations import collected, field_plans, result
from event_streaming_bus.flows.folds.base import Result
from event_streaming_bus.flows.folds.joins import payload_of
from event_streaming_bus.flows.folds.windows import WindowResult
from event_streaming_bus.flows.items import LateEvents
from event_streaming_bus.flows.joined_envelopes import bare, envelopes
from event_streaming_bus.flows.plan import Node
from event_streaming_bus.flows.processors.aggregate import AggregateLogic
from event_streaming_bus.flows.processors.join import JoinLogic
from event_streaming_bus.flows.processors.output_names import WINDOW_END, WINDOW_START, gives_updates
from event_streaming_bus.flows.processors.window import WindowLogic, WindowOutput
from event_streaming_bus.models import Event, StreamInfo, rfc3339
from event_streaming_bus.registry.deliveries import for_schema
from event_streaming_bus.store.log.event_columns import Column, EventColumns, Same

_DEFAULTS: Final = {
    name: Same(default)
    for name, default in zip(Event.__struct_fields__[-len(Event.__struct_defaults__) :], Event.__struct_defaults__, strict=True)
}
"""The fields of an event that need not be given."""

_NOTHING: Final[Mapping[str, Sequence[Any]]] = {}

_Made = tuple[Sequence[Event], list[tuple[Event, Exception]]]
_encode: Final = msgspec.json.Encoder().encode


class ResultMaker:
    """Makes events of results.

    An event's id is derived from the processor, the key and the result's identity, so that it is the same in every run.
    """

    def __init__(self, node: Node, flow: str, tenant_id: str) -> None:
        self._node = node
        self._flow = flow
        self._tenant_id = tenant_id
        self._schema_id = node.target.config.schema_id if node.target is not None else None
        self._bounds_ms: tuple[int | None, int | None] | None = None
        self._bounds: dict[str, str | None] = {}
        self._has_updates = gives_updates(node.spec.window)
        logic = node.spec.processing_logic
        self._make: Callable[[Sequence[Result]], _Made] = self._passed_on
        if isinstance(logic, AggregateLogic):
            positions = {plan.field: i for i, plan in enumerate(field_plans(logic.aggregations))}
            self._fields = [(item, positions[item.field] if item.field is not None else None) for item in logic.aggregations]
            self._having = logic.having.compile() if logic.having is not None else None
            self._make = self._aggregated
        elif isinstance(logic, WindowLogic):
            self._make = self._windows
        elif isinstance(logic, JoinLogic):
            from event_streaming_bus.flows.joined_payloads import payload_maker

            self._joined_payloads = payload_maker(logic)
            self._is_lookup = logic.lookup is not None
            self._make = self._joined

    def events(self, results: Sequence[Result]) -> _Made:
        """The events of the results, and as far as they could be made those that failed, each with the reason."""
        return self._make(results) if results else ([], [])

    def changes(self, events: Sequence[Event], changelog: StreamInfo) -> list[Event]:
        """The same for a changelog: the latest event of a key is the key's state."""
        return [
            msgspec.structs.replace(
                event,
                event_id=ids.derived_id(ids.EVENT, event.timestamp_ms, self._node.origin, "changelog", event.event_id),
                causation_id=event.event_id,
                schema_id=changelog.config.schema_id,
            )
            for event in events
        ]

    def late_event(self, event: Event, late: LateEvents) -> Event:
        """A late event for those that read the port ``late``: ``metadata.late`` has the window that it missed."""
        missed = {
            "processor": self._node.name,
            "window_start": rfc3339(late.window_start_ms),
            "window_end": rfc3339(late.window_end_ms),
        }
        return msgspec.structs.replace(
            event,
            event_id=ids.derived_id(ids.EVENT, event.timestamp_ms, "late", self._node.origin, event.event_id),
            causation_id=event.event_id,
            metadata={**(event.metadata or {}), "late": missed},
        )

    def _ids(self, results: Sequence[Result], more: Sequence[tuple[object, ...]] = ()) -> list[str]:
        origin = self._node.origin
        identities: dict[tuple[Any, ...], str] = {}  # there are few: windows
        texts = []
        for each in results:
            begin = identities.get(each.identity)
            if begin is None:
                begin = identities[each.identity] = ids.origin_text(origin, *each.identity)
            texts.append(f"{begin}{ids.BETWEEN}{each.key!r}")
        if more:
            texts = [ids.origin_text(text, *others) for text, others in zip(texts, more, strict=True)]
        return ids.hashed_ids(ids.EVENT, [result.timestamp_ms for result in results], texts)

    def _event(self, result: Result, data: bytes, *more: object) -> Event:
        return self._events([result], [data], [more])[0]

    def _events(
        self,
        results: Sequence[Result],
        payloads: Sequence[bytes],
        more: Sequence[tuple[object, ...]] = (),
        told: Mapping[str, Sequence[Any]] = _NOTHING,
    ) -> EventColumns:
        """The events of results with these payloads, and what is ``told`` of each."""
        columns: dict[str, Column] = {
            **_DEFAULTS,
            "event_id": self._ids(results, more),
            "event_type": Same(self._node.name),
            "timestamp_ms": [result.timestamp_ms for result in results],
            "data": payloads,
            "key": [_key_text(result.key) for result in results],
            "source_capability": Same(self._flow),
            "tenant_id": Same(self._tenant_id),
            "schema_id": Same(self._schema_id),
            **told,
        }
        return EventColumns(columns, len(results))

    def _aggregated(self, results: Sequence[Result]) -> _Made:
        logic = self._node.spec.processing_logic
        assert isinstance(logic, AggregateLogic)  # noqa: S101 - __init__ has looked
        names = logic.group_names
        if self._having is None and not self._has_updates and len(names) < 2:
            with suppress(Exception):  # which one failed, and why, is told by the longer way
                return self._events(results, self._simple_payloads(results, names)), []
        kept: list[Result] = []
        payloads: list[bytes] = []
        failed: list[tuple[Event, Exception]] = []
        for each in results:
            value: WindowResult = each.value
            payload = self._window_payload(each, names)
            step = ""
            try:
                for item, position in self._fields:
                    payload[item.name] = value.count if position is None else result(item, value.partials[position])
                step = f"having {logic.having.text}: " if logic.having is not None else ""
                if self._having is not None and not self._having(payload):
                    continue
            except Exception as error:
                failed.append((self._event(each, _encode(payload)), ValueError(f"{step}{error}")))
                continue
            kept.append(each)
            payloads.append(_encode(payload))
        return self._events(kept, payloads), failed

    def _simple_payloads(self, results: Sequence[Result], names: Sequence[str]) -> list[bytes]:
        """The payloads where a group has at most one field and nothing else looks at them: put together as text, for there may be
        very many."""
        begin = b"{" + b"".join(_encode(name) + b":" for name in names)
        fields = [(item, position, b"," + _encode(item.name) + b":") for item, position in self._fields]
        payloads = []
        identity: tuple[Any, ...] | None = None
        window = b""
        for each in results:
            value: WindowResult = each.value
            if each.identity is not identity:  # those of a window mostly come together
                identity = each.identity
                window = (b"," if names else b"") + _encode(self._window_bounds(value))[1:-1]
            data = begin + each.key[1:-1] + window
            for item, position, name in fields:
                data += name + _encode(value.count if position is None else result(item, value.partials[position]))
            payloads.append(data + b"}")
        return payloads

    def _window_bounds(self, value: WindowResult) -> dict[str, str | None]:
        if (value.start_ms, value.end_ms) != self._bounds_ms:  # results of one window come together
            self._bounds_ms = (value.start_ms, value.end_ms)
            start, end = (None if at_ms is None else rfc3339(at_ms) for at_ms in self._bounds_ms)
            self._bounds = {WINDOW_START: start, WINDOW_END: end}
        return self._bounds

    def _window_payload(self, each: Result, names: Sequence[str]) -> dict[str, Any]:
        value: WindowResult = each.value
        payload: dict[str, Any] = dict(zip(names, msgspec.json.decode(each.key), strict=True))
        payload |= self._window_bounds(value)
        if self._has_updates:
            payload |= {"revision": value.revision, "is_final": value.is_final}
            if value.retraction:
                payload["retraction"] = True
        return payload

    def _windows(self, results: Sequence[Result]) -> _Made:
        logic = self._node.spec.processing_logic
        assert isinstance(logic, WindowLogic)  # noqa: S101 - __init__ has looked
        names = logic.group_names
        events = []
        for each in results:
            payload = self._window_payload(each, names) | {"count": each.value.count}
            if logic.output is WindowOutput.MARKS:
                events.append(self._event(each, msgspec.json.encode(payload)))
                continue
            contents = collected(each.value.partials[0])
            if logic.output is WindowOutput.CONTENTS:
                payload["events"] = [msgspec.Raw(raw) for raw in contents]
                events.append(self._event(each, msgspec.json.encode(payload)))
                continue
            for number, raw in enumerate(contents):
                data = msgspec.json.encode({**msgspec.json.decode(raw), **self._bounds})
                events.append(self._event(each, data, number))
        return events, []

    def _joined(self, results: Sequence[Result]) -> _Made:
        told = envelopes(results, is_lookup=self._is_lookup)
        pairs = [each.value for each in results]
        payloads, failures = self._joined_payloads(bare(pairs) if "traceparent" in told else pairs)
        data = list(map(msgspec.json.encode, payloads))
        if not failures:
            return self._events(results, data, told=told), []
        broken = dict(failures)
        failed: list[tuple[Event, Exception]] = []
        for i, error in failures:
            sides = {"left": _raw(pairs[i].left), "right": _raw(pairs[i].right)}
            failed.append((self._event(results[i], msgspec.json.encode(sides)), error))
        whole = [i for i in range(len(results)) if i not in broken]
        told = {name: [values[i] for i in whole] for name, values in told.items()}
        return self._events([results[i] for i in whole], data, told=told), failed

    def _passed_on(self, results: Sequence[Result]) -> _Made:
        return [
            msgspec.structs.replace(
                for_schema(each.value, self._schema_id),
                event_id=event_id,
                causation_id=each.value.event_id,
                compression_type=None,
            )
            for each, event_id in zip(results, self._ids(results), strict=True)
        ], []


def _key_text(key: bytes) -> str:
    """A key, a JSON array, as text: that of a single text as it is, any other as JSON."""
    if key[:2] == b'["' and key[-2:] == b'"]' and key.count(b'"') == 2 and b"\\" not in key:
        return key[2:-2].decode()
    values = msgspec.json.decode(key)
    return values[0] if len(values) == 1 and isinstance(values[0], str) else key.decode()


def _raw(value: Any) -> msgspec.Raw | None:
    data = payload_of(value)
    return None if data is None else msgspec.Raw(data)
