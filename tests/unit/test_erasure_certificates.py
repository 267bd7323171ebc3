"""Erasure: what is left of a subject, and certificates that show what was done and can be checked."""

import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import msgspec
import pytest

from event_streaming_bus import ids
from event_streaming_bus.bus import Bus, open_bus
from event_streaming_bus.erasure import certificates
from event_streaming_bus.erasure.certificates import AUDIT_STREAM, ErasureCertificate, key_hash
from event_streaming_bus.erasure.service import CertificateNotFoundError, ErasureService, SubjectNotKnownError
from event_streaming_bus.errors import InvalidInputError
from event_streaming_bus.models import Event
from event_streaming_bus.registry.protection import reveal_events
from event_streaming_bus.registry.tokens import sealed
from event_streaming_bus.store.log.base import Append
from event_streaming_bus.testing import read_all

SECRET = "anna@example.org, 12 Long Street"


@pytest.fixture
def bus(tmp_path: Path) -> Iterator[Bus]:
    with open_bus(tmp_path / "data") as bus:
        bus.create_stream("orders")
        yield bus


@pytest.fixture
def erasure(bus: Bus) -> ErasureService:
    return ErasureService(bus.storage)


def write(bus: Bus, *subjects: str, tenant_id: str = "default") -> None:
    """An event for each subject, as publishing writes them."""
    stream = bus.create_stream("orders", tenant_id=tenant_id)
    keys = bus.storage.subject_keys.of_subjects(tenant_id, subjects)
    events = [
        Event(ids.new_id(ids.EVENT), "t", 0, msgspec.json.encode({"m": sealed([keys[s]], "/m", SECRET)}), s, tenant_id=tenant_id)
        for s in subjects
    ]
    bus.log.append([Append(stream.stream_id, events)])


def payloads(bus: Bus) -> list[Any]:
    return [event.payload["m"] for event in reveal_events(bus.storage.subject_keys, read_all(bus, "orders"))]


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


async def test_an_erased_subject_is_unreadable_and_others_are_not(bus: Bus, erasure: ErasureService) -> None:
    write(bus, "anna", "bob", "anna")
    key = bus.storage.subject_keys.of_subjects("default", ["anna"])["anna"]
    certificate = await erasure.erase_subject("anna", reason="asked for it", user_id="me", count_events=True)
    assert payloads(bus) == ["[erased]", SECRET, "[erased]"]
    assert (certificate.number, certificate.erased_by, certificate.reason, certificate.events) == (1, "me", "asked for it", 2)
    assert certificate.key_hashes == [key_hash(key.key_id)]
    assert "anna" not in str(certificate)
    held = files(bus.folder)
    assert {"log.db", "keys.db"} <= held.keys()
    for name, data in held.items():
        assert key.secret not in data, name
        assert SECRET.encode() not in data, name


async def test_events_after_an_erasure_have_a_key_of_their_own(bus: Bus, erasure: ErasureService) -> None:
    write(bus, "anna")
    first = await erasure.erase_subject("anna", reason="r")
    write(bus, "anna")
    assert payloads(bus) == ["[erased]", SECRET]
    report = await erasure.subject_report("anna", count_events=True)
    assert (report.has_key, report.epoch, report.events) == (True, 2, {"orders": 1})
    assert report.certificate_ids == [first.certificate_id]
    assert report.subject_hash == first.subject_hash
    second = await erasure.erase_subject("anna", reason="r")
    assert (second.number, second.previous_hash) == (2, first.hash)
    assert payloads(bus) == ["[erased]", "[erased]"]


async def test_whoever_has_no_personal_data_is_not_erased(bus: Bus, erasure: ErasureService) -> None:
    report = await erasure.subject_report("nobody")
    assert (report.has_key, report.certificate_ids) == (False, [])
    with pytest.raises(SubjectNotKnownError, match="no personal data"):
        await erasure.erase_subject("nobody", reason="r")
    assert not (bus.folder / "keys.db").exists()
    write(bus, "anna")
    certificate = await erasure.erase_subject("anna", reason="r")
    with pytest.raises(SubjectNotKnownError, match=f"erased before: {certificate.certificate_id}"):
        await erasure.erase_subject("anna", reason="r")
    for subject, reason in (("", "r"), ("bob", " "), ("bob", "r" * 1001)):
        with pytest.raises(InvalidInputError):
            await erasure.erase_subject(subject, reason=reason)


async def test_tenants_have_certificates_of_their_own(bus: Bus, erasure: ErasureService) -> None:
    for tenant_id in ("default", "other"):
        write(bus, "anna", tenant_id=tenant_id)
    certificate = await erasure.erase_subject("anna", "other", "r")
    assert payloads(bus) == [SECRET]
    assert await erasure.list_certificates() == []
    assert await erasure.list_certificates("other") == [certificate]
    assert await erasure.get_certificate(certificate.certificate_id, "other") == certificate
    with pytest.raises(CertificateNotFoundError):
        await erasure.get_certificate(certificate.certificate_id)


async def erased(bus: Bus, erasure: ErasureService, *subjects: str) -> list[ErasureCertificate]:
    write(bus, *subjects)
    return [await erasure.erase_subject(subject, reason="r") for subject in subjects]


