"""The errors of a client: its own, and those of the server, which come as the classes that they are raised as in process."""

import email.utils
import time
from importlib import import_module
from typing import Any, Final

import msgspec

from event_streaming_bus.access.access_errors import ForbiddenError, LimitError, NotAuthenticatedError
from event_streaming_bus.errors import (
    BusError,
    InvalidInputError,
    InvalidStateError,
    NotFoundError,
    PayloadTooLargeError,
)

_PROBLEM_MEMBERS: Final = frozenset({"type", "title", "status", "detail", "instance"})
_MAX_SHOWN: Final = 300


class ServerUnreachableError(BusError):
    """The server cannot be reached, or has not answered. Whether a request was carried out is not known, unless the message
    says so; ``details`` have the ``url``."""


class NotRemoteError(BusError):
    """This needs the bus in process: over HTTP there is no such thing."""


def not_remote(what: str, instead: str) -> NotRemoteError:
    """What to tell of something that cannot be done over HTTP, and what to do instead."""
    return NotRemoteError(f"{what} is not possible over HTTP: {instead}")


MODULES: Final = (
    "errors",
    "access.access_errors",
    "store.aggregate_errors",
    "registry.registry_errors",
    "registry.personal",
    "sourcing.sourcing_errors",
    "sourcing.projection_errors",
    "store.aggregate_lifecycle",
    "routing.model",
    "erasure.service",
    "registry.avro.types",
    "store.server_calls",
)
"""Where the errors are that problem documents name by their titles. Imported in this order when one is raised that is not known
yet."""

# For titles that are no class of ours: those of the HTTP layer, of what stands in front of the server, of newer servers.
_BY_STATUS: Final[dict[int, type[BusError]]] = {
    400: InvalidInputError,
    401: NotAuthenticatedError,
    403: ForbiddenError,
    404: NotFoundError,
    409: InvalidStateError,
    413: PayloadTooLargeError,
    422: InvalidInputError,
    429: LimitError,
}


class Problem(msgspec.Struct, frozen=True):
    """A problem document, or what could be made of another body."""

    title: str
    detail: str
    details: dict[str, Any]


def problem_of(status: int, body: bytes, url: str) -> Problem:
    """What the body of an answer says of an error."""
    try:
        told = msgspec.json.decode(body, type=dict[str, Any])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        text = " ".join(body[:_MAX_SHOWN].decode("utf-8", "replace").split())
        return Problem("", f"{url} answered with the status {status}: {text or 'and nothing else'}", {})
    details = {name: value for name, value in told.items() if name not in _PROBLEM_MEMBERS}
    return Problem(str(told.get("title", "")), str(told.get("detail") or told.get("message") or f"status {status}"), details)


def error_of(status: int, problem: Problem) -> BusError:
    """The error that the server raised, with its message and details."""
    error = (_named(f"{problem.title}Error") or _BY_STATUS.get(status, BusError))(problem.detail)
    error.details.update(problem.details)
    return error


def retry_after_s(told: str) -> float | None:
    """After how many seconds to come again, as the header ``Retry-After`` says: a number, or a time, which proxies may send. None
    if it says neither."""
    if told.isdecimal():
        return float(told[:9])
    try:
        return max(0.0, email.utils.parsedate_to_datetime(told).timestamp() - time.time())
    except (ValueError, OverflowError):
        return None


def _named(name: str) -> type[BusError] | None:
    for module in MODULES:
        kind = getattr(import_module(f"event_streaming_bus.{module}"), name, None)
        if isinstance(kind, type) and issubclass(kind, BusError):
            return kind
    return None
