"""Signed tokens (JWT): of whom, and what they say."""

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import jwt
from jwt.exceptions import InvalidTokenError, PyJWTError

from event_streaming_bus.access.access_errors import NotAuthenticatedError
from event_streaming_bus.access.jwks import KeySet
from event_streaming_bus.access.model import Grant, Principal, parse_grant
from event_streaming_bus.access.settings import MIN_SECRET_BYTES, SECRET_ALGORITHMS, AccessSettings, Issuer
from event_streaming_bus.errors import InvalidInputError

MAX_TOKEN_CHARS: Final = 16_384
_MAX_ROLES: Final = 200
_MAX_CHARS: Final = 200


class SignedTokens:
    """Verifies signed tokens by the issuers there are settings for. Keys in files are read once."""

    def __init__(self, settings: AccessSettings) -> None:
        self._issuers = {issuer.issuer: issuer for issuer in settings.issuers}
        self._files = {name: _read_key(issuer) for name, issuer in self._issuers.items() if issuer.key_file is not None}
        self._sets = {name: KeySet(issuer.jwks_url) for name, issuer in self._issuers.items() if issuer.jwks_url is not None}

    @property
    def is_asked(self) -> bool:
        """Whether there is any issuer."""
        return bool(self._issuers)

    def verify(self, token: str) -> Principal:
        """Whose token this is. Blocks while keys are fetched. Raises ``NotAuthenticatedError``, and ``IdentityProviderError`` if
        there are no keys to verify it with."""
        if len(token) > MAX_TOKEN_CHARS:
            raise NotAuthenticatedError("The token is not valid: it is too long.")
        try:
            header = jwt.get_unverified_header(token)
            claimed = jwt.decode(token, options={"verify_signature": False}).get("iss")
        except PyJWTError:
            raise NotAuthenticatedError("The token is not valid.") from None
        issuer = self._issuers.get(claimed) if isinstance(claimed, str) else None
        if issuer is None:
            raise NotAuthenticatedError("The token is of an issuer that is not accepted here.")
        # What the token says of its algorithm only chooses among those that the settings name.
        if header.get("alg") not in issuer.algorithms:
            accepted = ", ".join(issuer.algorithms)
            raise NotAuthenticatedError(f"The token is signed in a way that is not accepted; accepted: {accepted}.")
        key: Any = self._files.get(issuer.issuer)
        if key is None:
            key_id = header.get("kid")
            key = self._sets[issuer.issuer].find(key_id if isinstance(key_id, str) else None)
        try:
            claims = jwt.decode(
                token,
                key,
                algorithms=issuer.algorithms,
                audience=issuer.audience,
                issuer=issuer.issuer,
                leeway=issuer.leeway_s,
                options={"require": ["exp", "iss", "aud", issuer.principal_claim]},
            )
        except InvalidTokenError as error:
            raise NotAuthenticatedError(f"The token is not valid: {_reason(error)}.") from None
        except (PyJWTError, TypeError, ValueError):
            raise NotAuthenticatedError("The token is not valid: its key is of another kind.") from None
        return _principal(issuer, claims, token)


def _reason(error: InvalidTokenError) -> str:
    known = {
        "ExpiredSignatureError": "it has expired",
        "ImmatureSignatureError": "its time has not come",
        "InvalidAudienceError": "it is for another audience",
        "InvalidSignatureError": "its signature is wrong",
        "InvalidAlgorithmError": "it is signed in a way that is not accepted",
    }
    if isinstance(error, jwt.MissingRequiredClaimError):
        return f"it lacks the claim {error.claim}"
    return known.get(type(error).__name__, "it is not well-formed")


def _read_key(issuer: Issuer) -> bytes:
    path = Path(issuer.key_file or "").expanduser()
    try:
        key = path.read_bytes().strip()
    except OSError as error:
        raise InvalidInputError(f"the key of {issuer.issuer}: {path} cannot be read: {error.strerror}") from error
    is_secret = set(issuer.algorithms) <= SECRET_ALGORITHMS
    if is_secret and len(key) < MIN_SECRET_BYTES:
        raise InvalidInputError(f"the key of {issuer.issuer}: {path} has {len(key)} bytes; a secret needs {MIN_SECRET_BYTES}")
    if not is_secret and b"-----BEGIN PUBLIC KEY-----" not in key:
        raise InvalidInputError(f"the key of {issuer.issuer}: {path} has no public key in PEM form")
    return key


def _principal(issuer: Issuer, claims: Mapping[str, Any], token: str) -> Principal:
    name = claims[issuer.principal_claim]
    if not isinstance(name, str) or not name or len(name) > _MAX_CHARS or not name.isprintable():
        raise NotAuthenticatedError(f"The token is not valid: its {issuer.principal_claim} names nobody.")
    tenant_id = issuer.tenant_id
    if issuer.tenant_claim is not None:
        tenant_id = claims.get(issuer.tenant_claim, "")
        if tenant_id not in issuer.tenants:
            raise NotAuthenticatedError("The token is not valid: it is for a tenant that its issuer does not speak for.")
    token_id = claims.get("jti")
    if not isinstance(token_id, str) or not token_id:
        token_id = hashlib.sha256(token.encode()).hexdigest()[:16]
    return Principal(
        principal_id=name,
        kind="jwt" if issuer.jwks_url is None else "oidc",
        token_id=f"jwt:{token_id[:_MAX_CHARS]}",
        tenant_id=tenant_id,
        grants=_grants(issuer, claims.get(issuer.roles_claim)),
        limits=issuer.limits,
    )


def _grants(issuer: Issuer, claim: object) -> tuple[Grant, ...]:
    named = claim.split() if isinstance(claim, str) else claim if isinstance(claim, list) else []
    roles: list[str] = []
    for value in named[:_MAX_ROLES]:
        if isinstance(value, str):
            roles += [value] if issuer.roles is None else _listed(issuer.roles.get(value, []))
    grants = []
    for role in dict.fromkeys(roles):
        try:
            grants.append(parse_grant(role))
        except InvalidInputError:
            continue  # providers put all kinds of groups into their tokens
    return tuple(grants)


def _listed(value: str | Sequence[str]) -> list[str]:
    return [value] if isinstance(value, str) else list(value)
