"""Rebuilding aggregates: from a snapshot, if the fold in force has made one, and the events behind it."""

import time
from collections.abc import Callable
from datetime import datetime
from functools import partial
from typing import Any, Final, NamedTuple

import msgspec

from event_streaming_bus.errors import CorruptLogError, InvalidInputError, InvalidStateError
from event_streaming_bus.models import time_ms
from event_streaming_bus.sourcing.folds.base import Fold
from event_streaming_bus.sourcing.folds.folds import Folds
from event_streaming_bus.sourcing.model import Aggregate
from event_streaming_bus.sourcing.sealing import Sealing
from event_streaming_bus.sourcing.stream_upcasters import StreamUpcasters
from event_streaming_bus.store.aggregate_errors import AggregateNotFoundError
from event_streaming_bus.store.aggregate_lifecycle import HistoryGoneError
from event_streaming_bus.store.aggregate_snapshots import Snapshot
from event_streaming_bus.store.aggregates import AggregateInfo, AggregateStatus, AggregateStore
from event_streaming_bus.store.recorded import RecordedEvent

_TRIES: Final = 3


class SnapshotPolicy(msgspec.Struct, frozen=True, kw_only=True):
    """When rebuilding an aggregate leaves a snapshot behind: when it had to replay so many events, or for so long. ``None``:
    never for that reason."""

    every_events: int | None = 200
    replay_exceeds_ms: float | None = 50.0

    def wants(self, events: int, took_ms: float) -> bool:
        """Whether a snapshot is due after replaying so many events."""
        if events == 0:
            return False
        return (self.every_events is not None and events >= self.every_events) or (
            self.replay_exceeds_ms is not None and took_ms >= self.replay_exceeds_ms
        )


class SnapshotCheck(msgspec.Struct, frozen=True, kw_only=True):
    """Whether a snapshot is what a full replay gives. ``is_current``: the fold in force has made it; others are never read."""

    aggregate_id: str
    version: int
    fold_hash: str
    is_current: bool
    is_equal: bool | None
    told: str


