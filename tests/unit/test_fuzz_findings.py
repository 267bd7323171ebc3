"""What fuzzing has found, told one by one; the inputs themselves are in ``tests/fuzz/corpus``."""

import time
import warnings
from pathlib import Path
from typing import Any

import cramjam
import msgspec
import pytest
from confluent_kafka import Message

from event_streaming_bus import cloudevents
from event_streaming_bus.errors import CorruptLogError, ExpressionError, FlowError, InvalidInputError
from event_streaming_bus.expressions import parse
from event_streaming_bus.flows.flow_file import read_flow_file
from event_streaming_bus.flows.items import Chunk, Progress
from event_streaming_bus.flows.rows import ChunkRows
from event_streaming_bus.migration import journal
from event_streaming_bus.models import CompressionType, Event, EventPriority, Split
from event_streaming_bus.registry.encoding import as_json
from event_streaming_bus.store.log import codecs, kafka_events
from event_streaming_bus.store.log.codecs import compress, decompress
from event_streaming_bus.store.log.record_batch import RecordBatch, StoredBatch, encode_columns

SPLIT = Split("str_1", EventPriority.NORMAL, 0)
NOT_LONG_S = 5
DEEP = b"[" * 100_000


def read(folder: Path, name: str, content: str) -> Any:
    (folder / name).write_text(content, encoding="utf-8")
    began = time.monotonic()
    try:
        return read_flow_file(folder / name)
    finally:
        assert time.monotonic() - began < NOT_LONG_S


# --- flow files -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "content",
    [
        ".".join("a" * 50_000) + " = 1",
        "x = 1\n[" + " . ".join("a" * 20_000) + "]",
        "x = {" + ".".join(['"a b,="'] * 9_000) + " = 1}",
        "x = ['''\n'''," + "{" + ".".join(["'\"'"] * 9_000) + " = 1}]",
        'x = """\n"\\"""" # """\n' + ".".join("a" * 30_000) + " = 1",
    ],
)
def test_a_key_of_very_many_parts_is_refused_in_time(content: str, tmp_path: Path) -> None:
    with pytest.raises(FlowError, match="nested more than 64 levels"):
        read(tmp_path, "flow.toml", content)


@pytest.mark.parametrize(
    "line",
    [
        "x = [" + ", ".join(f"{n}.5" for n in range(300)) + "]",
        'x = "' + ".".join("a" * 300) + '"',
        "x = '''\n" + ".".join("a" * 300) + "\n'''",
        "# " + "." * 300 + ".".join("a" * 300),
        'x = ["' + '", "'.join(["a.b.c.d"] * 100) + '"]',
        ".".join("a" * 60) + " = 1",
    ],
)
def test_dots_elsewhere_are_no_key(line: str, tmp_path: Path) -> None:
    assert read(tmp_path, "flow.toml", line + "\n") is not None


def test_a_file_of_keys_that_are_there_twice_is_read_in_time(tmp_path: Path) -> None:
    document = read(tmp_path, "flow.json", '{"a": 1, "a": 2, ' + ", ".join(f'"k{n}": 1' for n in range(40_000)) + "}")
    assert "given twice" in str(document.problems.found)


@pytest.mark.parametrize("content", ['{"a": "\\ud800"}', '{"\\udfff": 1}', '["ok", "x\\ud83dy"]'])
def test_half_of_a_character_is_no_text(content: str, tmp_path: Path) -> None:
    with pytest.raises(FlowError, match="half of a character") as refused:
        read(tmp_path, "flow.json", content)
    str(refused.value).encode()


def test_a_whole_character_spelt_in_halves_is_text(tmp_path: Path) -> None:
    assert read(tmp_path, "flow.json", '{"a": "\\ud83d\\ude00"}').data == {"a": "😀"}


def test_an_expression_that_does_not_parse_prints_no_warning() -> None:
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        with pytest.raises(ExpressionError):
            parse("payload.a == 1or )")
    assert not told


# --- record batches ---------------------------------------------------------------------------------------------------


