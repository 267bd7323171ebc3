"""What every fold offers: a state to begin with, events applied to it, and the state as JSON for snapshots."""

import copy
import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import Any, ClassVar, Generic, Self, TypeVar

from event_streaming_bus.sourcing.folds.events import Payload
from event_streaming_bus.sourcing.folds.upcasts import NO_UPCASTING, Upcasting
from event_streaming_bus.store.recorded import RecordedEvent

S = TypeVar("S")


class Fold(ABC, Generic[S]):
    """Makes the state of an aggregate of its events, in the order of their versions.

    A fold depends on nothing but the events. Applying them in one go, in any split of batches, or with the state written and read
    as JSON in between gives the same state.

    States are values: a fold never changes one that it was given, and parts of a state may be shared with that before it. Leave
    them as they are. Folds are immutable and safe to use from any thread.
    """

    kind: ClassVar[str]
    """``merge``, ``declared`` or ``class``."""

    def __init__(self, name: str, code: str, fold_version: int = 1, upcasting: Upcasting = NO_UPCASTING) -> None:
        """``name`` is for messages, such as ``the fold of Account in bank.yaml``; ``code`` is text that differs for folds that do
        something else."""
        self.name = name
        self.fold_version = fold_version
        self.upcasting = upcasting
        self._code = code

    @property
    def fold_hash(self) -> str:
        """What the state depends on beside the events, as 32 hexadecimal digits: the code of the fold and of its upcasters,
        ``fold_version``, and the version of the schema that the registry brings payloads to.

        The same in every process that has the same code. With the registry's migrations it changes when the stream is moved to
        another version of its schema, which may be noticed while events are applied: whoever keeps a snapshot compares the hash
        before and after.
        """
        text = f"{self.kind}\n{self.fold_version}\n{self._code}\n{self.upcasting.code}"
        return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:32]

    def upcasted_by(self, upcasting: Upcasting) -> Self:
        """The same fold of payloads that are brought up to date in another way."""
        other = copy.copy(self)
        other.upcasting = upcasting
        return other

    @abstractmethod
    def initial(self) -> S:
        """The state of an aggregate without events: a new object each time."""

    def apply_many(self, state: S, events: Sequence[RecordedEvent]) -> S:
        """The state after the events, which follow in the order of versions on those that made ``state``.

        ``state`` stays as it is. Raises ``FoldError`` for the first event that cannot be applied: there is then no new state,
        none of the events before it either.
        """
        if not events:
            return state
        return self._apply(state, events, self.upcasting.payloads(events, self.name))

    @abstractmethod
    def _apply(self, state: S, events: Sequence[RecordedEvent], payloads: Iterator[Payload]) -> S:
        """``apply_many`` with the decoded payloads, each of them the fold's own. They come while they are read, or fail."""

    @abstractmethod
    def to_json(self, state: S) -> dict[str, Any]:
        """The state as JSON values: for snapshots, and for answers."""

    @abstractmethod
    def from_json(self, data: dict[str, Any]) -> S:
        """The state that ``to_json`` wrote, by a fold of the same hash. Raises ``msgspec.ValidationError`` if it is none."""


class DictFold(Fold[dict[str, Any]]):
    """A fold whose state is a JSON object."""

    def to_json(self, state: dict[str, Any]) -> dict[str, Any]:
        return state

    def from_json(self, data: dict[str, Any]) -> dict[str, Any]:
        return data