class Rebuilder:
    """Rebuilds the aggregates of a store with the folds in force. Every method blocks; safe to use from any thread."""

    def __init__(
        self,
        store: AggregateStore,
        folds: Folds,
        policy: Callable[[], SnapshotPolicy],
        upcasters: StreamUpcasters,
        sealing: Sealing,
    ) -> None:
        self._store = store
        self._sealing = sealing
        self._folds = folds
        self._upcasters = upcasters
        self._policy = policy

    def rebuild(
        self,
        tenant_id: str,
        aggregate_id: str,
        aggregate_type: str | None = None,
        *,
        as_of_version: int | None = None,
        as_of_time: str | int | datetime | None = None,
        update_snapshots: bool = False,
        fold: Fold[Any] | None = None,
    ) -> tuple[Aggregate, Any]:
        """``(the aggregate, its state as the fold has it)``; by default as it is now.

        ``as_of_version``: as it was at that version. ``as_of_time``: made of its events with a timestamp up to this. A snapshot
        is left if ``update_snapshots`` or the policy says so, never of the past. Raises ``AggregateNotFoundError``,
        ``FoldError``, ``InvalidInputError`` for one of another type or a version that it has not come to, and
        ``HistoryGoneError`` if events that the state is made of are gone: never a state of only a part of them.
        """
        info = self.find(tenant_id, aggregate_id, aggregate_type)
        fold = self._fold(tenant_id, info.aggregate_type, fold)
        until_ms = None if as_of_time is None else time_ms(as_of_time)
        made = self._make(tenant_id, aggregate_id, fold, as_of_version, until_ms)
        is_present = as_of_version is None and until_ms is None and made.is_by_one_fold
        if is_present and made.events and (update_snapshots or self._policy().wants(len(made.events), made.took_ms)):
            self._store.put_snapshot(tenant_id, aggregate_id, self._taken(tenant_id, made))
        return made.aggregate, made.state

    def base(self, tenant_id: str, aggregate_id: str, version: int) -> Snapshot:
        """A snapshot of an aggregate as it was at a version, by the fold in force; it is not kept. Raises what ``rebuild``
        raises."""
        aggregate_type = self.find(tenant_id, aggregate_id, None).aggregate_type
        for _ in range(_TRIES):
            fold = self._fold(tenant_id, aggregate_type)
            made = self._make(tenant_id, aggregate_id, fold, version, None)
            if made.is_by_one_fold:
                return self._taken(tenant_id, made)
        raise InvalidStateError(f"the fold of {aggregate_type} changes while a snapshot is made", aggregate_id=aggregate_id)

    def _taken(self, tenant_id: str, made: "_Made") -> Snapshot:
        return self._sealing.seal(tenant_id, made.aggregate.aggregate_id, made.taken(), made.events, made.snapshot)

    def _make(
        self, tenant_id: str, aggregate_id: str, fold: Fold[Any], as_of_version: int | None, until_ms: int | None
    ) -> "_Made":
        started_s = time.perf_counter()
        fold_hash = fold.fold_hash
        info, snapshot, events = self._store.material(
            tenant_id,
            aggregate_id,
            fold_hash,
            until_version=as_of_version,
            until_ms=until_ms,
            open_snapshot=partial(self._sealing.open_if_whole, tenant_id, aggregate_id),
        )
        _present(info)
        if as_of_version is not None and not 0 <= as_of_version <= info.version:
            raise InvalidInputError(
                f"as_of_version: the aggregate '{aggregate_id}' has the versions 0 to {info.version}, got {as_of_version}",
                path="as_of_version",
            )
        begin = info.begin_version if snapshot is None else snapshot.version
        until = info.version if as_of_version is None else as_of_version
        if until < info.begin_version or begin < min(info.gone_version, until):
            raise self._gone(tenant_id, info, fold, is_past=as_of_version is not None or until_ms is not None)
        state = fold.initial() if snapshot is None else fold.from_json(msgspec.json.decode(snapshot.state))
        state = fold.apply_many(state, self._sealing.shown(events))
        aggregate = Aggregate(
            aggregate_id=aggregate_id,
            aggregate_type=info.aggregate_type,
            version=events[-1].version if events else begin,
            state=fold.to_json(state),
            last_timestamp_ms=_last_timestamp_ms(events, snapshot),
            snapshot_version=None if snapshot is None else snapshot.version,
            events_replayed=len(events),
            fold=fold.name,
        )
        took_ms = (time.perf_counter() - started_s) * 1000
        return _Made(aggregate, state, snapshot, events, fold_hash, fold.fold_hash == fold_hash, took_ms)

    def _gone(self, tenant_id: str, info: AggregateInfo, fold: Fold[Any], *, is_past: bool) -> HistoryGoneError:
        base = self._store.base(tenant_id, info.aggregate_id)
        told = f"The events of the versions 1 to {info.gone_version} of the aggregate '{info.aggregate_id}' are no longer kept"
        if is_past and info.begin_version == info.gone_version:
            told += f"; it was deleted and begins anew at version {info.begin_version + 1}."
        elif is_past and base is not None and base.fold_hash == fold.fold_hash:
            told += f", so it cannot be rebuilt as it was then, only from version {base.version} on."
        else:
            told += (
                f", and what was kept of them was made by another fold than {fold.name}, or by another form of it. Rebuild it "
                "with the fold of then."
            )
        return HistoryGoneError(
            told,
            aggregate_id=info.aggregate_id,
            gone_version=info.gone_version,
            base_version=None if base is None else base.version,
            current_version=info.version,
        )

    def _is_equal(self, tenant_id: str, info: AggregateInfo, fold: Fold[Any], snapshot: Snapshot) -> tuple[bool | None, str]:
        try:
            opened = self._sealing.open(tenant_id, info.aggregate_id, snapshot)
        except CorruptLogError:
            return False, "is damaged, so it is never read"
        if opened is None:
            return None, "holds data of a person who was erased since, so it is never read"
        base = self._store.base(tenant_id, info.aggregate_id)
        if base is not None:
            base = self._sealing.open_if_whole(tenant_id, info.aggregate_id, base) if base.fold_hash == fold.fold_hash else None
        begin = info.begin_version if base is None else base.version
        events = self._store.events(tenant_id, info.aggregate_id, after_version=begin, until_version=snapshot.version)
        now = self._store.find(tenant_id, info.aggregate_id)  # looked at last: until here these events were all there
        if now.gone_version > begin or snapshot.version < begin:
            return None, f"cannot be replayed: the events up to version {now.gone_version} are no longer kept"
        state = fold.initial() if base is None else fold.from_json(msgspec.json.decode(base.state))
        replayed = fold.to_json(fold.apply_many(state, self._sealing.shown(events)))
        is_equal = _as_json(replayed) == _as_json(msgspec.json.decode(opened.state))
        replay = "a full replay" if base is None else f"a replay from version {begin} on"
        return is_equal, f"{'equals' if is_equal else 'differs from'} {replay}"

    def find(self, tenant_id: str, aggregate_id: str, aggregate_type: str | None) -> AggregateInfo:
        """The aggregate, if it is of this type and not deleted, or appended to again since."""
        info = self._store.find(tenant_id, aggregate_id)
        if aggregate_type is not None and info.aggregate_type != aggregate_type:
            raise InvalidInputError(
                f"aggregate_type: the aggregate '{aggregate_id}' is a {info.aggregate_type}, not a {aggregate_type}",
                path="aggregate_type",
            )
        return _present(info)

    def _fold(self, tenant_id: str, aggregate_type: str, fold: Fold[Any] | None = None) -> Fold[Any]:
        """The fold, or by default the one in force, of payloads that the registry's migrations have brought up to date."""
        fold = fold or self._folds.fold_of(aggregate_type)
        upcaster = self._upcasters.of(tenant_id, aggregate_type)
        return fold if upcaster is None else fold.upcasted_by(fold.upcasting.through(upcaster))

    def empty_version(self, tenant_id: str, aggregate_id: str) -> int:
        """The version of an aggregate without events: 0, or the last one if it was deleted. Raises ``AggregateNotFoundError``
        for one that was deleted for ever."""
        try:
            info = self._store.find(tenant_id, aggregate_id)
        except AggregateNotFoundError:
            return 0
        return info.version if info.status is AggregateStatus.EMPTY else _present(info).version

    def verify(self, tenant_id: str, aggregate_id: str) -> list[SnapshotCheck]:
        """Compare each snapshot of an aggregate with a full replay up to its version."""
        info = self.find(tenant_id, aggregate_id, None)
        fold = self._fold(tenant_id, info.aggregate_type)
        checks = []
        for snapshot in self._store.snapshots(tenant_id, aggregate_id):
            is_current = snapshot.fold_hash == fold.fold_hash
            is_equal, told = None, "made by another fold, so it is never read"
            if is_current:
                is_equal, told = self._is_equal(tenant_id, info, fold, snapshot)
            checks.append(
                SnapshotCheck(
                    aggregate_id=aggregate_id,
                    version=snapshot.version,
                    fold_hash=snapshot.fold_hash,
                    is_current=is_current,
                    is_equal=is_equal,
                    told=told,
                )
            )
        return checks


