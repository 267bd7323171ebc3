"""Reads a flow file (YAML, JSON or TOML) as plain data, with the line of each path.

YAML is read by rules of our own over PyYAML's events, because the usual ones surprise: an unquoted ``NO`` (Norway, an
airline) or ``2013-01-01`` stays text. Unquoted ``true``, ``false`` and ``null`` are what they say, numbers are those of
JSON, and everything else is text. Anchors and aliases work; tags and merge keys (``<<``) do not. A key given twice is
a problem in YAML and JSON (and a syntax error in TOML).

What is read is bounded: files to 1 MiB, nesting to 64 levels, values to 100,000 with aliases counted as often as used.
"""

import datetime
import json
import math
import re
import tomllib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path as FilePath
from typing import Any, Final, NamedTuple, NoReturn

import yaml

from event_streaming_bus.errors import FlowError
from event_streaming_bus.flows.checker import Path, Problems, describe, fail

MAX_FILE_BYTES: Final = 1 << 20
MAX_DEPTH: Final = 64
MAX_VALUES: Final = 100_000
SUFFIXES: Final = (".yaml", ".yml", ".json", ".toml")

_NUMBER: Final = re.compile(r"-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][-+]?[0-9]+)?")
_TOML_PLACE: Final = re.compile(r"(.*) \(at line (\d+), column (\d+)\)", re.DOTALL)
_MAX_DIGITS: Final = 400
# TOML's comments and texts, each to its end or that of the file; nothing is tried twice, so it takes linear time.
_TOML_QUOTED: Final = re.compile(
    r"#[^\n]*+"
    r'|"""(?:[^\\"]|\\.|"(?!""))*+(?:"{3,5})?'
    r"|'''(?:[^']|'(?!''))*+(?:'{3,5})?"
    r'|"(?:[^\\"\n]|\\.)*+"?'
    r"|'[^'\n]*+'?",
    re.DOTALL,
)
_TOML_BARE: Final = re.compile(r"[ \t]*+[A-Za-z0-9_-]++[ \t]*+")
# The C parser is much faster on large files; both give the same events.
_YAML_LOADER: Final = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class FlowDocument(NamedTuple):
    """A file's data, and the problems with it so far: keys given twice. ``problems`` knows the lines."""

    data: object
    problems: Problems


def read_flow_file(path: FilePath) -> FlowDocument:
    """Read one file; its suffix says the format.

    Raises ``FlowError`` with ``file:line:column`` for a file that is missing, too large, not UTF-8 or broken.
    """
    source = str(path)
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        fail(f"expected a flow file ending in {', '.join(SUFFIXES)}, got {describe(path.suffix)}", source=source)
    content = _read_text(path, source)
    if suffix == ".toml":
        return FlowDocument(_read_toml(content, source), Problems(source))
    if suffix == ".json":
        return _read_json(content, source)
    reader = _YamlReader(content, source)
    return FlowDocument(reader.read(), reader.problems)


def _read_text(path: FilePath, source: str) -> str:
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_FILE_BYTES + 1)
    except FileNotFoundError:
        fail("there is no such file", source=source)
    except OSError as error:
        fail(f"cannot be read: {error.strerror or error}", source=source)
    if len(raw) > MAX_FILE_BYTES:
        fail(f"a flow file has at most {MAX_FILE_BYTES} bytes; this one is larger", source=source)
    try:
        content = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        fail("expected UTF-8 text, got bytes that are not", source=source, line=raw.count(b"\n", 0, error.start) + 1)
    if not content.strip():
        fail("the file is empty", source=source)
    return content


# --- TOML and JSON ----------------------------------------------------------------------------------------------------


