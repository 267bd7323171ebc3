"""Subjects and their versions, as clients of a Confluent registry use them."""

from collections.abc import Mapping
from itertools import zip_longest
from typing import Any
from urllib.parse import unquote

from event_streaming_bus.api.confluent.formats import shown
from event_streaming_bus.api.confluent.requests import Call, SchemaRequest, schema_of, unqualified
from event_streaming_bus.errors import SchemaNotFoundError
from event_streaming_bus.registry.compatibility import sentences
from event_streaming_bus.registry.registry_errors import SubjectNotFoundError
from event_streaming_bus.registry.subjects import LATEST, Candidate, check_subject, has_text
from event_streaming_bus.store.schemas import SchemaRecord, SchemaText

_WILDCARD = ":*:"


def text_answer(call: Call, number: int, guid: str, text: SchemaText) -> dict[str, Any]:
    """A text with its ids; what it does not have is left out."""
    answer: dict[str, Any] = {
        "id": number,
        "guid": guid,
        "schemaType": text.format,
        "schema": shown(call, text),
    }
    if text.references:
        answer["references"] = text.references
    if text.metadata is not None:
        answer["metadata"] = text.metadata
    if text.rule_set is not None:
        answer["ruleSet"] = text.rule_set
    return answer


def version_answer(call: Call, record: SchemaRecord) -> dict[str, Any]:
    """A version with its text, and the fields that came with it and are not known here."""
    answer = {
        **(record.more or {}),
        "subject": record.schema_name,
        "version": record.version,
        **text_answer(call, record.id, record.guid, record.text),
    }
    return answer | {"deleted": True} if record.is_deleted else answer


# --- subjects ---------------------------------------------------------------------------------------------------------


def subjects(call: Call) -> Any:
    """The names of the subjects: of all contexts, or of the one that the path or ``subjectPrefix`` names."""
    with_deleted, only_deleted = call.flag("deleted"), call.flag("deleted_only")
    found = [
        name
        for name, all_deleted in call.subjects.store.subjects(call.tenant_id).items()
        if (all_deleted if only_deleted else with_deleted or not all_deleted) and has_prefix(call, name)
    ]
    return call.page(found)


def has_prefix(call: Call, name: str) -> bool:
    """Whether a subject's name begins as the parameter ``subjectPrefix`` asks; ``:*:`` in it stands for any context."""
    prefix = call.text("subjectPrefix")
    if prefix is None:
        return name.startswith(call.context)
    if prefix.startswith(_WILDCARD):
        return unqualified(name).startswith(prefix.removeprefix(_WILDCARD))
    prefix = call.qualified(prefix)
    return name.startswith(prefix) and (prefix.startswith(":") or not name.startswith(":."))


def delete_subject(call: Call) -> Any:
    deleted = call.subjects.delete_subject(call.tenant_id, call.subject, permanent=call.flag("permanent"))
    return [record.version for record in deleted]


def register(call: Call) -> Any:
    """Register a version. One that is there already is answered as it is, in whatever mode the subject is."""
    subject = call.subject
    check_subject(subject)
    request = schema_of(call, subject)
    text = _normalized(call, subject, request)

    def is_same(record: SchemaRecord) -> bool:
        return request.version in (0, record.version) and request.id in (0, record.id) and has_text(record, text)

    for record in reversed(call.subjects.store.versions(call.tenant_id, subject)):
        if is_same(record):
            return version_answer(call, record)
    candidate = Candidate(text=text, more=request.more, version=request.version, id=request.id, created_by=call.user_id)
    record, _ = call.subjects.register(call.tenant_id, subject, candidate, is_same)
    return version_answer(call, record)


def lookup(call: Call) -> Any:
    """The version that has the schema of the body."""
    subject = call.subject
    text = _normalized(call, subject, schema_of(call, subject))
    return version_answer(call, call.subjects.lookup(call.tenant_id, subject, text, deleted=call.flag("deleted")))


def _normalized(call: Call, subject: str, request: SchemaRequest) -> SchemaText:
    config = call.subjects.settings.config(call.tenant_id, subject, inherited=True)
    if call.flag("normalize") or config.get("normalize"):
        return call.subjects.normalized(call.tenant_id, request.text)
    return request.text


def with_metadata(call: Call) -> Any:
    """The newest version whose metadata has all the properties that are asked for."""
    wanted = list(zip_longest(call.query.get("key", ()), call.query.get("value", ()), fillvalue=""))
    for record in reversed(call.subjects.versions(call.tenant_id, call.subject, deleted=call.flag("deleted"))):
        properties = (record.text.metadata or {}).get("properties") or {}
        if all(_has_property(properties, key, value) for key, value in wanted):
            return version_answer(call, record)
    told = ", ".join(f"{key}={value}" for key, value in wanted)
    raise SchemaNotFoundError(f"Subject '{call.subject}' has no version whose metadata has the properties {told}")


def _has_property(properties: Mapping[str, Any], key: str, value: str) -> bool:
    # Some clients encode keys and values twice, others once: what is there decides which it was.
    return any(properties.get(name) in (value, unquote(value)) for name in {key, unquote(key)} if name in properties)


# --- versions ---------------------------------------------------------------------------------------------------------


def versions(call: Call) -> Any:
    found = call.subjects.versions(
        call.tenant_id, call.subject, deleted=call.flag("deleted"), deleted_only=call.flag("deleted_only")
    )
    return call.page([record.version for record in found])


def version(call: Call) -> Any:
    return version_answer(call, _version(call))


def version_schema(call: Call) -> Any:
    return shown(call, _version(call).text).encode()


def _version(call: Call) -> SchemaRecord:
    return call.subjects.version(call.tenant_id, call.subject, call.version, deleted=call.flag("deleted"))


def delete_version(call: Call) -> Any:
    permanent = call.flag("permanent")
    return call.subjects.delete_version(call.tenant_id, call.subject, call.version, permanent=permanent).version


def referenced_by(call: Call) -> Any:
    """The ids of the schemas that refer to a version."""
    record = call.subjects.version(call.tenant_id, call.subject, call.version, deleted=True)
    return call.page(call.subjects.store.referenced_by(call.tenant_id, record.schema_name, record.version))


# --- compatibility ----------------------------------------------------------------------------------------------------


def compatibility(call: Call) -> Any:
    """Whether the schema of the body could be registered: compared with the version that the path names, or else with those that
    the subject's level asks for. What does not exist is not in the way of the first version."""
    subject = call.subject
    text = schema_of(call, subject).text
    wanted = call.version if "version" in call.values else None
    try:
        found = call.subjects.check(call.tenant_id, subject, text, wanted)
    except SubjectNotFoundError:
        if wanted != LATEST:
            raise
        found = []
    answer: dict[str, Any] = {"is_compatible": not found}
    return answer | {"messages": sentences(found)} if call.flag("verbose") else answer
