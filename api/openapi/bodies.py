"""What requests have in their bodies, by method and route: one table, which also says what is no JSON object in an answer.

A handler reads its body itself, so that what is wrong with it is told with its place; so the document has to be told.
"""

from collections.abc import Mapping
from typing import Any, Final, NamedTuple

from event_streaming_bus.api import (
    aggregate_lifecycle,
    consumer_groups,
    consuming,
    dead_letters,
    erasure,
    event_sourcing,
    events,
    history,
    projections,
    routes,
    saved_queries,
    schema_trials,
    schemas,
    settings,
    streams,
    tokens,
)
from event_streaming_bus.api.delivered import Polled
from event_streaming_bus.api.stream_events import EventPage
from event_streaming_bus.registry.compatibility import CompatibilityLevel
from event_streaming_bus.store.history.formats import MEDIA_TYPES as ANSWER_TYPES

JSON: Final = "application/json"
FLOW_TYPES: Final = (JSON, "application/yaml", "application/toml")


class Body(NamedTuple):
    """A request's body: a struct, or the JSON Schema of what a service reads by itself. Other ``media_types`` than JSON are
    text."""

    kind: Any
    is_required: bool = True
    media_types: tuple[str, ...] = (JSON,)


def _object(**properties: Any) -> dict[str, Any]:
    return {"type": "object", "properties": properties}


_TEXT: Final[dict[str, Any]] = {"type": "string"}
_ANY_OBJECT: Final[dict[str, Any]] = {"type": "object"}
_OBJECTS: Final[dict[str, Any]] = {"type": "array", "items": _ANY_OBJECT}
_PROCESSOR: Final = _object(
    processor_name=_TEXT,
    processor_type={"enum": ["FILTER", "MAP", "AGGREGATE", "JOIN", "WINDOW", "DEDUPLICATE", "CUSTOM"]},
    source_stream_id=_TEXT,
    target_stream_id=_TEXT,
    processing_logic=_ANY_OBJECT,
    window_config=_ANY_OBJECT,
    parallelism={"type": "integer", "minimum": 1},
    error_handling_strategy={"enum": ["RETRY", "SKIP", "DEAD_LETTER", "STOP"]},
) | {"required": ["processor_name", "processor_type", "source_stream_id", "target_stream_id", "processing_logic"]}
_FLOW: Final = _object(streams=_OBJECTS, schemas=_OBJECTS, processors=_OBJECTS, tests=_OBJECTS) | {"required": ["processors"]}
_SCHEMA: Final = _object(
    schema_name=_TEXT,
    schema_version=_TEXT,
    json_schema=_ANY_OBJECT,
    avro_schema=_ANY_OBJECT,
    event_type=_TEXT,
    compatibility_level={"enum": [level.value for level in CompatibilityLevel]},
    validation_rules=_ANY_OBJECT,
) | {"required": ["schema_name"]}
_GROUP: Final = _object(
    group_name=_TEXT,
    group_description=_TEXT,
    session_timeout_ms={"type": "integer"},
    heartbeat_interval_ms={"type": "integer"},
    max_poll_interval_ms={"type": "integer"},
    rebalance_timeout_ms={"type": "integer"},
    partition_assignment_strategy=_TEXT,
) | {"required": ["group_name"]}
_ROUTE: Final = _object(
    stream=_TEXT,
    match=_TEXT,
    to={"type": "array", "items": _TEXT},
    order={"type": "integer"},
    description=_TEXT,
) | {"required": ["stream"]}
_PROJECTION: Final = _object(table=_ANY_OBJECT, tables=_ANY_OBJECT, on=_ANY_OBJECT, version={}) | {"required": ["on"]}
_API: Final = "/api/v1/"
_MEMBER: Final = "consumer-groups/{group}/members/{member}"

