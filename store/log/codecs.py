"""The codecs of record batches, all from cramjam.

Compressed data can say that it is far larger than it is, or be it: a few kilobytes of zstd become gigabytes. So the size of what
comes out is bounded before anything is unpacked, by ``MAX_BLOCK_BYTES``; nothing larger is ever packed.
"""

import mmap
from collections.abc import Callable, Mapping
from typing import Final

import cramjam

from event_streaming_bus.errors import CorruptLogError, InvalidInputError
from event_streaming_bus.models import CompressionType

MAX_BLOCK_BYTES: Final = 1 << 30
"""The most that a block holds, uncompressed: what fits into a row of the log at all."""
_GZIP_MAX_RATIO: Final = 1032
_ZSTD_FRAME: Final = 0xFD2FB528
_ZSTD_SKIPPED: Final = range(0x184D2A50, 0x184D2A60)
_ZSTD_BLOCK_BYTES: Final = 128 << 10
_Transform = Callable[[bytes], bytes]

_COMPRESS: Final[Mapping[CompressionType, _Transform]] = {
    CompressionType.NONE: lambda data: data,
    CompressionType.GZIP: lambda data: bytes(cramjam.gzip.compress(data, 6)),
    CompressionType.SNAPPY: lambda data: bytes(cramjam.snappy.compress_raw(data)),
    CompressionType.LZ4: lambda data: bytes(cramjam.lz4.compress_block(data)),
    CompressionType.ZSTD: lambda data: bytes(cramjam.zstd.compress(data, 3)),
}
_DECOMPRESS: Final[Mapping[CompressionType, _Transform]] = {
    CompressionType.NONE: lambda data: data,
    CompressionType.GZIP: lambda data: bytes(cramjam.gzip.decompress(data)),
    CompressionType.SNAPPY: lambda data: bytes(cramjam.snappy.decompress_raw(data)),
    CompressionType.LZ4: lambda data: bytes(cramjam.lz4.decompress_block(data)),
    CompressionType.ZSTD: lambda data: bytes(cramjam.zstd.decompress(data)),
}

_DECOMPRESS_INTO: Final[Mapping[CompressionType, Callable[[bytes, mmap.mmap], int]]] = {
    CompressionType.GZIP: cramjam.gzip.decompress_into,
    CompressionType.ZSTD: cramjam.zstd.decompress_into,
}


def compress(codec: CompressionType, data: bytes) -> bytes:
    """``data`` compressed with ``codec``, in one block. Raises ``InvalidInputError`` for more than ``MAX_BLOCK_BYTES``."""
    if len(data) > MAX_BLOCK_BYTES:
        raise InvalidInputError(f"{len(data):,} bytes in one record batch; at most {MAX_BLOCK_BYTES:,} can be stored")
    return _COMPRESS[codec](data)


def decompress(codec: CompressionType, data: bytes) -> bytes:
    """The reverse of ``compress``. Raises ``CorruptLogError`` if ``data`` is not what ``codec`` writes."""
    try:
        if _most(codec, data) <= MAX_BLOCK_BYTES:
            return _DECOMPRESS[codec](data)
        return _within_bounds(codec, data)
    except cramjam.DecompressionError as error:
        raise CorruptLogError(f"The record batch is not {codec.value} data: {error}") from error


def _within_bounds(codec: CompressionType, data: bytes) -> bytes:
    """The reverse of ``compress`` of what may become too large: it is stopped where it does."""
    into = _DECOMPRESS_INTO.get(codec)
    if into is None:  # it says itself how large it is
        raise CorruptLogError(f"The record batch is not {codec.value} data: it would be larger than any that is written")
    with mmap.mmap(-1, MAX_BLOCK_BYTES) as room:  # takes memory only where it is written to
        return room[: into(data, room)]


def _most(codec: CompressionType, data: bytes) -> int:
    """How many bytes it can become at most, found without unpacking it; of LZ4 and SNAPPY exactly how many."""
    match codec:
        case CompressionType.GZIP:
            return len(data) * _GZIP_MAX_RATIO
        case CompressionType.LZ4:
            return int.from_bytes(data[:4], "little")
        case CompressionType.SNAPPY:
            return _varint(data)
        case CompressionType.ZSTD:
            return _most_of_zstd(data)
    return len(data)


def _varint(data: bytes) -> int:
    size = 0
    for i, byte in enumerate(data[:5]):
        size |= (byte & 127) << (7 * i)
        if byte < 128:
            break
    return size


def _most_of_zstd(data: bytes) -> int:
    """A frame is a header and blocks, each with its length in front, and each of at most ``_ZSTD_BLOCK_BYTES`` unpacked. What is
    no frame is left for the decoder to refuse."""
    at, most = 0, 0
    while at + 6 <= len(data):
        magic = int.from_bytes(data[at : at + 4], "little")
        if magic in _ZSTD_SKIPPED:
            at += 8 + int.from_bytes(data[at + 4 : at + 8], "little")
            continue
        if magic != _ZSTD_FRAME:
            break
        flags = data[at + 4]
        is_single = flags >> 5 & 1
        at += 5 + (1 - is_single) + (0, 1, 2, 4)[flags & 3] + (is_single, 2, 4, 8)[flags >> 6]
        is_last = False
        while not is_last and at + 3 <= len(data):
            header = int.from_bytes(data[at : at + 3], "little")
            is_last, is_run = bool(header & 1), header >> 1 & 3 == 1
            at += 3 + (1 if is_run else header >> 3)
            most += _ZSTD_BLOCK_BYTES
        at += 4 if flags & 4 else 0
    return most
