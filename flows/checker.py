"""Checks plain data against tables of fields and reports every problem at once.

A *reader* takes a value, the path it stands at and the list of problems so far; it returns the value it read, or adds a
problem and returns ``BAD``. A *table* maps each accepted key to a ``Field``. Readers never raise for bad data, so one
pass finds all the problems of a file; ``Problems.raise_if_any`` then raises them as one ``FlowError``.
"""

import difflib
import json
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from enum import StrEnum
from typing import Any, Final, NamedTuple, NoReturn, TypeAlias

from event_streaming_bus.errors import ExpressionError, FlowError
from event_streaming_bus.expressions import Scope, parse

MAX_REPORTED_PROBLEMS: Final = 20
MAX_DEPTH: Final = 64
MAX_KEY_FIELDS: Final = 20
"""The largest number of fields by which events are told apart: of a group, or of a key."""
MAX_TEXT_CHARS: Final = 10_000
MAX_MS: Final = 100 * 366 * 86_400_000
"""The longest duration accepted, in milliseconds: a hundred years."""

Path: TypeAlias = tuple[str | int, ...]
"""Where a value stands: keys and list indexes from the outside in. The first part is written as it is."""
FieldPath: TypeAlias = tuple[str, ...]
"""A dotted path into a payload, split at its dots."""


class _Bad:
    """What a reader returns in place of a value that it reported."""


BAD: Final = _Bad()

Reader: TypeAlias = Callable[[object, Path, "Problems"], Any]
_PLAIN_KEY: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_-]*")


class Problem(NamedTuple):
    """One thing that is wrong, and where."""

    path: Path
    message: str


class Problems:
    """The problems found so far. ``source`` is the file's name, ``lines`` the line of each path, where known."""

    def __init__(self, source: str | None = None, lines: Mapping[Path, int] | None = None) -> None:
        self.source = source
        self.lines: Mapping[Path, int] = {} if lines is None else lines
        self.found: list[Problem] = []

    def add(self, path: Path, message: str) -> _Bad:
        self.found.append(Problem(path, message))
        return BAD

    def reject(self, path: Path, expected: str, got: object, hint: str = "") -> _Bad:
        return self.add(path, f"expected {expected}, got {describe(got)}{hint}")

    def line(self, path: Path) -> int | None:
        """The line of the path or of the nearest thing around it."""
        if not self.lines:
            return None
        return next((self.lines[path[:n]] for n in range(len(path), -1, -1) if path[:n] in self.lines), None)

    def raise_if_any(self) -> None:
        """Raise one ``FlowError`` of all problems, in the order of their lines; at most 20 are told.

        ``details['errors']`` lists each as ``path``, ``line`` (None where unknown) and ``message``.
        """
        if not self.found:
            return
        unique = list(dict.fromkeys(self.found))
        ordered = sorted(unique, key=lambda p: self.line(p.path) or 0)
        errors: list[dict[str, object]] = []
        texts: list[str] = []
        for path, message in ordered[:MAX_REPORTED_PROBLEMS]:
            line, where = self.line(path), format_path(path)
            errors.append({"path": where, "line": line, "message": message})
            file = f"{self.source}:{line}" if self.source and line else self.source
            texts.append(": ".join(part for part in (file, where, message) if part))
        if len(ordered) > MAX_REPORTED_PROBLEMS:
            texts.append(f"and {len(ordered) - MAX_REPORTED_PROBLEMS} more")
        raise FlowError("\n".join(texts), path=errors[0]["path"], errors=errors, count=len(ordered))


def fail(message: str, *, source: str | None = None, line: int | None = None, column: int | None = None) -> NoReturn:
    """Raise the ``FlowError`` of a file that cannot be read at all; ``line`` and ``column`` count from 1."""
    place = ":".join(str(part) for part in (source, line, column) if part is not None)
    raise FlowError(
        f"{place}: {message}" if place else message,
        path="",
        errors=[{"path": "", "line": line, "column": column, "message": message}],
        count=1,
    )


# --- words ------------------------------------------------------------------------------------------------------------


def format_path(path: Path) -> str:
    """``processors[2].window_config``; a key that is no plain word is quoted: ``fields["a.b"]``."""
    text = ""
    for i, part in enumerate(path):
        if isinstance(part, int):
            text += f"[{part}]"
        elif i == 0:
            text += part
        elif _PLAIN_KEY.fullmatch(part):
            text += f".{part}" if text else part
        else:
            # A key from a file can hold anything, and the message must still be printable.
            text += f"[{json.dumps(part[:60], ensure_ascii=False)}]"
    return text.encode("utf-8", "backslashreplace").decode()


def describe(value: object) -> str:
    """A short description of a value, for "got ..."."""
    if isinstance(value, str):
        return repr(str(value)) if len(value) <= 60 else f"{value[:57]!r}... ({len(value)} characters)"
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(value) if abs(value) < 10**30 else "a huge integer"
    if isinstance(value, float):
        return repr(value)
    if isinstance(value, Mapping):
        return "a mapping"
    if isinstance(value, (list, tuple)):
        return "a list" if value else "an empty list"
    return f"a value of type {type(value).__name__}"


