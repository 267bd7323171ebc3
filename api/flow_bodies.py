"""Flows in request bodies: a flow file as it is, in JSON, YAML or TOML."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, NamedTuple

import msgspec

from event_streaming_bus.errors import ConfigError, FlowError, InvalidInputError, PayloadTooLargeError
from event_streaming_bus.flows.checker import format_path
from event_streaming_bus.flows.findings import Severity
from event_streaming_bus.flows.flow_file import MAX_FILE_BYTES, read_flow_file
from event_streaming_bus.flows.lint import lint
from event_streaming_bus.flows.spec import FlowSpec, load_flow
from event_streaming_bus.store.storage import Storage

DEFAULT_NAME: Final = "flow"
_SUFFIXES: Final = {
    "application/json": ".json",
    "application/yaml": ".yaml",
    "application/x-yaml": ".yaml",
    "text/yaml": ".yaml",
    "application/toml": ".toml",
}


class FlowBody(NamedTuple):
    """A flow as it was sent. ``suffix``: of a flow file of its format; ``name``: for a flow that does not name itself."""

    content: bytes
    suffix: str
    tenant_id: str
    name: str = DEFAULT_NAME


class Finding(msgspec.Struct, frozen=True):
    """One thing that was found: the ``line`` in the body, where it is known, and the ``path`` in the flow."""

    line: int | None
    path: str
    severity: Severity
    code: str
    message: str


def suffix_of(content_type: str) -> str:
    """The suffix of a flow file in the format that a header ``Content-Type`` says; none, or what HTML forms and curl send by
    default, stand for JSON. Raises ``InvalidInputError``."""
    media_type = content_type.partition(";")[0].strip().lower()
    if media_type in ("", "application/x-www-form-urlencoded"):
        return ".json"
    if media_type not in _SUFFIXES:
        told = ", ".join(_SUFFIXES)
        raise InvalidInputError(f"Content-Type: a flow comes as one of {told}; got {media_type[:100]!r}", path="Content-Type")
    return _SUFFIXES[media_type]


def read_flow(body: FlowBody) -> FlowSpec:
    """The flow that a body says, of the tenant of the request. Raises ``FlowError`` with all problems, ``PayloadTooLargeError``,
    and ``InvalidInputError`` for a flow of another tenant."""
    with _as_file(body) as file:
        return _loaded(file, body)


def check_flow(body: FlowBody, storage: Storage) -> list[Finding]:
    """What is wrong with a flow, or may be, in the order of its lines, as ``esb check`` says it; what keeps it from loading is
    told alone. Nothing is made or changed."""
    with _as_file(body) as file:
        try:
            spec = _loaded(file, body)
        except FlowError as error:
            return _load_errors(error)
        document = read_flow_file(file)
        found = [
            Finding(document.problems.line(each.path), format_path(each.path), each.severity, each.code, each.message)
            for each in lint(spec, storage)
        ]
    return sorted(found, key=lambda each: each.line or 0)


@contextmanager
def _as_file(body: FlowBody) -> Iterator[Path]:
    """The body as a flow file, since those know their lines."""
    if len(body.content) > MAX_FILE_BYTES:
        raise PayloadTooLargeError(f"a flow has at most {MAX_FILE_BYTES:,} bytes, got {len(body.content):,}")
    with tempfile.TemporaryDirectory(prefix="esb-flow-") as folder:
        file = Path(folder) / f"{body.name}{body.suffix}"
        file.write_bytes(body.content)
        yield file


def _loaded(file: Path, body: FlowBody) -> FlowSpec:
    try:
        spec = load_flow(file)
    except FlowError as error:  # which names the file that nobody knows of
        raise FlowError(error.message.replace(f"{file}:", "line ").replace(str(file), body.name), **error.details) from None
    data: Any = read_flow_file(file).data
    given = data.get("tenant_id")
    if given not in (None, body.tenant_id):
        raise ConfigError(f"tenant_id: the request is for the tenant {body.tenant_id}, got {given!r}", path="tenant_id")
    return msgspec.structs.replace(spec, tenant_id=body.tenant_id)


def _load_errors(error: FlowError) -> list[Finding]:
    errors: list[dict[str, Any]] = error.details["errors"]
    found = [Finding(e["line"], e["path"] or "", Severity.ERROR, "does-not-load", e["message"]) for e in errors]
    if (more := error.details["count"] - len(errors)) > 0:
        found.append(Finding(None, "", Severity.ERROR, "does-not-load", f"and {more} more"))
    return found
