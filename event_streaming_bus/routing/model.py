"""What a routing rule says: read from plain data and checked, with errors that name the place."""

import re
from collections.abc import Mapping
from difflib import get_close_matches
from enum import StrEnum
from typing import Any, Final

import msgspec

from event_streaming_bus.errors import ConfigError, ExpressionError, NotFoundError
from event_streaming_bus.expressions import Expression, Scope, parse
from event_streaming_bus.models import EventPriority, rfc3339
from event_streaming_bus.store.routes import RouteRecord

ANY_STREAM: Final = "*"
"""In place of a rule's stream: every stream that events are published to, but those that the rule sends to."""
MAX_TARGETS: Final = 32
MAX_METADATA_KEYS: Final = 64
MAX_TEXT_CHARS: Final = 1000
_NAME: Final = re.compile(r"[A-Za-z0-9.-][A-Za-z0-9._-]{0,199}")
_RESERVED_KEY: Final = "dead_letter"
_PLACE: Final = re.compile(r"(.*?)(?: - at `(?:key in )?\$\.?(.*)`)?")


class RouteNotFoundError(NotFoundError):
    """The routing rule does not exist. ``esb routes list`` shows what there is."""


class Then(StrEnum):
    """What comes after a rule that matched: the next rule, or none."""

    CONTINUE = "continue"
    STOP = "stop"


