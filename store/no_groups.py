"""The store of consumer groups where the log is not embedded: there are none."""

from typing import NoReturn

from event_streaming_bus.errors import InvalidStateError
from event_streaming_bus.store.groups import GroupStore


class NoGroups(GroupStore):
    """Lists nothing, and refuses to keep anything: groups commit in one transaction with tables of an embedded log."""

    def writing(self, doing: str) -> NoReturn:
        raise InvalidStateError(
            f"{doing}: the bus's consumer groups need an embedded log so far. On Kafka, read with a flow, with the log's own "
            "read and commit, or with any Kafka consumer."
        )
