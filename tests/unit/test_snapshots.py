"""The states of flows and their marks as they are kept: checked when they are read, and readable if they are older than that."""

import pickle

import msgspec
import pytest

from event_streaming_bus.errors import CorruptLogError
from event_streaming_bus.flows.marks import StageMark, WindowMark, decoded, renewed
from event_streaming_bus.flows.snapshots import check_sealed, opened, plain, sealed, unwrapped

VALUE = {"NORMAL": (7, None), "LOW": (0, 12)}


def as_bytewax_keeps(state: object) -> bytes:
    return pickle.dumps(state)


def test_a_state_comes_back_as_it_was() -> None:
    assert opened(sealed(VALUE)) == VALUE
    assert check_sealed(unwrapped(as_bytewax_keeps(sealed(VALUE))))
    assert plain(sealed(VALUE)) == VALUE


@pytest.mark.parametrize("state", [VALUE, pickle.dumps(VALUE, 5)])
def test_a_state_from_before_there_were_checksums_can_be_read(state: object) -> None:
    assert opened(state) == VALUE
    assert not check_sealed(unwrapped(as_bytewax_keeps(state)))


def test_every_flipped_bit_of_a_state_is_found() -> None:
    whole = sealed(VALUE)
    for position in range(len(whole)):
        for bit in range(8):
            damaged = bytearray(whole)
            damaged[position] ^= 1 << bit
            with pytest.raises(CorruptLogError, match="is damaged"):
                opened(bytes(damaged))
            with pytest.raises(CorruptLogError):
                check_sealed(bytes(damaged))


def test_looking_at_a_state_runs_nothing_that_is_in_it() -> None:
    with pytest.raises(CorruptLogError, match="it names builtins"):
        unwrapped(pickle.dumps(print))


def test_a_mark_comes_back_and_every_flipped_bit_of_it_is_found() -> None:
    mark = StageMark(offset=12, updated_at_ms=5)
    kept = renewed("stage:t/f/p", "s/0/normal", None, mark).value
    assert decoded("stage:t/f/p", "s/0/normal", kept, StageMark) == mark
    for position in range(len(kept)):
        for bit in range(8):
            damaged = bytearray(kept)
            damaged[position] ^= 1 << bit
            with pytest.raises(CorruptLogError, match=r"s/0/normal.*is damaged"):
                decoded("stage:t/f/p", "s/0/normal", bytes(damaged), StageMark)
    with pytest.raises(CorruptLogError):
        decoded("stage:t/f/p", "s/1/normal", kept, StageMark)  # it was moved


def test_a_mark_from_before_there_were_checksums_can_be_read() -> None:
    mark = WindowMark(horizon_ms=3, cut={"s/0/normal": 4})
    assert decoded("window:t/f/p", "07", msgspec.msgpack.encode(mark), WindowMark) == mark
