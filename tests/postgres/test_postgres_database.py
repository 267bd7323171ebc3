"""The database below the shared stores: its versions, its transactions, what is told when it is not as it should be, and what a
server that goes away does to those who use it."""

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import postgres_server
import psycopg
import pytest
from running import commands

from event_streaming_bus.errors import ClosedError, InvalidInputError, InvalidStateError, StorageError, UnsupportedFormatError
from event_streaming_bus.store import postgres
from event_streaming_bus.store.database import PostgresPlace, open_database, postgres_place
from event_streaming_bus.store.postgres import PostgresDatabase, connected
from event_streaming_bus.store.postgres_migrations import Migration, check_version, migrations, upgrade, version_of
from event_streaming_bus.store.postgres_sql import translated
from event_streaming_bus.store.routes import RouteStore

NEWEST = migrations()[-1].version


def count(store: RouteStore, times: int) -> None:
    for _ in range(times):
        with store.writing("counting") as tables:
            tables.put("t", "n", "{}", 1, None)


# --- SQL --------------------------------------------------------------------------------------------------------------


def test_statements_of_the_stores_are_put_in_the_words_of_psycopg() -> None:
    sql = "SELECT ':no ?', '100%', CAST(x AS JSON)::text FROM t -- ? :no\nWHERE a = ? AND b LIKE :name"
    assert translated(sql) == "SELECT ':no ?', '100%%', CAST(x AS JSON)::text FROM t -- ? :no\nWHERE a = %s AND b LIKE %(name)s"


def test_values_of_every_kind_come_back_as_they_were(shared: PostgresPlace) -> None:
    db = open_database(shared, tables="", name="values")
    values = ("it's 100% \\ :x ?", 1 << 62, -5, b"\x00\xff%s", None, "\N{SNOWMAN}", True, 0.1)
    with db.querying("asking") as connection:
        row = connection.execute("SELECT ?, ?, ?, ?, ?, ?, ?, CAST(? AS DOUBLE PRECISION)", values).fetchone()
        assert row == (*values[:6], 1, 0.1)
        named = connection.execute("SELECT 1 WHERE :a IS NULL OR :a = 'x'", {"a": None, "unused": 1})
        assert [tuple(each) for each in named] == [(1,)]
    db.close()
    with pytest.raises(ClosedError), db.querying("asking"):
        pass


# --- versions ---------------------------------------------------------------------------------------------------------


def test_a_database_is_upgraded_once_and_said_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    place = postgres_server.shared_server().new_database(upgraded=False)
    monkeypatch.setenv("ESB_DATABASE", place.url)
    with commands(tmp_path, monkeypatch) as esb:
        assert "esb db upgrade" in esb("db", "status", code=1).err
        with pytest.raises(InvalidStateError, match="has no tables of the bus yet"):
            RouteStore(place)
        first = esb("db", "upgrade").out
        assert f"is at version {NEWEST}\n" in first
        assert "nothing to do" in esb("db", "upgrade").out
        assert f"version {NEWEST}, needed: {NEWEST}" in esb("db", "status").out
        monkeypatch.delenv("ESB_DATABASE")
    assert "esb:" not in first
    assert str(place) in first
    RouteStore(place).close()


def test_processes_that_upgrade_at_once_do_it_once() -> None:
    place = postgres_server.shared_server().new_database(upgraded=False)
    code = "from event_streaming_bus.cli.main import main; main(['db', 'upgrade'])"
    environment = os.environ | {"ESB_DATABASE": place.url}
    command = [sys.executable, "-c", code]
    running = [subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) for _ in range(4)]
    told = [each.communicate(timeout=60)[0] for each in running]
    assert [each.returncode for each in running] == [0] * 4
    assert sum("version 1: first tables" in each for each in told) == 1


def test_a_step_that_fails_leaves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    place = postgres_server.shared_server().new_database()
    broken = [*migrations(), Migration(NEWEST + 1, "broken", "CREATE TABLE x (y INT); SELECT z")]
    monkeypatch.setattr("event_streaming_bus.store.postgres_migrations.migrations", lambda: broken)
    with connected(place) as connection:
        with pytest.raises(psycopg.Error):
            upgrade(connection, place)
        assert version_of(connection) == NEWEST
        assert connection.execute("SELECT to_regclass('x')").fetchone() == (None,)


def test_a_database_of_a_later_bus_and_one_of_other_steps_are_refused(shared: PostgresPlace) -> None:
    with connected(shared) as connection:
        connection.execute("UPDATE esb_migrations SET checksum = 'other' WHERE version = 1")
        with pytest.raises(InvalidStateError, match="was made by other SQL"):
            upgrade(connection, shared)
        connection.execute("INSERT INTO esb_migrations (version, name, checksum) VALUES (%s, 'later', '')", (NEWEST + 1,))
        for ask in (check_version, upgrade):
            with pytest.raises(UnsupportedFormatError, match=f"{NEWEST + 1}; this version of the bus reads up to {NEWEST}"):
                ask(connection, shared)


# --- bad input --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("url", ["mysql://x/y", "nothing", "postgresql://", "/var/lib"])
def test_another_kind_of_url_is_refused(url: str) -> None:
    with pytest.raises(InvalidInputError, match="database: expected postgresql://user@host:5432/name"):
        postgres_place(url)