class Route(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A rule as it is configured.

    Rules of a stream run in the order of ``order``, then of their names. ``match`` is an expression over the envelope; without
    one every event matches. Of those that match, the share ``sample`` is taken, picked by the event's id. For an event that is
    taken, in this order: ``priority`` goes before its own; metadata is removed, then set (text in ``set_metadata`` is an
    expression, anything else is taken as it is); it is sent to the streams ``to``; with ``move`` it does not stay in its own.
    With ``dead_letter``, the reason, it goes to the dead letters instead, and no further rule runs.
    """

    name: str
    stream: str
    order: int = 100
    match: str | None = None
    to: tuple[str, ...] = ()
    move: bool = False
    priority: EventPriority | None = None
    set_metadata: dict[str, Any] = {}
    remove_metadata: tuple[str, ...] = ()
    sample: float = 1.0
    dead_letter: str | None = None
    then: Then = Then.CONTINUE
    is_active: bool = True
    description: str = ""


class Rule(msgspec.Struct, frozen=True):
    """A version of a rule: its configuration, and since when and by whom it is so."""

    route: Route
    version: int
    changed_at_ms: int = 0
    changed_by: str | None = None


def rule_of(record: RouteRecord) -> Rule:
    """The rule that the store keeps."""
    return Rule(msgspec.json.decode(record.config, type=Route), record.version, record.changed_at_ms, record.changed_by)


def stored(route: Route) -> str:
    """The configuration as the store keeps it; equal texts are equal rules."""
    return msgspec.json.encode(route).decode()


def route_data(route: Route) -> dict[str, Any]:
    """A configuration as plain data, as files and bodies give it."""
    data: dict[str, Any] = msgspec.to_builtins(route)
    return data


def rule_data(rule: Rule) -> dict[str, Any]:
    """A rule as plain data, as answers show it."""
    return {
        **route_data(rule.route),
        "version": rule.version,
        "changed_at": rfc3339(rule.changed_at_ms),
        "changed_by": rule.changed_by,
    }


def read_route(data: object, where: str = "") -> Route:
    """The rule that ``data`` configures, checked as far as it can be on its own. ``where`` it stands goes before what is told.

    Raises ``ConfigError`` that names the place, and ``ExpressionError`` with a caret under the column.
    """
    if not isinstance(data, Mapping):
        raise _error(where, "", "expected a mapping with name, stream and what is to be done")
    known = Route.__struct_fields__
    for key in data:
        if key not in known:
            near = get_close_matches(str(key), known, 1)
            hint = f"; did you mean '{near[0]}'?" if near else ""
            raise _error(where, str(key), f"unknown key{hint} (accepted: {', '.join(known)})")
    given = {**data}
    for name in ("to", "remove_metadata"):
        if isinstance(given.get(name), str):
            given[name] = [given[name]]
    _check_words(given, where)
    try:
        route = msgspec.convert(given, Route)
    except msgspec.ValidationError as error:
        found = _PLACE.fullmatch(str(error))
        raise _error(where, (found[2] or "") if found else "", found[1] if found else str(error)) from None
    _check(route, where)
    return route


def _check_words(given: Mapping[str, Any], where: str) -> None:
    for name, kind in (("priority", EventPriority), ("then", Then)):
        value = given.get(name)
        if value is not None and value not in list(kind):
            raise _error(where, name, f"{value!r} is none of {', '.join(kind)}")


def _check(route: Route, where: str) -> None:
    _check_name(route.name, "name", where)
    if route.stream != ANY_STREAM:
        _check_name(route.stream, "stream", where)
    if len(route.to) > MAX_TARGETS:
        raise _error(where, "to", f"{len(route.to)} streams; at most {MAX_TARGETS} are accepted")
    for i, target in enumerate(route.to):
        _check_name(target, f"to[{i}]", where)
        if target == route.stream:
            raise _error(where, f"to[{i}]", f"'{target}' is the stream that the events come from")
        if target in route.to[:i]:
            raise _error(where, f"to[{i}]", f"'{target}' stands here twice")
    if not 0 <= route.sample <= 1:
        raise _error(where, "sample", f"expected 0 to 1, got {route.sample:g}")
    if route.move and not route.to:
        raise _error(where, "move", "needs streams to move events to, under 'to'")
    for name in ("description", "dead_letter"):
        if len(getattr(route, name) or "") > MAX_TEXT_CHARS:
            raise _error(where, name, f"at most {MAX_TEXT_CHARS:,} characters are accepted")
    _check_metadata(route, where)
    changes = route.priority is not None or bool(route.set_metadata or route.remove_metadata)
    if route.dead_letter is not None:
        if not route.dead_letter.strip():
            raise _error(where, "dead_letter", "expected the reason, as text")
        if route.to or route.move or changes:
            raise _error(
                where, "dead_letter", "the event is kept as it is and goes nowhere else: only match and sample go with it"
            )
    elif not route.to and not changes and route.then is Then.CONTINUE:
        raise _error(where, "", "the rule does nothing: give it to, priority, set_metadata, remove_metadata, dead_letter or then")
    expressions_of(route, where)


def _check_name(name: str, field: str, where: str) -> None:
    if name.startswith("_"):
        raise _error(where, field, f"'{name}' is one of the bus's own; for dead letters there is 'dead_letter'")
    if not _NAME.fullmatch(name):
        raise _error(where, field, f"{name!r} is no name: 1 to 200 letters, digits, '.', '_' or '-' are")


def _check_metadata(route: Route, where: str) -> None:
    for field, keys in (("set_metadata", list(route.set_metadata)), ("remove_metadata", list(route.remove_metadata))):
        if len(keys) > MAX_METADATA_KEYS:
            raise _error(where, field, f"{len(keys)} keys; at most {MAX_METADATA_KEYS} are accepted")
        if _RESERVED_KEY in keys:
            raise _error(where, field, f"'{_RESERVED_KEY}' is where dead letters tell what happened to them")
        if "" in keys:
            raise _error(where, field, "expected keys that are text with something in it")
    try:
        msgspec.msgpack.encode(route.set_metadata)
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        raise _error(where, "set_metadata", f"cannot be metadata: {error}") from None


class Expressions(msgspec.Struct, frozen=True):
    """What a rule evaluates: its match, and by key the values of metadata that are expressions."""

    match: Expression | None
    metadata: dict[str, Expression]


def expressions_of(route: Route, where: str = "") -> Expressions:
    """The rule's expressions, parsed. Raises ``ExpressionError``."""
    match = None if route.match is None else parse(route.match, Scope.ENVELOPE, where=_at(where, "match"))
    metadata = {}
    for key, value in route.set_metadata.items():
        if isinstance(value, str):
            try:
                metadata[key] = parse(value, Scope.ENVELOPE, where=_at(where, f"set_metadata.{key}"))
            except ExpressionError as error:
                hint = "(text that is meant as it is stands in quotes of its own: \"'eu'\")"
                raise ExpressionError(f"{error.message}\n    {hint}", **error.details) from None
    return Expressions(match, metadata)


def _at(where: str, field: str) -> str:
    return ".".join(part for part in (where, field) if part)


def _error(where: str, field: str, message: str) -> ConfigError:
    place = _at(where, field)
    return ConfigError(f"{place}: {message}" if place else message, path=place)
