"""The codecs give back what they were given, and say so when they are given something else."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from event_streaming_bus.errors import CorruptLogError
from event_streaming_bus.models import CompressionType
from event_streaming_bus.store.log.codecs import compress, decompress

COMPRESSING = [codec for codec in CompressionType if codec is not CompressionType.NONE]


@pytest.mark.parametrize("codec", list(CompressionType))
@given(data=st.binary(max_size=200))
def test_any_bytes_come_back(codec: CompressionType, data: bytes) -> None:
    packed = compress(codec, data)
    assert type(packed) is type(decompress(codec, packed)) is bytes
    assert decompress(codec, packed) == data


@pytest.mark.parametrize("codec", list(CompressionType))
def test_a_large_block_comes_back(codec: CompressionType) -> None:
    data = b"".join(b'{"n":%d}' % i for i in range(300_000))
    assert decompress(codec, compress(codec, data)) == data


@pytest.mark.parametrize("codec", COMPRESSING)
def test_what_repeats_becomes_much_smaller(codec: CompressionType) -> None:
    data = b'{"carrier":"UA","origin":"EWR"}' * 1000
    assert len(compress(codec, data)) < len(data) / 10


def test_no_codec_leaves_the_bytes_alone() -> None:
    assert compress(CompressionType.NONE, b"as it is") == b"as it is"


@pytest.mark.parametrize("codec", COMPRESSING)
@pytest.mark.parametrize("spoil", [lambda packed: packed[: len(packed) // 2], lambda packed: b"", lambda packed: b"\x05rubbish"])
def test_what_the_codec_did_not_write_is_an_error_that_names_the_codec(codec: CompressionType, spoil: object) -> None:
    packed = compress(codec, bytes(range(256)) * 20)
    assert callable(spoil)
    with pytest.raises(CorruptLogError, match=codec.value):
        decompress(codec, spoil(packed))
