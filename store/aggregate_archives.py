"""The events of an archived aggregate as one row: the records as they were, compressed together, with a checksum."""

from collections.abc import Sequence
from typing import Any, Final

import msgspec
import xxhash

from event_streaming_bus.errors import CorruptLogError
from event_streaming_bus.models import CompressionType
from event_streaming_bus.store.log.codecs import compress, decompress

_CODEC: Final = CompressionType.ZSTD
_encode: Final = msgspec.msgpack.Encoder().encode
_decode: Final = msgspec.msgpack.Decoder(list[msgspec.Raw]).decode


class Archive(msgspec.Struct, frozen=True):
    """The records of an aggregate up to ``last_version``, in the order of versions, compressed in ``data``."""

    last_version: int
    events: int
    checksum: int
    data: bytes


def pack(aggregate_id: str, last_version: int, records: Sequence[bytes]) -> Archive:
    """The records, compressed. The checksum is also that of the aggregate's id, so that a row that was moved is found."""
    data = compress(_CODEC, _encode([msgspec.Raw(record) for record in records]))
    return Archive(last_version, len(records), _checksum(aggregate_id, data), data)


def unpack(aggregate_id: str, row: Sequence[Any]) -> list[bytes]:
    """The records of an archive, from the row that holds it. Raises ``CorruptLogError`` if they are not what was packed."""
    archive = Archive(*row)
    if archive.checksum != _checksum(aggregate_id, archive.data):
        raise CorruptLogError(
            f"The archive of the aggregate '{aggregate_id}' is damaged: its checksum is wrong. Restore the data folder from a "
            "backup.",
            aggregate_id=aggregate_id,
        )
    records = [bytes(record) for record in _decode(decompress(_CODEC, archive.data))]
    if len(records) != archive.events:
        raise CorruptLogError(
            f"The archive of the aggregate '{aggregate_id}' is damaged: it holds {len(records)} events, not {archive.events}. "
            "Restore the data folder from a backup.",
            aggregate_id=aggregate_id,
        )
    return records


def _checksum(aggregate_id: str, data: bytes) -> int:
    digest = xxhash.xxh3_64_intdigest(data, seed=xxhash.xxh3_64_intdigest(aggregate_id.encode("utf-8", "surrogatepass")))
    return digest - (1 << 64) if digest >= 1 << 63 else digest  # SQLite's integers have a sign
