"""The settings of a server's data folder."""

from typing import Any

from event_streaming_bus.client.remote_service import Data, RemoteService
from event_streaming_bus.client.requests import path_of
from event_streaming_bus.errors import NotFoundError

_SETTINGS = "settings"


class Settings(RemoteService):
    """The settings of a server's data folder, which are of all tenants: an administrator of the default tenant changes them.
    Blocks, as they do in process."""

    def value(self, name: str) -> int | None:
        """The value that counts. Raises ``NotFoundError``."""
        value: int | None = self.told(name)[0]["value"]
        return value

    def told(self, name: str | None = None) -> list[dict[str, Any]]:
        """All settings, or the one with a name, as JSON: ``source`` is ``set``, ``environment`` or ``default``. Raises
        ``NotFoundError``."""
        if name is not None:
            return [self._now("GET", name)]
        told: dict[str, Any] = self._connection.now(self._asked(Data, "GET", path_of(_SETTINGS), None))
        return list(told["settings"])

    def set(self, name: str, value: object, *, changed_by: str | None = None) -> None:
        """Set one; ``None`` stands for none. The server knows by the token who does, so ``changed_by`` is not looked at. Raises
        ``NotFoundError`` and ``InvalidInputError``."""
        self._now("PUT", name, {"value": value})

    def reset(self, name: str) -> None:
        """Forget what was set, if anything was. Raises ``NotFoundError`` for a name that no setting has."""
        self._now("DELETE", name)

    def _now(self, method: str, name: str, body: Any = None) -> dict[str, Any]:
        if name in ("", ".", ".."):  # no address could say so
            raise NotFoundError(f"There is no setting '{name}'.", name=name)
        asked = self._asked(Data, method, path_of(_SETTINGS, name), None, body, is_repeatable=True)
        told: dict[str, Any] = self._connection.now(asked)
        return told
