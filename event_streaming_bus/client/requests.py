"""What is asked of a server: the request, before it is one of HTTP."""

from collections.abc import Mapping, Sequence
from typing import Any, Final
from urllib.parse import quote, urlencode

import msgspec

from event_streaming_bus.errors import InvalidInputError
from event_streaming_bus.models import DEFAULT_TENANT

API: Final = "/api/v1"
TENANT_HEADER: Final = "X-Tenant-Id"
KEY_HEADER: Final = "Idempotency-Key"
KEY_IN_USE: Final = f"{KEY_HEADER}: the request with this key is being worked on"
"""How the server's answer begins while a request that was cut off is still being carried out."""

_encode: Final = msgspec.json.Encoder().encode


class Request(msgspec.Struct, frozen=True, kw_only=True):
    """A request. ``is_repeatable``: sending it twice does what sending it once does. ``is_keyed``: it is given an idempotency
    key, which makes it so. ``more_s``: how much longer than usual the answer may take."""

    method: str
    path: str
    body: bytes | None = None
    tenant_id: str | None = None
    is_repeatable: bool = False
    is_keyed: bool = False
    more_s: float = 0.0


def path_of(*parts: str, **query: Any) -> str:
    """The path below the API's root, each part encoded, with the query parameters that are not None."""
    for part in parts:
        if part in ("", ".", ".."):
            raise InvalidInputError(f"expected a name or an id, got {part!r}")
    told = {name: _text(value) for name, value in query.items() if value is not None}
    path = "/".join([API, *(quote(part, safe="") for part in parts)])
    return f"{path}?{urlencode(told, doseq=True)}" if told else path


def _text(value: Any) -> Any:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [str(each) for each in value]
    return str(value)


def json_of(value: Any) -> bytes:
    """The value as JSON. Raises ``InvalidInputError`` for what cannot be."""
    try:
        return _encode(value)
    except (TypeError, ValueError, RecursionError, OverflowError) as error:
        raise InvalidInputError(f"the request cannot be written as JSON: {error}") from None


def given(**values: Any) -> dict[str, Any]:
    """Those of the values that are not None."""
    return {name: value for name, value in values.items() if value is not None}


def plain_config(config: Any, name: str) -> dict[str, Any]:
    """A configuration as plain data. Raises ``InvalidInputError`` for what is none."""
    if not isinstance(config, Mapping):
        raise InvalidInputError(f"{name}: expected settings by name, got {config!r}")
    return dict(config)


def tenant_meant(asked: str, own: str | None) -> str | None:
    """The tenant that a call is about: the one that it names, or else the connection's; None leaves it to the token.

    The name of the default tenant is what methods have when nobody said anything.
    """
    return own if asked == DEFAULT_TENANT else asked