def _read_toml(content: str, source: str) -> object:
    _check_dotted_keys(content, source)
    try:
        return _plain(tomllib.loads(content), source)
    except tomllib.TOMLDecodeError as error:
        found = _TOML_PLACE.fullmatch(str(error))
        if found:
            fail(f"not TOML: {found[1]}", source=source, line=int(found[2]), column=int(found[3]))
        fail(f"not TOML: {error}", source=source, line=len(content.splitlines()))
    except RecursionError:
        fail(f"nested more than {MAX_DEPTH} levels deep", source=source)
    except ValueError:
        fail("an integer of too many digits", source=source)


def _check_dotted_keys(content: str, source: str) -> None:
    """Refuse a key of more parts than there may be levels before it is parsed: that takes the square of their number."""
    for number, line in enumerate(_TOML_QUOTED.sub(_as_bare, content).split("\n"), start=1):
        if line.count(".") < MAX_DEPTH:
            continue
        parts = 0
        for part in line.split("."):
            # At the ends of a key stand brackets, commas or the value; between its dots nothing but a bare word.
            parts = parts + 1 if _TOML_BARE.fullmatch(part) else 1
            if parts > MAX_DEPTH:
                fail(f"nested more than {MAX_DEPTH} levels deep", source=source, line=number)


def _as_bare(quoted: re.Match[str]) -> str:
    """A comment as nothing and a text as a bare word, both on as many lines."""
    return ("" if quoted[0].startswith("#") else "q") + "\n" * quoted[0].count("\n")


def _plain(value: object, source: str, depth: int = 0) -> object:
    """The value with TOML's dates and times as text, checked for depth and for numbers that are not finite."""
    if depth > MAX_DEPTH:
        fail(f"nested more than {MAX_DEPTH} levels deep", source=source)
    if isinstance(value, dict):
        return {_text(key, source): _plain(item, source, depth + 1) for key, item in value.items()}
    if isinstance(value, str):
        return _text(value, source)
    if isinstance(value, list):
        return [_plain(item, source, depth + 1) for item in value]
    if isinstance(value, (datetime.date, datetime.time)):
        return value.isoformat()
    if isinstance(value, float) and not math.isfinite(value):
        fail(f"expected finite numbers, got {value}", source=source)
    return value


def _text(value: str, source: str) -> str:
    """The text, which must be Unicode: JSON can spell halves of characters, which cannot be written anywhere."""
    if not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError:
            fail(f"not JSON: {ascii(value)[:80]} holds half of a character", source=source)
    return value


def _read_json(content: str, source: str) -> FlowDocument:
    twice: list[str] = []

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        result = dict(pairs)
        if len(result) < len(pairs):
            twice.extend(key for key, count in Counter(key for key, _ in pairs).items() if count > 1)
        return result

    def no_constant(word: str) -> NoReturn:
        fail(f"not JSON: {word} is not a JSON value", source=source)

    try:
        data = _plain(json.loads(content, object_pairs_hook=unique, parse_constant=no_constant), source)
    except json.JSONDecodeError as error:
        fail(f"not JSON: {error.msg}", source=source, line=error.lineno, column=error.colno)
    except RecursionError:
        fail(f"nested more than {MAX_DEPTH} levels deep", source=source)
    except ValueError:
        fail("an integer of too many digits", source=source)
    # Nearly all JSON is YAML too (tabs are not), and YAML's events know their lines.
    located = _YamlReader(content.replace("\t", " "), source)
    problems = located.problems
    try:
        located.read()
    except FlowError:  # the data is read already; only the line numbers are lost
        problems = Problems(source)
    if twice and not problems.found:
        problems.add((), f"the key {describe(twice[0])} is given twice in one object")
    return FlowDocument(data, problems)


# --- YAML -------------------------------------------------------------------------------------------------------------


