"""Errors as clients of a Confluent registry know them: a status, a code, and a message."""

import logging
from typing import Final

from event_streaming_bus import errors
from event_streaming_bus.registry import registry_errors

MEDIA_TYPE: Final = "application/vnd.schemaregistry.v1+json"
INVALID_SCHEMA: Final = 42201
SCHEMA_TOO_LARGE: Final = 42209
_log: Final = logging.getLogger(__name__)

# The first class that an error is an instance of decides, so the narrower ones stand first. Clients try again after a 408, a 429
# and a 5xx, so those are for what may go away by itself, never for what was asked.
_CODES: Final[tuple[tuple[type[errors.BusError], int, int], ...]] = (
    (registry_errors.SubjectNotFoundError, 404, 40401),
    (registry_errors.VersionNotFoundError, 404, 40402),
    (errors.SchemaNotFoundError, 404, 40403),
    (registry_errors.SubjectDeletedError, 404, 40404),
    (registry_errors.SubjectNotDeletedError, 404, 40405),
    (registry_errors.VersionDeletedError, 404, 40406),
    (registry_errors.VersionNotDeletedError, 404, 40407),
    (registry_errors.NoLevelError, 404, 40408),
    (registry_errors.NoModeError, 404, 40409),
    (errors.NotFoundError, 404, 404),
    (registry_errors.IncompatibleSchemaError, 409, 409),
    (registry_errors.InvalidVersionError, 422, 42202),
    (registry_errors.InvalidLevelError, 422, 42203),
    (registry_errors.InvalidModeError, 422, 42204),
    (registry_errors.ReferenceExistsError, 422, 42206),
    (registry_errors.IdMismatchError, 422, 42207),
    (registry_errors.InvalidSubjectError, 422, 42208),
    (registry_errors.InvalidRuleSetError, 422, 42210),
    (errors.PayloadTooLargeError, 413, 413),
    (errors.SchemaError, 422, INVALID_SCHEMA),
    (errors.ExpressionError, 422, INVALID_SCHEMA),
    (errors.InvalidInputError, 400, 400),
    (errors.InvalidStateError, 422, 42205),
    (errors.AlreadyExistsError, 409, 409),
    (errors.BusError, 500, 50001),
)


class Refusal(Exception):
    """An answer other than what was asked for, with a code that no error of the registry itself stands for."""

    def __init__(self, status: int, code: int, message: str, allow: str | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message
        self.allow = allow


def refusal_of(error: Exception, what: str) -> Refusal:
    """An error as an answer. What is our own fault is logged with ``what`` was asked, and told without its reason."""
    if isinstance(error, Refusal):
        return error
    if isinstance(error, errors.BusError):
        status, code = next((status, code) for kind, status, code in _CODES if isinstance(error, kind))
        if status >= 500:
            _log.error("%s failed: %s", what, error.message)
        return Refusal(status, code, error.message)
    _log.exception("%s failed", what, exc_info=error)
    return Refusal(500, 50001, "The server failed to answer; its log has the reason.")
