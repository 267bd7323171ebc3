"""The tests of a flow file: events that are given, and what is to come of them, in event time."""

from collections.abc import Mapping
from typing import Any, Final

import msgspec

from event_streaming_bus.errors import InvalidInputError
from event_streaming_bus.flows.checker import (
    BAD,
    Field,
    Path,
    Problems,
    Reader,
    Table,
    boolean,
    json_value,
    list_of,
    mapping_of,
    member,
    read_table,
    required,
    suggest,
    text,
)
from event_streaming_bus.flows.topology import names_of
from event_streaming_bus.models import EventPriority, rfc3339, time_ms

MAX_TESTS: Final = 1000
MAX_EVENTS: Final = 10_000


class GivenEvent(msgspec.Struct, frozen=True, kw_only=True):
    """An event that is published before the flow runs. Without a ``timestamp_ms`` it has the time of the one before it in its
    stream, the first 1970-01-01."""

    payload: Any
    key: str | None = None
    timestamp_ms: int | None = None
    event_type: str = "test"
    priority: EventPriority = EventPriority.NORMAL

    def to_data(self) -> dict[str, object]:
        return _event_data(self) | {"event_type": self.event_type, "priority": self.priority.value}


class ExpectedEvent(msgspec.Struct, frozen=True, kw_only=True):
    """An event that is to come out. What is None is not looked at; the payload must be equal."""

    payload: Any
    key: str | None = None
    timestamp_ms: int | None = None
    event_type: str | None = None

    def to_data(self) -> dict[str, object]:
        return _event_data(self) | ({} if self.event_type is None else {"event_type": self.event_type})


class FlowTest(msgspec.Struct, frozen=True, kw_only=True):
    """One test. ``given`` and ``expect`` are by stream; ``late`` and ``dead`` have payloads by processor. ``dead`` may name a
    stream that is read as well: for events that the stream's own schema sets aside.

    Streams that ``expect`` does not name are not looked at, nor are late events of processors that ``late`` does not name. Dead
    letters are never passed over: one that ``dead`` does not name fails the test. ``ordered``: outputs come in the order given;
    otherwise in any order, since that of different keys is not fixed.
    """

    name: str
    given: tuple[tuple[str, tuple[GivenEvent, ...]], ...]
    expect: tuple[tuple[str, tuple[ExpectedEvent, ...]], ...] = ()
    late: tuple[tuple[str, tuple[Any, ...]], ...] = ()
    dead: tuple[tuple[str, tuple[Any, ...]], ...] = ()
    ordered: bool = False

    def to_data(self) -> dict[str, object]:
        data: dict[str, object] = {
            "name": self.name,
            "given": {stream: [event.to_data() for event in events] for stream, events in self.given},
            "expect": {stream: [event.to_data() for event in events] for stream, events in self.expect},
            "ordered": self.ordered,
        }
        for name in ("late", "dead"):
            if getattr(self, name):
                data[name] = {processor: list(payloads) for processor, payloads in getattr(self, name)}
        return {key: value for key, value in data.items() if value != {}}


def _event_data(event: GivenEvent | ExpectedEvent) -> dict[str, object]:
    data: dict[str, object] = {"payload": event.payload}
    if event.key is not None:
        data["key"] = event.key
    if event.timestamp_ms is not None:
        data["timestamp"] = rfc3339(event.timestamp_ms)
    return data


def _timestamp(value: object, path: Path, problems: Problems) -> Any:
    if isinstance(value, bool) or not isinstance(value, (str, int)):
        return problems.reject(path, "RFC 3339 text such as '2013-01-01T10:00:00Z', or epoch milliseconds", value)
    try:
        return time_ms(value)
    except InvalidInputError as error:
        return problems.add(path, error.message.removeprefix("timestamp: "))


_EVENT: Final[Table] = {
    "payload": required(json_value),
    "key": Field(text()),
    "timestamp": Field(_timestamp),
    "event_type": Field(text(r"\S(.*\S)?", "text that is not empty", 200)),
}
_GIVEN: Final[Table] = {**_EVENT, "priority": Field(member(EventPriority), default=EventPriority.NORMAL)}


def _event_reader(table: Table, kind: type[GivenEvent] | type[ExpectedEvent]) -> Reader:
    def read(value: object, path: Path, problems: Problems) -> Any:
        values = read_table(value, path, table, problems)
        if values is None:
            return BAD
        values["timestamp_ms"] = values.pop("timestamp")
        return kind(**{name: item for name, item in values.items() if item is not None or name == "payload"})

    return read


def _by_name(read_item: Reader) -> Reader:
    return mapping_of(text(r"\S+", "a name"), list_of(read_item, most=MAX_EVENTS))


_TEST: Final[Table] = {
    "name": required(text(r"\S(.*\S)?", "text that is not empty", 200)),
    "given": required(_by_name(_event_reader(_GIVEN, GivenEvent))),
    "expect": Field(_by_name(_event_reader(_EVENT, ExpectedEvent)), default=()),
    "late": Field(_by_name(json_value), default=()),
    "dead": Field(_by_name(json_value), default=()),
    "ordered": Field(boolean, default=False),
}


def read_test(value: object, path: Path, problems: Problems) -> Any:
    """The ``FlowTest`` of one entry of a flow's ``tests``."""
    values = read_table(value, path, _TEST, problems)
    return BAD if values is None else FlowTest(**values)


def check_tests(flow: Mapping[Any, object], tests: tuple[FlowTest, ...], problems: Problems) -> None:
    """Report tests of one name, and streams and processors that have no part in the flow."""
    names = names_of(flow)
    read, written = names.read - names.processors, names.written
    first: dict[str, int] = {}
    for i, test in enumerate(tests):
        path: Path = ("tests", i)
        if first.setdefault(test.name, i) != i:
            problems.add((*path, "name"), f"the test {test.name!r} is there already, as tests[{first[test.name]}]")
        _check_names(test.given, (*path, "given"), read | written, "the flow neither reads nor writes the stream", problems)
        _check_names(test.expect, (*path, "expect"), written, "the flow does not write the stream", problems)
        _check_names(test.late, (*path, "late"), names.processors, "the flow has no processor", problems)
        neither = "the flow has no processor, and reads no stream,"
        _check_names(test.dead, (*path, "dead"), names.processors | read, neither, problems)


def _check_names(given: tuple[tuple[str, object], ...], path: Path, known: set[str], complaint: str, problems: Problems) -> None:
    for name, _ in given:
        if name not in known:
            accepted = f" (there is {', '.join(sorted(known))})" if known else ""
            problems.add((*path, name), f"{complaint} {name!r}{suggest(name, known)}{accepted}")
