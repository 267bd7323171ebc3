"""The errors of the schema registry, one class for each thing that its clients tell apart."""

from event_streaming_bus.errors import BusError, InvalidInputError, InvalidStateError, NotFoundError, SchemaError


class SubjectNotFoundError(NotFoundError):
    """The subject does not exist."""


class VersionNotFoundError(NotFoundError):
    """The subject has no such version."""


class SubjectDeletedError(NotFoundError):
    """The subject is deleted already. Delete it with permanent=true to remove it for good."""


class SubjectNotDeletedError(NotFoundError):
    """The subject is not deleted. Delete it first, then once more with permanent=true."""


class VersionDeletedError(NotFoundError):
    """The version is deleted already. Delete it with permanent=true to remove it for good."""


class VersionNotDeletedError(NotFoundError):
    """The version is not deleted. Delete it first, then once more with permanent=true."""


class NoLevelError(NotFoundError):
    """The subject has no compatibility level of its own."""


class NoModeError(NotFoundError):
    """The subject has no mode of its own."""


class IncompatibleSchemaError(BusError):
    """The schema is not compatible with an earlier version. ``details['incompatibilities']`` lists each difference with its JSON
    pointer, kind and what would mend it."""


class SemanticVersionError(SchemaError):
    """The schema's version does not go with what has changed."""


class InvalidVersionError(InvalidInputError):
    """The version is no positive number, 'latest' or -1."""


class InvalidLevelError(InvalidInputError):
    """The compatibility level is none that there is."""


class InvalidModeError(InvalidInputError):
    """The mode is none that there is."""


class NotPermittedError(InvalidStateError):
    """The subject's mode, or its state, does not allow this."""


class ReferenceExistsError(InvalidStateError):
    """Other schemas refer to this one. Delete those first."""


class IdMismatchError(InvalidStateError):
    """The id, or the version, is taken by another schema."""


class InvalidSubjectError(InvalidInputError):
    """The subject's name is not acceptable."""


class InvalidRuleSetError(InvalidInputError):
    """The rule set is not acceptable."""


class DeprecatedSchemaError(InvalidStateError):
    """The schema is deprecated, or inactive, and takes no new events. Use its newest version."""
