"""The codecs of record batches, all from cramjam."""

from collections.abc import Callable, Mapping
from typing import Final

import cramjam

from event_streaming_bus.errors import CorruptLogError
from event_streaming_bus.models import CompressionType

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


def compress(codec: CompressionType, data: bytes) -> bytes:
    """``data`` compressed with ``codec``, in one block."""
    return _COMPRESS[codec](data)


def decompress(codec: CompressionType, data: bytes) -> bytes:
    """The reverse of ``compress``. Raises ``CorruptLogError`` if ``data`` is not what ``codec`` writes."""
    try:
        return _DECOMPRESS[codec](data)
    except cramjam.DecompressionError as error:
        raise CorruptLogError(f"The record batch is not {codec.value} data: {error}") from error
