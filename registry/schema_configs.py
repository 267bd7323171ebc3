"""Schemas as they are registered by configuration: from Python, REST, flow files and folders."""

import re
from collections.abc import Mapping
from typing import Any, Final

import msgspec

from event_streaming_bus.errors import ExpressionError, InvalidInputError, SchemaError
from event_streaming_bus.models import time_ms
from event_streaming_bus.registry import semantic_versions
from event_streaming_bus.registry.compatibility import CompatibilityLevel
from event_streaming_bus.registry.guards import ValidationRules
from event_streaming_bus.registry.migrations import Migration, MigrationConfig
from event_streaming_bus.registry.rules import BusinessRule, RuleSet
from event_streaming_bus.registry.subjects import Candidate, EvolutionStrategy
from event_streaming_bus.store.schemas import SchemaRecord, SchemaReference, SchemaText, contents_of
from event_streaming_bus.struct_errors import told

_NAME: Final = re.compile(r"[^@\s\x00-\x1f]{1,200}")


class SchemaConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A schema as it is registered: a JSON Schema, or an Avro schema as data or text.

    ``schema_version`` has two or three parts, as in ``1.0``; without one, it is the next minor version, or the next major one if
    the change breaks readers. ``compatibility_level`` becomes that of the subject. ``migration`` turns payloads of the version
    before into ones of this version. ``refuse_producers_after``, a time, is for the strategy DEPRECATE.
    """

    schema_name: str
    json_schema: dict[str, Any] | bool | None = None
    avro_schema: dict[str, Any] | list[Any] | str | None = None
    schema_version: str | None = None
    references: list[SchemaReference] = []
    event_type: str | None = None
    compatibility_level: CompatibilityLevel | None = None
    evolution_strategy: EvolutionStrategy = EvolutionStrategy.COMPATIBLE
    validation_rules: ValidationRules | None = None
    migration: MigrationConfig | None = None
    metadata: dict[str, Any] | None = None
    refuse_producers_after: str | int | None = None
    is_active: bool = True

    @property
    def definition_field(self) -> str:
        """The field that has the schema itself."""
        return "avro_schema" if self.json_schema is None else "json_schema"

    @property
    def refuse_after_ms(self) -> int | None:
        """``refuse_producers_after`` in epoch milliseconds."""
        return None if self.refuse_producers_after is None else time_ms(self.refuse_producers_after)

    def candidate(self, created_by: str | None) -> Candidate:
        """What is to be registered."""
        return Candidate(
            text=SchemaText(
                format="AVRO" if self.json_schema is None else "JSON",
                definition=_as_text(self.avro_schema if self.json_schema is None else self.json_schema),
                references=tuple(self.references),
                metadata=self.metadata,
            ),
            schema_version=self.schema_version,
            compatibility_level=self.compatibility_level,
            evolution_strategy=self.evolution_strategy,
            event_type=self.event_type,
            validation_rules=msgspec.to_builtins(self.validation_rules),
            migration=msgspec.to_builtins(self.migration),
            is_active=self.is_active,
            created_by=created_by,
        )


def read_config(data: Mapping[str, Any]) -> SchemaConfig:
    """The configuration, checked, but for the schema itself. Raises ``SchemaError`` and ``ExpressionError``, which name the place
    and what is accepted."""
    try:
        config = msgspec.convert(dict(data), SchemaConfig)
    except RecursionError:
        raise SchemaError("the schema is nested too deep") from None
    except (msgspec.ValidationError, TypeError, ValueError) as error:
        raise SchemaError(told(str(error), _accepted)) from None
    if not _NAME.fullmatch(config.schema_name):
        raise SchemaError(f"schema_name: expected 1 to 200 characters without spaces or '@', got {config.schema_name!r}")
    if config.schema_version is not None:
        semantic_versions.numbers(config.schema_version)
    if (config.json_schema is None) == (config.avro_schema is None):
        given = "neither" if config.json_schema is None else "both"
        raise SchemaError(f"json_schema: expected either json_schema or avro_schema, got {given}")
    if config.refuse_producers_after is not None:
        if config.evolution_strategy is not EvolutionStrategy.DEPRECATE:
            raise SchemaError("refuse_producers_after: only goes with evolution_strategy DEPRECATE")
        try:
            config.refuse_after_ms  # noqa: B018 - a property that checks
        except InvalidInputError as error:
            raise SchemaError(f"refuse_producers_after: {error.message}") from None
    RuleSet(config.validation_rules.business_rules if config.validation_rules else [])
    if config.migration is not None:
        Migration(config.migration)
    return config


def config_of(record: SchemaRecord) -> dict[str, Any]:
    """The configuration that registers a version, with what is as by default left out."""
    definition: Any
    try:
        definition = msgspec.json.decode(record.definition)
    except msgspec.DecodeError:  # the bare name of a primitive Avro type
        definition = record.definition
    data: dict[str, Any] = {
        "schema_name": record.schema_name,
        "schema_version": record.schema_version,
        "json_schema" if record.format == "JSON" else "avro_schema": definition,
        "references": msgspec.to_builtins(list(record.text.references)) or None,
        "event_type": record.event_type,
        "compatibility_level": record.compatibility_level,
        "evolution_strategy": record.evolution_strategy,
        "validation_rules": record.validation_rules,
        "migration": record.migration,
        "metadata": record.text.metadata,
        "is_active": None if record.is_active else False,
    }
    return {name: value for name, value in data.items() if value is not None}


def is_same_config(record: SchemaRecord, candidate: Candidate) -> bool:
    """Whether registering the candidate would register this version again: the same schema, rules and migration."""
    text = candidate.text
    return (
        record.text.format == text.format
        and contents_of(record.definition) == contents_of(text.definition)
        and record.text.references == text.references
        and (text.metadata is None or record.text.metadata == text.metadata)
        and (record.validation_rules or None) == (candidate.validation_rules or None)
        and (record.migration or None) == (candidate.migration or None)
        and record.event_type == candidate.event_type
        and record.evolution_strategy == candidate.evolution_strategy.value
        and candidate.compatibility_level in (None, record.compatibility_level)
    )


def _as_text(definition: Any) -> str:
    if isinstance(definition, str):
        return definition
    try:
        return msgspec.json.encode(definition).decode()
    except RecursionError:
        raise SchemaError("the schema is nested too deep") from None
    except (TypeError, ValueError, msgspec.MsgspecError) as error:
        raise SchemaError(f"the schema is no JSON: {error}") from None


def placed(error: SchemaError | ExpressionError, field: str) -> SchemaError | ExpressionError:
    """An error of a schema's text, with the field that has the schema in front."""
    if error.message.startswith(("/", "the schema", "a reference", "line ")):
        separator = "" if error.message.startswith("/") else ": "
        return type(error)(f"{field}{separator}{error.message}", **error.details)
    return error


def _accepted(path: str) -> tuple[str, ...]:
    """The names of the fields that are known at a path."""
    kinds = {"business_rules": BusinessRule, "references": SchemaReference, "migration": MigrationConfig}
    kind = next((struct for word, struct in kinds.items() if word in path), ValidationRules if path else SchemaConfig)
    return kind.__struct_fields__