def _present(info: AggregateInfo) -> AggregateInfo:
    if info.status in (AggregateStatus.DELETED, AggregateStatus.EMPTY):
        raise AggregateNotFoundError(f"The aggregate '{info.aggregate_id}' was deleted.", aggregate_id=info.aggregate_id)
    return info


class _Made(NamedTuple):
    """A rebuilt aggregate, and what it was made of. ``is_by_one_fold``: the fold's hash was the same before and after."""

    aggregate: Aggregate
    state: Any
    snapshot: Snapshot | None
    events: list[RecordedEvent]
    fold_hash: str
    is_by_one_fold: bool
    took_ms: float

    def taken(self) -> Snapshot:
        """The snapshot of it."""
        if not self.events:
            if self.snapshot is None:
                raise InvalidStateError("there is nothing to take a snapshot of", aggregate_id=self.aggregate.aggregate_id)
            return self.snapshot
        largest_ms = max(event.timestamp_ms for event in self.events)
        return Snapshot(
            fold_hash=self.fold_hash,
            version=self.aggregate.version,
            last_timestamp_ms=self.events[-1].timestamp_ms,
            max_timestamp_ms=largest_ms if self.snapshot is None else max(largest_ms, self.snapshot.max_timestamp_ms),
            taken_at_ms=time.time_ns() // 1_000_000,
            state=msgspec.json.encode(self.aggregate.state),
        )


def _as_json(state: Any) -> Any:
    """A state as it is read back: the order of an object's fields does not count."""
    return msgspec.json.decode(msgspec.json.encode(state))


def _last_timestamp_ms(events: list[RecordedEvent], snapshot: Snapshot | None) -> int | None:
    if events:
        return events[-1].timestamp_ms
    return None if snapshot is None else snapshot.last_timestamp_ms
