"""Which partition a key goes to on Kafka: what Java's producers and all that agree with them say."""

from functools import lru_cache
from typing import Final

from event_streaming_bus.errors import InvalidInputError

_SEED: Final = 0x9747B28C
_M: Final = 0x5BD1E995
_BITS: Final = 0xFFFFFFFF


def murmur2(data: bytes) -> int:
    """MurmurHash2 (32 bits, unsigned) with the seed that Kafka's clients share."""
    h = _SEED ^ len(data)
    whole = len(data) & ~3
    for i in range(0, whole, 4):
        k = int.from_bytes(data[i : i + 4], "little") * _M & _BITS
        h = (h * _M & _BITS) ^ ((k ^ k >> 24) * _M & _BITS)
    if whole < len(data):
        h = (h ^ int.from_bytes(data[whole:], "little")) * _M & _BITS
    h = (h ^ h >> 13) * _M & _BITS
    return h ^ h >> 15


@lru_cache(maxsize=1 << 16)
def partition_of(key: str, partitions: int) -> int:
    """The partition of ``key``: MurmurHash2 of its UTF-8 without the sign bit, modulo the number of partitions."""
    try:
        data = key.encode()
    except UnicodeEncodeError as error:
        raise InvalidInputError(f"{key!r} cannot be written as UTF-8: {error}") from error
    return (murmur2(data) & 0x7FFFFFFF) % partitions
