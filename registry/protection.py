"""Protection: personal values in payloads replaced by tokens before they are written, and shown again to those who read.

A payload is protected after it was checked, since a token need not fit the schema in the place of its value. Reading needs no
schema: tokens are found by their form, opened with the keys of the tenant, and count only in the place that they were made for.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final, Protocol, TypeAlias, TypeVar

import msgspec

from event_streaming_bus import payloads
from event_streaming_bus.errors import ValidationFailedError
from event_streaming_bus.models import Event, SerializationFormat
from event_streaming_bus.registry.guards import SchemaGuard
from event_streaming_bus.registry.personal import ErasedError, Path, PersonalFields, Place, bound_pointer
from event_streaming_bus.registry.tokens import KEYS, MARKER_BYTES, Token, opened, sealed, token_of
from event_streaming_bus.registry.violations import pointer_to
from event_streaming_bus.store.subject_keys import ShreddedKey, SubjectKey, SubjectKeys

_AVRO: Final = SerializationFormat.AVRO
_JSON: Final = SerializationFormat.JSON
_UNREADABLE: Final = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
_encode: Final = msgspec.json.Encoder().encode
_replace: Final = msgspec.structs.replace
_Find: TypeAlias = Callable[[str], SubjectKey | ShreddedKey | None]


class Shown(msgspec.Struct):
    """A value with its tokens opened. ``erased``: the JSON pointers where a key was destroyed; there stands ``[erased]`` for a
    text, and null for anything else. ``unreadable``: where a token could not be opened, because it was tampered with or moved, or
    its key is not in this folder; it stands there as it was."""

    value: Any
    erased: list[str] = []
    unreadable: list[str] = []


# --- reading ----------------------------------------------------------------------------------------------------------


def reveal(keys: SubjectKeys, tenant_id: str, value: Any) -> Any:
    """A JSON value of the tenant with its tokens opened; what was given stays as it is."""
    return shown(keys, tenant_id, value).value


def shown(keys: SubjectKeys, tenant_id: str, value: Any) -> Shown:
    """As ``reveal``, and where something could not be shown."""
    return _shown(keys.finder(tenant_id), value)


def _shown(find: _Find, value: Any, moved_to: Iterable[Path] = ()) -> Shown:
    """At the paths ``moved_to`` a token counts that was made for another place."""
    allowed = set(moved_to)
    result = Shown(value)
    changes: list[tuple[Path, Any]] = []
    for path, token in _tokens(value):
        found = _open(find, token)
        if found is None or (isinstance(found, tuple) and found[0] != bound_pointer(path) and path not in allowed):
            result.unreadable.append(pointer_to(path))
        elif isinstance(found, tuple):
            changes.append((path, found[1]))
        else:
            result.erased.append(pointer_to(path))
            changes.append((path, token.erased))
    result.value = changed(value, changes)
    if changes and changes[0][0] == () and isinstance(result.value, dict | list):
        return _shown(find, result.value)  # a dead letter: what broke its schema may have had tokens before
    return result


class _Stored(Protocol):
    """An event as it is kept: on a stream, or in its aggregate."""

    @property
    def data(self) -> bytes: ...
    @property
    def tenant_id(self) -> str: ...
    @property
    def serialization_format(self) -> SerializationFormat: ...
    @property
    def schema_id(self) -> str | None: ...
    @property
    def payload(self) -> Any: ...


E = TypeVar("E", bound=_Stored)


def reveal_events(keys: SubjectKeys, events: Sequence[E]) -> Sequence[E]:
    """Events of any tenants with their tokens opened, in the formats that they have. Those without any, and those whose payload
    cannot be read, stay as they are. The sequence is the one given if nothing changes: that costs one search in each payload."""
    if not any(MARKER_BYTES in event.data for event in events) or not keys.is_used:
        return events
    finders = {tenant_id: keys.finder(tenant_id) for tenant_id in {event.tenant_id for event in events}}
    return [_revealed(finders[event.tenant_id], event) if MARKER_BYTES in event.data else event for event in events]


def key_ids_of(events: Iterable[_Stored]) -> set[str]:
    """The ids of the keys that the tokens in events name: what is made of the events is personal data of these keys' subjects."""
    data = (event.data for event in events if MARKER_BYTES in event.data)
    return {key_id.decode() for each in data for found in KEYS.findall(each) for key_id in found.split(b".")}


def _revealed(find: _Find, event: E) -> E:
    try:
        payload = event.payload
    except _UNREADABLE:
        return event
    plain = _shown(find, payload).value
    if plain is payload:
        return event
    data = _written(event, plain)
    return event if data is None else _replace(event, data=data)  # type: ignore[type-var]


