# Made by `python -m event_streaming_bus.client.twin` of client/schemas.py; change that one, and make this one anew.
"""The schema registry of a server."""

from collections.abc import Mapping
from typing import Any, NoReturn

from event_streaming_bus.client.answers import schema_of
from event_streaming_bus.client.client_errors import not_remote
from event_streaming_bus.client.requests import given, json_of, path_of, plain_config
from event_streaming_bus.client.sync.remote_service import Data, RemoteService
from event_streaming_bus.errors import SchemaNotFoundError
from event_streaming_bus.models import DEFAULT_TENANT, StreamInfo
from event_streaming_bus.registry import semantic_versions
from event_streaming_bus.registry.registry_errors import SubjectNotFoundError
from event_streaming_bus.store.schemas import SchemaRecord

_GUARDS = "events are validated by the server; validate_event asks it"


class SchemaRegistryService(RemoteService):
    """Registers schemas with a server, compares them, and has events validated against them."""

    # --- registering --------------------------------------------------------------------------------------------------

    def register_enhanced_schema(
        self, schema_config: Mapping[str, Any], tenant_id: str = DEFAULT_TENANT, created_by: str | None = None
    ) -> str:
        """Register one version of a schema; returns its id. Registering the same version again returns the same id. The server
        knows by the token who registers it, so ``created_by`` is not looked at."""
        config = plain_config(schema_config, "schema_config")
        answer = self._asked(Data, "POST", path_of("schemas", "enhanced"), tenant_id, config, is_keyed=True)
        return str(answer["schema_id"])

    def register(
        self, schema_config: Mapping[str, Any], tenant_id: str = DEFAULT_TENANT, created_by: str | None = None
    ) -> SchemaRecord:
        """As ``register_enhanced_schema``, blocking; returns the whole record."""
        return self._connection.now(self._registered(schema_config, tenant_id, created_by))

    def _registered(self, schema_config: Mapping[str, Any], tenant_id: str, created_by: str | None) -> SchemaRecord:
        return self.get_schema(self.register_enhanced_schema(schema_config, tenant_id, created_by), tenant_id)

    def check_compatibility(self, schema_config: Mapping[str, Any], tenant_id: str = DEFAULT_TENANT) -> dict[str, Any]:
        """Whether a schema could be registered as a compatible version. Nothing is registered."""
        config = plain_config(schema_config, "schema_config")
        return self._asked(Data, "POST", path_of("schemas", "check"), tenant_id, config, is_repeatable=True)

    def validate_event(self, schema_id: str, event_data: object, tenant_id: str = DEFAULT_TENANT) -> dict[str, Any]:
        """Validate a decoded payload: ``is_valid``, and the ``validation_errors``."""
        path = path_of("schemas", schema_id, "validate")
        return self._asked(Data, "POST", path, tenant_id, json_of(event_data), is_repeatable=True)

    # --- finding ------------------------------------------------------------------------------------------------------

    def get_schema(self, schema_id: str, tenant_id: str = DEFAULT_TENANT) -> SchemaRecord:
        """The schema with this id. Raises ``SchemaNotFoundError``."""
        return schema_of(self._asked(Data, "GET", path_of("schemas", schema_id, text=True), tenant_id), self._tenant(tenant_id))

    def list_schemas(self, tenant_id: str = DEFAULT_TENANT, schema_name: str | None = None) -> list[SchemaRecord]:
        """The tenant's schema versions, of one name or of all, by name, then in the order of registration."""
        told = self._listed("schemas", "schemas", tenant_id, name=schema_name, text=True)
        return [schema_of(each, self._tenant(tenant_id)) for each in told]

    def list_versions(self, schema_name: str, tenant_id: str = DEFAULT_TENANT) -> list[SchemaRecord]:
        """The versions of a schema, oldest first. Raises ``SubjectNotFoundError``."""
        found = self.list_schemas(tenant_id, schema_name)
        if not found:
            raise SubjectNotFoundError(f"Subject '{schema_name}' not found.")
        return found

    def find(self, tenant_id: str, schema_name: str, schema_version: str | None = None) -> SchemaRecord:
        """The schema of this name, in this version or the latest active one. Raises ``SchemaNotFoundError``."""
        versions = self._connection.now(self.list_schemas(tenant_id, schema_name))
        if not versions:
            raise SchemaNotFoundError(f"There is no schema '{schema_name}'.", schema_name=schema_name)
        if schema_version is None:
            return next((record for record in reversed(versions) if record.is_active), versions[-1])
        for record in reversed(versions):
            if record.schema_version == schema_version:
                return record
        known = ", ".join(record.schema_version for record in versions)
        raise SchemaNotFoundError(
            f"There is no version '{schema_version}' of schema '{schema_name}'; there is {known}.", schema_name=schema_name
        )

    def find_reference(self, tenant_id: str, reference: str) -> SchemaRecord:
        """The schema that ``name`` or ``name@version`` refers to. Raises ``SchemaNotFoundError``."""
        name, _, version = reference.rpartition("@")
        if not name or not semantic_versions.is_version(version):
            return self.find(tenant_id, reference)
        return self.find(tenant_id, name, version)

    def diff_schemas(self, from_schema_id: str, to_schema_id: str, tenant_id: str = DEFAULT_TENANT) -> dict[str, Any]:
        """What changed between two schemas of one format, and what of that breaks readers."""
        return self._asked(Data, "GET", path_of("schemas", from_schema_id, "diff", to=to_schema_id), tenant_id)

    # --- the life of a version ----------------------------------------------------------------------------------------

    def deprecate_schema(
        self,
        schema_id: str,
        tenant_id: str = DEFAULT_TENANT,
        *,
        refuse_producers_after_ms: int | None = None,
        message: str = "",
    ) -> SchemaRecord:
        """Mark a version as one that should not be used any more; from a time on, if one is given, producers are refused."""
        body = given(refuse_producers_after=refuse_producers_after_ms, message=message)
        return self._changed(schema_id, "deprecate", tenant_id, body)

    def activate_schema(self, schema_id: str, tenant_id: str = DEFAULT_TENANT) -> SchemaRecord:
        """Make a version one that can be used: active, and not deprecated."""
        return self._changed(schema_id, "activate", tenant_id)

    def deactivate_schema(self, schema_id: str, tenant_id: str = DEFAULT_TENANT) -> SchemaRecord:
        """Make a version one that nothing new is written with, and that is nobody's latest."""
        return self._changed(schema_id, "deactivate", tenant_id)

    def _changed(self, schema_id: str, action: str, tenant_id: str, body: Any = None) -> SchemaRecord:
        path = path_of("schemas", schema_id, action, text=True)
        return schema_of(self._asked(Data, "POST", path, tenant_id, body, is_repeatable=True), self._tenant(tenant_id))

    def delete_schema(self, schema_id: str, tenant_id: str = DEFAULT_TENANT, *, permanent: bool = False) -> SchemaRecord:
        """Delete a version; returns it as it was. Raises ``NotPermittedError`` if it is the schema of a stream."""
        record = self.get_schema(schema_id, tenant_id)
        self._asked(Data, "DELETE", path_of("schemas", schema_id, permanent=permanent), tenant_id)
        return record

    # --- what the server does -----------------------------------------------------------------------------------------

    def guard(self, tenant_id: str, schema_id: str) -> NoReturn:
        """Raises ``NotRemoteError``."""
        raise not_remote("a compiled schema", _GUARDS)

    def guard_of(self, stream: StreamInfo) -> NoReturn:
        """Raises ``NotRemoteError``."""
        raise not_remote("a compiled schema", _GUARDS)

    def versions_of_id(self, tenant_id: str, context: str, number: int) -> NoReturn:
        """Raises ``NotRemoteError``."""
        raise not_remote("looking for the versions of an id", "a Confluent client of the server's registry does so")

    def versions_between(self, record: SchemaRecord, after_version: int) -> NoReturn:
        """Raises ``NotRemoteError``."""
        raise not_remote("looking for deleted versions", "list_versions tells those that are there")

    def payload_reader(self, schema_id: str) -> NoReturn:
        """Raises ``NotRemoteError``."""
        raise not_remote("a reader of payloads", "events come with payloads that are JSON")
