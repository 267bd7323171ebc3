# Made by `python -m event_streaming_bus.client.twin` of client/history.py; change that one, and make this one anew.
"""The history of a server, asked in SQL."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from event_streaming_bus.client.requests import given, path_of
from event_streaming_bus.client.sync.remote_service import Data, RemoteService

if TYPE_CHECKING:
    from event_streaming_bus.store.history.answers import QueryResult

_TRUNCATED = b"truncated"


class RemoteHistory(RemoteService):
    """What was done with every event, as tables."""

    def query(
        self,
        sql: str,
        *,
        tenant_id: str | None = None,
        timeout_s: float = 60.0,
        parameters: Mapping[str, Any] | None = None,
    ) -> "QueryResult":
        """The answer to one reading statement, as Arrow, as far as the log was loaded when it was asked. ``parameters`` are the
        values of ``$names`` in ``sql``. Raises ``QueryError``, also if it takes longer than ``timeout_s``, and
        ``ServerUnreachableError`` for an answer that was broken off."""
        import pyarrow.ipc

        from event_streaming_bus.store.history.answers import QueryResult

        body = {"sql": sql, "timeout_s": timeout_s, "format": "arrow", **given(parameters=parameters)}
        path = path_of("history", "query")
        whose = tenant_id if tenant_id is not None else self._connection.target.tenant_id
        content = self._content("POST", path, whose, body, more_s=timeout_s)
        with pyarrow.ipc.open_stream(content) as reader:
            batches, is_truncated = [], False
            for each in reader.iter_batches_with_custom_metadata():
                if each.batch is not None and each.batch.num_rows:
                    batches.append(each.batch)
                if each.custom_metadata is not None and each.custom_metadata.get(_TRUNCATED) == b"true":
                    is_truncated = True
            return QueryResult(pyarrow.Table.from_batches(batches, reader.schema), is_truncated)

    def event(self, event_id: str, tenant_id: str | None = None) -> dict[str, Any]:
        """An event with its envelope and payload. Raises ``EventNotFoundError``."""
        return self._asked(Data, "GET", path_of("events", event_id), tenant_id or self._connection.target.tenant_id)

    def processing_history(self, event_id: str, tenant_id: str | None = None) -> dict[str, Any]:
        """Every processing step of an event. Raises ``EventNotFoundError``."""
        path = path_of("events", event_id, "processing-history")
        return self._asked(Data, "GET", path, tenant_id or self._connection.target.tenant_id)