def _tokens(value: Any) -> list[tuple[Path, Token]]:
    """The tokens in a JSON value. A member's name is never one."""
    found: list[tuple[Path, Token]] = []
    waiting: list[tuple[Any, Path]] = [(value, ())]
    while waiting:
        each, path = waiting.pop()
        if isinstance(each, dict):
            waiting += [(inner, (*path, name)) for name, inner in each.items()]
        elif isinstance(each, list):
            waiting += [(inner, (*path, i)) for i, inner in enumerate(each)]
        elif (token := token_of(each)) is not None:
            found.append((path, token))
    return found


class _Erased:
    """A key of the token was destroyed."""


_ERASED: Final = _Erased()


def _keys_of(find: _Find, token: Token) -> list[SubjectKey] | _Erased | None:
    found = [find(key_id) for key_id in token.key_ids]
    if any(key is None for key in found):
        return None
    if any(isinstance(key, ShreddedKey) for key in found):
        return _ERASED
    return [key for key in found if isinstance(key, SubjectKey)]


def _open(find: _Find, token: Token) -> tuple[str, Any] | _Erased | None:
    """``(the place that it was made for, the value)``; None for a token that is none of the tenant's."""
    found = _keys_of(find, token)
    return opened(token, found) if isinstance(found, list) else found


def changed(value: Any, changes: Iterable[tuple[Path, Any]]) -> Any:
    """A JSON value with other values at some paths, none within another; what was given stays as it is, and what does not change
    is shared with it."""
    copies: dict[Path, Any] = {}
    top = value
    for path, new in changes:
        if not path:
            return new
        for length in range(len(path)):
            here = path[:length]
            if here not in copies:
                inner = top if length == 0 else copies[here[:-1]][here[-1]]
                copies[here] = inner.copy()
                if length == 0:
                    top = copies[here]
                else:
                    copies[here[:-1]][here[-1]] = copies[here]
        copies[path[:-1]][path[-1]] = new
    return top


# --- writing ----------------------------------------------------------------------------------------------------------


class _Seal(msgspec.Struct):
    """A value to be replaced by a token: for ``subjects``, or with the keys that it had elsewhere."""

    path: Path
    pointer: str
    value: Any
    subjects: list[str] = []
    keys: list[SubjectKey] = []


def _sealing(keys: SubjectKeys, tenant_id: str, seals: Iterable[_Seal]) -> Callable[[_Seal], str]:
    """What makes the tokens: the keys that are missing are made here, all at once."""
    of_subjects = keys.of_subjects(tenant_id, [subject for seal in seals for subject in seal.subjects])

    def seal_up(seal: _Seal) -> str:
        return sealed(seal.keys or [of_subjects[subject] for subject in seal.subjects], seal.pointer, seal.value)

    return seal_up


def default_subject(event: Event) -> str | None:
    """Whose an event's personal data is where the schema does not say it."""
    return event.aggregate_id or event.key


def protect_events(guard: SchemaGuard | None, events: Sequence[Event]) -> Sequence[Event]:
    """Events of one tenant that a publisher gave for a stream with this guard, valid ones, as they may be written: each personal
    value is replaced by a token, whatever it is. The sequence is the one given if the schema has no personal fields.

    Raises ``NoSubjectError`` for an event whose subject is not known, with its ``index`` in the details.
    """
    if guard is None or guard.personal is None or not events:
        return events
    values: list[Any] = []
    seals: list[list[_Seal]] = []
    for i, event in enumerate(events):
        values.append(event.payload)
        try:
            seals.append(_plain_seals(guard.personal, values[i], default_subject(event)))
        except ValidationFailedError as error:
            error.details["index"] = i
            raise
    seal_up = _sealing(guard.keys, events[0].tenant_id, (seal for each in seals for seal in each))
    made = []
    for event, value, each in zip(events, values, seals, strict=True):
        # Written anew even if there is nothing to replace: of members with the same name, only the last one was looked at.
        data = _written(event, changed(value, [(seal.path, seal_up(seal)) for seal in each]))
        if data is None:
            raise ValidationFailedError(
                f"the event is written with version {event.schema_id} of {guard.schema_name}, which has no room for encrypted "
                f"text in the fields that {guard.schema_version} marks as personal"
            )
        made.append(_replace(event, data=data))
    return made


def protect_published(guard: SchemaGuard | None, events: Sequence[Event], invalid: Iterable[int]) -> Sequence[Event]:
    """What was published to a stream with this guard, as it may be written: those at the indexes ``invalid`` as
    ``protect_letters`` has them, the others as ``protect_events`` has. Raises ``NoSubjectError``."""
    if guard is None or guard.personal is None:
        return events
    aside = set(invalid)
    made = list(events)
    for protect, indexes in (
        (protect_events, [i for i in range(len(made)) if i not in aside]),
        (protect_letters, sorted(aside)),
    ):
        for i, event in zip(indexes, protect(guard, [made[i] for i in indexes]), strict=True):
            made[i] = event
    return made


def _plain_seals(personal: PersonalFields, value: Any, default: str | None) -> list[_Seal]:
    return [
        _Seal(place.path, place.pointer, _at(value, place.path), personal.subjects(value, place, default))
        for place in personal.places(value)
    ]


