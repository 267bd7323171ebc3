"""``esb publish``: a file's rows become events."""

import time
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future
from typing import Any, Final

import click
import msgspec

from event_streaming_bus.cli.main import EXIT_SKIPPED, Settings
from event_streaming_bus.cli.progress import Bar, progress_bar
from event_streaming_bus.cli.rows import FORMATS, RowFile, format_of
from event_streaming_bus.cli.tables import printable
from event_streaming_bus.errors import BusError, InvalidInputError
from event_streaming_bus.expressions import get_path
from event_streaming_bus.models import EventConfig, EventPriority, Receipt, rfc3339, time_ms
from event_streaming_bus.publishing import EventPublishingService

_IN_FLIGHT: Final = 4
_TOLD_SKIPS: Final = 20


class _Batch:
    """Rows to be published in one transaction, with their numbers, keys and times."""

    def __init__(self) -> None:
        self.numbers: list[int] = []
        self.payloads: list[dict[str, Any]] = []
        self.keys: list[str | None] = []
        self.times_ms: list[int] = []

    def part(self, indexes: list[int]) -> "_Batch":
        """The rows with these indexes."""
        part = _Batch()
        part.numbers, part.payloads = [self.numbers[i] for i in indexes], [self.payloads[i] for i in indexes]
        part.keys = [self.keys[i] for i in indexes] if self.keys else []
        part.times_ms = [self.times_ms[i] for i in indexes] if self.times_ms else []
        return part


@click.command()
@click.argument("stream")
@click.argument("file")
@click.option("--format", "form", type=click.Choice(FORMATS), help="By default the file's suffix tells.")
@click.option("--type", "event_type", help="The event type.  [default: the stream's name]")
@click.option("--key", "key_field", metavar="FIELD", help="The payload's field that is the event's key; dotted.")
@click.option("--time", "time_field", metavar="FIELD", help="The field with the event time: ISO 8601 or epoch milliseconds.")
@click.option("--source", default="", help="The source capability of the events.")
@click.option("--priority", type=click.Choice([p.value for p in EventPriority], case_sensitive=False), default="NORMAL")
@click.option("--deliver-at", metavar="TIME", help="Deliver the events at this time: ISO 8601 or epoch milliseconds.")
@click.option("--expires-at", metavar="TIME", help="From this time on consumers skip the events.")
@click.option("--batch-size", type=click.IntRange(1, 10_000), default=1000, show_default=True)
@click.option("--on-error", type=click.Choice(["stop", "skip"]), default="stop", show_default=True, help="At a row that is bad.")
@click.pass_obj
def publish(
    settings: Settings,
    stream: str,
    file: str,
    form: str | None,
    event_type: str | None,
    key_field: str | None,
    time_field: str | None,
    source: str,
    priority: str,
    deliver_at: str | None,
    expires_at: str | None,
    batch_size: int,
    on_error: str,
) -> int:
    """Publish the rows of FILE (or of standard input: -) to STREAM; each row is the payload of an event."""
    rows = RowFile(file, format_of(file, form))
    storage = settings.open()
    info = storage.log.find_stream(settings.tenant, stream)
    config = EventConfig(
        event_type=event_type or info.name,
        source_capability=source,
        priority=EventPriority(priority.upper()),
        deliver_at=_given_time(deliver_at),
        expires_at=_given_time(expires_at),
    )
    started_s = time.monotonic()
    with progress_bar(f"publishing to {info.name}") as bar:
        place = f"{'standard input' if file == '-' else file}, {rows.unit}"
        publisher = _Publisher(
            EventPublishingService(storage), config, info.stream_id, settings.tenant, place, bar, skip=on_error == "skip"
        )
        try:
            for batch in _batches(rows, batch_size, key_field, time_field, publisher):
                publisher.publish(batch)
                rate = publisher.published / max(1e-9, time.monotonic() - started_s)
                bar.update(rows.done, rows.total, f"{publisher.published:,} events  {rate:,.0f}/s")
            publisher.settle(0)
        except KeyboardInterrupt:
            publisher.settle_quietly()
            bar.tell(f"esb: {publisher.published:,} events were published before the interruption")
            raise
        except BusError as error:
            publisher.settle_quietly()
            before = f"{publisher.published:,} events were published before" if publisher.published else "nothing was published"
            raise type(error)(f"{error.message} ({before})", **error.details) from error
    if publisher.skipped > _TOLD_SKIPS:
        click.echo(f"esb: skipped {publisher.skipped - _TOLD_SKIPS:,} more rows", err=True)
    skipped = f", {publisher.skipped:,} rows skipped" if publisher.skipped else ""
    done = f"{publisher.published:,} events published to {info.name} in {time.monotonic() - started_s:.1f} s{skipped}"
    click.echo(f"{done}, to be delivered at {rfc3339(publisher.deliver_at_ms)}" if publisher.deliver_at_ms is not None else done)
    return EXIT_SKIPPED if publisher.skipped else 0


