"""Every error that the bus raises on purpose.

All share ``BusError``. The class docstring is the default message and says what to do next. ``details`` hold the facts as
data, for problem documents and logs. Errors know nothing of HTTP; ``api/problems.py`` maps them.
"""

from typing import Any, TypeVar

E = TypeVar("E", bound=BaseException)


def cause_of(error: BaseException | None, kind: type[E]) -> E | None:
    """The error of this kind among ``error`` and its causes: libraries wrap what was raised in their callbacks."""
    while error is not None:
        if isinstance(error, kind):
            return error
        error = error.__cause__ or error.__context__
    return None


class BusError(Exception):
    """The event streaming bus could not do what was asked."""

    def __init__(self, message: str | None = None, **details: Any) -> None:
        super().__init__(message or (type(self).__doc__ or "").strip())
        self.details: dict[str, Any] = details

    @property
    def message(self) -> str:
        return str(self.args[0])


# --- what the caller said -------------------------------------------------------------------------------------------


class InvalidInputError(BusError):
    """A value is not acceptable. The message names the place and what would be accepted."""


class ConfigError(InvalidInputError):
    """A configuration is not acceptable. ``details['path']`` names the place, as in ``processors[2].window_config``."""


class FlowError(ConfigError):
    """A flow is not acceptable. The message names the processor and what would be accepted."""


class ExpressionError(InvalidInputError):
    """An expression does not parse or uses something that is not allowed. The message points at the column."""


class SchemaError(InvalidInputError):
    """A schema is not acceptable. The message names the place in the schema."""


class ValidationFailedError(InvalidInputError):
    """An event breaks its stream's schema. ``details['violations']`` lists each path with its reason."""


class PayloadTooLargeError(InvalidInputError):
    """A payload is larger than the limit. Publish a reference to the data instead, or raise ``max_payload_bytes``."""


class QueryError(InvalidInputError):
    """The SQL is not acceptable: one SELECT statement over the documented tables is."""


# --- what is not there, or in the way ---------------------------------------------------------------------------------


class NotFoundError(BusError):
    """What was asked for does not exist."""


class StreamNotFoundError(NotFoundError):
    """The stream does not exist. ``esb stream create NAME`` makes one; ``esb stream list`` shows what there is."""


class SchemaNotFoundError(NotFoundError):
    """The schema does not exist."""


class ProcessorNotFoundError(NotFoundError):
    """The processor does not exist."""


class GroupNotFoundError(NotFoundError):
    """The consumer group does not exist."""


class UnknownMemberError(NotFoundError):
    """The consumer is no member of the group, or no longer: it was put out because nothing was heard of it. Join again."""


class EventNotFoundError(NotFoundError):
    """The event is not in the history."""


class DeadLetterNotFoundError(NotFoundError):
    """The dead letter does not exist. ``esb dead-letters list --status all`` shows what there is."""


class AlreadyExistsError(BusError):
    """Something with this name exists already, with other settings."""


class InvalidStateError(BusError):
    """The thing is in a state that does not allow this, for instance a processor that is already running."""


class StreamChangedError(BusError):
    """The stream was given other settings, a new schema for instance, while events were on their way. Publish them again."""


class OffsetOutOfRangeError(BusError):
    """The offset is outside of what the partition holds; ``details`` has ``begin`` and ``end``."""


class FencedError(BusError):
    """Another, newer process has taken over this work. This process must stop; its last output was not written."""


class InUseError(BusError):
    """Another process holds this resource. Stop that process, or use another data folder or port."""


# --- what went wrong below --------------------------------------------------------------------------------------------


class StorageError(BusError):
    """The storage below failed. Nothing of the failed operation was kept."""


class UnavailableError(StorageError):
    """What lies below cannot be reached at the moment. Nothing of what was asked was done; try again."""


class OverloadedError(BusError):
    """There is as much to do as is taken on at once. Nothing of this was done; try again in ``details['retry_after_s']``."""


class LostDatabaseError(StorageError):
    """The database met an error after which it refuses everything. It must be opened again; what was committed is there."""


class LostTransactionError(StorageError):
    """The Kafka brokers gave a transaction up before it was committed. Nothing was written; try again."""


class DiskFullError(StorageError):
    """The disk is full. Nothing of this append was kept; free some space and publish again."""


class CorruptLogError(StorageError):
    """The log file is damaged. Restore it from a backup; events outside of the named place are not affected."""


class UnsupportedFormatError(StorageError):
    """The data folder was written by a newer version of the bus. Upgrade the bus to open it."""


class ClosedError(BusError):
    """The log is closed."""