def protect_letters(guard: SchemaGuard | None, letters: Sequence[Event]) -> Sequence[Event]:
    """Events of one tenant that broke a schema with personal fields, as they may be written: the whole payload is replaced by one
    token, as JSON, since what breaks the schema need not have its personal values where the schema says.

    It is that of every subject that can be told. Where none can be, the event's id stands for one, as ``event:ID``.
    """
    if guard is None or guard.personal is None or not letters:
        return letters
    find = guard.keys.finder(letters[0].tenant_id)
    seals: dict[int, _Seal] = {}
    for i, letter in enumerate(letters):
        try:
            value = letter.payload
        except _UNREADABLE:
            value = letter.data.decode("utf-8", "backslashreplace")
        known = token_of(value)
        if known is None or _keys_of(find, known) is None:
            seals[i] = _Seal((), "", value, _all_subjects(guard.personal, value, letter))
    if not seals:
        return letters
    seal_up = _sealing(guard.keys, letters[0].tenant_id, seals.values())
    made = list(letters)
    for i, seal in seals.items():
        made[i] = _replace(letters[i], data=_encode(seal_up(seal)), serialization_format=_JSON)
    return made


def _all_subjects(personal: PersonalFields, value: Any, event: Event) -> list[str]:
    default = default_subject(event)
    found: dict[str, None] = {}
    for place in (Place((), "", ()), *personal.places(value)):
        for pointer in (personal.subject, *(mark.subject for mark in place.marks)):
            subject = None if pointer is None else pointer.found(value, place.path)
            if subject:
                found[subject] = None
    if not found:
        found[default or f"event:{event.event_id}"] = None
    return list(found)


# --- from stream to stream --------------------------------------------------------------------------------------------


class Checked(msgspec.Struct):
    """A payload on its way to a stream with a schema. ``plain`` is what the schema judges, ``erased`` where nobody can; ``kept``
    is the payload with its tokens, ``seals`` what is to be replaced in it; ``given`` is the payload as it came."""

    plain: Any
    erased: list[str]
    given: Any
    kept: Any
    seals: list[_Seal]


def checked(find: _Find, guard: SchemaGuard, event: Event, *, moves: bool) -> Checked:
    """An event that another stream has, or a flow made, for a stream with this guard.

    What is a token already stays one; but a payload that is one as a whole, as that of a dead letter, is taken for what it stands
    for. With ``moves``, a token in a personal field of the schema counts although it was made for another place, and is made anew
    for this one. Raises ``msgspec.DecodeError``, ``NoSubjectError``, or ``ErasedError``.
    """
    given = kept = event.payload
    if (whole := token_of(kept)) is not None:
        inner = _open(find, whole)
        if inner is _ERASED:
            raise ErasedError
        if isinstance(inner, tuple) and inner[0] == "":
            kept = inner[1]
    places = guard.personal.places(kept) if guard.personal is not None else []
    known = _shown(find, kept, [place.path for place in places] if moves else ())
    result = Checked(known.value, known.erased, given, kept, [])
    for place in places:
        value = _at(kept, place.path)
        token = token_of(value)
        found = None if token is None or pointer_to(place.path) in known.unreadable else _keys_of(find, token)
        if isinstance(found, list) and token is not None:
            made_for = opened(token, found)
            if made_for is not None and made_for[0] != place.pointer:
                result.seals.append(_Seal(place.path, place.pointer, made_for[1], keys=found))
        elif found is None and guard.personal is not None:
            subjects = guard.personal.subjects(known.value, place, default_subject(event))
            result.seals.append(_Seal(place.path, place.pointer, value, subjects))
    return result


def resealed(keys: SubjectKeys, tenant_id: str, payloads_: Sequence[Checked]) -> list[Any]:
    """The payloads as they may be written."""
    seal_up = _sealing(keys, tenant_id, (seal for each in payloads_ for seal in each.seals))
    return [changed(each.kept, [(seal.path, seal_up(seal)) for seal in each.seals]) for each in payloads_]


def _at(value: Any, path: Path) -> Any:
    for part in path:
        value = value[part]
    return value


def _written(event: _Stored, payload: Any) -> bytes | None:
    """A payload in the format of its event, and by the same version of the schema; None if that has no room for it."""
    if event.serialization_format is _JSON:
        return _encode(payload)
    reader = payloads.reader(event.schema_id)
    assert isinstance(reader, SchemaGuard)  # noqa: S101 - the registry is the only source of readers
    written, invalid = reader.write_many([payload])
    # A rule of the schema may not hold for the text that stands for an erased value, which is no reason not to show the rest.
    if not invalid:
        return written[0]
    assert reader.avro is not None  # noqa: S101 - as the format says
    try:
        return reader.written_anyway(payload)
    except ValidationFailedError:
        return None
