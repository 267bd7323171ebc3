"""The schema registry's service: schemas registered by configuration, found, compared, retired, and put to work."""

import asyncio
import time
from collections.abc import Mapping
from typing import Any

import msgspec

from event_streaming_bus import payloads
from event_streaming_bus.errors import AlreadyExistsError, ClosedError, ExpressionError, SchemaError, SchemaNotFoundError
from event_streaming_bus.models import DEFAULT_TENANT, StreamInfo, rfc3339
from event_streaming_bus.registry import semantic_versions
from event_streaming_bus.registry.compatibility import CompatibilityLevel, incompatibilities
from event_streaming_bus.registry.guard_cache import cache_of
from event_streaming_bus.registry.guards import SchemaGuard
from event_streaming_bus.registry.json_diff import changes
from event_streaming_bus.registry.schema_configs import config_of, is_same_config, placed, read_config
from event_streaming_bus.registry.subjects import EvolutionStrategy, Subjects
from event_streaming_bus.store.log.base import EventLog
from event_streaming_bus.store.schemas import Deprecation, SchemaRecord, SchemaStore
from event_streaming_bus.store.storage import Storage, open_storage


class SchemaRegistryService:
    """Registers schemas, compares them, and validates events against them."""

    def __init__(self, storage: Storage | None = None) -> None:
        storage = storage or open_storage()
        self._store: SchemaStore = storage.schemas
        self.subject_keys = storage.subject_keys
        self.subjects = Subjects(self._store, lambda record: _streams_with(storage.log, record))
        self._guards = cache_of(self._store)
        payloads.add_source(self)

    # --- registering --------------------------------------------------------------------------------------------------

    async def register_enhanced_schema(
        self, schema_config: Mapping[str, Any], tenant_id: str = DEFAULT_TENANT, created_by: str | None = None
    ) -> str:
        """Register one version of a schema; returns its id. Registering the same version again returns the same id.

        Raises ``SchemaError`` naming the place, ``ExpressionError`` for a rule or a migration, ``AlreadyExistsError`` if this
        version is there with other contents, ``SemanticVersionError`` if its number does not go with what has changed, and
        ``IncompatibleSchemaError`` with each difference if it is not compatible.
        """
        return (await asyncio.to_thread(self.register, schema_config, tenant_id, created_by)).schema_id

    def register(
        self, schema_config: Mapping[str, Any], tenant_id: str = DEFAULT_TENANT, created_by: str | None = None
    ) -> SchemaRecord:
        """As ``register_enhanced_schema``, blocking; returns the whole record."""
        config = read_config(schema_config)
        candidate = config.candidate(created_by)

        def is_same(record: SchemaRecord) -> bool:
            if candidate.schema_version not in (None, record.schema_version):
                return False
            if is_same_config(record, candidate):
                return True
            if candidate.schema_version is None:
                return False
            raise AlreadyExistsError(
                f"schema {record.schema_name} {record.schema_version} exists with other contents; register a new version",
                schema_id=record.schema_id,
            )

        try:
            record, is_new = self.subjects.register(tenant_id, config.schema_name, candidate, is_same)
        except (SchemaError, ExpressionError) as error:
            raise placed(error, config.definition_field) from error
        if is_new and config.compatibility_level is not None:
            level = {"compatibilityLevel": config.compatibility_level.value}
            self.subjects.settings.set_config(tenant_id, config.schema_name, level)
        if is_new and config.evolution_strategy is EvolutionStrategy.DEPRECATE:
            self._deprecate_before(record, config.refuse_after_ms)
        return record

    def _deprecate_before(self, record: SchemaRecord, refuse_after_ms: int | None) -> None:
        for earlier in self._store.versions(record.tenant_id, record.schema_name):
            if earlier.version < record.version and earlier.deprecation is None:
                self._deprecate(earlier, refuse_after_ms, f"replaced by {record.schema_version}")

    async def check_compatibility(self, schema_config: Mapping[str, Any], tenant_id: str = DEFAULT_TENANT) -> dict[str, Any]:
        """Whether a schema could be registered as a compatible version: ``is_compatible``, the ``compatibility_level`` that
        counts, and the ``incompatibilities`` with each difference. Nothing is registered."""
        return await asyncio.to_thread(self._check_compatibility, schema_config, tenant_id)

    def _check_compatibility(self, schema_config: Mapping[str, Any], tenant_id: str) -> dict[str, Any]:
        config = read_config(schema_config)
        try:
            found = self.subjects.check(
                tenant_id, config.schema_name, config.candidate(None).text, level=config.compatibility_level
            )
        except SchemaError as error:
            raise placed(error, config.definition_field) from error
        level = config.compatibility_level or self.subjects.settings.level(tenant_id, config.schema_name)
        return {
            "is_compatible": not found,
            "compatibility_level": level.value,
            "incompatibilities": msgspec.to_builtins(found),
        }

    # --- validating ---------------------------------------------------------------------------------------------------

    async def validate_event(self, schema_id: str, event_data: object, tenant_id: str = DEFAULT_TENANT) -> dict[str, Any]:
        """Validate a decoded payload.

        ``is_valid`` is false if it breaks the schema or a rule of severity ``error``; ``validation_errors`` lists each violation
        with its path, pointer, rule, message, kind and severity, warnings included. For a version that is deprecated there is
        also ``deprecated``.
        """
        guard = self._guards.fresh(tenant_id, schema_id)
        if guard is None:
            guard = await asyncio.to_thread(self.guard, tenant_id, schema_id)
        started_ns = time.perf_counter_ns()
        violations = guard.check(event_data)
        answer = {
            "is_valid": all(violation.severity != "error" for violation in violations),
            "validation_errors": msgspec.to_builtins(violations),
            "schema_version": guard.schema_version,
            "validation_time_ms": round((time.perf_counter_ns() - started_ns) / 1e6, 3),
        }
        if guard.record.deprecation is not None:
            answer["deprecated"] = deprecation_data(guard.record.deprecation)
        return answer

    # --- finding ------------------------------------------------------------------------------------------------------

    async def get_schema(self, schema_id: str, tenant_id: str = DEFAULT_TENANT) -> SchemaRecord:
        """The schema with this id. Raises ``SchemaNotFoundError``."""
        return await asyncio.to_thread(self._store.get, tenant_id, schema_id)

    async def list_schemas(self, tenant_id: str = DEFAULT_TENANT, schema_name: str | None = None) -> list[SchemaRecord]:
        """The tenant's schema versions, of one name or of all, by name, then in the order of registration."""
        return await asyncio.to_thread(self._store.versions, tenant_id, schema_name)

    async def list_versions(self, schema_name: str, tenant_id: str = DEFAULT_TENANT) -> list[SchemaRecord]:
        """The versions of a schema, oldest first. Raises ``SubjectNotFoundError``."""
        return await asyncio.to_thread(self.subjects.versions, tenant_id, schema_name)

    def find(self, tenant_id: str, schema_name: str, schema_version: str | None = None) -> SchemaRecord:
        """The schema of this name, in this version or the latest active one. Raises ``SchemaNotFoundError``."""
        versions = self._store.versions(tenant_id, schema_name)
        if not versions:
            hint = self.subjects.near(tenant_id, schema_name)
            raise SchemaNotFoundError(f"There is no schema '{schema_name}'.{hint}", schema_name=schema_name)
        if schema_version is None:
            return next((record for record in reversed(versions) if record.is_active), versions[-1])
        for record in reversed(versions):
            if record.schema_version == schema_version:
                return record
        known = ", ".join(r.schema_version for r in versions)
        raise SchemaNotFoundError(
            f"There is no version '{schema_version}' of schema '{schema_name}'; there is {known}.", schema_name=schema_name
        )

    def find_reference(self, tenant_id: str, reference: str) -> SchemaRecord:
        """The schema that ``name`` or ``name@version`` refers to. Raises ``SchemaNotFoundError``."""
        name, _, version = reference.rpartition("@")
        if not name or not semantic_versions.is_version(version):
            return self.find(tenant_id, reference)
        return self.find(tenant_id, name, version)

    # --- comparing ----------------------------------------------------------------------------------------------------

    async def diff_schemas(self, from_schema_id: str, to_schema_id: str, tenant_id: str = DEFAULT_TENANT) -> dict[str, Any]:
        """What changed between two schemas of one format: each change of the definition with its pointer, and why the second one
        may not read what the first one wrote (``backward``), and the other way round (``forward``)."""
        return await asyncio.to_thread(self._diff, from_schema_id, to_schema_id, tenant_id)

    def _diff(self, from_schema_id: str, to_schema_id: str, tenant_id: str) -> dict[str, Any]:
        before, after = self._store.get(tenant_id, from_schema_id), self._store.get(tenant_id, to_schema_id)
        parsed = self.subjects.parse(tenant_id, after.text)
        earlier = [(before, self.subjects.parse(tenant_id, before.text))]
        found = incompatibilities(parsed, after.format, earlier, CompatibilityLevel.FULL)
        differences = {each.direction: msgspec.to_builtins(each.differences) for each in found}
        old, new = config_of(before), config_of(after)
        for config in (old, new):
            for name in ("schema_name", "schema_version"):
                del config[name]
        return {
            "from": {"schema_id": before.schema_id, "schema_version": before.schema_version},
            "to": {"schema_id": after.schema_id, "schema_version": after.schema_version},
            "changes": msgspec.to_builtins(changes(old, new)),
            "is_backward_compatible": "BACKWARD" not in differences,
            "is_forward_compatible": "FORWARD" not in differences,
            "backward": list(differences.get("BACKWARD", ())),
            "forward": list(differences.get("FORWARD", ())),
        }

    # --- the life of a version ----------------------------------------------------------------------------------------

    async def deprecate_schema(
        self,
        schema_id: str,
        tenant_id: str = DEFAULT_TENANT,
        *,
        refuse_producers_after_ms: int | None = None,
        message: str = "",
    ) -> SchemaRecord:
        """Mark a version as one that should not be used any more; from a time on, if one is given, producers are refused. What
        was written with it is read as before."""
        record = await self.get_schema(schema_id, tenant_id)
        return await asyncio.to_thread(self._deprecate, record, refuse_producers_after_ms, message)

    def _deprecate(self, record: SchemaRecord, refuse_after_ms: int | None, message: str) -> SchemaRecord:
        deprecation = Deprecation(time.time_ns() // 1_000_000, refuse_after_ms, message)
        return self._changed(msgspec.structs.replace(record, deprecation=deprecation))

    async def activate_schema(self, schema_id: str, tenant_id: str = DEFAULT_TENANT) -> SchemaRecord:
        """Make a version one that can be used: active, and not deprecated."""
        record = await self.get_schema(schema_id, tenant_id)
        active = msgspec.structs.replace(record, is_active=True, deprecation=None)
        return await asyncio.to_thread(self._changed, active)

    async def deactivate_schema(self, schema_id: str, tenant_id: str = DEFAULT_TENANT) -> SchemaRecord:
        """Make a version one that nothing new is written with, and that is nobody's latest."""
        record = await self.get_schema(schema_id, tenant_id)
        return await asyncio.to_thread(self._changed, msgspec.structs.replace(record, is_active=False))

    async def delete_schema(self, schema_id: str, tenant_id: str = DEFAULT_TENANT, *, permanent: bool = False) -> SchemaRecord:
        """Delete a version; see ``Subjects.delete_version``. Raises ``NotPermittedError`` if it is the schema of a stream."""
        record = await self.get_schema(schema_id, tenant_id)
        delete = self.subjects.delete_version
        return await asyncio.to_thread(delete, tenant_id, record.schema_name, record.version, permanent=permanent)

    def _changed(self, record: SchemaRecord) -> SchemaRecord:
        self._store.update(record)
        self._guards.forget(record.tenant_id, record.schema_id)
        return record

    # --- at work ------------------------------------------------------------------------------------------------------

    def guard(self, tenant_id: str, schema_id: str) -> SchemaGuard:
        """The compiled schema, from a cache of the 256 used last. Raises ``SchemaNotFoundError``.

        Changes of a version's life that another process makes are seen within a second.
        """
        return self._guards.get(tenant_id, schema_id, self.subjects)

    def guard_of(self, stream: StreamInfo) -> SchemaGuard | None:
        """The compiled schema of a stream; None for one without. Raises ``SchemaNotFoundError``."""
        schema_id = stream.config.schema_id
        return None if schema_id is None else self.guard(stream.tenant_id, schema_id)

    def versions_of_id(self, tenant_id: str, context: str, number: int) -> list[SchemaRecord]:
        """The versions whose text has this id, by name and version; those that are deleted too, as data may be left of them."""
        return self._store.versions_of_id(tenant_id, context, number, deleted=True)

    def versions_between(self, record: SchemaRecord, after_version: int) -> list[SchemaRecord]:
        """The versions of its subject after one of them, up to this one, oldest first; those that are deleted too."""
        versions = self._store.versions(record.tenant_id, record.schema_name, deleted=True)
        return [each for each in versions if after_version < each.version <= record.version]

    def payload_reader(self, schema_id: str) -> SchemaGuard | None:
        """What reads payloads that were written with a version, of whichever tenant; None if it is not known."""
        try:
            record = self._store.find(schema_id)
            return None if record is None else self.guard(record.tenant_id, schema_id)
        except ClosedError:  # another data folder of this process, which is closed by now
            return None


def _streams_with(log: EventLog, record: SchemaRecord) -> list[str]:
    """The names of the streams that have this version as their schema."""
    return [info.name for info in log.list_streams(record.tenant_id) if info.config.schema_id == record.schema_id]


def describe(record: SchemaRecord) -> dict[str, Any]:
    """A version as plain data, as answers show it."""
    told = {
        "schema_id": record.schema_id,
        **config_of(record),
        "version": record.version,
        "id": record.id,
        "guid": record.guid,
        "format": record.format,
        "is_active": record.is_active,
        "created_by": record.created_by,
        "created_at": rfc3339(record.created_at_ms),
    }
    if record.deprecation is not None:
        told["deprecated"] = deprecation_data(record.deprecation)
    return told


def deprecation_data(deprecation: Deprecation) -> dict[str, Any]:
    """How answers are marked that are about a deprecated version."""
    after_ms = deprecation.refuse_after_ms
    return {
        "since": rfc3339(deprecation.since_ms),
        "refuse_producers_after": None if after_ms is None else rfc3339(after_ms),
        "message": deprecation.message,
    }
