"""The schema registry: schemas registered, found, and put to work as guards of streams."""

import asyncio
import re
import threading
import time
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from enum import StrEnum
from typing import Any, Final

import msgspec

from event_streaming_bus import ids
from event_streaming_bus.errors import SchemaError
from event_streaming_bus.models import DEFAULT_TENANT, StreamInfo
from event_streaming_bus.registry.json_schema import JsonSchemaValidator
from event_streaming_bus.registry.rules import BusinessRule, RuleSet
from event_streaming_bus.registry.violations import Violation
from event_streaming_bus.store.catalog import Catalog, SchemaRecord
from event_streaming_bus.store.storage import Storage, open_storage

_MAX_GUARDS: Final = 256
_VERSION: Final = re.compile(r"\d{1,9}\.\d{1,9}(\.\d{1,9})?")
_NAME: Final = re.compile(r"[^@\s]{1,200}")


class CompatibilityLevel(StrEnum):
    """What a new version of a schema must be compatible with. Kept with the schema; not checked in this version."""

    NONE = "NONE"
    BACKWARD = "BACKWARD"
    BACKWARD_TRANSITIVE = "BACKWARD_TRANSITIVE"
    FORWARD = "FORWARD"
    FORWARD_TRANSITIVE = "FORWARD_TRANSITIVE"
    FULL = "FULL"
    FULL_TRANSITIVE = "FULL_TRANSITIVE"


class EvolutionStrategy(StrEnum):
    """How a new version relates to those before it. Kept with the schema; not acted on in this version."""

    COMPATIBLE = "COMPATIBLE"
    BREAKING_CHANGE = "BREAKING_CHANGE"
    DEPRECATE = "DEPRECATE"


