"""The streams of the embedded log as rows: making them, and what their settings may be."""

import re
import sqlite3
import time
from collections.abc import Sequence
from difflib import get_close_matches
from typing import Final

import msgspec

from event_streaming_bus import ids
from event_streaming_bus.errors import AlreadyExistsError, CorruptLogError, InvalidInputError, StreamNotFoundError
from event_streaming_bus.models import LANES, MAX_PARTITIONS, StreamConfig, StreamInfo
from event_streaming_bus.store.log import scheduled
from event_streaming_bus.store.log.stored import SQL

_NAME: Final = re.compile(r"[A-Za-z0-9._-]{1,200}")


def create_tables(db: sqlite3.Connection) -> None:
    """Make the log's tables if they are missing."""
    db.executescript(SQL["create_tables"])
    db.executescript(scheduled.SQL["create_tables"])


def check_same(there: StreamInfo, config: StreamConfig) -> None:
    """Raise ``AlreadyExistsError`` if the stream that is there has other settings."""
    if there.config == config:
        return
    differences = ", ".join(
        f"{field} is {getattr(there.config, field)!r}, not {getattr(config, field)!r}"
        for field in StreamConfig.__struct_fields__
        if getattr(there.config, field) != getattr(config, field)
    )
    raise AlreadyExistsError(f"stream {config.name} exists with other settings: {differences}")


def make_stream(db: sqlite3.Connection, config: StreamConfig, stream_id: str | None, there: StreamInfo | None) -> StreamInfo:
    """Write a stream and its splits; ``there`` is the one that has its name. See ``EventLog.create_stream``."""
    taken = db.execute(SQL["select_stream_by_id"], (stream_id,)).fetchone()
    if taken is not None and (info_of(taken).tenant_id, info_of(taken).name) != (config.tenant_id, config.name):
        raise AlreadyExistsError(f"the stream id {stream_id} is taken by another stream")
    if there is not None:
        check_same(there, config)
        return there
    info = StreamInfo(
        stream_id=stream_id or ids.new_id(ids.STREAM),
        config=config,
        created_at_ms=time.time_ns() // 1_000_000,
    )
    settings = msgspec.json.encode(config).decode()
    stream_no = db.execute(
        SQL["insert_stream"], (info.stream_id, config.tenant_id, config.name, settings, info.created_at_ms)
    ).lastrowid
    db.executemany(
        SQL["insert_split"],
        [(stream_no, partition, lane) for partition in range(config.partitions) for lane in range(len(LANES))],
    )
    return info


def info_of(row: Sequence[str | int]) -> StreamInfo:
    """The stream of a row ``stream_no, stream_id, config, created_at_ms``. Raises ``CorruptLogError`` for what is none."""
    _, stream_id, config, created_at_ms = row
    try:
        decoded = msgspec.json.decode(str(config), type=StreamConfig)
    except msgspec.DecodeError as error:
        raise CorruptLogError(
            f"The settings of the stream {stream_id} are damaged: {error}. Restore the data folder from a backup.",
            stream_id=str(stream_id),
        ) from error
    return StreamInfo(stream_id=str(stream_id), config=decoded, created_at_ms=int(created_at_ms))


def check_config(config: StreamConfig) -> None:
    """Raise ``InvalidInputError`` for settings that no stream can have."""
    if not _NAME.fullmatch(config.name):
        raise InvalidInputError(f"stream name {config.name!r}: expected 1 to 200 letters, digits, '.', '_' or '-'", path="name")
    if not 1 <= config.partitions <= MAX_PARTITIONS:
        raise InvalidInputError(f"partitions: expected 1 to {MAX_PARTITIONS}, got {config.partitions}", path="partitions")
    for field in ("retention_ms", "retention_bytes"):
        value = getattr(config, field)
        if value is not None and value <= 0:
            raise InvalidInputError(f"{field}: expected a positive integer or null, got {value}", path=field)


def no_such_stream(reference: str, names: Sequence[str]) -> StreamNotFoundError:
    """The error for a stream that is none of these, with the nearest name."""
    near = get_close_matches(reference, names, 1)
    hint = f" Did you mean '{near[0]}'?" if near else ""
    return StreamNotFoundError(
        f"There is no stream '{reference}'.{hint} `esb stream create {reference}` makes it; `esb stream list` shows what "
        "there is.",
        stream=reference,
    )
