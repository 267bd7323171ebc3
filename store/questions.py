"""Questions to the history from any process: DuckDB belongs to one, and while a server has it, the server is asked."""

import json
import threading
import urllib.request
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from typing import TYPE_CHECKING, Any, Final, NamedTuple
from urllib.parse import quote

from event_streaming_bus.errors import InUseError, QueryError
from event_streaming_bus.store.server_calls import Server, asked, opened, server_of
from event_streaming_bus.store.storage import Storage

if TYPE_CHECKING:
    import pyarrow as pa

    from event_streaming_bus.store.history.asking import Answering, Bounds
    from event_streaming_bus.store.history.history import History
    from event_streaming_bus.store.history.roll_off import RolledOff

_MORE_S: Final = 30.0
_ROLL_OFF_S: Final = 3600.0
_ARROW: Final = "application/vnd.apache.arrow.stream"

Progress = Callable[[int, int], None]


class Answer(NamedTuple):
    """The answer to a question. ``truncated``: there was more."""

    columns: Sequence[str]
    rows: Iterable[Sequence[Any]]
    truncated: bool


class Batches:
    """An answer on its way, as Arrow batches."""

    def __init__(self, schema: "pa.Schema", batches: "Iterator[pa.RecordBatch]") -> None:
        self.schema = schema
        self.batches = batches
        self.is_truncated = False
        """Whether there was more; known after the last batch."""


def ask(storage: Storage, sql: str, tenant_id: str, *, progress: Progress | None = None) -> Answer:
    """The answer to one reading statement over a tenant's rows, with all that the log holds now.

    ``progress(records done, records there)`` is told how far loading has come. Raises ``QueryError``, and ``InUseError`` if
    another process has the history and no server answers for it.
    """
    from event_streaming_bus.store.history.formats import rows_of

    with answer(storage, sql, tenant_id, progress=progress) as found:
        rows = [row for batch in found.batches for row in rows_of(batch)]
    return Answer(found.schema.names, rows, found.is_truncated)


@contextmanager
def answer(
    storage: Storage,
    sql: str,
    tenant_id: str | None,
    *,
    parameters: Mapping[str, Any] | None = None,
    bounds: "Bounds | None" = None,
    progress: Progress | None = None,
) -> Iterator[Batches]:
    """The same answer while it comes, over a tenant's rows, or with None over those of all. An interrupt from the keyboard stops
    the statement, wherever it runs."""
    from event_streaming_bus.store.history import History  # loads DuckDB: only for those who ask
    from event_streaming_bus.store.history.asking import Bounds

    bounds = bounds or Bounds()
    try:
        history = History(storage)
    except InUseError as error:
        with _asked_of_server(storage, sql, tenant_id, parameters or {}, bounds, error) as found:
            yield found
        return
    with closing(history):
        history.catch_up(progress)
        with _begun(history, sql, tenant_id=tenant_id, parameters=parameters, bounds=bounds) as answering:
            batches = Batches(answering.schema, iter(()))

            def each() -> "Iterator[pa.RecordBatch]":
                yield from answering.batches()
                batches.is_truncated = answering.is_truncated

            batches.batches = each()
            yield batches


def _begun(history: "History", sql: str, **how: Any) -> "Answering":
    """The answer once it has its first rows. DuckDB would not be interrupted in the main thread."""
    done: list[Any] = []
    stop: list[Answering] = []

    def start() -> None:
        try:
            done.append(history.ask(sql, begun=stop.append, **how))
        except BaseException as error:
            done.append(error)

    thread = threading.Thread(target=start, name="esb-question")
    thread.start()
    try:
        thread.join()
    except BaseException:
        while thread.is_alive():
            for each in stop:
                each.abandon()
            thread.join(0.1)
        raise
    if isinstance(done[0], BaseException):
        raise done[0]
    begun: Answering = done[0]
    return begun


@contextmanager
def _asked_of_server(
    storage: Storage, sql: str, tenant_id: str | None, parameters: Mapping[str, Any], bounds: "Bounds", error: InUseError
) -> Iterator[Batches]:
    import pyarrow as pa

    from event_streaming_bus.store.history.formats import TRUNCATED

    server = server_of(storage.folder, error)
    question = {
        "sql": sql,
        "parameters": parameters,
        "all_tenants": tenant_id is None,
        "timeout_s": bounds.timeout_s,
        "max_rows": bounds.max_rows,
        "max_bytes": bounds.max_bytes,
    }
    response = opened(
        server,
        "history/query",
        error,
        body=question,
        tenant_id=tenant_id,
        headers={"Accept": _ARROW},
        timeout_s=bounds.timeout_s + _MORE_S,
        refusal=lambda status: QueryError,
    )
    with response:
        try:
            reader = pa.ipc.open_stream(response)
        except (OSError, pa.ArrowException) as broken:
            raise QueryError(_why_broken_off(server, response.headers.get("X-Query-Id"), tenant_id)) from broken
        batches = Batches(reader.schema, iter(()))

        def each() -> "Iterator[pa.RecordBatch]":
            while True:
                try:
                    batch, told = reader.read_next_batch_with_custom_metadata()
                except StopIteration:
                    break
                except Exception as broken:  # http.client's, Arrow's or the system's
                    raise QueryError(_why_broken_off(server, response.headers.get("X-Query-Id"), tenant_id)) from broken
                if told is not None and TRUNCATED in told:
                    batches.is_truncated = True
                if batch.num_rows:
                    yield batch

        batches.batches = each()
        yield batches


def _why_broken_off(server: Server, query_id: str | None, tenant_id: str | None) -> str:
    """What the server says of a query whose answer was broken off."""
    with suppress(OSError, ValueError, LookupError):
        more = "?all_tenants=true" if tenant_id is None else ""
        headers = server.authorization | ({} if tenant_id is None else {"X-Tenant-Id": tenant_id})
        address = f"{server.url}/api/v1/history/queries/{quote(query_id or '')}{more}"
        request = urllib.request.Request(address, headers=headers)  # noqa: S310
        with urllib.request.urlopen(request, timeout=_MORE_S) as found:  # noqa: S310
            told = json.load(found)["error"]
            if told:
                return str(told)
    return f"the server at {server.url} broke the answer off"


def rolled_off(storage: Storage, days: int | None, keep_days: int | None, *, dry_run: bool) -> "RolledOff":
    """Roll the history off, here or by the server that has it; see ``History.roll_off``."""
    import msgspec

    from event_streaming_bus.store.history import History
    from event_streaming_bus.store.history.roll_off import RolledOff

    try:
        history = History(storage)
    except InUseError as error:
        server = server_of(storage.folder, error)
        wanted = {"days": days, "keep_days": keep_days, "dry_run": dry_run}
        told = asked(server, "history/roll-off?all_tenants=true", error, body=wanted, timeout_s=_ROLL_OFF_S)
        return msgspec.json.decode(told, type=RolledOff)
    with closing(history):
        return history.roll_off(days=days, keep_days=keep_days, dry_run=dry_run)
