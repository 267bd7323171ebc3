"""Managing dead letters: list, look at, retry and drop them. The same service is behind the REST API and ``esb dead-letters``."""

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from itertools import chain
from typing import TYPE_CHECKING, Any, Final

import msgspec

from event_streaming_bus.errors import InvalidInputError, InvalidStateError
from event_streaming_bus.flows.letter_preview import preview
from event_streaming_bus.flows.letter_retries import LetterReport, Result, Retrier
from event_streaming_bus.flows.letter_selection import Selected, select
from event_streaming_bus.models import DEFAULT_TENANT, rfc3339
from event_streaming_bus.registry.protection import reveal_events
from event_streaming_bus.store.letters import (
    MAX_PAGE_LETTERS,
    Letter,
    LetterBox,
    LetterFilter,
    LetterState,
    LetterStatus,
)
from event_streaming_bus.store.questions import Answer, ask
from event_streaming_bus.store.storage import Storage, open_storage
from event_streaming_bus.store.subject_keys import SubjectKeys

if TYPE_CHECKING:
    from event_streaming_bus.store.history import History

MAX_REPORTED: Final = 1000
ALL: Final = "ALL"


class DeadLetterService:
    """Lists, retries and drops dead letters. Safe to use from any thread and any number of processes.

    A letter is retried at most once with success, and then never again: what comes of it is written in the transaction that
    makes it RETRIED. Retrying does not disturb the flow that the letter comes from, running or not, and its counts stay.

    Wherever letters are chosen by ``sql``, that is one reading statement over the tenant's rows of the history, whose answer has
    the ids in a column ``dead_letter_id``, at most 100,000. The ``history`` that this process has open is asked, without one the
    server that has it, or it is opened for the question; ``progress(done, total)`` is told how far loading it has come then.
    """

    def __init__(
        self,
        storage: Storage | None = None,
        *,
        history: "History | None" = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> None:
        self._storage = storage or open_storage()
        self._history = history
        self._progress = progress

    async def list_dead_letters(
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
        """A page of letters, without their payloads: ``dead_letters``, and ``next_cursor``, which is null on the last page.

        They come with the most urgent lane first, and within a lane in the order in which they were written, or with
        ``newest_first`` against it. ``status`` is OPEN, RETRIED, DROPPED or ALL. One call looks at some 100,000 letters: a page
        may be short, or empty, although there are more, as ``next_cursor`` says.
        """
        wanted = letter_filter(status, stream=stream, processor=processor, group=group, error_type=error_type, key=key)
        if not 1 <= limit <= MAX_PAGE_LETTERS:
            raise InvalidInputError(f"limit: expected 1 to {MAX_PAGE_LETTERS}, got {limit}")
        page = await asyncio.to_thread(
            lambda: self.box(tenant_id).page(wanted, limit=limit, cursor=cursor, newest_first=newest_first)
        )
        return {"dead_letters": [letter_data(letter) for letter in page.letters], "next_cursor": page.next_cursor}

    async def get_dead_letter(self, dead_letter_id: str, tenant_id: str = DEFAULT_TENANT) -> dict[str, Any]:
        """A letter with its event: envelope, payload and metadata as they were. Raises ``DeadLetterNotFoundError``."""
        keys = self._storage.subject_keys
        return await asyncio.to_thread(lambda: whole_letter_data(self.box(tenant_id).find(dead_letter_id), keys))

    async def retry_dead_letter(self, dead_letter_id: str, tenant_id: str = DEFAULT_TENANT) -> dict[str, Any]:
        """Retry one letter; returns its report: RETRIED, or FAILED with the new error.

        Raises ``DeadLetterNotFoundError``, and ``InvalidStateError`` if the letter is not OPEN or cannot be retried.
        """
        return await asyncio.to_thread(lambda: _only(self.retry([dead_letter_id], tenant_id=tenant_id)))

    async def retry_dead_letters(
        self,
        ids: Sequence[str] | None = None,
        tenant_id: str = DEFAULT_TENANT,
        *,
        where: LetterFilter | None = None,
        sql: str | None = None,
    ) -> dict[str, Any]:
        """Retry the letters with these ids, the OPEN ones of a filter, or those that ``sql`` finds; returns how many came to
        which end, and reports.

        See ``retry``. ``reports`` has at most 1000, those of letters that were not retried first among them.
        """
        return await asyncio.to_thread(lambda: summary(self.retry(ids, where=where, sql=sql, tenant_id=tenant_id)))

    def retry(
        self,
        ids: Sequence[str] | None = None,
        *,
        where: LetterFilter | None = None,
        sql: str | None = None,
        tenant_id: str = DEFAULT_TENANT,
    ) -> Iterator[LetterReport]:
        """Retry letters, blocking; the report of each comes when it is on disk.

        An event that broke its stream's schema, or that a routing rule set aside, is checked against the schema that the stream
        has now, and appended to it. One that a processor failed on goes through that processor and those below it again. One
        that a member of a consumer group set aside goes to that group, and to no other. Each is RETRIED then; one that fails
        again is FAILED and stays OPEN, with the new error noted.

        Order: letters of one key, lane and step are retried in the order in which they were written. Where one fails, the later
        ones of this call are WAITING, and stay as they were. REFUSED are letters that are not OPEN, those that cannot be retried,
        and ids that ``sql`` found and no letter has: the report says why. Letters that are written while the call runs are not in
        it.

        Raises ``DeadLetterNotFoundError`` for one of ``ids``, and ``QueryError`` for the SQL, before anything is changed.
        """
        selected = self._select(tenant_id, ids, where, sql)
        return chain(_unknown(selected), Retrier(self._storage, tenant_id).retry(selected.blocks))

    async def preview_retry(
        self,
        ids: Sequence[str] | None = None,
        tenant_id: str = DEFAULT_TENANT,
        *,
        where: LetterFilter | None = None,
        sql: str | None = None,
    ) -> dict[str, Any]:
        """What ``retry_dead_letters`` would do, changing nothing: ``would`` tells how many letters it would ``retry``, and how
        many would ``fail``, ``wait`` or be refused (``refuse``); ``groups`` the same for those of one step, stream and error.

        Each group has its number of ``letters`` and ``keys``, ``oldest_failed_at`` and ``newest_failed_at``, the ``destination``
        (``kind`` PROCESSOR, GROUP or STREAM, ``id`` and ``name``; null if there is none), ``reasons`` why letters would not be
        retried, and the first ``dead_letter_ids``. Schemas are looked at; what a processor would make of an event is not.
        """
        return await asyncio.to_thread(lambda: self.preview(ids, where=where, sql=sql, tenant_id=tenant_id))

    def preview(
        self,
        ids: Sequence[str] | None = None,
        *,
        where: LetterFilter | None = None,
        sql: str | None = None,
        tenant_id: str = DEFAULT_TENANT,
    ) -> dict[str, Any]:
        """As ``preview_retry``, blocking."""
        selected = self._select(tenant_id, ids, where, sql)
        return preview(Retrier(self._storage, tenant_id).preview(selected.blocks), _unknown(selected))

    async def drop_dead_letter(self, dead_letter_id: str, tenant_id: str = DEFAULT_TENANT) -> dict[str, Any]:
        """Drop one letter; returns its report.

        Raises ``DeadLetterNotFoundError``, and ``InvalidStateError`` if it was RETRIED.
        """
        return await asyncio.to_thread(lambda: _only(self.drop([dead_letter_id], tenant_id=tenant_id)))

    async def drop_dead_letters(
        self,
        ids: Sequence[str] | None = None,
        tenant_id: str = DEFAULT_TENANT,
        *,
        where: LetterFilter | None = None,
        sql: str | None = None,
    ) -> dict[str, Any]:
        """Drop the letters with these ids, the OPEN ones of a filter, or those that ``sql`` finds; returns what
        ``retry_dead_letters`` does."""
        return await asyncio.to_thread(lambda: summary(self.drop(ids, where=where, sql=sql, tenant_id=tenant_id)))

    def drop(
        self,
        ids: Sequence[str] | None = None,
        *,
        where: LetterFilter | None = None,
        sql: str | None = None,
        tenant_id: str = DEFAULT_TENANT,
    ) -> Iterator[LetterReport]:
        """Drop letters, blocking: they stay on ``_dead_letters``, but are done with. REFUSED are those that were RETRIED, and ids
        that ``sql`` found and no letter has."""
        selected = self._select(tenant_id, ids, where, sql)
        return chain(_unknown(selected), self._drop(self.box(tenant_id), selected.blocks))

    def count(self, where: LetterFilter | None = None, tenant_id: str = DEFAULT_TENANT, *, sql: str | None = None) -> int:
        """How many OPEN letters the filter wants, or ``sql`` finds. All of those that a filter may want are looked at: about 0.2
        million a second."""
        blocks = self._select(tenant_id, None, where, sql).blocks
        return sum(letter.state.status is LetterStatus.OPEN for letters in blocks for letter in letters)

    def _select(self, tenant_id: str, ids: Sequence[str] | None, where: LetterFilter | None, sql: str | None) -> Selected:
        return select(self.box(tenant_id), partial(self._ask, tenant_id), ids=ids, where=where, sql=sql)

    def _ask(self, tenant_id: str, sql: str) -> Answer:
        if self._history is None:
            return ask(self._storage, sql, tenant_id, progress=self._progress)
        self._history.reach()
        result = self._history.query(sql, tenant_id=tenant_id)
        return Answer(result.columns, result.rows(), result.truncated)

    def _drop(self, box: LetterBox, blocks: Iterable[list[Letter]]) -> Iterator[LetterReport]:
        for letters in blocks:
            yield from box.change(letters, partial(self._drop_block, box))

    def _drop_block(self, box: LetterBox, letters: Sequence[Letter]) -> list[LetterReport]:
        now_ms = time.time_ns() // 1_000_000
        marks = [
            box.mark(letter, LetterState(LetterStatus.DROPPED, letter.state.retries, letter.state.last_error, now_ms))
            for letter in letters
            if letter.state.status is LetterStatus.OPEN
        ]
        if marks:
            self._storage.log.append([], marks=marks)
        return [
            LetterReport(letter.letter_id, Result.REFUSED, "it is RETRIED already")
            if letter.state.status is LetterStatus.RETRIED
            else LetterReport(letter.letter_id, Result.DROPPED)
            for letter in letters
        ]

    def box(self, tenant_id: str = DEFAULT_TENANT) -> LetterBox:
        """The letters of a tenant, to be read."""
        return LetterBox(self._storage.log, self._storage.dead_letters(tenant_id))


def letter_filter(status: str = LetterStatus.OPEN, /, **fields: str | None) -> LetterFilter:
    """A filter whose status is told as text, in any case; ``ALL`` wants letters of every status."""
    if status.upper() == ALL:
        return LetterFilter(status=None, **fields)
    try:
        return LetterFilter(status=LetterStatus(status.upper()), **fields)
    except ValueError:
        accepted = ", ".join([*LetterStatus, ALL])
        raise InvalidInputError(f"status: expected one of {accepted}, got {status!r}") from None


def letter_data(letter: Letter) -> dict[str, Any]:
    """What happened to the event, and what became of the letter, as plain data."""
    why, event, state = letter.why, letter.event, letter.state
    failed_at_ms = why.get("failed_at_ms")
    return {
        "dead_letter_id": letter.letter_id,
        "status": state.status.value,
        "retries": state.retries,
        "last_error": state.last_error,
        "changed_at": None if state.changed_at_ms is None else rfc3339(state.changed_at_ms),
        "failed_at": rfc3339(failed_at_ms) if isinstance(failed_at_ms, int) else None,
        "stream": why.get("stream"),
        "stream_id": why.get("stream_id"),
        "step": why.get("step"),
        "processor_id": why.get("processor_id"),
        "group_id": why.get("group_id"),
        "error_type": why.get("error_type"),
        "error_message": why.get("error_message"),
        "attempts": why.get("attempts"),
        "event_id": why.get("event_id", letter.letter_id),
        "event_type": event.event_type,
        "key": event.key,
        "priority": event.priority.value,
        "timestamp": rfc3339(event.timestamp_ms),
    }


def whole_letter_data(letter: Letter, keys: SubjectKeys) -> dict[str, Any]:
    """As ``letter_data``, with where the event was read, its metadata and its payload, in which personal values are shown."""
    (event,) = reveal_events(keys, [letter.original()])
    data = letter_data(letter) | {"position": letter.place() or None, "metadata": event.metadata}
    data |= {name: getattr(event, name) for name in ("source_capability", "correlation_id", "causation_id", "user_id")}
    return data | event.payload_data()


def summary(reports: Iterable[LetterReport], most: int = MAX_REPORTED) -> dict[str, Any]:
    """How many letters came to which end, and the first reports, those of letters with which it was not done in front."""
    counts: Counter[str] = Counter()
    done: list[LetterReport] = []
    others: list[LetterReport] = []
    for report in reports:
        counts[report.result.value.lower()] += 1
        kept = done if report.result in (Result.RETRIED, Result.DROPPED) else others
        if len(kept) < most:
            kept.append(report)
    shown = [*others, *done][:most]
    return {
        "counts": {result.value.lower(): counts[result.value.lower()] for result in Result},
        "reports": [msgspec.to_builtins(report) for report in shown],
        "truncated": sum(counts.values()) > len(shown),
    }


def _unknown(selected: Selected) -> Iterator[LetterReport]:
    for letter_id in selected.unknown:
        yield LetterReport(letter_id, Result.REFUSED, "there is no such dead letter, or no longer")


def _only(reports: Iterable[LetterReport]) -> dict[str, Any]:
    (report,) = reports
    if report.result is Result.REFUSED:
        raise InvalidStateError(
            f"The dead letter {report.dead_letter_id}: {report.message}", dead_letter_id=report.dead_letter_id
        )
    return dict(msgspec.to_builtins(report))