class _YamlReader:
    """Builds plain data from the events of one YAML document and notes the line of each path."""

    def __init__(self, content: str, source: str) -> None:
        self.content = content
        self.source = source
        self.lines: dict[Path, int] = {}
        self.problems = Problems(source, self.lines)
        self.values = 0
        self.anchors: dict[str, tuple[object, int]] = {}
        self.events: Iterator[Any] = iter(())

    def read(self) -> object:
        try:
            # Only the events are taken from PyYAML: nothing is constructed by it.
            self.events = iter(yaml.parse(self.content, Loader=_YAML_LOADER))
            next(self.events)  # the stream's start
            if isinstance(next(self.events), yaml.StreamEndEvent):
                fail("the file is empty", source=self.source)
            data = self._value(next(self.events), ())
            next(self.events)  # the document's end
            after = next(self.events)
        except yaml.MarkedYAMLError as error:
            mark = error.problem_mark or error.context_mark
            told = " ".join(part for part in (error.context, error.problem) if part)
            self._fail(f"not YAML: {told}", mark)
        except yaml.YAMLError as error:
            fail(f"not YAML: {str(error).splitlines()[0]}", source=self.source)
        if not isinstance(after, yaml.StreamEndEvent):
            self._fail("expected one document, got a second one", after.start_mark)
        return data

    def _fail(self, message: str, mark: Any) -> NoReturn:
        line, column = (mark.line + 1, mark.column + 1) if mark else (None, None)
        fail(message, source=self.source, line=line, column=column)

    def _value(self, event: Any, path: Path) -> object:
        mark = event.start_mark
        self.lines.setdefault(path, mark.line + 1)
        if len(path) > MAX_DEPTH:
            self._fail(f"nested more than {MAX_DEPTH} levels deep", mark)
        if isinstance(event, yaml.AliasEvent):
            if event.anchor not in self.anchors:
                self._fail(f"the alias *{event.anchor} has no anchor &{event.anchor} before it", mark)
            data, size = self.anchors[event.anchor]
            self._count(size, mark)
            return data
        if event.tag not in (None, "!"):
            self._fail(f"tags such as {event.tag} are not accepted", mark)
        before = self.values
        self._count(1, mark)
        if isinstance(event, yaml.ScalarEvent):
            data = self._scalar(event)
        elif isinstance(event, yaml.SequenceStartEvent):
            data = self._sequence(path)
        else:
            data = self._mapping(path)
        if event.anchor is not None:
            self.anchors[event.anchor] = (data, self.values - before)
        return data

    def _count(self, size: int, mark: Any) -> None:
        self.values += size
        if self.values > MAX_VALUES:
            self._fail(f"more than {MAX_VALUES} values, aliases counted as often as they are used", mark)

    def _sequence(self, path: Path) -> list[object]:
        items: list[object] = []
        while not isinstance(event := next(self.events), yaml.SequenceEndEvent):
            items.append(self._value(event, (*path, len(items))))
        return items

    def _mapping(self, path: Path) -> dict[str, object]:
        data: dict[str, object] = {}
        while not isinstance(event := next(self.events), yaml.MappingEndEvent):
            mark: Any = event.start_mark
            if not isinstance(event, yaml.ScalarEvent):
                self._fail("expected a key that is text", mark)
            key, line = str(event.value), mark.line + 1
            if key == "<<" and event.implicit[0]:
                self._fail("merge keys (<<) are not accepted; write the keys out", mark)
            here = (*path, key)
            first = self.lines.setdefault(here, line)
            value = self._value(next(self.events), here)
            if key in data:
                self.problems.add(here, f"the key is given twice, in line {first} and again in line {line}")
            else:
                data[key] = value
        return data

    def _scalar(self, event: Any) -> object:
        word = str(event.value)
        if not event.implicit[0]:  # quoted, or a block of text
            return word
        if word in ("", "~", "null"):
            return None
        if word in ("true", "false"):
            return word == "true"
        number = _NUMBER.fullmatch(word)
        if number is None:
            return word
        if len(word) > _MAX_DIGITS:
            self._fail(f"a number of more than {_MAX_DIGITS} digits", event.start_mark)
        if number[2] is None and number[3] is None:
            return int(word)
        value = float(word)
        if math.isinf(value):
            self._fail(f"the number {describe(word)} is too large", event.start_mark)
        return value
