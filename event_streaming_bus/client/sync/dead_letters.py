# Made by `python -m event_streaming_bus.client.twin` of client/dead_letters.py; change that one, and make this one anew.
"""The dead letters of a server."""

import base64
from collections.abc import Iterator, Sequence
from typing import Any, NoReturn

import msgspec

from event_streaming_bus.client.client_errors import not_remote
from event_streaming_bus.client.requests import given, path_of
from event_streaming_bus.client.sync.remote_service import Data, RemoteService
from event_streaming_bus.errors import InvalidInputError
from event_streaming_bus.flows.letter_retries import LetterReport
from event_streaming_bus.models import DEFAULT_TENANT
from event_streaming_bus.store.letters import LetterFilter, LetterStatus

_LETTERS = "dead-letters"
_RETRYING_S = 600.0
_MAX_REPORTS = 100_000


class _Reports(msgspec.Struct):
    reports: list[LetterReport]


class DeadLetterService(RemoteService):
    """Lists, retries and drops dead letters."""

    def list_dead_letters(
        self,
        tenant_id: str = DEFAULT_TENANT,
        *,
        stream: str | None = None,
        processor: str | None = None,
        group: str | None = None,
        error_type: str | None = None,
        key: str | None = None,
        status: str = LetterStatus.OPEN,
        limit: int = 100,
        cursor: str | None = None,
        newest_first: bool = False,
    ) -> dict[str, Any]:
        """A page of letters, without their payloads: ``dead_letters``, and ``next_cursor``, which is null on the last page."""
        path = path_of(
            _LETTERS,
            stream=stream,
            processor=processor,
            group=group,
            error_type=error_type,
            key=key,
            status=status,
            limit=limit,
            cursor=cursor,
            newest_first=newest_first,
        )
        return self._asked(Data, "GET", path, tenant_id)

    def get_dead_letter(self, dead_letter_id: str, tenant_id: str = DEFAULT_TENANT) -> dict[str, Any]:
        """A letter with its event: envelope, payload and metadata as they were. Raises ``DeadLetterNotFoundError``."""
        told = self._asked(Data, "GET", path_of(_LETTERS, dead_letter_id), tenant_id)
        if "payload_base64" in told:
            told["payload_base64"] = base64.b64decode(told["payload_base64"])
        return told

    def retry_dead_letter(self, dead_letter_id: str, tenant_id: str = DEFAULT_TENANT) -> dict[str, Any]:
        """Retry one letter; returns its report: RETRIED, or FAILED with the new error."""
        return self._asked(Data, "POST", path_of(_LETTERS, dead_letter_id, "retry"), tenant_id, more_s=_RETRYING_S)

    def retry_dead_letters(
        self,
        ids: Sequence[str] | None = None,
        tenant_id: str = DEFAULT_TENANT,
        *,
        where: LetterFilter | None = None,
        sql: str | None = None,
    ) -> dict[str, Any]:
        """Retry the letters with these ids, the OPEN ones of a filter, or those that ``sql`` finds; returns how many came to
        which end, and reports. Trying again does no harm: a letter is retried once."""
        body = _selection(ids, where, sql)
        path = path_of(_LETTERS, "retry")
        return self._asked(Data, "POST", path, tenant_id, body, is_repeatable=True, more_s=_RETRYING_S)

    def preview_retry(
        self,
        ids: Sequence[str] | None = None,
        tenant_id: str = DEFAULT_TENANT,
        *,
        where: LetterFilter | None = None,
        sql: str | None = None,
    ) -> dict[str, Any]:
        """What ``retry_dead_letters`` would do, changing nothing."""
        body = _selection(ids, where, sql) | {"preview": True}
        path = path_of(_LETTERS, "retry")
        return self._asked(Data, "POST", path, tenant_id, body, is_repeatable=True, more_s=_RETRYING_S)

    def drop_dead_letter(self, dead_letter_id: str, tenant_id: str = DEFAULT_TENANT) -> dict[str, Any]:
        """Drop one letter; returns its report."""
        return self._asked(Data, "DELETE", path_of(_LETTERS, dead_letter_id), tenant_id, is_repeatable=True)

    def drop_dead_letters(
        self,
        ids: Sequence[str] | None = None,
        tenant_id: str = DEFAULT_TENANT,
        *,
        where: LetterFilter | None = None,
        sql: str | None = None,
    ) -> dict[str, Any]:
        """Drop the letters with these ids, the OPEN ones of a filter, or those that ``sql`` finds."""
        body = _selection(ids, where, sql)
        path = path_of(_LETTERS, "drop")
        return self._asked(Data, "POST", path, tenant_id, body, is_repeatable=True, more_s=_RETRYING_S)

    # --- blocking -----------------------------------------------------------------------------------------------------

    def preview(
        self,
        ids: Sequence[str] | None = None,
        *,
        where: LetterFilter | None = None,
        sql: str | None = None,
        tenant_id: str = DEFAULT_TENANT,
    ) -> dict[str, Any]:
        """As ``preview_retry``, blocking."""
        return self._connection.now(self.preview_retry(ids, tenant_id, where=where, sql=sql))

    def retry(
        self,
        ids: Sequence[str] | None = None,
        *,
        where: LetterFilter | None = None,
        sql: str | None = None,
        tenant_id: str = DEFAULT_TENANT,
    ) -> Iterator[LetterReport]:
        """Retry letters, blocking; their reports come when the server is done with all, those of letters that were not retried
        first. At most 100,000 come: of more letters, as many as the server would tell of."""
        return self._connection.now(self._reports("retry", ids, where, sql, tenant_id))

    def drop(
        self,
        ids: Sequence[str] | None = None,
        *,
        where: LetterFilter | None = None,
        sql: str | None = None,
        tenant_id: str = DEFAULT_TENANT,
    ) -> Iterator[LetterReport]:
        """Drop letters, blocking: they stay on ``_dead_letters``, but are done with. Reports come as those of ``retry``."""
        return self._connection.now(self._reports("drop", ids, where, sql, tenant_id))

    def _reports(
        self, what: str, ids: Sequence[str] | None, where: LetterFilter | None, sql: str | None, tenant_id: str
    ) -> Iterator[LetterReport]:
        body = _selection(ids, where, sql) | {"max_reports": _MAX_REPORTS}
        path = path_of(_LETTERS, what)
        told = self._asked(_Reports, "POST", path, tenant_id, body, is_repeatable=True, more_s=_RETRYING_S)
        return iter(told.reports)

    def count(self, where: LetterFilter | None = None, tenant_id: str = DEFAULT_TENANT, *, sql: str | None = None) -> int:
        """How many OPEN letters the filter wants, or ``sql`` finds. Blocks."""
        if (where is None) == (sql is None):
            raise InvalidInputError("ids, filter, sql: expected one of the three: the ids of dead letters, a filter, or a query")
        if where is not None and where.status is not LetterStatus.OPEN:
            raise InvalidInputError("filter.status: only OPEN letters can be retried or dropped; leave it out")
        fields = {} if where is None else {name: getattr(where, name) for name in where.__struct_fields__ if name != "status"}
        path = path_of(_LETTERS, "count", sql=sql, **fields)
        told: Data = self._connection.now(self._asked(Data, "GET", path, tenant_id, more_s=_RETRYING_S))
        return int(told["count"])

    def box(self, tenant_id: str = DEFAULT_TENANT) -> NoReturn:
        """Raises ``NotRemoteError``."""
        raise not_remote("reading the letters of a log", "list_dead_letters and get_dead_letter show them")


def _selection(ids: Sequence[str] | None, where: LetterFilter | None, sql: str | None) -> Data:
    return given(ids=None if ids is None else list(ids), filter=where, sql=sql)
