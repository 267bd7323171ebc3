"""Events made of the results of processors with state."""

from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from event_streaming_bus import ids
from event_streaming_bus.flows.aggregations import collected, field_plans, result
from event_streaming_bus.flows.folds.base import Result
from event_streaming_bus.flows.folds.windows import WindowResult
from event_streaming_bus.flows.items import LateEvents
from event_streaming_bus.flows.plan import Node
from event_streaming_bus.flows.processors.aggregate import AggregateLogic
from event_streaming_bus.flows.processors.join import JoinLogic
from event_streaming_bus.flows.processors.window import WindowLogic, WindowOutput
from event_streaming_bus.models import Event, StreamInfo, rfc3339

_Made = tuple[list[Event], list[tuple[Event, Exception]]]


class ResultMaker:
    """Makes events of results.

    An event's id is derived from the processor, the key and the result's identity, so that it is the same in every run.
    """

    def __init__(self, node: Node, flow: str, tenant_id: str) -> None:
        self._node = node
        self._flow = flow
        self._tenant_id = tenant_id
        self._schema_id = node.target.config.schema_id if node.target is not None else None
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

    def _id(self, result: Result, *more: object) -> str:
        return ids.derived_id(ids.EVENT, result.timestamp_ms, self._node.origin, *result.identity, result.key, *more)

    def _event(self, result: Result, data: bytes, *more: object) -> Event:
        values = msgspec.json.decode(result.key)
        key = values[0] if len(values) == 1 and isinstance(values[0], str) else result.key.decode()
        return Event(
            event_id=self._id(result, *more),
            event_type=self._node.name,
            timestamp_ms=result.timestamp_ms,
            data=data,
            key=key,
            source_capability=self._flow,
            tenant_id=self._tenant_id,
            schema_id=self._schema_id,
        )

    def _aggregated(self, results: Sequence[Result]) -> _Made:
        logic = self._node.spec.processing_logic
        assert isinstance(logic, AggregateLogic)  # noqa: S101 - __init__ has looked
        events: list[Event] = []
        failed: list[tuple[Event, Exception]] = []
        for each in results:
            value: WindowResult = each.value
            payload = self._window_payload(each, logic.group_names)
            for item, position in self._fields:
                payload[item.name] = value.count if position is None else result(item, value.partials[position])
            event = self._event(each, msgspec.json.encode(payload))
            if self._having is not None:
                try:
                    if not self._having(payload):
                        continue
                except Exception as error:
                    failed.append((event, ValueError(f"having {logic.having.text if logic.having else ''}: {error}")))
                    continue
            events.append(event)
        return events, failed

    def _window_payload(self, each: Result, names: Sequence[str]) -> dict[str, Any]:
        value: WindowResult = each.value
        payload: dict[str, Any] = dict(zip(names, msgspec.json.decode(each.key), strict=True))
        payload["window_start"] = None if value.start_ms is None else rfc3339(value.start_ms)
        payload["window_end"] = None if value.end_ms is None else rfc3339(value.end_ms)
        if getattr(self._node.spec.window, "updates", None) is not None:
            payload |= {"revision": value.revision, "is_final": value.is_final}
            if value.retraction:
                payload["retraction"] = True
        return payload

    def _windows(self, results: Sequence[Result]) -> _Made:
        logic = self._node.spec.processing_logic
        assert isinstance(logic, WindowLogic)  # noqa: S101 - __init__ has looked
        names = ["_".join(path) for path in logic.group_by]
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
            bounds = {name: payload[name] for name in ("window_start", "window_end")}
            for number, raw in enumerate(contents):
                data = msgspec.json.encode({**msgspec.json.decode(raw), **bounds})
                events.append(self._event(each, data, number))
        return events, []

    def _joined(self, results: Sequence[Result]) -> _Made:
        payloads, failures = self._joined_payloads([each.value for each in results])
        broken = dict(failures)
        events: list[Event] = []
        failed: list[tuple[Event, Exception]] = []
        made = iter(payloads)
        for i, each in enumerate(results):
            if i in broken:
                data = msgspec.json.encode({"left": _raw(each.value.left), "right": _raw(each.value.right)})
                failed.append((self._event(each, data), broken[i]))
            else:
                events.append(self._event(each, msgspec.json.encode(next(made))))
        return events, failed

    def _passed_on(self, results: Sequence[Result]) -> _Made:
        return [
            msgspec.structs.replace(
                each.value,
                event_id=self._id(each),
                causation_id=each.value.event_id,
                schema_id=self._schema_id,
                compression_type=None,
            )
            for each in results
        ], []


def _raw(data: bytes | None) -> msgspec.Raw | None:
    return None if data is None else msgspec.Raw(data)
