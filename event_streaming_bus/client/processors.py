"""The processors of a server."""

from collections.abc import Mapping
from typing import Any, NoReturn

from event_streaming_bus.client.client_errors import not_remote
from event_streaming_bus.client.remote_service import Data, RemoteService
from event_streaming_bus.client.requests import path_of, plain_config
from event_streaming_bus.models import DEFAULT_TENANT

_PROCESSORS = "stream-processors"
_STOPPING_S = 60.0


class StreamManagementService(RemoteService):
    """Creates processors on a server, which runs them. ``close`` leaves them running."""

    async def create_stream_processor(
        self, processor_config: Mapping[str, Any], tenant_id: str = DEFAULT_TENANT, user_id: str | None = None
    ) -> str:
        """Check a processor's configuration and keep it; returns its id. It is not started. The server knows by the token who
        creates it, so ``user_id`` is not looked at."""
        config = plain_config(processor_config, "processor_config")
        answer = await self._asked(Data, "POST", path_of(_PROCESSORS), tenant_id, config, is_keyed=True)
        return str(answer["processor_id"])

    async def start_stream_processor(self, processor_id: str, tenant_id: str = DEFAULT_TENANT) -> None:
        """Start a processor. It goes on where it was when it last ran. Raises ``InvalidStateError`` if it runs already."""
        await self._asked(Data, "POST", path_of(_PROCESSORS, processor_id, "start"), tenant_id, more_s=_STOPPING_S)

    async def stop_stream_processor(self, processor_id: str, tenant_id: str = DEFAULT_TENANT) -> None:
        """Stop a processor: what it has read is processed and a snapshot taken; open windows stay open."""
        await self._asked(Data, "POST", path_of(_PROCESSORS, processor_id, "stop"), tenant_id, more_s=_STOPPING_S)

    async def resume(self) -> NoReturn:
        """Raises ``NotRemoteError``: a server resumes its processors when it starts."""
        raise not_remote("resuming all processors", "the server does so when it starts; start_stream_processor starts one")

    async def get_processor_metrics(self, processor_id: str, tenant_id: str = DEFAULT_TENANT) -> dict[str, Any]:
        """What the processor has done so far."""
        return await self._asked(Data, "GET", path_of(_PROCESSORS, processor_id, "metrics"), tenant_id)

    async def get_stream_processor(self, processor_id: str, tenant_id: str = DEFAULT_TENANT) -> dict[str, Any]:
        """The processor's configuration and status."""
        return await self._asked(Data, "GET", path_of(_PROCESSORS, processor_id), tenant_id)

    async def list_stream_processors(self, tenant_id: str = DEFAULT_TENANT) -> list[dict[str, Any]]:
        """Configuration and status of every processor of the tenant, those of flow files included."""
        return await self._listed("processors", _PROCESSORS, tenant_id)

    async def delete_stream_processor(self, processor_id: str, tenant_id: str = DEFAULT_TENANT) -> None:
        """Forget a processor that does not run, how far it has come, and its state. Its streams stay."""
        await self._asked(Data, "DELETE", path_of(_PROCESSORS, processor_id), tenant_id)

    async def get_processor_logs(self, processor_id: str, tenant_id: str = DEFAULT_TENANT, *, tail: int = 100) -> list[str]:
        """The last lines that the processor's workers printed in their present or latest run."""
        answer = await self._asked(Data, "GET", path_of(_PROCESSORS, processor_id, "logs", tail=tail), tenant_id)
        return list(answer["lines"])
