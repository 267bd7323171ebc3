"""Whose turn it is to empty an outbox: one process at a time, of all that have it open."""

import fcntl
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from event_streaming_bus.errors import StorageError
from event_streaming_bus.store.database import Place, PostgresPlace

TRY_EVERY_S: Final = {True: 1.0, False: 0.05}
"""How often to try for the turn, by whether the outbox is in a database of its own: that takes a connection each time."""
_ASK_EVERY_S: Final = 1.0


@contextmanager
def turn(place: Place) -> Iterator[Callable[[], bool] | None]:
    """Have the turn until the end of the block: what it gives tells whether the turn is still ours. ``None``: others have it.

    It ends with the process that has it, however that ends. A turn that was lost without its holder knowing does no harm: what
    is appended twice has the same ids.
    """
    if isinstance(place, PostgresPlace):
        with _turn_in_database(place) as holds:
            yield holds
    else:
        with _turn_in_folder(place) as holds:
            yield holds


@contextmanager
def _turn_in_folder(file: Path) -> Iterator[Callable[[], bool] | None]:
    lock = file.with_name("outbox.lock")
    try:
        descriptor = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise StorageError(f"The data folder {file.parent} cannot be used: {error}.") from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        yield None
        return
    try:
        yield lambda: True
    finally:
        os.close(descriptor)


@contextmanager
def _turn_in_database(place: PostgresPlace) -> Iterator[Callable[[], bool] | None]:
    from event_streaming_bus.store.postgres import PostgresDatabase, postgres_errors  # loads psycopg: only for those who need it

    database = PostgresDatabase(place, "outbox relay")  # a name of its own: its lock is not that of transactions
    asked_s = time.monotonic()
    try:
        with database.session_lock("taking turns at the outbox") as connection:

            def holds() -> bool:
                nonlocal asked_s
                assert connection is not None  # noqa: S101 - it is only asked while it is
                if time.monotonic() - asked_s >= _ASK_EVERY_S:
                    with postgres_errors(place, "taking turns at the outbox"):
                        connection.execute("SELECT 1")
                    asked_s = time.monotonic()
                return not connection.closed

            yield None if connection is None else holds
    finally:
        database.close()