class ValidationRules(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Rules beside the schema."""

    business_rules: list[BusinessRule] = []


class SchemaConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A schema as it is registered. ``schema_version`` has two or three parts, as in ``1.0``."""

    schema_name: str
    json_schema: dict[str, Any]
    schema_version: str = "1.0"
    event_type: str | None = None
    compatibility_level: CompatibilityLevel = CompatibilityLevel.BACKWARD
    evolution_strategy: EvolutionStrategy = EvolutionStrategy.COMPATIBLE
    validation_rules: ValidationRules | None = None
    is_active: bool = True


class SchemaGuard:
    """A schema and its business rules, compiled."""

    def __init__(self, record: SchemaRecord) -> None:
        self.schema_id = record.schema_id
        self.schema_name = record.schema_name
        self.schema_version = record.schema_version
        self._schema = JsonSchemaValidator(msgspec.json.decode(record.definition))
        rules = msgspec.convert(record.validation_rules or {}, ValidationRules)
        self._rules = RuleSet(rules.business_rules)

    def check(self, payload: object) -> list[Violation]:
        """What is wrong with a decoded payload: what breaks the schema, or if nothing does, the rules; warnings included."""
        found = self._schema.violations(payload)
        if found:
            return found
        return self._rules.violations(payload if isinstance(payload, Mapping) else {})

    def told(self, payload: object, most: int = 5) -> str:
        """What is wrong with a decoded payload, as text: the first ``most`` violations with their places."""
        return "; ".join(f"{v.path or '(the payload itself)'}: {v.message}" for v in self.check(payload)[:most])

    def check_many(self, payloads: Sequence[object]) -> list[int]:
        """The indexes of the payloads that are not valid."""
        valid, hold = self._schema.is_valid, self._rules.hold
        return [i for i, payload in enumerate(payloads) if not (valid(payload) and hold(payload))]  # type: ignore[arg-type]


class SchemaRegistryService:
    """Registers schemas and validates events against them.

    Compatibility levels and evolution strategies are kept with each version but not checked in this version of the bus.
    """

    def __init__(self, storage: Storage | None = None, *, catalog: Catalog | None = None) -> None:
        self._catalog = catalog if catalog is not None else (storage or open_storage()).catalog
        self._guards: OrderedDict[tuple[str, str], SchemaGuard] = OrderedDict()
        self._lock = threading.Lock()

    async def register_enhanced_schema(
        self, schema_config: Mapping[str, Any], tenant_id: str = DEFAULT_TENANT, created_by: str | None = None
    ) -> str:
        """Register one version of a schema; returns its id. Registering the same version again returns the same id.

        Raises ``SchemaError`` naming the place, ``ExpressionError`` for a rule, and ``AlreadyExistsError`` if this version is
        there with other contents.
        """
        return (await asyncio.to_thread(self.register, schema_config, tenant_id, created_by)).schema_id

    def register(
        self, schema_config: Mapping[str, Any], tenant_id: str = DEFAULT_TENANT, created_by: str | None = None
    ) -> SchemaRecord:
        """As ``register_enhanced_schema``, blocking; returns the whole record."""
        config = _parse(schema_config)
        record = SchemaRecord(
            schema_id=ids.new_id(ids.SCHEMA),
            tenant_id=tenant_id,
            schema_name=config.schema_name,
            schema_version=config.schema_version,
            format="JSON",
            definition=msgspec.json.encode(config.json_schema).decode(),
            event_type=config.event_type,
            compatibility_level=config.compatibility_level.value,
            evolution_strategy=config.evolution_strategy.value,
            validation_rules=msgspec.to_builtins(config.validation_rules),
            is_active=config.is_active,
            created_by=created_by,
            created_at_ms=time.time_ns() // 1_000_000,
        )
        try:
            SchemaGuard(record)
        except SchemaError as error:
            place = "" if error.message.startswith("validation_rules") else "json_schema"
            raise SchemaError(f"{place}{error.message}", **error.details) from error
        return self._catalog.add_schema(record)

    async def validate_event(self, schema_id: str, event_data: object, tenant_id: str = DEFAULT_TENANT) -> dict[str, Any]:
        """Validate a decoded payload.

        ``is_valid`` is false if it breaks the schema or a rule of severity ``error``; ``validation_errors`` lists each violation
        with its path, pointer, rule, message, kind and severity, warnings included.
        """
        guard = await asyncio.to_thread(self.guard, tenant_id, schema_id)
        started_ns = time.perf_counter_ns()
        violations = guard.check(event_data)
        return {
            "is_valid": all(violation.severity != "error" for violation in violations),
            "validation_errors": msgspec.to_builtins(violations),
            "schema_version": guard.schema_version,
            "validation_time_ms": round((time.perf_counter_ns() - started_ns) / 1e6, 3),
        }

    async def get_schema(self, schema_id: str, tenant_id: str = DEFAULT_TENANT) -> SchemaRecord:
        """The schema with this id. Raises ``SchemaNotFoundError``."""
        return await asyncio.to_thread(self._catalog.get_schema, tenant_id, schema_id)

    async def list_schemas(self, tenant_id: str = DEFAULT_TENANT, schema_name: str | None = None) -> list[SchemaRecord]:
        """The tenant's schema versions, of one name or of all, in the order of registration."""
        return await asyncio.to_thread(self._catalog.list_schemas, tenant_id, schema_name)

    def find(self, tenant_id: str, schema_name: str, schema_version: str | None = None) -> SchemaRecord:
        """The schema of this name, in this version or the latest. Raises ``SchemaNotFoundError``."""
        return self._catalog.find_schema(tenant_id, schema_name, schema_version)

    def find_reference(self, tenant_id: str, reference: str) -> SchemaRecord:
        """The schema that ``name`` or ``name@version`` refers to. Raises ``SchemaNotFoundError``."""
        name, _, version = reference.partition("@")
        return self.find(tenant_id, name, version or None)

    def guard(self, tenant_id: str, schema_id: str) -> SchemaGuard:
        """The compiled schema, from a cache of the 256 used last. Raises ``SchemaNotFoundError``."""
        with self._lock:
            guard = self._guards.get((tenant_id, schema_id))
            if guard is not None:
                self._guards.move_to_end((tenant_id, schema_id))
                return guard
        guard = SchemaGuard(self._catalog.get_schema(tenant_id, schema_id))
        with self._lock:
            self._guards[tenant_id, schema_id] = guard
            while len(self._guards) > _MAX_GUARDS:
                self._guards.popitem(last=False)
        return guard

    def guard_of(self, stream: StreamInfo) -> SchemaGuard | None:
        """The compiled schema of a stream; None for one without. Raises ``SchemaNotFoundError``."""
        schema_id = stream.config.schema_id
        return None if schema_id is None else self.guard(stream.tenant_id, schema_id)


def _parse(data: Mapping[str, Any]) -> SchemaConfig:
    """The configuration, checked. Raises ``SchemaError`` naming the place and what is accepted."""
    try:
        config = msgspec.convert(dict(data), SchemaConfig)
    except (msgspec.ValidationError, TypeError, ValueError) as error:
        raise SchemaError(_told(str(error))) from None
    if not _NAME.fullmatch(config.schema_name):
        raise SchemaError(f"schema_name: expected 1 to 200 characters without spaces or '@', got {config.schema_name!r}")
    if not _VERSION.fullmatch(config.schema_version):
        raise SchemaError(f"schema_version: expected two or three numbers as in '1.0', got {config.schema_version!r}")
    return config


def _told(message: str) -> str:
    """msgspec's message with the path in front, and for an unknown or missing field what is accepted."""
    reason, _, place = message.partition(" - at `$")
    path = place.rstrip("`").lstrip(".")
    unknown = re.search(r"unknown field `(.+)`", reason)
    if unknown is None:
        return f"{path}: {reason}" if path else reason
    kind = BusinessRule if "business_rules" in path else ValidationRules if path else SchemaConfig
    known = kind.__struct_fields__
    near = get_close_matches(unknown[1], known, 1)
    hint = f"; did you mean '{near[0]}'?" if near else ""
    where = f"{path}.{unknown[1]}" if path else unknown[1]
    return f"{where}: unknown field{hint} (accepted: {', '.join(known)})"
