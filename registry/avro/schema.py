"""Avro schemas: parsed, and compiled to functions that encode and decode.

Payloads are JSON values on the way out, and JSON values or Python's own for logical types on the way in; ``values`` says
which. A union's value is the value itself. Data comes from anybody: decoding is bounded in time and memory by the data's length,
and fails with ``AvroDataError`` and nothing else.
"""

import json
from collections.abc import Iterable, Sequence
from functools import cached_property
from typing import Any
from weakref import WeakKeyDictionary

import msgspec

from event_streaming_bus.errors import ValidationFailedError
from event_streaming_bus.registry.avro.decoding import Decoder, compile_decoder
from event_streaming_bus.registry.avro.encoding import Encoder, RefusedError, compile_encoder
from event_streaming_bus.registry.avro.parsing import parse
from event_streaming_bus.registry.avro.types import MAX_DEPTH, AvroType
from event_streaming_bus.registry.avro.violations import violations_of
from event_streaming_bus.registry.violations import Violation, violation


class AvroSchema:
    """A parsed Avro schema. Raises ``SchemaError`` for one that is malformed, naming the line or the place by its JSON pointer.

    ``definition`` is the schema's JSON text, or the bare name of a primitive type. ``references`` are the texts of the schemas
    whose named types it may use, in dependency order: a reference's own references stand before it. The functions that encode
    and decode are compiled when they are first needed. Safe to use from several threads.
    """

    def __init__(self, definition: str, references: Sequence[str] = ()) -> None:
        self.type, self._normal = parse(definition, references)
        self._decoders: WeakKeyDictionary[AvroSchema, Decoder] = WeakKeyDictionary()

    @property
    def name(self) -> str | None:
        """The full name of a named type, ``None`` for any other."""
        return self.type.name or None

    @cached_property
    def canonical(self) -> str:
        """The normalised text: equal for schemas that differ in white space, in the order of keys, and in how names are written
        (with a namespace, in full, a primitive type as an object). Keeps doc, default, aliases, logicalType and all else."""
        return json.dumps(self._normal, sort_keys=True, separators=(",", ":"), ensure_ascii=False)

    def encode(self, payload: Any) -> bytes:
        """The payload as Avro binary. Raises ``ValidationFailedError`` with the violations."""
        return self.encode_many((payload,))[0]

    def encode_many(self, payloads: Sequence[Any], prefix: bytes = b"") -> list[bytes]:
        """The payloads as Avro binary, each after ``prefix``. Raises ``ValidationFailedError`` for the first that is refused:
        ``details`` has its ``index`` and ``violations``."""
        try:
            return self._encoder(payloads, prefix)
        except RefusedError as refused:
            index = refused.index
        found = self._explained(payloads[index])
        first = f"{found[0].path}: {found[0].message}" if found[0].path else found[0].message
        more = f" (and {len(found) - 1} more)" if len(found) > 1 else ""
        raise ValidationFailedError(f"the payload does not fit the Avro schema: {first}{more}", violations=found, index=index)

    def decode(self, data: bytes, reader: "AvroSchema | None" = None, *, offset: int = 0) -> Any:
        """The JSON value that ``data`` holds from the byte ``offset`` to its end; of a ``reader``, as that schema has it.
        Raises ``AvroDataError`` for data that is not exactly one value, or that the reader cannot read."""
        return self._decoder_for(reader)((data,), offset)[0]

    def decode_many(self, data: Sequence[bytes], reader: "AvroSchema | None" = None, *, offset: int = 0) -> list[Any]:
        """As ``decode``, for many. The error's ``details`` have the ``index`` of the first that could not be decoded."""
        return self._decoder_for(reader)(data, offset)

    def violations(self, payload: Any) -> list[Violation]:
        """What keeps ``payload`` from being encoded, at most ``MAX_VIOLATIONS``; empty if and only if ``encode`` works."""
        try:
            self._encoder((payload,), b"")
        except RefusedError:
            return self._explained(payload)
        return []

    def projected(self, fields: Iterable[str]) -> "AvroSchema | None":
        """A reader that has only these of the record's fields: decoding with it skips the rest. ``None`` if this is no record.

        It is for decoding data of this schema. A record within, even of the same type, keeps all of its fields."""
        if self.type.kind != "record":
            return None
        wanted = set(fields)
        kept = {name: field for name, field in self.type.fields.items() if name in wanted}
        names = [field["name"] for field in self._normal["fields"]]
        normal_fields = [field for name, field in zip(names, self._normal["fields"], strict=True) if name in wanted]
        return _of(msgspec.structs.replace(self.type, fields=kept, uses=1), {**self._normal, "fields": normal_fields})

    @cached_property
    def _encoder(self) -> Encoder:
        return compile_encoder(self.type)

    @cached_property
    def _decoder(self) -> Decoder:
        return compile_decoder(self.type, self.type)

    def _decoder_for(self, reader: "AvroSchema | None") -> Decoder:
        if reader is None or reader is self:
            return self._decoder
        found = self._decoders.get(reader)
        if found is None:
            found = self._decoders[reader] = compile_decoder(self.type, reader.type)
        return found

    def _explained(self, payload: Any) -> list[Violation]:
        """The violations of a payload that the encoder has refused: at least one."""
        found = violations_of(self.type, payload)
        return found or [violation((), "depth", f"is nested deeper than {MAX_DEPTH} levels, or no {self.type.title}")]


def _of(kind: AvroType, normal: Any) -> AvroSchema:
    made = AvroSchema.__new__(AvroSchema)
    made.type, made._normal = kind, normal
    made._decoders = WeakKeyDictionary()
    return made
