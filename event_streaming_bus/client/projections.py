"""The projections of a server."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import msgspec

from event_streaming_bus.client.client_errors import NotRemoteError, not_remote
from event_streaming_bus.client.remote_service import Data, RemoteService
from event_streaming_bus.client.requests import given, path_of, plain_config
from event_streaming_bus.models import DEFAULT_TENANT
from event_streaming_bus.sourcing.projection_errors import ProjectionConfigError, ProjectionLagError
from event_streaming_bus.sourcing.projections.builds import Applied, Verdict
from event_streaming_bus.sourcing.projections.definition import ProjectionDefinition
from event_streaming_bus.sourcing.projections.queries import DEFAULT_ROWS, MAX_ROWS
from event_streaming_bus.sourcing.projections.reading import read_projection, read_projection_file
from event_streaming_bus.sourcing.projections.service import Declared

_PROJECTIONS: Final = "projections"
_MOST_WAIT_S: Final = 60.0


class ProjectionService(RemoteService):
    """The projections of a server, which runs them. Wherever a ``position`` is given (as ``append`` returned it), the answer is
    not older than that, or ``ProjectionLagError`` is raised after ``timeout_s``, at most a minute."""

    def start(self, *, must: bool = False, only: str | None = None) -> None:
        """Nothing: the server runs projections as long as it runs."""

    def stop_running(self) -> None:
        """Nothing: no projection is run by this process."""

    @property
    def is_owner(self) -> bool:
        """Whether this process runs the projections: never."""
        return False

    async def __aenter__(self) -> "ProjectionService":
        return self

    async def __aexit__(self, *error: object) -> None:
        self.close()

    # --- declaring ----------------------------------------------------------------------------------------------------

    def read(self, declared: Declared) -> list[ProjectionDefinition]:
        """The definitions that are declared, checked; a file may hold several. The tables of a class that is named are the
        server's to know: they are left out. Raises ``ProjectionConfigError``, and ``NotRemoteError`` for a class itself."""
        if isinstance(declared, type):
            raise _of_this_process()
        if isinstance(declared, str | os.PathLike):
            return read_projection_file(Path(declared))
        return [declared if isinstance(declared, ProjectionDefinition) else read_projection(declared)]

    async def apply(self, declared: Declared, tenant_id: str = DEFAULT_TENANT) -> list[Applied]:
        """Declare projections, one after the other: plain data, a definition, or a file that is here, which may hold several.

        A class must be importable where the server runs, and is declared by its name: ``{"name": ..., "class":
        "module:Class"}``; for a class itself this raises ``NotRemoteError``.
        """
        return [await self._applied(data, tenant_id) for data in _declared(declared)]

    async def preview(self, declared: Declared, tenant_id: str = DEFAULT_TENANT) -> list[Applied]:
        """What ``apply`` would do."""
        return [await self._applied(data, tenant_id, dry_run=True) for data in _declared(declared)]

    async def _applied(self, data: Data, tenant_id: str, *, dry_run: bool = False) -> Applied:
        name = data.get("name")
        if not isinstance(name, str) or not name:
            raise ProjectionConfigError("name: expected the name of the projection", path="name")
        answer = await self._asked(Data, "PUT", path_of(_PROJECTIONS, name, dry_run=dry_run), tenant_id, data)
        return Applied(answer["name"], Verdict(answer["verdict"]))

    async def pause(self, name: str, tenant_id: str = DEFAULT_TENANT) -> None:
        """Let a projection rest. It still answers."""
        await self._asked(Data, "POST", path_of(_PROJECTIONS, name, "pause"), tenant_id, is_repeatable=True)

    async def resume(self, name: str, tenant_id: str = DEFAULT_TENANT, *, skip_event: bool = False) -> None:
        """Let a projection go on that rests or has failed; ``skip_event``: without the event that it failed at."""
        await self._asked(Data, "POST", path_of(_PROJECTIONS, name, "resume"), tenant_id, {"skip_event": skip_event})

    async def rebuild(self, name: str, tenant_id: str = DEFAULT_TENANT) -> None:
        """Build a projection anew from the first event, in the background; the present rows answer until that is done."""
        await self._asked(Data, "POST", path_of(_PROJECTIONS, name, "rebuild"), tenant_id)

    async def delete(self, name: str, tenant_id: str = DEFAULT_TENANT) -> None:
        """Forget a projection and its rows."""
        await self._asked(Data, "DELETE", path_of(_PROJECTIONS, name), tenant_id)

    # --- looking ------------------------------------------------------------------------------------------------------

    async def list_projections(self, tenant_id: str = DEFAULT_TENANT) -> list[dict[str, Any]]:
        """The status of every projection, by name."""
        return await self._listed("projections", _PROJECTIONS, tenant_id)

    async def describe(self, name: str, tenant_id: str = DEFAULT_TENANT) -> dict[str, Any]:
        """The status of a projection, its ``definition``, and ``skipped_events``, the newest that it passed over."""
        return await self._asked(Data, "GET", path_of(_PROJECTIONS, name), tenant_id)

    async def skipped(self, name: str, tenant_id: str = DEFAULT_TENANT, *, limit: int = 100) -> list[dict[str, Any]]:
        """The newest events that a projection passed over, and why; newest first."""
        answer = await self._asked(Data, "GET", path_of(_PROJECTIONS, name, "skipped", limit=limit), tenant_id)
        return list(answer["events"])

    # --- asking -------------------------------------------------------------------------------------------------------

    async def rows(
        self,
        name: str,
        tenant_id: str = DEFAULT_TENANT,
        *,
        table: str | None = None,
        where: Mapping[str, Any] | None = None,
        order: str | Sequence[str] | None = None,
        limit: int = DEFAULT_ROWS,
        cursor: str | None = None,
        position: int | None = None,
        timeout_s: float = 10.0,
    ) -> dict[str, Any]:
        """Rows of a table, as ``rows``, the ``cursor`` of the next page, and the ``position`` that they are of."""
        path = path_of(
            _PROJECTIONS,
            name,
            "rows",
            table=table,
            where=None if where is None else msgspec.json.encode(where).decode(),
            order=order if order is None or isinstance(order, str) else ",".join(order),
            limit=limit,
            cursor=cursor,
            position=position,
            timeout_s=timeout_s,
        )
        return await self._asked(Data, "GET", path, tenant_id, more_s=timeout_s)

    async def sql(
        self,
        name: str,
        statement: str,
        tenant_id: str = DEFAULT_TENANT,
        *,
        parameters: Sequence[Any] = (),
        position: int | None = None,
        timeout_s: float = 10.0,
        max_rows: int = MAX_ROWS,
    ) -> dict[str, Any]:
        """The answer to one SELECT over the projection's tables: ``columns``, ``rows``, ``truncated``, and the ``position``."""
        body = {
            "sql": statement,
            "parameters": list(parameters),
            "timeout_s": timeout_s,
            "max_rows": max_rows,
            **given(position=position),
        }
        path = path_of(_PROJECTIONS, name, "query")
        return await self._asked(Data, "POST", path, tenant_id, body, is_repeatable=True, more_s=2 * timeout_s)

    async def wait_for(
        self, name: str, position: int | None = None, timeout_s: float = 10.0, tenant_id: str = DEFAULT_TENANT
    ) -> int:
        """Wait until the projection has come to a position (None: to the newest event of now); the position that it is at."""
        path = path_of(_PROJECTIONS, name, "wait")
        left_s = timeout_s
        while True:
            now_s = min(left_s, _MOST_WAIT_S)
            body = {"timeout_s": now_s, **given(position=position)}
            try:
                answer = await self._asked(Data, "POST", path, tenant_id, body, is_repeatable=True, more_s=now_s)
            except ProjectionLagError as error:
                left_s -= now_s
                if left_s <= 0:
                    raise
                wanted = error.details.get("wanted")
                position = wanted if isinstance(wanted, int) else position
            else:
                return int(answer["position"])


def _declared(declared: Declared) -> list[dict[str, Any]]:
    if isinstance(declared, type):
        raise _of_this_process()
    if isinstance(declared, ProjectionDefinition):
        return [_data_of(declared)]
    if isinstance(declared, str | os.PathLike):
        return [_data_of(each) for each in read_projection_file(Path(declared))]
    return [plain_config(declared, "declared")]


def _of_this_process() -> NotRemoteError:
    return not_remote(
        "declaring a class of this process",
        'make it importable for the server, and declare {"name": ..., "class": "module:Class"}',
    )


def _data_of(definition: ProjectionDefinition) -> dict[str, Any]:
    if definition.class_name is None:
        return definition.to_data()
    more = {"description": definition.description} if definition.description else {}
    return {"name": definition.name, "class": definition.class_name, "on_error": definition.on_error.value, **more}
