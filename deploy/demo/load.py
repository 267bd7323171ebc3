"""Loads the CSV files of flights and weather into streams, in the order of their event times."""

import gzip
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
from pyarrow import csv

from event_streaming_bus.models import EventConfig, time_ms
from event_streaming_bus.publishing import EventPublishingService

BATCH: Final = 1000
_MINUTE_MS: Final = 60_000
Told = Callable[[int, int], None]


def rows(path: Path) -> list[dict[str, Any]]:
    """The rows of a CSV file (gzip or not): numbers as numbers, ``NA`` as null, the rest as text."""
    convert = csv.ConvertOptions(null_values=["", "NA"], strings_can_be_null=True, timestamp_parsers=["-"])
    read = csv.ReadOptions(block_size=1 << 26)  # one block: each column's type is taken from all of its rows
    with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
        table: pa.Table = csv.read_csv(file, convert_options=convert, read_options=read)
    found: list[dict[str, Any]] = table.to_pylist()
    return found


def departure_ms(flight: dict[str, Any]) -> int:
    """The scheduled departure: ``time_hour`` is its hour in UTC."""
    return time_ms(flight["time_hour"]) + flight["minute"] * _MINUTE_MS


def observed_ms(weather: dict[str, Any]) -> int:
    """When the weather was observed."""
    return time_ms(weather["time_hour"])


def publish(
    service: EventPublishingService,
    stream: str,
    event_type: str,
    payloads: list[dict[str, Any]],
    key: str,
    time_of: Callable[[dict[str, Any]], int],
    told: Told,
) -> None:
    """Publish the payloads in order of their times, a thousand in a transaction."""
    ordered = sorted(payloads, key=time_of)
    done = 0
    for batch in _batches(ordered):
        service.submit(
            EventConfig(event_type=event_type, source_capability="demo"),
            batch,
            stream_id=stream,
            keys=[payload[key] for payload in batch],
            timestamps_ms=[time_of(payload) for payload in batch],
        ).result()
        done += len(batch)
        told(done, len(ordered))


def _batches(items: list[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
    for start in range(0, len(items), BATCH):
        yield items[start : start + BATCH]
