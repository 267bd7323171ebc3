"""The store of consumer groups: their settings and members, and the last commits of each split.

What a group has committed is in the log's table of offsets, under the group's id. It is written in the transaction that looks
whether the commit counts, so none slips in that does not.
"""

import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Final, NamedTuple, TypeAlias

import msgspec

from event_streaming_bus.errors import OffsetOutOfRangeError, StreamNotFoundError
from event_streaming_bus.models import LANES, Split
from event_streaming_bus.store.patient_clock import since_boot_ms, wall_ms
from event_streaming_bus.store.redeliveries import retry_stream_name
from event_streaming_bus.store.sql import load_queries
from event_streaming_bus.store.sqlite import SqliteDatabase

SQL: Final = load_queries("groups.sql")
KEPT_COMMITS: Final = 10
_JUMP_MS: Final = 1000

Place: TypeAlias = tuple[str, int]
"""``(stream_id, partition)``."""


class StreamShape(NamedTuple):
    """What sharing a stream's partitions needs to know of it."""

    name: str
    partitions: int


class RebalanceRecord(msgspec.Struct, frozen=True, kw_only=True):
    """A rebalance that is going on: why, until when members may take to rejoin, and what each member had when it began."""

    started_at_ms: int
    deadline_ms: int
    reasons: tuple[str, ...]
    before: dict[str, tuple[Place, ...]]


class GroupRecord(msgspec.Struct, frozen=True, kw_only=True):
    """A group without its members.

    ``config`` is its configuration as JSON; ``shapes`` the numbers of partitions that the last assignment shared out, by stream;
    ``rebalance`` is there while one is going on; ``gone`` tells of the last members that went, and why.
    """

    group_id: str
    tenant_id: str
    name: str
    config: str
    state: str
    generation: int = 0
    is_paused: bool = False
    created_at_ms: int
    created_by: str | None
    last_rebalance_at_ms: int | None = None
    shapes: dict[str, int] = {}
    rebalance: RebalanceRecord | None = None
    gone: tuple[tuple[str, str], ...] = ()


class MemberRecord(msgspec.Struct, frozen=True, kw_only=True):
    """A member of a group.

    ``generation`` is the last one that it was part of, 0 if it was in none, ``told`` the one that it was told when it (re)joined.
    ``is_waiting``: it has rejoined in the rebalance that is going on. ``owned`` is what it said then to hold. ``giving_up`` is
    what was taken away from it and is nobody else's before it has rejoined without it.
    """

    member_id: str
    client_id: str
    host: str
    pid: int
    streams: tuple[str, ...]
    joined_at_ms: int
    generation: int = 0
    told: int = 0
    is_waiting: bool = False
    owned: tuple[Place, ...] = ()
    assignment: tuple[Place, ...] = ()
    giving_up: tuple[Place, ...] = ()
    heartbeat_at_ms: int = 0
    polled_at_ms: int = 0


_decode_group: Final = msgspec.json.Decoder(GroupRecord).decode
_decode_member: Final = msgspec.json.Decoder(MemberRecord).decode


class GroupStore:
    """Groups by tenant. Safe to use from any thread and any number of processes."""

    def __init__(self, path: Path, *, synchronous: str = "FULL") -> None:
        self._db = SqliteDatabase(path, synchronous=synchronous, tables=SQL["create_tables"])
        self._path = path

    def close(self) -> None:
        """Close the database. Closing twice is harmless."""
        self._db.close()

    @contextmanager
    def reading(self, doing: str) -> Iterator["GroupTables"]:
        """The tables as they are at one moment."""
        with self._db.reading(doing) as db:
            yield GroupTables(db)

    @contextmanager
    def writing(self, doing: str) -> Iterator["GroupTables"]:
        """The tables in a write transaction: kept at the end, undone if anything is raised."""
        with self._db.transaction(doing) as db:
            tables = GroupTables(db)
            tables.follow_clock()
            yield tables


