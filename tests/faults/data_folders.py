"""A small data folder with something of everything, for tests that damage it."""

import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

import killed_runs

from event_streaming_bus.access.tokens import TokenService
from event_streaming_bus.audit.service import AuditService
from event_streaming_bus.bus import open_bus
from event_streaming_bus.flows.deploy import deploy
from event_streaming_bus.flows.spec import load_flow
from event_streaming_bus.models import EventConfig
from event_streaming_bus.store.history import History
from event_streaming_bus.store.projections import ProjectionStore
from event_streaming_bus.store.projections_base import Column, ColumnType, Progress, TableShape
from event_streaming_bus.store.projections_sqlite import SqliteProjection

FLOW: Final = """
streams: [{name: orders, partitions: 2}, {name: big}, {name: sums}]
processors:
  - processor_name: big_orders
    processor_type: FILTER
    source_stream_id: orders
    target_stream_id: big
    processing_logic: {filter_expression: payload.total > 5}
  - processor_name: sums_of_keys
    processor_type: AGGREGATE
    source_stream_id: orders
    target_stream_id: sums
    processing_logic:
      group_by: [k]
      aggregations: [{function: sum, field: total}, {function: count}]
    window_config: {window_type: tumbling, window_size_ms: 10000, grace_period_ms: 1000}
"""
HISTORY: Final = "history.duckdb"
BUILD: Final = "projections/default/totals.b1.sqlite"


def make_folder(folder: Path) -> None:
    """Streams with events whose ids were brought, a flow that has run, its history in DuckDB and in Parquet, an audit, a token,
    the key of a person, a projection."""
    file = folder.with_name("flow.yaml")
    file.write_text(FLOW)
    bus = open_bus(folder)
    plan = deploy(load_flow(file), bus.storage)
    for i in range(12):
        keys = [f"k{n % 5}" for n in range(20)]
        payloads = [{"k": key, "total": n, "note": f"order {i} of {key}"} for n, key in enumerate(keys)]
        ids = [f"order-{i}-{n}" if i % 2 else None for n in range(20)]
        configs = [EventConfig(event_type="order", event_id=event_id) for event_id in ids]
        times_ms = [i * 1000 + n for n in range(20)]
        bus.publishing.submit(configs, payloads, stream_id="orders", keys=keys, timestamps_ms=times_ms).result()
    killed_runs.run(bus, plan, file, [1], [])
    with closing(History(bus.storage)) as history:
        history.catch_up()
        history.roll_off(days=1, now=datetime.now(UTC) + timedelta(days=3))
        bus.publishing.submit(EventConfig(event_type="order"), [{"k": "k1", "total": 1}], stream_id="orders").result()
        history.catch_up()
    audit = AuditService(bus.storage)
    for i in range(5):
        audit.record("stream.create", tenant_id="default", actor="a-person", target=f"stream-{i}", after={"partitions": i})
    audit.close()
    bus.storage.subject_keys.of_subjects("default", ["a-subject"])
    tokens = TokenService(bus.storage)
    tokens.make_first_admin()
    tokens.close()
    _make_projection(folder)
    bus.close()


def _make_projection(folder: Path) -> None:
    table = TableShape("totals", (Column("k", ColumnType.TEXT), Column("total", ColumnType.INTEGER)), ("k",))
    with closing(ProjectionStore(folder)) as store:
        with store.writing("declaring") as tables:
            tables.put("default", "totals", "{}", 1)
            number = tables.add_build("default", "totals", "hash", "{}", 1)
        with closing(SqliteProjection(store.file("default", "totals", number, "sqlite"), (table,))) as build:
            build.begin()
            build.write(table, [{"k": f"k{i}", "total": i} for i in range(200)], ())
            build.commit(Progress(position=1, events=200))


def copy_of(folder: Path, to: Path, *, without: tuple[str, ...] = ()) -> Path:
    """A copy of a folder; ``without`` some of what is in it, which saves time."""
    shutil.rmtree(to, ignore_errors=True)
    shutil.copytree(folder, to, ignore=shutil.ignore_patterns(*without))
    to.chmod(0o700)
    return to


def flip(path: Path, position: int, bit: int) -> None:
    """Flip one bit of a file."""
    data = bytearray(path.read_bytes())
    data[position] ^= 1 << bit
    path.write_bytes(data)


@contextmanager
def by_hand(path: Path) -> Iterator[sqlite3.Connection]:
    """A SQLite file, opened behind the back of whoever it belongs to."""
    with closing(sqlite3.connect(path)) as db:
        yield db
        db.commit()
