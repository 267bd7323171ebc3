"""Whose signed tokens are accepted: the access file, in YAML, which ``esb serve --access FILE`` names.

issuers:
  - issuer: https://login.example.org/        # as the tokens' iss says
    audience: event-streaming-bus             # as their aud says
    jwks_url: https://login.example.org/keys  # or key_file: a PEM public key, or a secret for HS256
    algorithms: [RS256]
    roles_claim: groups
    roles: {bus-admins: admin, shop: "publisher:orders.*"}
    tenant_claim: org
    tenants: [acme, default]
"""

from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import msgspec
import yaml

from event_streaming_bus.access.model import Limits, parse_grant
from event_streaming_bus.errors import ConfigError, InvalidInputError
from event_streaming_bus.models import DEFAULT_TENANT
from event_streaming_bus.struct_errors import told

SECRET_ALGORITHMS: Final = frozenset({"HS256", "HS384", "HS512"})
PUBLIC_ALGORITHMS: Final = frozenset({"RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"})
MIN_SECRET_BYTES: Final = 32
_MAX_FILE_BYTES: Final = 1 << 20
_LOOPBACK: Final = frozenset({"localhost", "127.0.0.1", "::1"})


class Issuer(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Who signs tokens, and what these say.

    Keys come from ``jwks_url`` or ``key_file``. The principal is what ``principal_claim`` says. ``roles_claim`` is a text or a
    list; each of its values is looked up in ``roles``, or, without that, is a role itself as in ``publisher:orders``. Values that
    are no role are passed over. The tenant is what ``tenant_claim`` says, which must be one of ``tenants``; without a
    ``tenant_claim``, it is ``tenant_id``. ``leeway_s`` is how far clocks may differ.
    """

    issuer: str
    audience: str
    algorithms: list[str]
    jwks_url: str | None = None
    key_file: str | None = None
    principal_claim: str = "sub"
    roles_claim: str = "roles"
    roles: dict[str, str | list[str]] | None = None
    tenant_claim: str | None = None
    tenants: list[str] = []
    tenant_id: str = DEFAULT_TENANT
    limits: Limits = Limits()
    leeway_s: int = 30

    def check(self, place: str) -> None:
        """Raise ``ConfigError`` for what could not work, or would not be safe."""
        for name in ("issuer", "audience", "principal_claim", "roles_claim"):
            if not getattr(self, name):
                raise _wrong(f"{place}.{name}", "expected a text that is not empty")
        if (self.jwks_url is None) == (self.key_file is None):
            raise _wrong(place, "expected one of jwks_url and key_file")
        algorithms = set(self.algorithms)
        is_secret = algorithms <= SECRET_ALGORITHMS
        # A public key taken for a secret would let everybody sign, so the two kinds are never accepted together.
        if not algorithms or not (is_secret or algorithms <= PUBLIC_ALGORITHMS):
            accepted = f"{', '.join(sorted(PUBLIC_ALGORITHMS))}; or with a secret {', '.join(sorted(SECRET_ALGORITHMS))}"
            raise _wrong(f"{place}.algorithms", f"expected algorithms of one kind: {accepted}")
        if self.jwks_url is not None:
            if is_secret:
                raise _wrong(f"{place}.algorithms", "keys that are published cannot be secrets")
            check_url(self.jwks_url, f"{place}.jwks_url")
        if self.tenant_claim is not None and not self.tenants:
            raise _wrong(f"{place}.tenants", "expected the tenants that the issuer may speak for")
        for name, roles in (self.roles or {}).items():
            for role in [roles] if isinstance(roles, str) else roles:
                try:
                    parse_grant(role)
                except InvalidInputError as error:
                    raise _wrong(f"{place}.roles.{name}", error.message) from None


class AccessSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The access file."""

    issuers: list[Issuer] = []


def read_settings(path: Path) -> AccessSettings:
    """The access file. Raises ``ConfigError`` that names the place, and ``InvalidInputError`` for a file that cannot be read."""
    try:
        if path.stat().st_size > _MAX_FILE_BYTES:
            raise InvalidInputError(f"{path} is larger than {_MAX_FILE_BYTES:,} bytes")
        data: Any = yaml.safe_load(path.read_text("utf-8"))
        settings = msgspec.convert(data or {}, AccessSettings)
    except OSError as error:
        raise InvalidInputError(f"{path} cannot be read: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not YAML: {error}") from None
    except msgspec.ValidationError as error:
        raise ConfigError(f"{path}: {told(str(error), lambda _: sorted(Issuer.__struct_fields__))}") from None
    seen: set[str] = set()
    for number, issuer in enumerate(settings.issuers):
        issuer.check(f"issuers[{number}]")
        if issuer.issuer in seen:
            raise _wrong(f"issuers[{number}].issuer", f"{issuer.issuer} is there twice")
        seen.add(issuer.issuer)
    return settings


def check_url(url: str, place: str) -> None:
    """Raise ``ConfigError`` for a URL from which keys must not be taken."""
    parts = urlsplit(url)
    if parts.scheme != "https" and not (parts.scheme == "http" and parts.hostname in _LOOPBACK):
        raise _wrong(place, "expected a URL that begins with https://, for whoever can change keys on their way can sign tokens")


def _wrong(path: str, message: str) -> ConfigError:
    return ConfigError(f"{path}: {message}", path=path)
