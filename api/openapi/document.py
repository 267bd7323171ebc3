"""The document, completed: stable ids, bodies, answers, errors, examples, and the headers that every operation takes."""

import copy
import re
from collections.abc import Iterator, Mapping
from typing import Any, Final

import msgspec
from litestar import Request
from litestar.openapi.plugins import JsonRenderPlugin

from event_streaming_bus.api.idempotency import HEADER as IDEMPOTENCY_HEADER
from event_streaming_bus.api.idempotency import ROUTES
from event_streaming_bus.api.openapi.bodies import ANSWERS, BODIES, JSON, MEDIA_TYPES, Body
from event_streaming_bus.api.openapi.examples import Step, by_operation, filled, schema_of
from event_streaming_bus.api.openapi.statuses import MEANINGS, PROBLEM, errors_of, problem_schema
from event_streaming_bus.api.preconditions import LOOKS, resource_of
from event_streaming_bus.api.tenancy import TENANT_HEADER

_METHODS: Final = frozenset({"get", "put", "post", "delete"})
_REF: Final = "#/components/schemas/{name}"
_BEARER: Final = {"type": "http", "scheme": "bearer", "description": "A token of `esb tokens create`, where clients need one."}
_TENANT: Final = {
    "name": TENANT_HEADER,
    "in": "header",
    "required": False,
    "description": "The tenant that is meant, where whoever asks may choose.",
    "schema": {"type": "string", "pattern": r"^[A-Za-z0-9._-]{1,100}$"},
}
_KEY: Final = {
    "name": IDEMPOTENCY_HEADER,
    "in": "header",
    "required": False,
    "description": "The same request again with the same key is answered as before, and nothing is done twice.",
    "schema": {"type": "string", "pattern": r"^[A-Za-z0-9._:-]{1,255}$"},
}
_MATCH: Final = {
    "name": "If-Match",
    "in": "header",
    "required": False,
    "description": "Tags as `ETag` has them; the request is carried out only if what it is about has one of them.",
    "schema": {"type": "string", "pattern": r'^(\*|"[0-9a-f]{32}")$'},
}
_ETAG: Final = {"description": "Stands for the settings of the thing.", "schema": {"type": "string"}}


class CompleteDocument(JsonRenderPlugin):
    """The document as JSON."""

    def render(self, request: Request[Any, Any, Any], openapi_schema: dict[str, Any]) -> bytes:
        return msgspec.json.encode(completed(openapi_schema))


def completed(document: Mapping[str, Any]) -> dict[str, Any]:
    """The document that the routes' signatures gave, with all that they do not say."""
    told = copy.deepcopy(dict(document))
    components = told.setdefault("components", {})
    schemas = components.setdefault("schemas", {})
    components["securitySchemes"] = {"token": _BEARER}
    components["responses"] = {
        str(status): {"description": text, "content": {PROBLEM: {"schema": {"$ref": _REF.format(name="Problem")}}}}
        for status, text in MEANINGS.items()
    }
    kinds = _Kinds(schemas)
    for path, methods in told["paths"].items():
        for method in _METHODS & methods.keys():
            _complete(method.upper(), path, methods[method], kinds)
    schemas["Problem"] = problem_schema()
    told["security"] = [{"token": []}, {}]
    return told


class _Kinds:
    """The schemas of structs: added to those of the document when they are asked for."""

    def __init__(self, schemas: dict[str, Any]) -> None:
        self._schemas = schemas
        wanted = [body.kind for body in BODIES.values() if not isinstance(body.kind, dict)] + list(ANSWERS.values())
        self._wanted = list(dict.fromkeys(wanted))
        found, components = msgspec.json.schema_components(self._wanted, ref_template=_REF)
        self._found = dict(zip(self._wanted, found, strict=True))
        schemas |= components

    def schema(self, kind: Any) -> Any:
        return kind if isinstance(kind, dict) else self._found[kind]


def operation_id(method: str, path: str) -> str:
    """An operation's id: it follows from its address alone, so it is the same for as long as that is."""
    parts = [part for part in re.split(r"[^A-Za-z0-9]+", path.removeprefix("/api/v1/")) if part]
    return "_".join([method.lower(), *parts])


def _complete(method: str, path: str, operation: dict[str, Any], kinds: _Kinds) -> None:
    key = (method, path)
    example = by_operation().get(key)
    operation["operationId"] = operation_id(method, path)
    parameters = operation.setdefault("parameters", [])
    for parameter in parameters:
        _complete_parameter(parameter, example)
    parameters += _header_parameters(method, path)
    if key in BODIES:
        operation["requestBody"] = _request_body(BODIES[key], example, kinds)
    for status, answer in operation["responses"].items():
        if status.startswith("2"):
            _complete_answer(key, answer, example, kinds)
    if key == ("PUT", "/api/v1/flows/{name}"):
        operation["responses"]["201"] = copy.deepcopy(operation["responses"]["200"]) | {"description": "It was made."}
    kept = {status: answer for status, answer in operation["responses"].items() if status.startswith("2")}
    errors = {str(status): {"$ref": f"#/components/responses/{status}"} for status in errors_of(method, path)}
    operation["responses"] = kept | errors


def _complete_parameter(parameter: dict[str, Any], example: Step | None) -> None:
    schema = parameter.get("schema", {})
    some = [each for each in schema.get("oneOf", ()) if each != {"type": "null"}]
    if len(some) == 1:  # a parameter in an address is there or not, and never null
        rest = {name: value for name, value in schema.items() if name != "oneOf"}
        parameter["schema"] = some[0] | rest
    if example is None:
        return
    values = example.path if parameter["in"] == "path" else example.query
    if parameter["name"] in values:
        parameter["example"] = filled(values[parameter["name"]], example.values)


def _header_parameters(method: str, path: str) -> Iterator[dict[str, Any]]:
    if not path.startswith("/api/v1/"):
        return
    yield _TENANT
    if method == "POST" and path in ROUTES:
        yield _KEY
    if method != "GET" and resource_of(path) is not None:
        yield _MATCH


def _request_body(body: Body, example: Step | None, kinds: _Kinds) -> dict[str, Any]:
    content: dict[str, Any] = {}
    for media_type in body.media_types:
        content[media_type] = {"schema": kinds.schema(body.kind) if media_type == JSON else {"type": "string"}}
    if example is not None and example.body is not msgspec.UNSET:
        content[JSON]["example"] = filled(example.body, example.values)
    return {"required": body.is_required, "content": content}


def _complete_answer(key: tuple[str, str], answer: dict[str, Any], example: Step | None, kinds: _Kinds) -> None:
    contents: list[dict[str, Any]] = list(answer.get("content", {}).values())
    schema: dict[str, Any] = contents[0].get("schema", {}) if contents else {}
    if key in ANSWERS:
        schema = kinds.schema(ANSWERS[key])
    elif "$ref" not in schema:
        schema = schema_of(example.answer) if example is not None and isinstance(example.answer, dict) else {}
    content: dict[str, Any] = {}
    for media_type in MEDIA_TYPES.get(key, (JSON,)):
        content[media_type] = {"schema": schema} if media_type == JSON else {"schema": {"type": "string"}}
    if example is not None and JSON in content and isinstance(example.answer, dict):
        content[JSON]["example"] = example.answer
    answer["content"] = content
    if key[1] in LOOKS and key[0] in ("GET", "PUT"):
        answer.setdefault("headers", {})["ETag"] = _ETAG
