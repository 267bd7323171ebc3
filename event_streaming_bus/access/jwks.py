"""The keys that an identity provider publishes: fetched when they are needed, and kept for a while."""

import json
import logging
import threading
import time
import urllib.request
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

from event_streaming_bus.access.access_errors import IdentityProviderError, NotAuthenticatedError

if TYPE_CHECKING:
    from jwt import PyJWK

FRESH_S: Final = 600.0
"""After so long, keys are fetched anew when one is needed."""
STALE_S: Final = 3600.0
"""For so long, keys count if the provider cannot be reached."""
RETRY_S: Final = 10.0
"""The provider is asked at most so often, whoever shows tokens with keys that there are not."""
_TIMEOUT_S: Final = 5.0
_MAX_BYTES: Final = 1 << 20
_log: Final = logging.getLogger(__name__)


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """A redirect could lead to where anybody may publish keys."""

    def redirect_request(self, *arguments: Any, **named: Any) -> None:
        return None


class KeySet:
    """The keys at a URL. Safe to use from any thread; blocks while they are fetched."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._lock = threading.Lock()
        self._keys: Mapping[str | None, PyJWK] = {}
        self._fetched_at = self._asked_at = float("-inf")

    def find(self, key_id: str | None) -> "PyJWK":
        """The key with this id; the only one there is, for tokens that name none. Raises ``NotAuthenticatedError`` for a key that
        is not among them, ``IdentityProviderError`` if none can be had."""
        with self._lock:
            now = time.monotonic()
            if now - self._asked_at >= RETRY_S and (key_id not in self._keys or now - self._fetched_at >= FRESH_S):
                self._asked_at = now
                self._fetch(now)
            if now - self._fetched_at >= STALE_S:
                raise IdentityProviderError
            if key_id is None and len(self._keys) == 1:
                return next(iter(self._keys.values()))
            key = self._keys.get(key_id)
        if key is None:
            raise NotAuthenticatedError("The token is signed with a key that its issuer does not publish.")
        return key

    def _fetch(self, now: float) -> None:
        from jwt import PyJWKSet
        from jwt.exceptions import PyJWTError

        try:
            opener = urllib.request.build_opener(_NoRedirects)
            with opener.open(self._url, timeout=_TIMEOUT_S) as response:
                data = response.read(_MAX_BYTES + 1)
            if len(data) > _MAX_BYTES:
                raise ValueError(f"more than {_MAX_BYTES:,} bytes")
            found = PyJWKSet.from_dict(json.loads(data)).keys
        except (OSError, ValueError, TypeError, AttributeError, PyJWTError) as error:
            _log.warning("the keys at %s could not be had: %s", self._url, error)
            return
        self._keys = {key.key_id: key for key in found}
        self._fetched_at = now
