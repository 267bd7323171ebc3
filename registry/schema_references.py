"""References of schema configurations that leave their version open, or name it by its semantic version."""

from collections.abc import Mapping
from typing import Any, Final

from event_streaming_bus.errors import SchemaError
from event_streaming_bus.registry import semantic_versions
from event_streaming_bus.registry.registry_errors import SubjectNotFoundError
from event_streaming_bus.registry.service import SchemaRegistryService

LATEST: Final = "latest"


def with_references(registry: SchemaRegistryService, tenant_id: str, config: Mapping[str, Any]) -> Mapping[str, Any]:
    """The configuration with the version of each reference as its number: one that is left out, or ``latest``, is the newest one,
    and text as ``1.2`` is a semantic version. What is no reference at all stays, for ``read_config`` to tell.

    Raises ``SchemaError`` for one that leads nowhere.
    """
    references = config.get("references")
    if not isinstance(references, list) or not any(map(is_open, references)):
        return config
    return {**config, "references": [_numbered(registry, tenant_id, each, i) for i, each in enumerate(references)]}


def is_open(reference: Any) -> bool:
    """Whether it is a reference to a subject that does not name its version by number."""
    return (
        isinstance(reference, dict)
        and isinstance(reference.get("subject"), str)
        and (reference.get("version") is None or isinstance(reference["version"], str))
    )


def _numbered(registry: SchemaRegistryService, tenant_id: str, reference: Any, i: int) -> Any:
    if not is_open(reference):
        return reference
    subject, wanted = reference["subject"], reference.get("version")
    where = f"references[{i}]"
    try:
        versions = registry.subjects.versions(tenant_id, subject)
    except SubjectNotFoundError as error:
        raise SchemaError(f"{where}.subject: {error.message}") from None
    if wanted in (None, LATEST):
        return {**reference, "version": versions[-1].version}
    if not semantic_versions.is_version(wanted):
        raise SchemaError(f"{where}.version: expected a version as '1.0', a number, or 'latest', got {wanted!r}")
    for record in reversed(versions):
        if record.schema_version == wanted:
            return {**reference, "version": record.version}
    known = ", ".join(record.schema_version for record in versions[-20:])
    raise SchemaError(f"{where}.version: there is no version {wanted} of {subject}; there is {known}")
