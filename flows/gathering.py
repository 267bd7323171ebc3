"""The generated lines that gather events for a processor with state, by key group."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Final

import msgspec

from event_streaming_bus.flows.aggregations import field_plans
from event_streaming_bus.flows.checker import FieldPath
from event_streaming_bus.flows.key_groups import KEY_GROUPS, key_group_of
from event_streaming_bus.flows.slices import Slicing, slicing_of
from event_streaming_bus.flows.values import group_key, group_value, refuse_value
from event_streaming_bus.models import rfc3339

if TYPE_CHECKING:
    from event_streaming_bus.flows.aggregations import Aggregation
    from event_streaming_bus.flows.codegen import Code, Reading
    from event_streaming_bus.flows.window_config import Window

BY_KEY_GROUP: Final = f"[{', '.join(['[]'] * KEY_GROUPS)}]"
"""What is collected for folds: for each key group its entries (see ``folds.base.Entry``)."""

BY_SLICE: Final = "{}"
"""What is collected for sums: by slice, then by group (see ``KnownKeys``), the indexes of the events, then each field's values in
step."""

_MAX_KNOWN_KEYS: Final = 100_000


class FutureTimestampError(ValueError):
    """The event's time is too far after it was appended."""


class KnownKeys:
    """The key group and the JSON of groups that were seen lately. A group is the value of its one field, or a tuple of
    several."""

    def __init__(self, fields: int) -> None:
        self.known: dict[object, tuple[int, bytes]] = {}
        self._is_single = fields == 1

    def place(self, group: Any) -> tuple[int, bytes]:
        """``(key group, the values as a JSON array)``."""
        if len(self.known) >= _MAX_KNOWN_KEYS:
            self.known.clear()
        key = group_key((group,) if self._is_single else group)
        place = self.known[group] = (key_group_of(key), key)
        return place


def refuse_future(timestamp_ms: int) -> None:
    """Raise ``FutureTimestampError`` for an event whose time is too far after it was appended."""
    raise FutureTimestampError(
        f"the event's time, {rfc3339(timestamp_ms)}, is further ahead of when it was appended than max_future_ms allows"
    )


def time_lines(code: "Code", reading: "Reading") -> None:
    """``t``: the event's time, which must not be too far ahead."""
    code.line(f"t = {reading.resolve(('timestamp',))}")
    if "has_future = bool(future)" not in code.prologue:
        code.prologue.append("has_future = bool(future)")
    with code.block("if has_future and i in future:"):
        code.line(f"{code.constant('_refuse_future', refuse_future)}(t)")


def group_lines(number: str, paths: Sequence[FieldPath], code: "Code", reading: "Reading") -> list[str]:
    """Read the values of a group; returns the variables that hold them."""
    names = [f"g{number}_{i}" for i in range(len(paths))]
    for name, path in zip(names, paths, strict=True):
        code.line(f"{name} = {reading.field(path)}")
        with code.block(f"if {name}.__class__ is not str and {name}.__class__ is not int:"):
            code.line(f"{name} = {code.constant('_group_value', group_value)}({name}, {'.'.join(path)!r})")
    return names


def raw_payload(code: "Code", reading: "Reading") -> str:
    """The code of the payload as JSON bytes."""
    if not reading.is_mapped:
        return reading.column("json")
    return f"{code.constant('_encode', msgspec.json.encode)}({reading.payload})"


def event_parts(reading: "Reading") -> str:
    """The code of what makes the event that is read: nothing where it is the one in the log, else payload, key and type."""
    if not reading.is_mapped:
        return "None"
    return f"({reading.payload}, {reading.resolve(('key',))}, {reading.resolve(('event_type',))})"


