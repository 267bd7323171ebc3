"""Personal fields: what a schema says of whose data a payload has, and where.

A schema marks a field as personal, and may say who its subject is: the person that the data is about. The marks are compiled to a
graph of ``Form``s, one for each part of the schema from which a mark can be reached; ``json.personal`` and ``avro.personal`` do
that. A value goes through all forms that may apply to it. Whether a branch of the schema does apply is not asked: what is
personal in one branch is protected whichever it is.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import lru_cache
from typing import Any, Final, NamedTuple

import msgspec

from event_streaming_bus.errors import SchemaError, ValidationFailedError
from event_streaming_bus.registry.violations import pointer_to

Path = tuple[str | int, ...]
_RELATIVE: Final = re.compile(r"(0|[1-9][0-9]*)((?:/.*)?)", re.DOTALL)


class NoSubjectError(ValidationFailedError):
    """It cannot be told whose data a personal field has. Give the event an aggregate_id or a key."""


class ErasedError(ValidationFailedError):
    """The payload was personal data of somebody who was erased: there is nothing left of it."""


class SubjectPointer(msgspec.Struct, frozen=True):
    """Where a payload names a subject: from its top, or ``up`` so many levels from the personal field."""

    text: str
    names: tuple[str, ...]
    up: int | None = None

    def found(self, payload: Any, path: Path) -> str | None:
        """The subject that the payload names, for the personal field at ``path``; None if it names none. It is a text that is
        not empty, or a whole number."""
        way: Path = self.names if self.up is None else (*path[: len(path) - self.up], *self.names)
        value = payload
        for name in way:
            if isinstance(value, Mapping) and isinstance(name, str):
                value = value.get(name)
            elif isinstance(value, list | tuple) and (isinstance(name, int) or name.isdecimal()) and int(name) < len(value):
                value = value[int(name)]
            else:
                return None
        if isinstance(value, str) or (isinstance(value, int) and not isinstance(value, bool)):
            return str(value) or None
        return None


def subject_pointer(text: object, where: Path, *, relative: bool) -> SubjectPointer:
    """The pointer that a schema gives at ``where``. Raises ``SchemaError``."""
    place = pointer_to(where)
    if isinstance(text, str):
        if text.startswith("/"):
            return SubjectPointer(text, _names(text))
        match = _RELATIVE.fullmatch(text) if relative else None
        if match and int(match[1]) > 0:
            return SubjectPointer(text, _names(match[2]) if match[2] else (), min(int(match[1]), 1 << 16))
    more = ", or a relative one as in '1/user_id'" if relative else ""
    raise SchemaError(
        f"{place}: expected where the payload names the subject, a JSON pointer as in '/user_id'{more}; got {text!r}"[:1000],
        pointer=place,
    )


def _names(pointer: str) -> tuple[str, ...]:
    return tuple(part.replace("~1", "/").replace("~0", "~") for part in pointer[1:].split("/"))


class Mark(msgspec.Struct, frozen=True):
    """What a schema says of a personal field. Without a ``subject``, the schema's own counts, or else the event's."""

    subject: SubjectPointer | None = None


def mark_of(value: object, where: Path) -> Mark | None:
    """The mark that is written at ``where``; None for false. Raises ``SchemaError``."""
    if isinstance(value, bool):
        return Mark() if value else None
    if isinstance(value, dict) and value.keys() == {"subject"}:
        return Mark(subject_pointer(value["subject"], (*where, "subject"), relative=True))
    place = pointer_to(where)
    raise SchemaError(f"{place}: expected true, false or {{'subject': JSON pointer}}, got {value!r}"[:1000], pointer=place)


class Form(msgspec.Struct, eq=False):
    """A part of a schema. ``same`` are the parts that look at the same value, ``members`` those of an object's members by name,
    ``patterns`` by what tells whether a name is meant, ``others`` that of all other members: those that are neither among the
    ``named`` nor meant by a pattern. ``first`` are those of an array's first items, ``rest`` that of the items after them,
    ``every`` those of all items. ``None`` stands for parts that need not be looked at."""

    place: str
    mark: Mark | None = None
    same: list["Form"] = []
    members: dict[str, "Form"] = {}
    named: frozenset[str] = frozenset()
    patterns: list[tuple[Callable[[str], bool], "Form | None"]] = []
    others: "Form | None" = None
    first: "list[Form | None]" = []
    rest: "Form | None" = None
    every: list["Form"] = []
    all_same: "tuple[Form, ...] | None" = None

    def parts(self) -> Iterator["Form"]:
        """Every part of it."""
        yield from self.same
        yield from self.members.values()
        yield from (form for _, form in self.patterns if form is not None)
        yield from (form for form in (self.others, self.rest, *self.first) if form is not None)
        yield from self.every


class Place(NamedTuple):
    """A personal value in a payload, and the marks that say so. ``path`` leads there; ``pointer`` is what tokens are bound to."""

    path: Path
    pointer: str
    marks: tuple[Mark, ...]


@lru_cache(maxsize=4096)
def bound_pointer(path: Path) -> str:
    """The JSON pointer of a path, with ``*`` for the index of an array's item: items may change their places."""
    return pointer_to(["*" if isinstance(part, int) else part for part in path])


