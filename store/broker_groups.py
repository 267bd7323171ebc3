"""The store of what brokers do not know of consumer groups that they coordinate: settings, what is asked of the members, and the
last commits of each split.

Who is in such a group, who reads what and what is committed is the brokers' business; nothing here decides it.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Final, TypeAlias

import msgspec

from event_streaming_bus.models import Split
from event_streaming_bus.store.database import Connection, open_database
from event_streaming_bus.store.database import Place as DatabasePlace
from event_streaming_bus.store.sql import load_queries

SQL: Final = load_queries("broker_groups.sql")
KEPT_COMMITS: Final = 10

Place: TypeAlias = tuple[str, int]
"""``(stream_id, partition)``."""
CommitRecord: TypeAlias = tuple[int, int, int]
"""``(at_ms, offset, end_offset)``."""


class Rejoin(msgspec.Struct, frozen=True, kw_only=True):
    """That members are to join again: request ``number``, for all that are in generation ``generation`` or an earlier one."""

    number: int
    generation: int
    reason: str
    asked_at_ms: int


class BrokerGroup(msgspec.Struct, frozen=True, kw_only=True):
    """A group as it was last noted.

    ``config`` is its configuration as JSON. ``generation`` and ``assignment`` are those of the last rebalance that a member told
    of, ``state`` what it came to. ``closed``: why members must be out and nobody may join for the moment. ``is_deleted``: whether
    that is for good.
    """

    group_id: str
    tenant_id: str
    name: str
    config: str
    created_at_ms: int
    created_by: str | None
    state: str = "EMPTY"
    generation: int = 0
    is_paused: bool = False
    last_rebalance_at_ms: int | None = None
    assignment: dict[str, tuple[Place, ...]] = {}
    rejoin: Rejoin | None = None
    closed: str | None = None
    is_deleted: bool = False


class MemberNote(msgspec.Struct, frozen=True, kw_only=True):
    """What a member tells of itself that brokers do not keep."""

    member_id: str
    client_id: str
    host: str
    pid: int
    streams: tuple[str, ...]
    generation: int
    joined_at_ms: int
    heartbeat_at_ms: int
    polled_at_ms: int


_decode_group: Final = msgspec.json.Decoder(BrokerGroup).decode
_decode_member: Final = msgspec.json.Decoder(MemberNote).decode
_decode_commits: Final = msgspec.json.Decoder(list[CommitRecord]).decode


class BrokerGroupStore:
    """Groups by tenant. Safe to use from any thread and any number of processes."""

    def __init__(self, place: DatabasePlace, *, synchronous: str = "FULL") -> None:
        self._db = open_database(place, tables=SQL["create_tables"], name="broker_groups", synchronous=synchronous)

    def close(self) -> None:
        """Close the database. Closing twice is harmless."""
        self._db.close()

    @contextmanager
    def reading(self, doing: str) -> Iterator["BrokerGroupTables"]:
        """The tables, for single questions: each sees what is there at its moment."""
        with self._db.querying(doing) as db:
            yield BrokerGroupTables(db)

    @contextmanager
    def writing(self, doing: str) -> Iterator["BrokerGroupTables"]:
        """The tables in a write transaction: kept at the end, undone if anything is raised."""
        with self._db.transaction(doing) as db:
            yield BrokerGroupTables(db)


class BrokerGroupTables:
    """The tables within one transaction."""

    def __init__(self, db: Connection) -> None:
        self._db = db

    # --- groups -------------------------------------------------------------------------------------------------------

    def group(self, group_id: str) -> BrokerGroup | None:
        """The group with this id, of whichever tenant."""
        row = self._db.execute(SQL["select_group"], (group_id,)).fetchone()
        return None if row is None else _decode_group(row[0])

    def find_group(self, tenant_id: str, reference: str) -> BrokerGroup | None:
        """The tenant's group with this id, or else with this name."""
        row = self._db.execute(SQL["select_group_of_tenant"], {"tenant_id": tenant_id, "reference": reference}).fetchone()
        return None if row is None else _decode_group(row[0])

    def groups(self, tenant_id: str) -> list[BrokerGroup]:
        """The tenant's groups by name."""
        return [_decode_group(record) for (record,) in self._db.execute(SQL["select_groups"], (tenant_id,)).fetchall()]

    def put_group(self, group: BrokerGroup) -> None:
        """Keep a group, or what has changed of it."""
        self._db.execute(SQL["put_group"], (group.group_id, group.tenant_id, group.name, _encode(group)))

    def delete_group(self, group_id: str) -> None:
        """Forget a group, and what was noted of its members and commits."""
        for name in ("delete_group", "delete_members", "delete_commits"):
            self._db.execute(SQL[name], (group_id,))

    # --- members ------------------------------------------------------------------------------------------------------

    def members(self, group_id: str) -> dict[str, MemberNote]:
        """What members have told of themselves, by id. Some of them may be gone."""
        notes = (_decode_member(record) for (record,) in self._db.execute(SQL["select_members"], (group_id,)).fetchall())
        return {note.member_id: note for note in notes}

    def put_member(self, group_id: str, note: MemberNote) -> None:
        """Keep what a member tells of itself."""
        self._db.execute(SQL["put_member"], (group_id, note.member_id, _encode(note)))

    def delete_member(self, group_id: str, member_id: str) -> None:
        """Forget what a member has told."""
        self._db.execute(SQL["delete_member"], (group_id, member_id))

    # --- commits ------------------------------------------------------------------------------------------------------

    def commits(self, group_id: str) -> dict[Split, list[CommitRecord]]:
        """The last commits of each split, oldest first."""
        rows = self._db.execute(SQL["select_commits"], (group_id,)).fetchall()
        return {Split.parse(split): _decode_commits(record) for split, record in rows}

    def note_commits(self, group_id: str, offsets: Mapping[Split, int], ends: Mapping[Split, int], at_ms: int) -> None:
        """Note that these offsets were committed, and where the splits ended then."""
        for split, offset in offsets.items():
            key = group_id, str(split)
            row = self._db.execute(SQL["select_commits_of_split"], key).fetchone()
            commits = [] if row is None else _decode_commits(row[0])
            kept = [*commits[1 - KEPT_COMMITS :], (at_ms, offset, ends[split])]
            self._db.execute(SQL["put_commits"], (*key, _encode(kept)))


def _encode(value: object) -> str:
    return msgspec.json.encode(value).decode()
