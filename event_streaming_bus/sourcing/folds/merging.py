"""The default fold: the fields of payloads, the latest value of each."""

from collections.abc import Iterator, Sequence
from typing import Any, Final

from event_streaming_bus.sourcing.folds.base import DictFold
from event_streaming_bus.sourcing.folds.events import Payload
from event_streaming_bus.sourcing.folds.upcasts import NO_UPCASTING, Upcasting
from event_streaming_bus.store.recorded import RecordedEvent

_MEANING: Final = "top-level fields, the last value wins"


class MergeFold(DictFold):
    """Merges payloads: each top-level field has the value of the last event that has the field.

    null is a value as any other; objects and lists are replaced as a whole. Event types and envelopes do not count.
    """

    kind = "merge"

    def __init__(self, upcasting: Upcasting = NO_UPCASTING) -> None:
        super().__init__("the default fold", _MEANING, upcasting=upcasting)

    def initial(self) -> dict[str, Any]:
        return {}

    def _apply(self, state: dict[str, Any], events: Sequence[RecordedEvent], payloads: Iterator[Payload]) -> dict[str, Any]:
        merged = dict(state)
        for payload in payloads:
            merged.update(payload)
        return merged