def gather_entries(
    number: str,
    key: Sequence[FieldPath],
    code: "Code",
    reading: "Reading",
    value: Callable[[], str],
    *,
    side: int = 0,
    rank: int = 0,
) -> None:
    """Write the lines that gather entries for a fold. ``value`` writes lines of its own and returns the code of an entry's
    value."""
    keys = KnownKeys(len(key))
    known, place = code.constant(f"known{number}", keys.known), code.constant(f"place{number}", keys.place)
    event_id = reading.column("order_id")
    with code.block("try:"):
        time_lines(code, reading)
        names = group_lines(number, key, code, reading)
        v = value()
        code.line(f"g = {_group_of(names)}")
        code.line(f"h, k = {known}.get(g) or {place}(g)")
        code.line(f"e = (t, {rank}, {event_id}, {side}, k, {v}, i)")
    code.failure(f"{number}, i")
    with code.block("else:"):
        code.line(f"o{number}[h].append(e)")


def field_lines(number: str, plans: Sequence[Any], code: "Code", reading: "Reading") -> list[str]:
    """Read the aggregated fields; returns the code of the value for each plan. ``()`` as a field is the whole payload, as JSON
    bytes."""
    values = []
    for i, plan in enumerate(plans):
        name = f"v{number}_{i}"
        if plan.field:
            code.line(f"{name} = {reading.field(plan.field)}")
            accepted = code.constant(f"accepted{number}_{i}", plan.accepted)
            usual = " and ".join(f"{name}.__class__ is not {kind}" for kind in ("int", "float") if plan.summed)
            with code.block(f"if {usual + ' and ' if usual else ''}{name}.__class__ not in {accepted}:"):
                code.line(f"{code.constant('_refuse', refuse_value)}({name}, {'.'.join(plan.field)!r}, {accepted})")
        else:
            code.line(f"{name} = {raw_payload(code, reading)}")
        values.append(f"(t, {reading.column('order_id')}, {name})" if plan.ordered else name)
    return values


def gather_slices(
    number: str, key: Sequence[FieldPath], plans: Sequence[Any], slicing: Slicing, code: "Code", reading: "Reading"
) -> None:
    """Write the lines that gather the values to be summed up, by slice of time and group."""
    with code.block("try:"):
        time_lines(code, reading)
        names = group_lines(number, key, code, reading)
        values = field_lines(number, plans, code, reading)
        code.line(f"s = {slicing.write(code, number)}")
        code.line(f"g = {_group_of(names)}")
    code.failure(f"{number}, i")
    with code.block("else:"):
        # Neighbouring events are mostly of the same slice.
        code.prologue.append(f"s{number} = d{number} = None")
        with code.block(f"if s != s{number}:"):
            code.line(f"s{number} = s")
            code.line(f"d{number} = o{number}.get(s)")
            with code.block(f"if d{number} is None:"):
                code.line(f"d{number} = o{number}[s] = {{}}")
        code.line(f"e = d{number}.get(g)")
        with code.block("if e is None:"):
            code.line(f"d{number}[g] = ({', '.join(f'[{value}]' for value in ('i', *values))},)")
        with code.block("else:"):
            for i, value in enumerate(("i", *values)):
                code.line(f"e[{i}].append({value})")


def gather_windows(
    number: str,
    key: Sequence[FieldPath],
    aggregations: "Sequence[Aggregation]",
    window: "Window | None",
    code: "Code",
    reading: "Reading",
) -> None:
    """Write the lines that gather what windows are made of: values to be summed up, or entries for a fold."""
    plans, slicing = field_plans(aggregations), slicing_of(window)
    if slicing is not None:
        gather_slices(number, key, plans, slicing, code, reading)
    else:
        gather_entries(number, key, code, reading, lambda: _tuple_of(field_lines(number, plans, code, reading)))


def collection_of_windows(window: "Window | None") -> str:
    """The code of what ``gather_windows`` gathers in."""
    return BY_KEY_GROUP if slicing_of(window) is None else BY_SLICE


def _group_of(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else _tuple_of(names)


def _tuple_of(parts: Sequence[str]) -> str:
    return f"({''.join(f'{part}, ' for part in parts)})"
