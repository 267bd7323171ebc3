"""Who makes a request: told from its ``Authorization`` header."""

import asyncio
import base64
import binascii
from typing import Final

from event_streaming_bus.access.access_errors import NotAuthenticatedError
from event_streaming_bus.access.model import Principal
from event_streaming_bus.access.settings import AccessSettings
from event_streaming_bus.access.tokens import PREFIX, TokenService

_EXPECTED: Final = "expected the header Authorization: Bearer TOKEN"


class Authenticator:
    """Verifies API tokens and signed tokens."""

    def __init__(self, tokens: TokenService, settings: AccessSettings | None = None) -> None:
        self._tokens = tokens
        self._signed = None
        if settings is not None and settings.issuers:
            from event_streaming_bus.access.signed_tokens import SignedTokens

            self._signed = SignedTokens(settings)

    async def principal(self, authorization: str | None, address: str | None = None) -> Principal:
        """Whose request has this header. Raises ``NotAuthenticatedError``, and ``IdentityProviderError`` if a token cannot be
        verified for want of keys."""
        token = token_of(authorization)
        if not token.startswith(PREFIX):
            if self._signed is None:
                raise NotAuthenticatedError("The token is not valid.")
            return await asyncio.to_thread(self._signed.verify, token)
        principal = self._tokens.verify(token)
        if self._tokens.is_use_due(principal.token_id):
            await asyncio.to_thread(self._tokens.note_use, principal.token_id, address)
        return principal


def token_of(authorization: str | None) -> str:
    """The token that a header has: of ``Bearer``, or as the password of ``Basic``, which is all that some clients of a registry
    can send. Raises ``NotAuthenticatedError``."""
    if not authorization:
        raise NotAuthenticatedError(f"The request does not say who makes it: {_EXPECTED}.")
    scheme, _, value = authorization.partition(" ")
    value = value.strip()
    if scheme.lower() == "basic":
        try:
            value = base64.b64decode(value, validate=True).decode().partition(":")[2]
        except (binascii.Error, ValueError):
            value = ""
    elif scheme.lower() != "bearer":
        raise NotAuthenticatedError(f"The scheme {scheme[:20]!r} is not accepted: {_EXPECTED}.")
    if not value:
        raise NotAuthenticatedError(f"The header has no token: {_EXPECTED}.")
    return value
