"""Errors as problem documents (RFC 9457): the one table from our errors to HTTP statuses, and the handlers."""

import logging
from typing import Any, Final

import msgspec
from litestar import Request, Response
from litestar.exceptions import HTTPException

from event_streaming_bus import errors
from event_streaming_bus.access.access_errors import ForbiddenError
from event_streaming_bus.registry.registry_errors import IncompatibleSchemaError
from event_streaming_bus.sourcing.sourcing_errors import FoldError
from event_streaming_bus.store.aggregate_errors import VersionConflictError

PROBLEM: Final = "application/problem+json"
UNAVAILABLE: Final = 503
_log: Final = logging.getLogger(__name__)

# The first class that an error is an instance of decides, so the narrower ones stand first.
STATUS: Final[tuple[tuple[type[errors.BusError], int], ...]] = (
    (errors.PayloadTooLargeError, 413),
    (errors.ValidationFailedError, 422),
    (errors.ConfigError, 422),
    (errors.ExpressionError, 422),
    (errors.SchemaError, 422),
    (errors.InvalidInputError, 400),
    (ForbiddenError, 403),
    (errors.NotFoundError, 404),
    (errors.AlreadyExistsError, 409),
    (errors.InvalidStateError, 409),
    (IncompatibleSchemaError, 409),
    (VersionConflictError, 409),
    (errors.StreamChangedError, 409),
    (FoldError, 422),
    (errors.FencedError, 409),
    (errors.InUseError, 409),
    (errors.OffsetOutOfRangeError, 416),
    (errors.DiskFullError, 507),
    (errors.ClosedError, 503),
    (errors.OverloadedError, 503),
    (errors.UnavailableError, 503),
    (errors.BusError, 500),
)


def problem_document(status: int, title: str, detail: str, instance: str, **more: Any) -> dict[str, Any]:
    """The members of a problem document."""
    return {"type": "about:blank", "title": title, "status": status, "detail": detail, "instance": instance, **more}


def problem(status: int, title: str, detail: str, instance: str, **more: Any) -> Response[bytes]:
    """A problem document, as an answer."""
    body = problem_document(status, title, detail, instance, **more)
    return Response(
        msgspec.json.encode(body, enc_hook=str), status_code=status, media_type=PROBLEM, headers={"Cache-Control": "no-store"}
    )


def bus_error(request: Request[Any, Any, Any], error: errors.BusError) -> Response[bytes]:
    """One of our errors: its message as the detail, its details as further members."""
    status = next(status for kind, status in STATUS if isinstance(error, kind))
    if status >= 500:
        _log.error("%s %s failed: %s", request.method, request.url.path, error.message)
    taken = {"type", "title", "status", "detail", "instance"}
    more = {name: value for name, value in error.details.items() if name not in taken}
    title = type(error).__name__.removesuffix("Error")
    answer = problem(status, title, error.message, request.url.path, **more)
    if status == UNAVAILABLE:
        answer.headers["Retry-After"] = str(error.details.get("retry_after_s", 1))
    return answer


def http_error(request: Request[Any, Any, Any], error: HTTPException) -> Response[bytes]:
    """An error of the HTTP layer itself: no such route, a method that is not there, a body that does not decode."""
    more = {"errors": error.extra} if error.extra else {}
    titles = {400: "Bad Request", 404: "Not Found", 405: "Method Not Allowed", 413: "Payload Too Large"}
    return problem(error.status_code, titles.get(error.status_code, "HTTP error"), error.detail, request.url.path, **more)


def unexpected(request: Request[Any, Any, Any], error: Exception) -> Response[bytes]:
    """A fault of ours: logged with its traceback, told without it."""
    _log.exception("%s %s failed", request.method, request.url.path, exc_info=error)
    detail = "The server failed to answer; its log has the reason."
    return problem(500, "Internal Server Error", detail, request.url.path)


HANDLERS: Final[dict[Any, Any]] = {
    errors.BusError: bus_error,
    HTTPException: http_error,
    Exception: unexpected,
}