def batch(body: bytes, count: int = 2, codec: CompressionType = CompressionType.NONE) -> RecordBatch:
    return RecordBatch(SPLIT, StoredBatch(0, count, codec, 0, 0, 0, body))


def columns(change: Any) -> bytes:
    decoded = msgspec.msgpack.decode(encode_columns([Event(f"evt_{n}", "t", n, b"{}", key=str(n)) for n in range(2)]))
    change(decoded)
    return msgspec.msgpack.encode(decoded)


@pytest.mark.parametrize(
    "body",
    [
        b"\x92\x02\xa1\xff",
        b"\x91" * 5000,
        b"\x92\x02\x02",
        columns(lambda found: found.pop()),
        columns(lambda found: found.append([None])),
        columns(lambda found: found.__setitem__(2, ["a", "b", "c"])),
        columns(lambda found: found.__setitem__(2, "text")),
        columns(lambda found: found.__setitem__(0, [])),
        columns(lambda found: found.__setitem__(2 + Event.__struct_fields__.index("timestamp_ms"), b"123")),
        columns(lambda found: found.__setitem__(2 + Event.__struct_fields__.index("data"), b"1\n2\n3")),
        columns(lambda found: found.__setitem__(2 + Event.__struct_fields__.index("data"), [b"\xff" * 8, b"x"])),
        columns(lambda found: found.__setitem__(2 + Event.__struct_fields__.index("priority"), ["NONE"])),
    ],
)
def test_whatever_a_batch_holds_it_is_damaged_or_as_many_events_as_it_says(body: bytes) -> None:
    with pytest.raises(CorruptLogError, match="is damaged"):
        batch(body).events()


def test_payloads_that_are_too_many_are_not_handed_out_as_lines() -> None:
    body = columns(lambda found: found.__setitem__(2 + Event.__struct_fields__.index("data"), b"1\n2\n3"))
    for ask in (RecordBatch.payload_lines, RecordBatch.payloads, RecordBatch.json_payloads):
        with pytest.raises(CorruptLogError):
            ask(batch(body))
    rows = ChunkRows(Chunk(Progress(), SPLIT, 0, 2, batches=(batch(body),)), SPLIT)
    with pytest.raises(CorruptLogError):
        rows.decode(msgspec.json.Decoder(int))


@pytest.mark.parametrize(
    ("codec", "data"),
    [
        (CompressionType.ZSTD, bytes(cramjam.zstd.compress(bytes(64 << 20), 19)) * 20),
        (CompressionType.LZ4, b"\xff\xff\xff\x7f" + bytes(40)),
        (CompressionType.SNAPPY, b"\xff\xff\xff\xff\x0f" + bytes(40)),
    ],
)
def test_what_would_become_larger_than_anything_written_is_not_unpacked(codec: CompressionType, data: bytes) -> None:
    with pytest.raises(CorruptLogError, match=codec.value):
        decompress(codec, data)


def test_gzip_is_unpacked_no_further_than_to_the_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(codecs, "MAX_BLOCK_BYTES", 1 << 20)
    fits, large = (bytes(cramjam.gzip.compress(bytes(size), 6)) for size in (1 << 20, (1 << 20) + 1))
    assert decompress(CompressionType.GZIP, fits) == bytes(1 << 20)
    for data in (large, fits[:-5], b"\x1f\x8b" + bytes(2000)):
        with pytest.raises(CorruptLogError, match="GZIP"):
            decompress(CompressionType.GZIP, data)


def test_nothing_is_packed_that_could_not_be_unpacked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(codecs, "MAX_BLOCK_BYTES", 1 << 20)
    for codec in CompressionType:
        assert decompress(codec, compress(codec, bytes(1 << 20))) == bytes(1 << 20)
        with pytest.raises(InvalidInputError, match="can be stored"):
            compress(codec, bytes((1 << 20) + 1))


# --- Kafka's records, CloudEvents, payloads ----------------------------------------------------------------------------


