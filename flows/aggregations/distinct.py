"""Distinct values: counted exactly, estimated, and by how often they occur."""

import heapq
from collections import Counter
from collections.abc import Iterable, Sequence
from hashlib import blake2b
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import msgspec

from event_streaming_bus.flows.aggregations.kept import Kept

if TYPE_CHECKING:
    from datasketches import hll_sketch

JsonKey: TypeAlias = str | int | float | bytes
"""Equal for equal JSON values, and only for these: text and numbers are themselves, the others their JSON."""

_MAX_TEXT_CHARS: Final = 64
_LOG2_REGISTERS: Final = 12


def json_key(value: Any) -> JsonKey:
    """What stands for a JSON value. ``1`` and ``1.0`` are equal, ``1`` and ``true`` are not; the order of an object's keys does
    not matter."""
    kind = value.__class__
    if kind is str or kind is int or kind is float or kind is bytes:
        return value  # type: ignore[no-any-return]
    return msgspec.json.encode(_normal(value), order="sorted")


def _normal(value: Any) -> Any:
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, list):
        return [_normal(item) for item in value]
    if isinstance(value, dict):
        return {key: _normal(item) for key, item in value.items()}
    return value


def _from_key(key: JsonKey) -> Any:
    return msgspec.json.decode(key) if isinstance(key, bytes) else _normal(key)


def _short_key(value: Any) -> JsonKey:
    """A key of bounded size: of long ones their BLAKE2b digest of 256 bits, so that no two are ever mixed up."""
    key = json_key(value)
    if isinstance(key, str) and len(key) > _MAX_TEXT_CHARS:
        return b"t" + blake2b(key.encode("utf-8", "surrogatepass"), digest_size=32).digest()
    if isinstance(key, bytes) and len(key) > _MAX_TEXT_CHARS:
        return b"j" + blake2b(key, digest_size=32).digest()
    return key


class DistinctValues(Kept):
    """The set of distinct values, up to ``max_values``. Beyond that nothing more is kept, and ``count`` raises."""

    __slots__ = ("_keys", "_max_values")

    def __init__(self, max_values: int) -> None:
        self._max_values = max_values
        self._keys: set[JsonKey] | None = set()

    def add(self, values: Sequence[Any]) -> None:
        self._add(map(_short_key, values))

    def absorb(self, other: "DistinctValues") -> None:
        if other._keys is None:
            self._keys = None
        else:
            self._add(other._keys)

    def _add(self, keys: Iterable[JsonKey]) -> None:
        if self._keys is not None:
            self._keys.update(keys)
            if len(self._keys) > self._max_values:
                self._keys = None

    def count(self) -> int:
        if self._keys is None:
            raise ValueError(
                f"distinct met more than {self._max_values:,} distinct values in one window of one group; "
                "use approx_distinct, or raise max_values"
            )
        return len(self._keys)


class Occurrences(Kept):
    """How often each distinct value occurs, for up to ``max_values`` of them. Beyond that nothing more is kept, and ``most``
    raises."""

    __slots__ = ("_counts", "_max_values")

    def __init__(self, max_values: int) -> None:
        self._max_values = max_values
        self._counts: Counter[JsonKey] | None = Counter()

    def add(self, values: Sequence[Any]) -> None:
        self._add(Counter(map(json_key, values)))

    def absorb(self, other: "Occurrences") -> None:
        if other._counts is None:
            self._counts = None
        else:
            self._add(other._counts)

    def _add(self, counts: "Counter[JsonKey]") -> None:
        if self._counts is not None:
            self._counts.update(counts)
            if len(self._counts) > self._max_values:
                self._counts = None

    def most(self, k: int) -> list[dict[str, Any]]:
        """The ``k`` values that occur most often, as ``{"value": ..., "count": ...}``; of equal counts, numbers come first,
        then text, then the others, each from the smallest."""
        if self._counts is None:
            raise ValueError(
                f"most_frequent met more than {self._max_values:,} distinct values in one window of one group; "
                "raise max_values, or round the values to fewer with a MAP first"
            )
        first = heapq.nsmallest(k, self._counts.items(), key=lambda item: (-item[1], *_key_rank(item[0])))
        return [{"value": _from_key(key), "count": count} for key, count in first]


def _key_rank(key: JsonKey) -> tuple[int, JsonKey]:
    return 2 if isinstance(key, bytes) else 1 if isinstance(key, str) else 0, key


class HyperLogLog(Kept):
    """A HyperLogLog sketch of 4,096 registers, from Apache DataSketches.

    Up to a few hundred distinct values it counts them; beyond that the standard error is 1.6 %. The estimate depends on
    nothing but the set of values.
    """

    __slots__ = ("_sketch",)

    def __init__(self) -> None:
        from datasketches import hll_sketch

        self._sketch: hll_sketch = hll_sketch(_LOG2_REGISTERS)

    def add(self, values: Sequence[Any]) -> None:
        update = self._sketch.update
        for value in values:
            update(_text_key(value))

    def absorb(self, other: "HyperLogLog") -> None:
        self._sketch = _united(self._sketch, other._sketch)

    def estimate(self) -> int:
        # A sketch that was never merged estimates from the order in which values came; united with itself it does not.
        estimate: float = _united(self._sketch, self._sketch).get_estimate()
        return round(estimate)

    def __getstate__(self) -> bytes:
        saved: bytes = self._sketch.serialize_compact()
        return saved

    def __setstate__(self, saved: bytes) -> None:
        from datasketches import hll_sketch

        self._sketch = hll_sketch.deserialize(saved)


def _text_key(value: Any) -> str:
    """The value's key as text: the sketch would take the number 1 and the text "1", or an empty text, otherwise."""
    if value.__class__ is str:
        return f"t{value}"
    return "j" + msgspec.json.encode(_normal(value), order="sorted").decode()


def _united(left: "hll_sketch", right: "hll_sketch") -> "hll_sketch":
    from datasketches import hll_union, tgt_hll_type

    union = hll_union(_LOG2_REGISTERS)
    union.update(left)
    union.update(right)
    return union.get_result(tgt_hll_type.HLL_8)
