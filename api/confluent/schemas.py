"""Schemas by their ids, and what else there is to know of the registry, as clients of a Confluent registry ask for it."""

import re
from typing import Any, Final

from event_streaming_bus import __version__
from event_streaming_bus.api.confluent.formats import shown
from event_streaming_bus.api.confluent.requests import Call, unqualified
from event_streaming_bus.api.confluent.subjects import has_prefix, text_answer, version_answer
from event_streaming_bus.errors import SchemaNotFoundError
from event_streaming_bus.store.schemas import DEFAULT_CONTEXT, SchemaText, context_of

_ID: Final = re.compile(r"[0-9]{1,10}")


def schema(call: Call) -> Any:
    """The text that an id stands for."""
    number, _, guid, text = _text(call)
    return text_answer(call, number, guid, text)


def schema_text(call: Call) -> Any:
    return shown(call, _text(call)[3]).encode()


def schema_by_guid(call: Call) -> Any:
    """The text that a guid stands for, in whichever context."""
    guid = call.values["guid"].lower()
    found = call.subjects.store.text_by_guid(call.tenant_id, guid)
    if found is None:
        raise SchemaNotFoundError(f"Schema with guid {guid[:100]} not found")
    return text_answer(call, found[1], guid, found[2])


def schema_subjects(call: Call) -> Any:
    """The subjects that use the text of an id: all of its context, or the ``subject`` that is asked for."""
    return call.page(list(dict.fromkeys(subject for subject, _ in _uses(call))))


def schema_versions(call: Call) -> Any:
    """The versions that use the text of an id."""
    return call.page([{"subject": subject, "version": version} for subject, version in _uses(call)])


def _uses(call: Call) -> list[tuple[str, int]]:
    number, context, _, _ = _text(call)
    found = call.subjects.store.versions_of_id(call.tenant_id, context, number, deleted=call.flag("deleted"))
    wanted = unqualified(call.text("subject") or "")
    return [(record.schema_name, record.version) for record in found if not wanted or unqualified(record.schema_name) == wanted]


def _text(call: Call) -> tuple[int, str, str, SchemaText]:
    """``(id, context, guid, text)`` of the id that the path names.

    It is one of the context that the path, or the parameter ``subject``, is in. A subject without a context has its ids in the
    default one, or, if it does not use the id there, in the first other one where it does.
    """
    if not _ID.fullmatch(call.values["id"]):
        raise SchemaNotFoundError(f"Schema {call.values['id'][:100]} not found: an id is a number")
    number, store = int(call.values["id"]), call.subjects.store
    subject = call.qualified(call.text("subject") or "")
    context = context_of(subject)
    found = store.text(call.tenant_id, context, number)
    if subject and context == DEFAULT_CONTEXT and not _is_used(call, number, subject):
        for other in store.contexts(call.tenant_id):
            if other != context and _is_used(call, number, f":{other}:{subject}"):
                context, found = other, store.text(call.tenant_id, other, number)
                break
    if found is None:
        raise SchemaNotFoundError(f"Schema {number} not found")
    return number, context, *found


def _is_used(call: Call, number: int, subject: str) -> bool:
    return any(record.id == number for record in call.subjects.store.versions(call.tenant_id, subject, deleted=True))


def schemas(call: Call) -> Any:
    """All versions of all subjects, or the latest of each."""
    found = call.subjects.store.versions(call.tenant_id, deleted=call.flag("deleted"))
    found = [record for record in found if has_prefix(call, record.schema_name)]
    if call.flag("latestOnly"):
        found = list({record.schema_name: record for record in found}.values())
    return [version_answer(call, record) for record in call.page(found)]


def types(call: Call) -> Any:
    return ["JSON", "AVRO"]


def contexts(call: Call) -> Any:
    """The contexts, the default one first."""
    found = call.subjects.store.contexts(call.tenant_id)
    return call.page([DEFAULT_CONTEXT, *(context for context in found if context != DEFAULT_CONTEXT)])


def root(call: Call) -> Any:
    return {}


def server_version(call: Call) -> Any:
    return {"version": __version__, "commitId": ""}


def server_id(call: Call) -> Any:
    clusters = {"kafka-cluster": "", "schema-registry-cluster": "event-streaming-bus"}
    return {"id": "", "scope": {"path": [], "clusters": clusters}}