def nearest(word: object, known: Iterable[str]) -> str | None:
    """The known word that is most like this one; None when none is near."""
    by_folded = {name.casefold(): name for name in known}
    near = difflib.get_close_matches(str(word)[:200].casefold(), by_folded, n=1, cutoff=0.6)
    return by_folded[near[0]] if near else None


def suggest(word: object, known: Iterable[str]) -> str:
    """``; did you mean 'nearest'?``, or nothing when no known word is near."""
    near = nearest(word, known)
    return f"; did you mean {near!r}?" if near else ""


def listed(words: Sequence[str]) -> str:
    """``a``, ``a and b``, or ``a, b and c``."""
    *others, last = words
    return f"{', '.join(others)} and {last}" if others else last


# --- tables -----------------------------------------------------------------------------------------------------------


class Field(NamedTuple):
    """One accepted key: how its value is read, and what stands in when it is left out (or null)."""

    read: Reader
    default: object = None
    required: bool = False


Table: TypeAlias = Mapping[str, Field]


def required(read: Reader) -> Field:
    return Field(read, required=True)


def read_table(data: object, path: Path, table: Table, problems: Problems) -> dict[str, Any] | None:
    """The values of a mapping by key, defaults filled in; None if any problem was found in it."""
    if not isinstance(data, Mapping):
        problems.reject(path, "a mapping", data)
        return None
    fine, meant = True, set()
    for key in data:
        if not isinstance(key, str):
            problems.add(path, f"expected keys that are text, got the key {describe(key)}")
            fine = False
        elif key not in table:
            accepted = ", ".join(table)
            problems.add((*path, key), f"unknown key{suggest(key, table)} (accepted: {accepted})")
            meant.add(nearest(key, table))
            fine = False
    values: dict[str, Any] = {}
    for key, field in table.items():
        given = data.get(key)
        if given is not None:
            values[key] = field.read(given, (*path, key), problems)
            fine = fine and values[key] is not BAD
        elif field.required:
            fine = False
            if key not in meant:  # a misspelt key is told once
                problems.add((*path, key), "required, but missing")
        else:
            values[key] = field.default
    return values if fine else None


# --- readers ----------------------------------------------------------------------------------------------------------


def text(pattern: str | None = None, rule: str = "text", max_chars: int = MAX_TEXT_CHARS) -> Reader:
    """Text, all of which matches the pattern; ``rule`` says so in words."""
    compiled = re.compile(pattern) if pattern else None

    def read(value: object, path: Path, problems: Problems) -> Any:
        if not isinstance(value, str):
            hint = " (put it in quotes)" if isinstance(value, (bool, int, float)) else ""
            return problems.reject(path, rule, value, hint)
        if compiled and not compiled.fullmatch(value):
            return problems.reject(path, rule, value)
        if len(value) > max_chars:
            return problems.add(path, f"expected at most {max_chars} characters, got {len(value)}")
        if _has_surrogate(value):
            return problems.add(path, "expected Unicode text, got a lone surrogate")
        return str(value)

    return read


def integer(low: int, high: int | None = None) -> Reader:
    """An integer from ``low`` to ``high``, both included."""
    accepted = f"an integer >= {low}" if high is None else f"an integer from {low} to {high}"

    def read(value: object, path: Path, problems: Problems) -> Any:
        if isinstance(value, bool) or not isinstance(value, int):
            return problems.reject(path, accepted, value)
        if value < low or (high is not None and value > high):
            return problems.reject(path, accepted, value)
        return value

    return read


def boolean(value: object, path: Path, problems: Problems) -> Any:
    """True or false."""
    return value if isinstance(value, bool) else problems.reject(path, "true or false", value)


def fraction(value: object, path: Path, problems: Problems) -> Any:
    """A number from 0 to 1."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= 1:
        return problems.reject(path, "a number from 0 to 1", value)
    return float(value)


def duration_ms(low: int) -> Reader:
    """A duration in milliseconds, from ``low`` up to a hundred years."""
    in_words = integer(low)

    def read(value: object, path: Path, problems: Problems) -> Any:
        if isinstance(value, int) and value > MAX_MS:
            return problems.add(path, f"expected at most {MAX_MS} ms (a hundred years), got {describe(value)}")
        return in_words(value, path, problems)

    return read


def choice(accepted: Sequence[str], *, fold: Callable[[str], str] | None = None) -> Reader:
    """One of the accepted words; ``fold`` is applied to the value first."""
    told = ", ".join(accepted)

    def read(value: object, path: Path, problems: Problems) -> Any:
        word = fold(value) if fold and isinstance(value, str) else value
        if isinstance(word, str) and word in accepted:
            return str(word)
        one_of = f"one of {told}" if len(accepted) > 1 else told
        near = suggest(word, accepted) if isinstance(word, str) else ""
        return problems.reject(path, one_of, value, near)

    return read


def member(enum: type[StrEnum]) -> Reader:
    """A member of an enum, by its value."""
    word = choice([item.value for item in enum])

    def read(value: object, path: Path, problems: Problems) -> Any:
        found = word(value, path, problems)
        return found if found is BAD else enum(found)

    return read


def _read_expression(value: object, path: Path, problems: Problems, scope: Scope) -> Any:
    if isinstance(value, bool):
        value = "true" if value else "false"
    elif isinstance(value, int) or (isinstance(value, float) and math.isfinite(value)):
        value = repr(value)
    source = text(rule="an expression as text")(value, path, problems)
    if source is BAD:
        return BAD
    where = format_path(path)
    try:
        return parse(source, scope, where=where)
    except ExpressionError as error:
        # The place is told once, with its file and line, by Problems.
        return problems.add(path, error.message.removeprefix(f"{where}: "))


def expression_in(scope: Scope) -> Reader:
    """An expression in a scope, parsed. A number, true or false stands for itself."""
    return lambda value, path, problems: _read_expression(value, path, problems, scope)


expression: Final = expression_in(Scope.ENVELOPE)
"""An expression over an event's envelope."""


