"""Snapshots of aggregates: the states that folds have made, as they are kept."""

from typing import Any

import msgspec


class Snapshot(msgspec.Struct, frozen=True, kw_only=True):
    """The state of an aggregate as a fold had made it of the events up to ``version``. ``last_timestamp_ms`` is that of its last
    event, ``max_timestamp_ms`` the largest. ``key_ids``: the keys of those whose personal data it may
    hold; without them it cannot be read. ``state`` is as it is kept, sealed if there are any."""

    fold_hash: str
    version: int
    last_timestamp_ms: int
    max_timestamp_ms: int
    taken_at_ms: int
    key_ids: tuple[str, ...] = ()
    state: bytes


def snapshot_row(aggregate_no: int, snapshot: Snapshot) -> dict[str, Any]:
    """A snapshot as it is kept."""
    row = msgspec.structs.asdict(snapshot) | {"key_ids": msgspec.json.encode(snapshot.key_ids).decode()}
    return {"aggregate_no": aggregate_no, **row}


def read_snapshot(
    fold_hash: str,
    version: int,
    last_timestamp_ms: int,
    max_timestamp_ms: int,
    taken_at_ms: int,
    key_ids: str,
    state: bytes,
) -> Snapshot:
    """A snapshot, of the columns that hold it."""
    return Snapshot(
        fold_hash=fold_hash,
        version=version,
        last_timestamp_ms=last_timestamp_ms,
        max_timestamp_ms=max_timestamp_ms,
        taken_at_ms=taken_at_ms,
        key_ids=tuple(msgspec.json.decode(key_ids, type=list[str])),
        state=state,
    )