class GroupTables:
    """The tables within one transaction."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db

    # --- time ---------------------------------------------------------------------------------------------------------

    def now_ms(self) -> int:
        """The time that silence is measured by, the same for all processes of the machine.

        It goes on evenly when the clock on the wall is set: it is the time since the machine was started, and what the two
        clocks differed by when ``follow_clock`` last looked.
        """
        row = self._db.execute(SQL["select_clock"]).fetchone()
        return wall_ms() if row is None else since_boot_ms() + int(row[0])

    def follow_clock(self) -> None:
        """If the clock on the wall was set, move the times of members and rebalances along: who was heard of a second ago was
        heard of a second ago, and the times that are shown are those of the new clock."""
        wall_minus_boot_ms = wall_ms() - since_boot_ms()
        row = self._db.execute(SQL["select_clock"]).fetchone()
        shift_ms = 0 if row is None else wall_minus_boot_ms - row[0]
        if row is not None and abs(shift_ms) < _JUMP_MS:
            return
        self._db.execute(SQL["upsert_clock"], (wall_minus_boot_ms,))
        if not shift_ms:
            return
        self._db.execute(SQL["shift_members"], {"shift_ms": shift_ms})
        for (record,) in self._db.execute(SQL["select_all_groups"]).fetchall():
            group = _decode_group(record)
            if (running := group.rebalance) is not None:
                started_at_ms, deadline_ms = running.started_at_ms + shift_ms, running.deadline_ms + shift_ms
                moved = msgspec.structs.replace(running, started_at_ms=started_at_ms, deadline_ms=deadline_ms)
                self.update_group(msgspec.structs.replace(group, rebalance=moved))

    # --- groups -------------------------------------------------------------------------------------------------------

    def group(self, group_id: str) -> GroupRecord | None:
        """The group with this id, of whichever tenant."""
        row = self._db.execute(SQL["select_group"], (group_id,)).fetchone()
        return None if row is None else _decode_group(row[0])

    def find_group(self, tenant_id: str, reference: str) -> GroupRecord | None:
        """The tenant's group with this id, or else with this name."""
        row = self._db.execute(SQL["select_group_of_tenant"], {"tenant_id": tenant_id, "reference": reference}).fetchone()
        return None if row is None else _decode_group(row[0])

    def groups(self, tenant_id: str) -> list[GroupRecord]:
        """The tenant's groups by name."""
        return [_decode_group(record) for (record,) in self._db.execute(SQL["select_groups"], (tenant_id,))]

    def add_group(self, group: GroupRecord) -> None:
        """Keep a new group."""
        self._db.execute(SQL["insert_group"], (group.group_id, group.tenant_id, group.name, _encode(group)))

    def update_group(self, group: GroupRecord) -> None:
        """Keep what has changed of a group."""
        self._db.execute(SQL["update_group"], (_encode(group), group.group_id))

    def delete_group(self, group_id: str) -> None:
        """Forget a group, its members and what it has committed."""
        for name in ("delete_group", "delete_members", "delete_commits", "delete_offsets"):
            self._db.execute(SQL[name], (group_id,))

    # --- members ------------------------------------------------------------------------------------------------------

    def members(self, group_id: str) -> dict[str, MemberRecord]:
        """The members of a group by id, in the order of the ids."""
        members = {}
        for heartbeat_at_ms, polled_at_ms, record in self._db.execute(SQL["select_members"], (group_id,)):
            member = _decode_member(record)
            members[member.member_id] = msgspec.structs.replace(
                member, heartbeat_at_ms=heartbeat_at_ms, polled_at_ms=polled_at_ms
            )
        return members

    def put_members(self, group_id: str, before: Mapping[str, MemberRecord], after: Mapping[str, MemberRecord]) -> None:
        """Keep the members ``after`` in place of ``before``, which were read from here; the same objects are not rewritten."""
        gone = [(group_id, member_id) for member_id in before if member_id not in after]
        self._db.executemany(SQL["delete_member"], gone)
        changed = [member for member_id, member in after.items() if before.get(member_id) is not member]
        rows = [(group_id, m.member_id, m.heartbeat_at_ms, m.polled_at_ms, _encode(m)) for m in changed]
        self._db.executemany(SQL["upsert_member"], rows)

    # --- streams ------------------------------------------------------------------------------------------------------

    def shapes(self, group: GroupRecord, stream_ids: set[str]) -> dict[str, StreamShape]:
        """The streams of these that there are, by id, in the order of their names; and last the group's stream of redeliveries,
        if there is one."""
        values = {"tenant_id": group.tenant_id, "retry_stream": retry_stream_name(group.group_id)}
        rows = self._db.execute(SQL["select_streams"], values | {"stream_ids": _encode(sorted(stream_ids))})
        return {stream_id: StreamShape(name, partitions) for stream_id, name, partitions in rows}

    # --- offsets ------------------------------------------------------------------------------------------------------

    def commit(self, group_id: str, offsets: Mapping[Split, int], at_ms: int, *, pass_over_dropped: bool = False) -> None:
        """Note offsets that a group has come to, and that it did at this time.

        Raises ``OffsetOutOfRangeError`` for an offset below 0 or beyond the end, and ``StreamNotFoundError`` unless splits of
        dropped streams are to be passed over; then nothing is noted.
        """
        rows = []
        for split, offset in offsets.items():
            row = self._db.execute(SQL["select_split"], (split.stream_id, split.partition, LANES.index(split.lane))).fetchone()
            if row is None and pass_over_dropped:
                continue
            if row is None:
                raise StreamNotFoundError(
                    f"There is no partition {split.partition} of a stream with the id '{split.stream_id}'.",
                    stream=split.stream_id,
                )
            split_no, begin, end = row
            check_committed(split, offset, begin, end)
            rows.append((split_no, offset, end))
        for split_no, offset, end in rows:
            self._db.execute(SQL["upsert_offset"], (group_id, split_no, offset))
            self._db.execute(SQL["insert_commit"], (group_id, split_no, at_ms, offset, end))
            key = {"group_id": group_id, "split_no": split_no, "kept": KEPT_COMMITS}
            self._db.execute(SQL["delete_old_commits"], key)

    def commits(self, group_id: str) -> Iterator[tuple[Split, int, int, int]]:
        """``(split, at_ms, offset, end_offset)`` of the last commits, oldest first."""
        for stream_id, lane, partition, at_ms, offset, end_offset in self._db.execute(SQL["select_commits"], (group_id,)):
            yield Split(stream_id, LANES[lane], partition), at_ms, offset, end_offset


def _encode(value: object) -> str:
    return msgspec.json.encode(value).decode()


def check_committed(split: Split, offset: int, begin: int, end: int) -> None:
    """Raise ``OffsetOutOfRangeError`` for an offset that no group can have come to in a split that holds ``begin`` to ``end``."""
    if not 0 <= offset <= end:
        raise OffsetOutOfRangeError(
            f"{split}: {offset} cannot be committed; expected 0 to {end}, the end of what it holds.", begin=begin, end=end
        )
