"""Data folders that earlier versions have left: this one opens them, reads all of it, and goes on."""

import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from killed_runs import run

from event_streaming_bus.audit.service import AuditService
from event_streaming_bus.backup.restoring import restore_backup
from event_streaming_bus.bus import open_bus
from event_streaming_bus.doctor.examine import examine
from event_streaming_bus.errors import UnsupportedFormatError
from event_streaming_bus.flows.deploy import deploy
from event_streaming_bus.flows.spec import load_flow
from event_streaming_bus.models import EventConfig
from event_streaming_bus.store.history import History
from event_streaming_bus.store.storage import open_storage
from event_streaming_bus.testing import read_all

FOLDERS = sorted((Path(__file__).parent / "data").glob("folder-*.tar.gz"))


def test_there_is_a_folder_of_some_version() -> None:
    assert FOLDERS


@pytest.mark.parametrize("released", FOLDERS, ids=lambda path: path.name)
def test_a_folder_of_a_released_version_opens_reads_and_goes_on(released: Path, tmp_path: Path) -> None:
    folder, file = tmp_path / "data", tmp_path / "flow.yaml"
    restore_backup(released, folder)
    report = examine(folder)
    assert report.is_sound, report.findings
    assert report.checked["states of flows"] > 60
    shutil.copy(folder / "flow.yaml", file)
    with open_bus(folder) as bus:
        orders, big = read_all(bus, "orders"), read_all(bus, "big")
        assert (len(orders), len(big), len(read_all(bus, "sums"))) == (241, 168, 10)
        again = [EventConfig(event_type="order", event_id=f"order-1-{n}") for n in range(20)]
        receipts = bus.publishing.submit(again, [{}] * 20, stream_id="orders").result()
        assert all(receipt.duplicate for receipt in receipts)  # the index of ids knows them
        bus.publishing.submit(EventConfig(event_type="order"), [{"k": "k1", "total": 9}], stream_id="orders").result()
        plan = deploy(load_flow(file), bus.storage)
        run(bus, plan, file, [1], [])
        assert len(read_all(bus, "big")) == len(big) + 1  # neither from the start, nor past anything
        with closing(History(bus.storage)) as history:
            history.catch_up()
            assert next(history.query("SELECT count(*) FROM events WHERE stream = 'orders'").rows()) == (242,)
        audit = AuditService(bus.storage)
        audit.record("stream.create", tenant_id="default", actor="me", target="x")
        verified = audit.verify()
        assert verified.is_intact
        assert verified.entries == 6
        audit.close()
        key, _ = bus.storage.subject_keys.of_subject("default", "a-subject")
        assert key is not None
    report = examine(folder)
    assert report.is_sound, report.findings


def test_a_folder_of_a_newer_version_is_refused_and_stays(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    open_storage(folder).close()
    with closing(sqlite3.connect(folder / "log.db")) as db:
        db.execute("PRAGMA user_version = 2")
    before = (folder / "log.db").read_bytes()
    with pytest.raises(UnsupportedFormatError, match="Upgrade the bus"):
        open_storage(folder)
    (found,) = examine(folder).findings
    assert (found.file, found.problem) == ("log.db", "newer-format")
    assert "Upgrade the bus" in found.advice
    assert (folder / "log.db").read_bytes() == before
