"""Taking the tables of a data folder over into a database."""

from pathlib import Path

import pytest
from running import commands

from event_streaming_bus.bus import Bus, open_bus
from event_streaming_bus.errors import AlreadyExistsError, NotFoundError
from event_streaming_bus.sourcing.model import NewEvent
from event_streaming_bus.store.audit import AuditFilter
from event_streaming_bus.store.database import PostgresPlace
from event_streaming_bus.store.log.embedded import EmbeddedLog
from event_streaming_bus.store.postgres_import import import_folder
from event_streaming_bus.store.settings import SNAPSHOT_EVENTS
from event_streaming_bus.store.storage import Storage
from event_streaming_bus.store.subject_keys import SubjectKey

TENANT = "default"


async def fill(folder: Path) -> list[object]:
    """A folder with something in each of its files; returns what is to be found again."""
    with open_bus(folder) as bus:
        bus.create_stream("accounts")
        events = [NewEvent(event_type="deposited", event_data={"amount": i}) for i in range(3)]
        await bus.sourcing.append_events("a-1", "Account", events)
        bus.settings.set(SNAPSHOT_EVENTS, 7)
        bus.tokens.create("anna", ["admin"], created_by="test")
        bus.audit.record("stream.create", tenant_id=TENANT, actor="anna", target="accounts")
        bus.storage.subject_keys.of_subjects(TENANT, ["p-1"])
        return what_is_there(bus)


def what_is_there(bus: Bus) -> list[object]:
    store, keys = bus.storage.aggregates, bus.storage.subject_keys.of_subjects(TENANT, ["p-1"])
    key: SubjectKey = keys["p-1"]
    return [
        [event.event_id for event in store.events(TENANT, "a-1")],
        store.find(TENANT, "a-1"),
        bus.settings.value(SNAPSHOT_EVENTS),
        [each.token_id for each in bus.tokens.tokens(TENANT)],
        [each.hash for each in bus.audit.page(AuditFilter()).entries],
        key.secret,
    ]


async def test_everything_beside_the_log_is_taken_over(
    tmp_path: Path, shared: PostgresPlace, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = await fill(tmp_path / "data")
    would = import_folder(tmp_path / "data", shared, is_dry=True)
    done = import_folder(tmp_path / "data", shared)
    assert would == done
    rows = {each.table: each.rows for each in done}
    assert (rows["aggregate_events"], rows["api_tokens"], rows["audit_entries"], rows["subject_keys"]) == (3, 1, 1, 1)
    with Bus(Storage(tmp_path / "data", EmbeddedLog(tmp_path / "data"), shared=shared)) as bus:
        assert what_is_there(bus) == there
        bus.audit.record("stream.delete", tenant_id=TENANT, actor="anna", target="accounts")
        assert bus.audit.verify().is_intact
        assert bus.storage.subject_keys.of_subjects(TENANT, ["p-2"])["p-2"].key_id  # numbers go on behind those taken over


async def test_a_database_in_use_is_not_imported_into(tmp_path: Path, shared: PostgresPlace) -> None:
    await fill(tmp_path / "data")
    import_folder(tmp_path / "data", shared)
    with pytest.raises(AlreadyExistsError, match="is in use: its table"):
        import_folder(tmp_path / "data", shared)
    with pytest.raises(NotFoundError, match="is no data folder"):
        import_folder(tmp_path, shared)


async def test_the_command_tells_what_it_would_do_and_did(
    tmp_path: Path, shared: PostgresPlace, monkeypatch: pytest.MonkeyPatch
) -> None:
    await fill(tmp_path / "data")
    monkeypatch.setenv("ESB_DATABASE", shared.url)
    with commands(tmp_path, monkeypatch) as esb:
        told = esb("db", "import", str(tmp_path / "data"), "--dry-run").out
        assert "nothing was copied" in told
        assert esb("db", "import", str(tmp_path / "data"), code=2).err
        assert "copied to" in (done := esb("db", "import", str(tmp_path / "data"), "--yes").out)
        assert told.splitlines()[:-1] == done.splitlines()[:-1]
        monkeypatch.delenv("ESB_DATABASE")