def record(esb: bytes | None, **headers: bytes) -> Event:
    told: list[tuple[str, bytes | None]] = [*headers.items()]
    if esb is not None:
        told.append(("esb", esb))
    message = Message(topic="t", partition=0, offset=7, key=None, value=b"{}", headers=told, timestamp=(1, 5))
    return kafka_events.event_of(kafka_events.envelope_of(message, SPLIT, "acme"), b"{}")


def exact(event: Event) -> bytes:
    return bytes(dict(kafka_events.to_record(event)[2])["esb"] or b"")


@pytest.mark.parametrize("header", [b"\x92\x01\xa1\xff", exact(Event("e", "t", 1, b""))[:30] + b"\x91" * 5000, b"", b"\xc1"])
def test_a_header_that_the_bus_did_not_write_does_not_hold_up_a_split(header: bytes) -> None:
    assert record(header).event_type == kafka_events.FOREIGN_TYPE


def test_no_header_makes_a_record_another_tenants() -> None:
    event = Event("evt_1", "t", 1, b"{}", tenant_id="other", metadata={"a": 1})
    assert record(exact(event)) == msgspec.structs.replace(event, tenant_id="acme")
    assert record(exact(msgspec.structs.replace(event, tenant_id="acme"))).tenant_id == "acme"


def test_metadata_that_is_nested_too_deep_is_refused_as_such() -> None:
    with pytest.raises(InvalidInputError, match="metadata"):
        cloudevents.from_headers(
            [
                ("ce_specversion", b"1.0"),
                ("ce_id", b"1"),
                ("ce_source", b"/"),
                ("ce_type", b"t"),
                ("ce_metadata", b'{"a":' + DEEP),
            ],
            b"",
        )


def test_a_payload_that_is_nested_too_deep_is_one_that_cannot_be_read() -> None:
    with pytest.raises(InvalidInputError, match="not JSON"):
        as_json(DEEP, 0, [DEEP])
    event = Event("evt_1", "t", 1, DEEP + b"]" * len(DEEP))
    assert event.payload_data() == {"payload_base64": event.data}
    assert "data_base64" in cloudevents.to_cloudevent(event, "s")


# --- the journal of migrations ----------------------------------------------------------------------------------------

TOLD = journal.Copied(
    *("src", "str_1", 1, 2, [journal.Piece(0, 0, 0, 2)], b"\0\0\0\0", b"\1\0\xff\xff", [(0, 1, 10, 1)]),
    [journal.Known(1, "str_2", 0, 3)],
)


def test_a_record_of_the_journal_is_read_as_it_was_written() -> None:
    copied = journal.copied_in(msgspec.msgpack.encode(TOLD))
    assert copied == TOLD
    assert copied.places("str_9") == [(Split("str_9", EventPriority.CRITICAL, 1), 10), None]


@pytest.mark.parametrize(
    "changes",
    [
        {"runs": [(0, 1, 10, 1 << 60)]},
        {"runs": []},
        {"runs": [(0, 2, 10, 1)]},
        {"runs": [(0, 1, 10, 2), (0, 1, 12, -1)]},
        {"pieces": []},
        {"pieces": [journal.Piece(9, 0, 0, 2)]},
        {"pieces": [journal.Piece(-1, 0, 0, 2)]},
        {"origins": b"\0"},
        {"partitions": b"\1\0"},
        {"known": []},
    ],
)
def test_a_record_of_the_journal_that_does_not_fit_itself_is_corrupt(changes: dict[str, Any]) -> None:
    with pytest.raises(CorruptLogError, match="does not fit itself"):
        journal.copied_in(msgspec.msgpack.encode(msgspec.structs.replace(TOLD, **changes)))


@pytest.mark.parametrize("data", [b"", b"\x99\xa1\xff", b"\x91" * 5000, b"\xc0"])
def test_what_is_no_record_of_the_journal_is_corrupt(data: bytes) -> None:
    with pytest.raises(CorruptLogError, match="cannot be read"):
        journal.copied_in(data)
