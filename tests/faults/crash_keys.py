"""What is tried on the keys of personal data in the crash matrix: making and destroying them. As in ``crash_log``."""

import json
from pathlib import Path
from typing import Any, Final

import msgspec
from crash_lives import Life
from crash_log import Scenario, opened

from event_streaming_bus.bus import Bus, open_bus
from event_streaming_bus.erasure.service import ErasureService, SubjectNotKnownError
from event_streaming_bus.models import Event
from event_streaming_bus.registry.protection import reveal_events
from event_streaming_bus.registry.tokens import sealed
from event_streaming_bus.store.log.base import Append
from event_streaming_bus.testing import read_all

SUBJECTS: Final = [f"person-{n}" for n in range(12)]
ERASED: Final = SUBJECTS[:8]
_ERASED_TEXT: Final = "[erased]"


def prepare(folder: Path, seed: int) -> None:
    open_bus(folder / "data").create_stream("orders")


def secret_of(subject: str) -> str:
    return f"{subject}, 12 Long Street"


def work(life: Life) -> None:
    """Write events with personal data of twelve, the first of which makes the master key, then erase eight of them."""
    bus = opened(life)
    keys, stream = bus.storage.subject_keys, bus.log.find_stream("default", "orders")
    written = {subject for subject, _ in life.noted("written")}
    for subject in (each for each in SUBJECTS if each not in written):
        key = life.insist(lambda s=subject: keys.of_subjects("default", [s])[s])
        # One text for each subject, whatever life writes it: sealing it again makes another.
        event = Event(f"of-{subject}", "t", 0, msgspec.json.encode({"m": sealed([key], "/m", secret_of(subject))}), subject)
        life.insist(lambda e=event: bus.log.append([Append(stream.stream_id, [e])]))
        life.note("written", subject, _wrapped(bus, subject).hex())
    erased = {subject for subject, _ in life.noted("erased")}
    for subject in (each for each in ERASED if each not in erased):
        life.note("erased", subject, life.insist(lambda s=subject: _erase(bus, s)))
    life.insist(bus.close)


def _wrapped(bus: Bus, subject: str) -> bytes:
    """The key as it is on the disk."""
    keys = bus.storage.subject_keys
    row = keys._row("select_key_of_subject", "default", keys.subject_hash("default", subject))
    assert row is not None
    return bytes(row[5])


def _erase(bus: Bus, subject: str) -> str:
    """Erase a subject; one that a life before has erased without being told of it has its certificate."""
    erasure = ErasureService(bus.storage)
    try:
        return erasure.erase(subject, reason="asked for it").certificate_id
    except SubjectNotKnownError:
        (certificate_id,) = erasure.report(subject).certificate_ids
        return certificate_id


def check(life: Life, is_done: bool) -> Any:
    """Who was erased is unreadable, in whatever file, and has a certificate in a chain that is whole; all others are readable."""
    with open_bus(life.data) as bus:
        erasure = ErasureService(bus.storage)
        verification = erasure.verify()
        assert verification.is_intact, str(verification)
        certificates = {each.certificate_id for each in erasure.certificates()}
        events = reveal_events(bus.storage.subject_keys, read_all(bus, "orders"))
        texts = {str(event.key or event.event_id.removeprefix("of-")): event.payload["m"] for event in events}
        assert len(texts) == len(events), "an event is there twice"
        reports = {subject: erasure.report(subject) for subject in SUBJECTS}
    wrapped = dict(life.noted("written"))
    erased = dict(life.noted("erased"))
    files = {path: path.read_bytes() for path in life.data.rglob("*") if path.is_file()}
    for subject, certificate_id in erased.items():
        assert certificate_id in certificates, f"{subject} has no certificate"
        assert not reports[subject].has_key
        for path, data in files.items():
            assert bytes.fromhex(wrapped[subject]) not in data, f"{path} has the key of {subject}"
    for subject in wrapped:
        expected = secret_of(subject) if reports[subject].has_key else _ERASED_TEXT
        assert texts[subject] == expected, f"{subject}: {texts[subject]}"
        assert reports[subject].has_key or subject in ERASED, f"the key of {subject} is lost"
    assert not is_done or erased.keys() == set(ERASED)
    return json.dumps(texts, sort_keys=True) if is_done else None


SCENARIOS: Final = (Scenario("erasure", prepare, work, check, ("keys.db", "master.key")),)