class PersonalFields:
    """The personal fields of a schema. ``subject``: where payloads name whose they are, if the schema says so."""

    def __init__(self, root: Form, subject: SubjectPointer | None) -> None:
        self._root = (root,)
        self.subject = subject

    def places(self, payload: Any) -> list[Place]:
        """The personal values of a JSON value, in no particular order. None is within another one; nulls are none: that there is
        nothing is not hidden."""
        found: list[Place] = []
        waiting: list[tuple[tuple[Form, ...], Any, Path]] = [(self._root, payload, ())]
        while waiting:
            forms, value, path = waiting.pop()
            if value is None:
                continue
            forms = _all_same(forms)
            marks = tuple(dict.fromkeys(form.mark for form in forms if form.mark is not None))
            if marks:
                found.append(Place(path, bound_pointer(path), marks))
            elif isinstance(value, dict):
                for name, following in _of_members(forms, value):
                    waiting.append((following, value[name], (*path, name)))
            elif isinstance(value, list):
                for i, item in enumerate(value):
                    following = tuple(_of_item(forms, i))
                    if following:
                        waiting.append((following, item, (*path, i)))
        return found

    def subjects(self, payload: Any, place: Place, default: str | None) -> list[str]:
        """Whose data is at a place of the payload: one subject, or each that a mark names. ``default`` is who counts where the
        schema names nobody. Raises ``NoSubjectError``."""
        subjects: dict[str, None] = {}
        for mark in place.marks:
            pointer = mark.subject or self.subject
            subject = default if pointer is None else pointer.found(payload, place.path)
            if not subject:
                at = pointer_to(place.path) or "/"
                told = "the event has no aggregate_id and no key" if pointer is None else f"there is no subject at {pointer.text}"
                raise NoSubjectError(
                    f"{at}: it is personal, and it cannot be told whose it is: {told}",
                    violations=[{"path": at, "pointer": at, "rule": "x-subject", "message": told}],
                )
            subjects[subject] = None
        return list(subjects)


def _all_same(forms: tuple[Form, ...]) -> tuple[Form, ...]:
    """The forms with all that look at the same value."""
    if len(forms) == 1 and forms[0].all_same is not None:
        return forms[0].all_same
    found: dict[int, Form] = {}
    waiting = list(forms)
    while waiting:
        form = waiting.pop()
        if id(form) not in found:
            found[id(form)] = form
            waiting += form.same
    closed = tuple(found.values())
    if len(forms) == 1:
        forms[0].all_same = closed
    return closed


def _of_members(forms: Iterable[Form], value: Mapping[str, Any]) -> Iterator[tuple[str, tuple[Form, ...]]]:
    """The forms of an object's members, of those that have any."""
    found: dict[str, list[Form]] = {}
    for form in forms:
        for name, part in form.members.items():
            if name in value:
                found.setdefault(name, []).append(part)
        if not form.patterns and form.others is None:
            continue
        for name in value:
            is_other = name not in form.named
            for is_meant, pattern in form.patterns:
                if is_meant(name):
                    is_other = False
                    if pattern is not None:
                        found.setdefault(name, []).append(pattern)
            if is_other and form.others is not None:
                found.setdefault(name, []).append(form.others)
    return ((name, tuple(parts)) for name, parts in found.items())


def _of_item(forms: Iterable[Form], index: int) -> Iterator[Form]:
    for form in forms:
        yield from form.every
        part = form.first[index] if index < len(form.first) else form.rest
        if part is not None:
            yield part


def compiled(root: Form, subject: SubjectPointer | None, refused: Iterable[tuple[str, Form]]) -> PersonalFields | None:
    """The personal fields of a schema whose forms are complete; None if there are none. ``refused``: parts that may not have
    any, each with the reason. Raises ``SchemaError`` if one has."""
    below = _reaching([root, *(form for _, form in refused)])
    for reason, form in refused:
        if id(form) in below:
            at = below[id(form)]
            raise SchemaError(f"{at}: a field cannot be marked as personal {reason}", pointer=at)
    if id(root) not in below:
        return None
    seen: set[int] = set()
    waiting = [root]
    while waiting:
        form = waiting.pop()
        if id(form) in seen:
            continue
        seen.add(id(form))
        waiting += form.parts()
        form.same = [each for each in form.same if id(each) in below]
        form.members = {name: each for name, each in form.members.items() if id(each) in below}
        form.patterns = [(is_meant, _kept(each, below)) for is_meant, each in form.patterns]
        form.others, form.rest = _kept(form.others, below), _kept(form.rest, below)
        form.first = [_kept(each, below) for each in form.first]
        form.every = [each for each in form.every if id(each) in below]
        if form.others is None and not any(each for _, each in form.patterns):
            form.patterns = []
    return PersonalFields(root, subject)


def _kept(form: Form | None, below: Mapping[int, str]) -> Form | None:
    return form if form is not None and id(form) in below else None


def _reaching(roots: Iterable[Form]) -> dict[int, str]:
    """The forms from which a mark can be reached, by identity, with the place of one such mark."""
    parents: dict[int, list[Form]] = {}
    known: dict[int, Form] = {}
    waiting = list(roots)
    while waiting:
        form = waiting.pop()
        if id(form) in known:
            continue
        known[id(form)] = form
        for part in form.parts():
            parents.setdefault(id(part), []).append(form)
            waiting.append(part)
    below = {id(form): form.place for form in known.values() if form.mark is not None}
    waiting = [known[each] for each in below]
    while waiting:
        form = waiting.pop()
        for parent in parents.get(id(form), ()):
            if id(parent) not in below:
                below[id(parent)] = below[id(form)]
                waiting.append(parent)
    return below
