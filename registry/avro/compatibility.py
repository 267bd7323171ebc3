"""Whether a reader's Avro schema can read all that a writer's may write: the rules of Avro's schema resolution.

The steps are those of ``resolution``, which decoding goes by as well: what is called compatible here, ``AvroSchema.decode``
reads without failing, and with the meaning that it was written with. That is stricter than Java's check, which does not look at
logical types. A change of one is a difference of the kind ``LOGICAL_TYPE_MISMATCH``, since values would turn from numbers into
times or back, or into other times: adding one, removing one, another unit, another scale. Growing the precision of a decimal and
dropping ``uuid`` from a string change no value, and are fine.

The specification lets bytes be read as text, too. Not all bytes are UTF-8: some readers fail on others, and some replace them.
So this is a difference, though decoding reads what it can.
"""

from collections.abc import Iterator
from typing import Final

from event_streaming_bus.registry.avro.resolution import Branches, Mismatch, fields_read, logical_mismatch, mismatch
from event_streaming_bus.registry.avro.schema import AvroSchema
from event_streaming_bus.registry.avro.types import AvroType, Path
from event_streaming_bus.registry.differences import Difference
from event_streaming_bus.registry.violations import pointer_to

MAX_DIFFERENCES: Final = 100
MAX_PAIRS: Final = 50_000
"""How many pairs of the two schemas' named types are compared. People's schemas have as many as named types."""


def differences(reader: AvroSchema, writer: AvroSchema) -> list[Difference]:
    """Why data written by ``writer`` may not be readable by ``reader``, at most ``MAX_DIFFERENCES``; empty: all of it is.

    Each has a ``pointer`` into the reader's text: what needs to be changed is there. For what stands in one of its references, it
    is the place that the reference is made from.
    """
    search = _Search(writer.type, reader.type)
    return list(dict.fromkeys(search.run()))


class _Search:
    """The pairs of named types still to be compared, and those that have been met. A pair that is met again, in a recursive type
    too, is assumed to be compatible there: if it is not, the difference is found where it was met first."""

    def __init__(self, writer: AvroType, reader: AvroType) -> None:
        self._waiting: list[tuple[AvroType, AvroType, Path]] = [(writer, reader, ())]
        self._met: set[tuple[int, int]] = set()
        self._branches: dict[int, Branches] = {}

    def run(self) -> Iterator[Difference]:
        count = 0
        while self._waiting:
            for found in self._compared(*self._waiting.pop()):
                yield found
                count += 1
                if count >= MAX_DIFFERENCES:
                    return
            if len(self._met) > MAX_PAIRS:
                message = f"more than {MAX_PAIRS:,} pairs of types would have to be compared"
                yield Difference("TOO_COMPLEX", "", message, "Use a schema of its own for each kind of event.")
                return

    def _compared(self, writer: AvroType, reader: AvroType, path: Path) -> Iterator[Difference]:
        """The differences of two types. ``path`` is where the reader's is used in its text."""
        if writer.kind == "union":
            for branch in writer.branches:
                yield from self._branch_compared(branch, reader, path)
        else:
            yield from self._branch_compared(writer, reader, path)

    def _branch_compared(self, writer: AvroType, reader: AvroType, path: Path) -> Iterator[Difference]:
        if reader.kind != "union":
            yield from self._types_compared(writer, reader, path)
            return
        branches = self._branches.get(id(reader))
        if branches is None:
            branches = self._branches[id(reader)] = Branches(reader)
        found = branches.find(writer)
        if found is None:
            message = f"{writer.title} was written, which the union {reader.title} does not have"
            yield _difference("MISSING_UNION_BRANCH", path, message, f"Add {writer.title} to the union.")
            return
        yield from self._types_compared(writer, found, (*path, branches.position(found)) if reader.own else path)

    def _types_compared(self, writer: AvroType, reader: AvroType, path: Path) -> Iterator[Difference]:
        reason = mismatch(writer, reader) or logical_mismatch(writer, reader) or _text_mismatch(writer, reader)
        if reason is not None:
            yield _difference(reason.kind, path, reason.message, reason.fix)
            return
        if reader.kind == "enum":
            yield from _symbols_compared(writer, reader, path)
        elif reader.kind in ("array", "map"):
            part = "items" if reader.kind == "array" else "values"
            yield from self._compared(writer.element, reader.element, (*reader.path, part) if reader.own else path)
        elif reader.kind == "record" and (id(writer), id(reader)) not in self._met:
            self._met.add((id(writer), id(reader)))
            read, unwritten = fields_read(writer, reader)
            for field in unwritten:
                if field.default is None:
                    message = f"{field.name} is not written by {writer.title}, and has no default"
                    fix = f"Give {field.name} a default, or name the writer's field among its aliases."
                    yield _difference("READER_FIELD_MISSING_DEFAULT_VALUE", field.path if reader.own else path, message, fix)
            for name, field in read.items():
                self._waiting.append((writer.fields[name].type, field.type, (*field.path, "type") if reader.own else path))


def _text_mismatch(writer: AvroType, reader: AvroType) -> Mismatch | None:
    if (writer.kind, reader.kind) != ("bytes", "string"):
        return None
    message = f"{writer.title} was written, which need not be UTF-8, and {reader.title} is read"
    return Mismatch("TYPE_MISMATCH", message, "Read bytes, or make it a new field.")


def _symbols_compared(writer: AvroType, reader: AvroType, path: Path) -> Iterator[Difference]:
    missing = sorted(set(writer.symbols) - set(reader.symbols))
    if missing and reader.symbol_default is None:
        names = ", ".join(missing[:20]) + (", ..." if len(missing) > 20 else "")
        message = f"{writer.title} may be {names}, which {reader.title} does not have"
        fix = f"Keep {names}, or give the enum a default symbol."
        yield _difference("MISSING_ENUM_SYMBOLS", (*reader.path, "symbols") if reader.own else path, message, fix)


def _difference(kind: str, path: Path, message: str, fix: str) -> Difference:
    return Difference(kind, pointer_to(path), message[:1000], fix[:1000])