class _Publisher:
    """Publishes batches, a few of them under way at a time. ``place`` is the file's name, and what its rows are called."""

    def __init__(
        self,
        service: EventPublishingService,
        config: EventConfig,
        stream_id: str,
        tenant: str,
        place: str,
        bar: Bar,
        *,
        skip: bool,
    ) -> None:
        self._service = service
        self._config = config
        self._stream_id = stream_id
        self._tenant = tenant
        self._place = place
        self._bar = bar
        self._skip = skip
        self._under_way: deque[Future[list[Receipt]]] = deque()
        self.published = 0
        self.skipped = 0
        self.deliver_at_ms: int | None = None  # of the events that wait for their time

    def reject(self, number: int, reason: str) -> None:
        """A row that cannot be an event: skipped and told (the first 20 of them), or the end."""
        told = f"{self._place} {number}: {printable(reason)}"
        if not self._skip:
            raise InvalidInputError(told)
        self.skipped += 1
        if self.skipped <= _TOLD_SKIPS:
            self._bar.tell(f"esb: skipped {told}")

    def publish(self, batch: _Batch) -> None:
        """Publish a batch. Rows that are refused are rejected by themselves: what stands before the first is published first."""
        try:
            self._under_way.append(self._submit(batch))
        except BusError as error:
            bad = _bad_rows(error)
            if not bad:
                raise
            if len(batch.numbers) == 1:
                self.reject(batch.numbers[0], _reason(error))
                return
            others = set(range(len(batch.numbers))) - set(bad)
            parts = [[i for i in others if i < bad[0]], *([i] for i in bad), sorted(i for i in others if i > bad[0])]
            for part in parts:
                if part:
                    self.publish(batch.part(part))
        self.settle(_IN_FLIGHT)

    def _submit(self, batch: _Batch) -> "Future[list[Receipt]]":
        return self._service.submit(
            self._config,
            batch.payloads,
            stream_id=self._stream_id,
            tenant_id=self._tenant,
            keys=batch.keys or None,
            timestamps_ms=batch.times_ms or None,
        )

    def settle(self, left: int) -> None:
        """Wait until no more than ``left`` batches are under way."""
        while len(self._under_way) > left:
            future = self._under_way[0]
            self._count(future.result())
            self._under_way.popleft()

    def settle_quietly(self) -> None:
        """Wait for all, count those that arrived."""
        while self._under_way:
            future = self._under_way.popleft()
            if future.exception() is None:
                self._count(future.result())

    def _count(self, receipts: list[Receipt]) -> None:
        self.published += len(receipts)
        if receipts and receipts[-1].deliver_at_ms is not None:
            self.deliver_at_ms = receipts[-1].deliver_at_ms


def _bad_rows(error: BusError) -> list[int]:
    """The indexes of the rows that an error is about; none if it is about something else."""
    index = error.details.get("index")
    return [index] if isinstance(index, int) else list(error.details.get("invalid_indexes") or ())


def _reason(error: BusError) -> str:
    """What is wrong with the one row of a batch."""
    violations = error.details.get("violations")
    if not violations:
        return error.message.removeprefix("payload: ")
    return "; ".join(f"{v['path'] or 'the row itself'}: {v['message']}" for v in violations)


def _batches(rows: RowFile, size: int, key_field: str | None, time_field: str | None, publisher: _Publisher) -> Iterator[_Batch]:
    key_path = key_field.split(".") if key_field else None
    time_path = time_field.split(".") if time_field else None
    batch = _Batch()
    for number, row, wrong in rows.rows():
        try:
            if row is None:
                raise InvalidInputError(wrong)
            key = _key(row, key_path, key_field) if key_path else None
            at_ms = _time_ms(row, time_path, time_field) if time_path else None
        except InvalidInputError as error:
            if batch.numbers:
                yield batch  # what came before is published before the row is told
                batch = _Batch()
            publisher.reject(number, error.message)
            continue
        batch.numbers.append(number)
        batch.payloads.append(row)
        if key_path:
            batch.keys.append(key)
        if at_ms is not None:
            batch.times_ms.append(at_ms)
        if len(batch.numbers) >= size:
            yield batch
            batch = _Batch()
    if batch.numbers:
        yield batch


def _key(row: dict[str, Any], path: list[str], field: str | None) -> str:
    value = get_path(row, path)
    if value is None:
        raise InvalidInputError(f"no key: the field {field} is missing or null")
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()


def _given_time(text: str | None) -> str | int | None:
    """What an option says of a time, as ``EventConfig`` takes it."""
    return int(text) if text is not None and text.isdecimal() else text


def _time_ms(row: dict[str, Any], path: list[str], field: str | None) -> int:
    value = get_path(row, path)
    if value is None:
        raise InvalidInputError(f"no time: the field {field} is missing or null")
    try:
        return time_ms(int(value) if isinstance(value, str) and value.isdecimal() else value)
    except InvalidInputError as error:
        raise InvalidInputError(f"{field}: {error.message.removeprefix('timestamp: ')}") from None