async def test_certificates_are_in_the_audit_and_verify(bus: Bus, erasure: ErasureService) -> None:
    made = await erased(bus, erasure, "anna", "bob", "carl")
    assert [event.event_id for event in read_all(bus, AUDIT_STREAM)] == [each.certificate_id for each in made]
    assert await erasure.list_certificates() == made
    found = await erasure.verify_certificates()
    assert (found.certificates, found.is_intact) == (3, True)


def changed_audit(bus: Bus, change: Callable[[list[ErasureCertificate]], list[ErasureCertificate]]) -> None:
    """Write the audit anew, as somebody could who can write to the log."""
    stream = bus.storage.internal_stream("default", AUDIT_STREAM)
    before = [certificates.read(event.data) for event in read_all(bus, AUDIT_STREAM)]
    bus.log.drop_stream(stream.stream_id)
    bus.storage._internal.clear()
    stream = bus.storage.internal_stream("default", AUDIT_STREAM)
    bus.log.append([Append(stream.stream_id, [certificates.audit_event(each) for each in change(before)])])


def forged(certificate: ErasureCertificate, **changes: Any) -> ErasureCertificate:
    """The certificate changed, with the hash that it then should have, but not the signature."""
    made = msgspec.structs.replace(certificate, **changes)
    return msgspec.structs.replace(made, hash=made.computed_hash())


@pytest.mark.parametrize(
    ("change", "kinds"),
    [
        (lambda found: [msgspec.structs.replace(found[0], reason="x"), *found[1:]], {"hash"}),
        (lambda found: [*found[:2], forged(found[2], reason="x")], {"signature"}),
        (lambda found: [forged(found[0], reason="x"), *found[1:]], {"signature", "chain"}),
        (lambda found: [found[0], found[2]], {"chain", "missing"}),
        (lambda found: found[:2], {"missing"}),
        (
            lambda found: [*found, msgspec.structs.replace(found[2], certificate_id="x")],
            {"hash", "chain"},
        ),
    ],
)
async def test_certificates_that_were_changed_are_found(
    bus: Bus, erasure: ErasureService, change: Callable[[list[ErasureCertificate]], list[ErasureCertificate]], kinds: set[str]
) -> None:
    await erased(bus, erasure, "anna", "bob", "carl")
    changed_audit(bus, change)
    assert {problem.kind for problem in (await erasure.verify_certificates()).problems} == kinds


def test_erasures_at_once_make_one_chain_and_do_not_wait_for_each_other_for_ever(bus: Bus, erasure: ErasureService) -> None:
    names = [f"s{i}" for i in range(12)]
    write(bus, *names)
    keys = bus.storage.subject_keys

    def erase(name: str) -> int:
        keys.of_subjects("default", [f"{name}-new", *names[:2]])
        return erasure.erase(name, reason="r").number

    with ThreadPoolExecutor(4) as pool:
        numbers = list(pool.map(erase, names, timeout=60))
    assert sorted(numbers) == list(range(1, 13))
    assert erasure.verify().is_intact


def test_a_certificate_is_signed_while_somebody_looks_for_a_key(bus: Bus, erasure: ErasureService) -> None:
    """On PostgreSQL who looks may wait for the table to be written anew, and that for the transaction which signs."""
    write(bus, "anna")
    keys = bus.storage.subject_keys
    keys.subject_hash("default", "anna")
    with ThreadPoolExecutor(1) as pool, keys._lock:
        assert pool.submit(keys.signature, b"certificate").result(timeout=20) == keys.signature(b"certificate")


async def test_keys_that_a_backup_brings_back_are_found_and_destroyed_again(bus: Bus, erasure: ErasureService) -> None:
    write(bus, "anna", "bob")
    keys = bus.storage.subject_keys
    keys.close()
    shutil.copy(bus.folder / "keys.db", bus.folder / "backup")
    certificate = await erasure.erase_subject("anna", reason="r")
    keys.close()
    shutil.copy(bus.folder / "backup", bus.folder / "keys.db")
    assert payloads(bus) == [SECRET, SECRET]
    problems = (await erasure.verify_certificates()).problems
    assert [(problem.kind, problem.certificate_id) for problem in problems] == [("key", certificate.certificate_id)]
    assert erasure.reapply() == [certificate.certificate_id]
    assert payloads(bus) == ["[erased]", SECRET]
    assert erasure.verify().is_intact
    assert erasure.reapply() == []
    assert erasure.erase("bob", reason="r").previous_hash == certificate.hash


async def test_a_certificate_is_written_by_the_next_one_who_looks_if_its_process_was_killed(
    bus: Bus, erasure: ErasureService, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(bus, "anna")

    def killed(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(bus.storage.subject_keys, "scrub", killed)
        with pytest.raises(KeyboardInterrupt):
            erasure.erase("anna", reason="r")
    assert payloads(bus) == ["[erased]"]
    (certificate,) = await erasure.list_certificates()
    assert [event.event_id for event in read_all(bus, AUDIT_STREAM)] == [certificate.certificate_id]
