"""What a user's function returned, as events."""

from typing import Any, Final

import msgspec

from event_streaming_bus.models import Event, SerializationFormat

MAX_OUTPUTS: Final = 10_000
"""The largest number of events that a function may make of one."""

_EXPECTED: Final = "None, a dict (the new payload), an Event or a list of dicts and Events"
_FIXED: Final = {
    "timestamp_ms": "a processor gives out its events in the order of their times, and others wait by those times; "
    "write another time into the payload",
    "tenant_id": "an event stays with its tenant",
}


def outputs_of(returned: object, event: Event) -> list[Event]:
    """The events that ``returned`` says to make of ``event``: none for None, a payload in its envelope for a dict.

    Each still has the event id of ``event``. Payloads are encoded, and Events checked, so what comes out can be written. Raises
    ``TypeError`` or ``ValueError`` with a sentence on what was expected.
    """
    if returned is None:
        return []
    if isinstance(returned, list):
        if len(returned) > MAX_OUTPUTS:
            raise ValueError(f"expected at most {MAX_OUTPUTS} events of one event, got {len(returned)}")
        return [_output(item, event, f"item {i} of the list: ") for i, item in enumerate(returned)]
    return [_output(returned, event, "")]


def _output(item: object, event: Event, where: str) -> Event:
    if isinstance(item, dict):
        try:
            data = msgspec.json.encode(item)
        except (TypeError, ValueError, OverflowError, RecursionError) as error:
            raise TypeError(f"{where}the payload cannot be written as JSON: {error}") from error
        if event.serialization_format is SerializationFormat.JSON:
            return msgspec.structs.replace(event, data=data)
        return msgspec.structs.replace(event, data=data, serialization_format=SerializationFormat.JSON)
    if item is event:
        return event
    if isinstance(item, Event):
        return _checked(item, event, where)
    expected = "a dict or an Event" if where else _EXPECTED
    raise TypeError(f"{where}expected {expected}, got {_described(item)}")


def _checked(output: Event, event: Event, where: str) -> Event:
    for name, why in _FIXED.items():
        if getattr(output, name) != getattr(event, name):
            raise ValueError(
                f"{where}{name} must stay {getattr(event, name)!r}, got {getattr(output, name)!r}: {why}",
            )
    # The constructor checks no types, and an Event that cannot be written would fail far from here.
    if type(output.data) is not bytes:
        raise TypeError(f"{where}Event.data: expected bytes, got {_described(output.data)}")
    try:
        msgspec.convert(msgspec.structs.asdict(output), Event)
    except msgspec.ValidationError as error:
        raise TypeError(f"{where}Event: {error}") from None
    if not output.event_type:
        raise ValueError(f"{where}Event.event_type: expected text that is not empty")
    if output.data is not event.data and output.serialization_format is SerializationFormat.JSON:
        try:
            msgspec.json.decode(output.data)
        except msgspec.DecodeError as error:
            raise ValueError(f"{where}Event.data: expected a payload as JSON: {error}") from None
    return output if output.event_id == event.event_id else msgspec.structs.replace(output, event_id=event.event_id)


def _described(item: Any) -> str:
    kind = type(item).__name__
    hint = ""
    if kind in ("generator", "tuple", "set"):
        hint = "; make a list of it"
    elif kind == "coroutine":
        item.close()  # else Python warns of it when it is thrown away
        hint = "; an async function cannot be used"
    return f"a value of type {kind}{hint}"
