"""What a check of a flow can look up: the schemas of its file, and the streams and schemas of a data folder if there is one."""

from collections.abc import Mapping
from typing import Any, Final

from event_streaming_bus.errors import ExpressionError, SchemaError, SchemaNotFoundError, StreamNotFoundError
from event_streaming_bus.expressions import Scope, parse
from event_streaming_bus.flows.avro_schema_types import type_of_avro
from event_streaming_bus.flows.checker import suggest
from event_streaming_bus.flows.findings import Findings, Severity
from event_streaming_bus.flows.inference import infer, truth
from event_streaming_bus.flows.schema_types import type_of_schema
from event_streaming_bus.flows.spec import FlowSpec
from event_streaming_bus.flows.types import ANY, Type
from event_streaming_bus.models import StreamInfo
from event_streaming_bus.registry.parsing import AvroDocument, JsonSchema, ParsedSchema, Parser
from event_streaming_bus.registry.schema_configs import read_config
from event_streaming_bus.registry.service import SchemaRegistryService
from event_streaming_bus.store.schemas import SchemaText
from event_streaming_bus.store.storage import Storage

_RULES: Final = ("validation_rules", "business_rules")


class Known:
    """``payloads``: the type of each stream's payloads that a schema gives, by the name by which the flow calls the stream."""

    def __init__(self, spec: FlowSpec, storage: Storage | None, findings: Findings) -> None:
        self._spec = spec
        self._storage = storage
        self._findings = findings
        self._registry = None if storage is None else SchemaRegistryService(storage)
        self._parse = Parser()
        self._of_file = self._read_schemas()
        self.payloads = self._payloads()

    def stream(self, name: str) -> StreamInfo | None:
        """The stream as it is in the data folder; None if it is not there, or there is no data folder."""
        if self._storage is None:
            return None
        try:
            return self._storage.log.find_stream(self._spec.tenant_id, name)
        except StreamNotFoundError:
            return None

    def near(self, name: str) -> str:
        """A hint at a stream with a name that is like this one."""
        names = {stream.name for stream in self._spec.streams}
        if self._storage is not None:
            names.update(info.name for info in self._storage.log.list_streams(self._spec.tenant_id))
        return suggest(name, sorted(names - {name}))

    def partitions(self, name: str) -> int:
        """How many partitions the stream has; 1 if nobody says."""
        if (info := self.stream(name)) is not None:
            return info.config.partitions
        return next((stream.partitions for stream in self._spec.streams if stream.name == name), 1)

    def retention_ms(self, name: str) -> int | None:
        """How long the stream keeps its events; None for ever, or if nobody says."""
        if (info := self.stream(name)) is not None:
            return info.config.retention_ms
        return next((stream.retention_ms for stream in self._spec.streams if stream.name == name), None)

    # --- schemas --------------------------------------------------------------------------------------------------------

    def _read_schemas(self) -> dict[tuple[str, str], Type]:
        """The types of the file's schemas by name and version. Schemas that the registry would refuse are reported."""
        types: dict[tuple[str, str], Type] = {}
        for i, schema in enumerate(self._spec.schemas):
            try:
                config = read_config(schema)
                kind = self._type_of(config.candidate(None).text)
            except (SchemaError, ExpressionError) as error:
                field = ("avro_schema",) if "avro_schema" in schema else ("json_schema",)
                at_rule = error.message.startswith(_RULES[0])  # these are reported with more below
                if not at_rule:
                    self._findings.add(Severity.ERROR, "bad-schema", ("schemas", i, *field), error.message)
                    continue
                kind = ANY
            types[schema["schema_name"], str(schema.get("schema_version") or "1.0")] = kind
            self._check_rules(i, schema, kind)
        return types

    def _type_of(self, text: SchemaText) -> Type:
        if self._registry is not None:
            return type_of_parsed(self._registry.subjects.parse(self._spec.tenant_id, text))
        return ANY if text.references else type_of_parsed(self._parse(text, {}))

    def _check_rules(self, number: int, schema: Mapping[str, Any], kind: Type) -> None:
        rules = (schema.get(_RULES[0]) or {}).get(_RULES[1])
        for i, rule in enumerate(rules if isinstance(rules, list) else ()):
            text = rule.get("rule") if isinstance(rule, Mapping) else None
            report = self._findings.at("schemas", number, *_RULES, i, "rule")
            try:
                outcome = truth(infer(parse(str(text), Scope.PAYLOAD, where="rule"), kind, report))
            except ExpressionError as error:
                report(Severity.ERROR, "bad-schema", error.message.removeprefix("rule: "))
                continue
            if outcome is not None:
                report(Severity.WARNING, f"always-{str(outcome).lower()}", f"this {'always' if outcome else 'never'} holds")

    def _payloads(self) -> dict[str, Type]:
        payloads: dict[str, Type] = {}
        declared = {stream.name for stream in self._spec.streams}
        for i, stream in enumerate(self._spec.streams):
            if stream.schema is not None:
                kind = self._schema(stream.schema, ("streams", i, "schema"))
                if kind is not None:
                    payloads[stream.name] = kind
        for name in sorted(set(self._spec.streams_used()) - declared):
            info = self.stream(name)
            if info is not None and info.config.schema_id is not None and self._storage is not None:
                payloads[name] = self._type_of(self._storage.schemas.get(self._spec.tenant_id, info.config.schema_id).text)
        return payloads

    def _schema(self, reference: str, here: tuple[str | int, ...]) -> Type | None:
        name, _, version = reference.partition("@")
        versions = [found for found in self._of_file if found[0] == name and version in ("", found[1])]
        if versions:
            return self._of_file[versions[-1]]
        if any(schema["schema_name"] == name for schema in self._spec.schemas) and not version:
            return None  # it is there, and was found to be no schema
        if self._registry is None:
            near = suggest(name, {schema["schema_name"] for schema in self._spec.schemas})
            message = f"this file has no schema {reference}; it must be in the registry{near}"
            self._findings.add(Severity.WARNING if near else Severity.INFO, "no-schema", here, message)
            return None
        try:
            record = self._registry.find_reference(self._spec.tenant_id, reference)
        except SchemaNotFoundError as error:
            self._findings.add(Severity.ERROR, "no-schema", here, error.message)
            return None
        return self._type_of(record.text)


def type_of_parsed(schema: ParsedSchema) -> Type:
    """The type of what is valid by a schema, of whatever format."""
    if isinstance(schema, AvroDocument):
        return type_of_avro(schema.schema.type)
    return type_of_schema(schema.document) if isinstance(schema, JsonSchema) else ANY