def json_value(value: object, path: Path, problems: Problems) -> Any:
    """What JSON can say, as plain dicts and lists."""
    before = len(problems.found)
    plain = _json_value(value, path, problems)
    return plain if len(problems.found) == before else BAD


def _json_value(value: object, path: Path, problems: Problems) -> Any:
    if len(path) > MAX_DEPTH:
        return problems.add(path[:4], f"expected at most {MAX_DEPTH} levels")
    if isinstance(value, Mapping):
        for key in value:
            if not isinstance(key, str):
                problems.add(path, f"expected keys that are text, got the key {describe(key)}")
            elif _has_surrogate(key):
                problems.add(path, f"expected Unicode text, got the key {key[:60]!r} with a lone surrogate")
        return {str(key): _json_value(item, (*path, str(key)), problems) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_json_value(item, (*path, i), problems) for i, item in enumerate(value)]
    if isinstance(value, str):
        return problems.add(path, "expected Unicode text, got a lone surrogate") if _has_surrogate(value) else str(value)
    if isinstance(value, float) and not math.isfinite(value):
        return problems.reject(path, "a finite number", value)
    if value is None or isinstance(value, (bool, int, float)):
        return value
    return problems.reject(path, "a JSON value", value)


def _has_surrogate(text: str) -> bool:
    return any("\ud800" <= char <= "\udfff" for char in text)


def dotted_path(value: object, path: Path, problems: Problems) -> Any:
    """A dotted path into a payload, as a tuple of its parts."""
    if not isinstance(value, str):
        return problems.reject(path, "a field or a dotted path such as 'customer.region'", value)
    parts = tuple(value.split("."))
    if any(not part or part != part.strip() for part in parts):
        return problems.reject(path, "a dotted path such as 'customer.region'", value)
    checked = text(max_chars=500)(value, path, problems)
    return BAD if checked is BAD else parts


def paths_apart(named: Iterable[tuple[str, FieldPath]], verb: str, path: Path, problems: Problems) -> bool:
    """Whether no field path is another one or lies within it; reports those that do. Each comes with the key that names it."""
    seen: dict[FieldPath, str] = {}
    fine = True
    for part, field in sorted(named, key=lambda item: item[1]):
        outer = next((field[:n] for n in range(1, len(field) + 1) if field[:n] in seen), None)
        if outer is not None:
            a, b = f"{seen[outer]} {'.'.join(outer)!r}", f"{part} {'.'.join(field)!r}"
            problems.add((*path, part), f"{a} and {b} {verb} the same place")
            fine = False
        seen.setdefault(field, part)
    return fine


def list_of(read_item: Reader, *, least: int = 0, most: int = 1000) -> Reader:
    """A list as a tuple; BAD if any item is."""

    def read(value: object, path: Path, problems: Problems) -> Any:
        if not isinstance(value, (list, tuple)):
            return problems.reject(path, "a list", value)
        if not least <= len(value) <= most:
            return problems.add(path, f"expected a list of {least} to {most} items, got {len(value)}")
        items = tuple(read_item(item, (*path, i), problems) for i, item in enumerate(value))
        return BAD if any(item is BAD for item in items) else items

    return read


def mapping_of(read_key: Reader, read_value: Reader, *, most: int = 1000) -> Reader:
    """A mapping, at least one entry, as a tuple of (key, value) in the order given; BAD if any of them is."""

    def read(value: object, path: Path, problems: Problems) -> Any:
        if not isinstance(value, Mapping):
            return problems.reject(path, "a mapping", value)
        if not 1 <= len(value) <= most:
            return problems.add(path, f"expected a mapping of 1 to {most} entries, got {len(value)}")
        pairs: list[tuple[Any, Any]] = []
        fine = True
        for key, item in value.items():
            here = (*path, key if isinstance(key, str) else describe(key))
            pair = (read_key(key, here, problems), read_value(item, here, problems))
            fine = fine and pair[0] is not BAD and pair[1] is not BAD
            pairs.append(pair)
        return tuple(pairs) if fine else BAD

    return read
