"""The connections to a file of SQLite: one for each thread, whoever made the thread, for as long as it lives."""

import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path

import bytewax.operators as op
import pytest
from bytewax.dataflow import Dataflow
from bytewax.testing import TestingSink, TestingSource, cluster_main

from event_streaming_bus.store.sqlite import SqliteDatabase


@pytest.fixture
def database(tmp_path: Path) -> Iterator[SqliteDatabase]:
    database = SqliteDatabase(tmp_path / "file.db")
    yield database
    database.close()


def test_a_worker_of_several_keeps_its_connection(database: SqliteDatabase) -> None:
    """Such workers run in threads of Rust, to each of whose calls Python seems to be a new thread."""
    used: list[tuple[int, sqlite3.Connection]] = []

    def use(number: int) -> int:
        used.append((threading.get_ident(), database.connection()))
        return number

    flow = Dataflow("flow")
    numbers = op.input("in", flow, TestingSource(range(50), batch_size=1))
    op.output("out", op.map("use", op.redistribute("all", numbers), use), TestingSink([]))
    cluster_main(flow, [], 0, worker_count_per_proc=2)
    assert len(used) == 50
    assert len({id(connection) for _, connection in used}) == len({thread for thread, _ in used}) <= 2


def test_threads_that_have_ended_leave_no_connection_behind(database: SqliteDatabase) -> None:
    used: list[sqlite3.Connection] = []
    for _ in range(20):
        thread = threading.Thread(target=lambda: used.append(database.connection()))
        thread.start()
        thread.join()
        assert database.connection().execute("SELECT 1").fetchone() == (1,)
    with pytest.raises(sqlite3.ProgrammingError):
        used[0].execute("SELECT 1")
    assert len({id(connection) for connection in used[-2:]}) == 2