def test_what_is_wrong_with_the_address_is_told_at_once_and_without_the_password() -> None:
    server = postgres_server.shared_server()
    good = server.url("postgres")
    with socket.socket() as nobody, socket.socket() as silent:
        nobody.bind(("127.0.0.1", 0))
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        wrong = {
            good.replace(server.password, "wrong-secret"): "password authentication failed",
            good.replace("/postgres", "/no_such_database"): "no_such_database",
            good.replace(f":{server.port}/", f":{nobody.getsockname()[1]}/"): "refused",
            good.replace("127.0.0.1", "no-such-host.invalid"): "no-such-host.invalid",
            good.replace(f":{server.port}/", f":{silent.getsockname()[1]}/"): "timeout",
        }
        for url, said in wrong.items():
            begun = time.monotonic()
            with pytest.raises(StorageError, match=said) as told:
                RouteStore(PostgresPlace(url))
            assert time.monotonic() - begun < 10
            assert not re.search(f"{server.password}|wrong-secret", told.value.message)


def test_a_shared_database_without_kafka_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("ESB_DATABASE", "postgresql://u:secret@h/n")
    with commands(tmp_path, monkeypatch) as esb:
        told = esb("stream", "list", code=1).err
        monkeypatch.delenv("ESB_DATABASE")
    assert "ESB_DATABASE is set, but this log is a file" in told
    assert "secret" not in told


def test_nothing_shows_the_password() -> None:
    place = PostgresPlace("postgresql://u:secret@h:5432/n?sslmode=require")
    assert "secret" not in f"{place} {place!r} {[place]}"


# --- several at once --------------------------------------------------------------------------------------------------


def test_transactions_of_one_store_take_turns(shared: PostgresPlace) -> None:
    stores = [RouteStore(shared) for _ in range(3)]
    threads = [threading.Thread(target=count, args=(stores[i % 3], 20)) for i in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert stores[0].change_no("t") == 120
    (current,) = stores[0].current("t")
    assert current.version == 120
    for store in stores:
        store.close()


def test_a_node_that_stands_still_in_a_transaction_loses_it_and_the_others_go_on(
    shared: PostgresPlace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postgres, "_SESSION", postgres._SESSION.replace(str(postgres._IDLE_MS), "400"))
    code = (
        "import sys; from event_streaming_bus.store import postgres;"
        "from event_streaming_bus.store.database import PostgresPlace; from event_streaming_bus.store.routes import RouteStore;"
        "postgres._SESSION = postgres._SESSION.replace(str(postgres._IDLE_MS), '400')\n"
        "store = RouteStore(PostgresPlace(sys.argv[1]))\n"
        "with store.writing('holding') as tables:\n"
        "    tables.put('t', 'n', '{}', 1, None); print('in', flush=True); sys.stdin.read()\n"
    )
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    held = subprocess.Popen([sys.executable, "-c", code, shared.url], **pipes)
    assert held.stdout is not None
    held.stdout.readline()
    held.send_signal(signal.SIGSTOP)
    store = RouteStore(shared)
    count(store, 1)
    assert store.change_no("t") == 1
    held.send_signal(signal.SIGCONT)
    _, errors = held.communicate(timeout=20)
    assert held.returncode == 1
    assert b"StorageError: holding failed" in errors
    assert store.change_no("t") == 1
    store.close()


def test_a_session_lock_is_one_process_s_until_its_connection_is_gone(shared: PostgresPlace) -> None:
    one, two = PostgresDatabase(shared, "leader"), PostgresDatabase(shared, "leader")
    with one.session_lock("leading") as held:
        assert held is not None
        with two.session_lock("leading") as other:
            assert other is None
    with two.session_lock("leading") as other:
        assert other is not None
    one.close()
    two.close()


# --- a server that goes away ------------------------------------------------------------------------------------------


def test_stores_go_on_when_the_server_is_back_and_lose_nothing_acknowledged() -> None:
    acknowledged: list[int] = []
    failures: list[str] = []
    done = threading.Event()

    def write(store: RouteStore) -> None:
        while not done.is_set():
            try:
                with store.writing("counting") as tables:
                    version = tables.put("t", "n", "{}", 1, None).version
                acknowledged.append(version)
            except StorageError as error:
                failures.append(error.message)
                time.sleep(0.05)

    with postgres_server.new_server() as server, contextlib.ExitStack() as ending:
        store = RouteStore(server.new_database())
        ending.callback(store.close)
        writers = [threading.Thread(target=write, args=(store,)) for _ in range(3)]
        for writer in writers:
            writer.start()
            ending.callback(writer.join)
        ending.callback(done.set)
        for kill in (False, True, True):
            time.sleep(0.3)
            server.stop(kill=kill)
            server.start()
            before = len(acknowledged)
            deadline = time.monotonic() + 10
            while len(acknowledged) < before + 20:
                assert time.monotonic() < deadline, failures[-3:]
                time.sleep(0.01)
        done.set()
        for writer in writers:
            writer.join()
        assert {store.find("t", "n", version) is not None for version in acknowledged} == {True}
        assert len(set(acknowledged)) == len(acknowledged)
