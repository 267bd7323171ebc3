"""What may come of asking who somebody is, and whether they may."""

from event_streaming_bus.errors import BusError, NotFoundError


class NotAuthenticatedError(BusError):
    """The request does not say who makes it. Send a token: ``Authorization: Bearer TOKEN``."""


class ForbiddenError(BusError):
    """The token does not allow this. ``details`` have the ``permission`` that is missing."""


class LimitError(BusError):
    """The token's limit is reached. ``details`` have ``retry_after_s``, after which there is hope."""


class IdentityProviderError(BusError):
    """The keys of the identity provider cannot be had, so its tokens cannot be verified."""


class TokenNotFoundError(NotFoundError):
    """The token does not exist, or is revoked already. ``esb tokens list`` shows what there is."""
