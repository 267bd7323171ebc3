"""``esb publish``: a file's rows become events."""

import time
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future
from typing import Any, Final

import click

from event_streaming_bus.cli.main import EXIT_SKIPPED, Settings
from event_streaming_bus.cli.progress import progress_bar
from event_streaming_bus.cli.rows import FORMATS, Row, format_of, read_rows
from event_streaming_bus.errors import BusError, InvalidInputError
from event_streaming_bus.expressions import get_path
from event_streaming_bus.models import EventConfig, EventPriority, Receipt, time_ms
from event_streaming_bus.publishing import EventPublishingService

_IN_FLIGHT: Final = 4


class _Batch:
    """Rows to be published in one transaction, with their keys and times."""

    def __init__(self) -> None:
        self.numbers: list[int] = []
        self.payloads: list[dict[str, Any]] = []
        self.keys: list[str | None] = []
        self.times_ms: list[int] = []


@click.command()
@click.argument("stream")
@click.argument("file")
@click.option("--format", "form", type=click.Choice(FORMATS), help="By default the file's suffix tells.")
@click.option("--type", "event_type", help="The event type.  [default: the stream's name]")
@click.option("--key", "key_field", metavar="FIELD", help="The payload's field that is the event's key; dotted.")
@click.option("--time", "time_field", metavar="FIELD", help="The field with the event time: ISO 8601 or epoch milliseconds.")
@click.option("--source", default="", help="The source capability of the events.")
@click.option("--priority", type=click.Choice([p.value for p in EventPriority], case_sensitive=False), default="NORMAL")
@click.option("--batch-size", type=click.IntRange(1, 10_000), default=1000, show_default=True)
@click.option("--on-error", type=click.Choice(["stop", "skip"]), default="stop", show_default=True)
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
    batch_size: int,
    on_error: str,
) -> int:
    """Publish the rows of FILE (or of standard input: -) to STREAM; each row is the payload of an event."""
    storage = settings.open()
    info = storage.log.find_stream(settings.tenant, stream)
    config = EventConfig(event_type=event_type or info.name, source_capability=source, priority=EventPriority(priority.upper()))
    publisher = _Publisher(EventPublishingService(storage), config, info.stream_id, settings.tenant, file, on_error == "skip")
    rows = read_rows(file, format_of(file, form) if file != "-" or form else "ndjson")
    with progress_bar(f"publishing to {info.name}") as bar:
        started_s = time.monotonic()
        try:
            for batch in _batches(rows, batch_size, key_field, time_field, publisher):
                publisher.publish(batch)
                rate = publisher.published / max(1e-9, time.monotonic() - started_s)
                bar.update(publisher.published, None, f"{publisher.published:,} events  {rate:,.0f}/s")
            publisher.settle(0)
        except (BusError, KeyboardInterrupt) as error:
            publisher.settle_quietly()
            told = error.message if isinstance(error, BusError) else "interrupted"
            if isinstance(error, KeyboardInterrupt):
                click.echo(f"esb: {publisher.published:,} events were published before", err=True)
                raise
            raise InvalidInputError(f"{told} ({publisher.published:,} events were published before)") from error
    seconds = time.monotonic() - started_s
    skipped = f", {publisher.skipped:,} rows skipped" if publisher.skipped else ""
    click.echo(f"{publisher.published:,} events published to {info.name} in {seconds:.1f} s{skipped}")
    return EXIT_SKIPPED if publisher.skipped else 0


class _Publisher:
    """Publishes batches, a few of them under way at a time."""

    def __init__(
        self, service: EventPublishingService, config: EventConfig, stream_id: str, tenant: str, file: str, skip: bool
    ) -> None:
        self._service = service
        self._config = config
        self._stream_id = stream_id
        self._tenant = tenant
        self._file = file
        self._skip = skip
        self._under_way: deque[Future[list[Receipt]]] = deque()
        self.published = 0
        self.skipped = 0

    def reject(self, number: int, reason: str) -> None:
        """A row that cannot be an event: skipped and told, or the end."""
        place = f"{self._file}, line {number}: {reason}"
        if not self._skip:
            raise InvalidInputError(place)
        self.skipped += 1
        click.echo(f"esb: skipped {place}", err=True)

    def publish(self, batch: _Batch) -> None:
        """Publish a batch; rows that are refused are rejected by themselves."""
        try:
            self._under_way.append(self._submit(batch))
        except BusError as error:
            if len(batch.numbers) == 1:
                self.reject(batch.numbers[0], error.message)
                return
            # One row spoils the batch: the rest of it is still published, up to the row if it is the end.
            bad = error.details.get("index", (error.details.get("invalid_indexes") or [None])[0])
            if not isinstance(bad, int):
                raise
            self._part(batch, 0, bad)
            self._part(batch, bad, bad + 1)
            self._part(batch, bad + 1, len(batch.numbers))
        self.settle(_IN_FLIGHT)

    def _part(self, batch: _Batch, start: int, end: int) -> None:
        if start < end:
            part = _Batch()
            part.numbers, part.payloads = batch.numbers[start:end], batch.payloads[start:end]
            part.keys, part.times_ms = batch.keys[start:end], batch.times_ms[start:end]
            self.publish(part)

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
            self.published += len(self._under_way.popleft().result())

    def settle_quietly(self) -> None:
        """Wait for all, count those that arrived."""
        while self._under_way:
            future = self._under_way.popleft()
            if future.exception() is None:
                self.published += len(future.result())


def _batches(
    rows: Iterator[Row], size: int, key_field: str | None, time_field: str | None, publisher: _Publisher
) -> Iterator[_Batch]:
    key_path = key_field.split(".") if key_field else None
    time_path = time_field.split(".") if time_field else None
    batch = _Batch()
    for number, row, wrong in rows:
        if row is None:
            if batch.numbers:
                yield batch  # what came before is published before the row is told
                batch = _Batch()
            publisher.reject(number, wrong)
            continue
        try:
            key = _key(row, key_path, key_field) if key_path else None
            at_ms = _time_ms(row, time_path, time_field) if time_path else None
        except InvalidInputError as error:
            if batch.numbers:
                yield batch
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
    return value if isinstance(value, str) else str(value)


def _time_ms(row: dict[str, Any], path: list[str], field: str | None) -> int:
    value = get_path(row, path)
    if value is None:
        raise InvalidInputError(f"no time: the field {field} is missing or null")
    if isinstance(value, str) and value.isdigit():
        value = int(value)
    return time_ms(value)