BODIES: Final[Mapping[tuple[str, str], Body]] = {
    (method, f"{_API}{path}"): body
    for (method, path), body in {
        ("POST", "streams"): Body(streams.NewStream),
        ("PUT", "streams/{stream}/schema"): Body(streams.StreamSchema),
        ("POST", "events"): Body(events.NewEvent),
        ("POST", "events/batch"): Body(events.NewEvents),
        ("POST", "stream-processors"): Body(_PROCESSOR),
        ("POST", "flows/validate"): Body(_FLOW, media_types=FLOW_TYPES),
        ("POST", "flows/dry-run"): Body(_FLOW, media_types=FLOW_TYPES),
        ("POST", "flows/plan"): Body(_FLOW, media_types=FLOW_TYPES),
        ("POST", "flows/graph"): Body(_FLOW, media_types=FLOW_TYPES),
        ("POST", "flows/diff"): Body({"anyOf": [_FLOW, _object(old=_FLOW, new=_FLOW)]}, media_types=FLOW_TYPES),
        ("PUT", "flows/{name}"): Body(_FLOW, media_types=FLOW_TYPES),
        ("POST", "dead-letters/retry"): Body(dead_letters.ToRetry),
        ("POST", "dead-letters/drop"): Body(dead_letters.Selection),
        ("POST", "consumer-groups"): Body(_GROUP),
        ("POST", "consumer-groups/{group}/reset-offsets"): Body(consumer_groups.Reset),
        ("POST", "consumer-groups/{group}/members"): Body(consuming.Join),
        ("POST", f"{_MEMBER}/poll"): Body(consuming.Poll, is_required=False),
        ("POST", f"{_MEMBER}/ack"): Body(consuming.Selection),
        ("POST", f"{_MEMBER}/nack"): Body(consuming.Nack),
        ("POST", f"{_MEMBER}/park"): Body(consuming.Park),
        ("POST", f"{_MEMBER}/seek"): Body(consuming.Seek),
        ("POST", f"{_MEMBER}/pause"): Body(consuming.Partitions),
        ("POST", f"{_MEMBER}/resume"): Body(consuming.Partitions),
        ("PUT", "routes/{name}"): Body(_ROUTE),
        ("POST", "routes/apply"): Body(routes.ManyRoutes),
        ("POST", "routes/try"): Body(routes.Trial),
        ("POST", "event-sourcing/append"): Body(event_sourcing.OneEvent),
        ("POST", "event-sourcing/append-batch"): Body(event_sourcing.ManyEvents),
        ("POST", "event-sourcing/reconstruct"): Body(event_sourcing.Wanted),
        ("PUT", "event-sourcing/retention/{aggregate_type}"): Body(aggregate_lifecycle.Limits),
        ("PUT", "projections/{name}"): Body(_PROJECTION),
        ("POST", "projections/{name}/resume"): Body(projections.Resuming, is_required=False),
        ("POST", "projections/{name}/wait"): Body(projections.Waiting, is_required=False),
        ("POST", "projections/{name}/query"): Body(projections.Statement),
        ("POST", "erasures"): Body(erasure.NewErasure),
        ("POST", "erasures/subject-report"): Body(erasure.SubjectName),
        ("POST", "tokens"): Body(tokens.NewToken),
        ("POST", "history/query"): Body(history.Question),
        ("POST", "history/roll-off"): Body(history.RollOff),
        ("PUT", "history/saved-queries/{name}"): Body(saved_queries.NewQuery),
        ("POST", "history/saved-queries/{name}/run"): Body(history.How, is_required=False),
        ("PUT", "settings/{name}"): Body(settings.NewValue),
        ("POST", "schemas/enhanced"): Body(_SCHEMA),
        ("POST", "schemas/check"): Body(_SCHEMA),
        ("POST", "schemas/try"): Body(schema_trials.SchemaTrial),
        ("POST", "schemas/{schema_id}/validate"): Body({}),
        ("POST", "schemas/{schema_id}/deprecate"): Body(schemas.DeprecateSchema, is_required=False),
        ("PUT", "schemas/level"): Body(schemas.Level),
    }.items()
}

ANSWERS: Final[Mapping[tuple[str, str], Any]] = {
    ("GET", f"{_API}streams/{{stream}}/events"): EventPage,
    ("POST", f"{_API}{_MEMBER}/poll"): Polled,
}
"""The structs of answers that handlers encode themselves."""

MEDIA_TYPES: Final[Mapping[tuple[str, str], tuple[str, ...]]] = {
    ("POST", f"{_API}flows/graph"): (JSON, "image/svg+xml", "text/plain"),
    ("GET", f"{_API}flows/{{name}}/graph"): (JSON, "image/svg+xml", "text/plain"),
    ("GET", f"{_API}events/{{event_id}}/tree"): (JSON, "text/plain"),
    ("GET", f"{_API}events/{{event_id}}/ancestors"): (JSON, "text/plain"),
    ("GET", f"{_API}correlations/{{correlation_id}}"): (JSON, "text/plain"),
    ("POST", f"{_API}history/query"): tuple(ANSWER_TYPES.values()),
    ("POST", f"{_API}history/saved-queries/{{name}}/run"): tuple(ANSWER_TYPES.values()),
    ("GET", f"{_API}audit/export"): ("application/x-ndjson",),
    ("GET", f"{_API}consumer-groups/{{group}}/events"): ("text/event-stream",),
    ("GET", "/metrics"): ("text/plain", "application/openmetrics-text", "application/vnd.google.protobuf"),
}
"""What answers come as, where that is not JSON alone."""
