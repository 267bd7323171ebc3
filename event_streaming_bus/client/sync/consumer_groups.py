# Made by `python -m event_streaming_bus.client.twin` of client/consumer_groups.py; change that one, and make this one anew.
"""The consumer groups of a server."""

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from event_streaming_bus.client.answers import group_of
from event_streaming_bus.client.requests import path_of
from event_streaming_bus.client.sync.remote_service import Data, RemoteService
from event_streaming_bus.consumers.model import Group, GroupConfig
from event_streaming_bus.consumers.service import read_config
from event_streaming_bus.errors import GroupNotFoundError, StreamNotFoundError
from event_streaming_bus.models import DEFAULT_TENANT

_GROUPS = "consumer-groups"


class ConsumerManagementService(RemoteService):
    """Manages consumer groups. Wherever a group is asked for, its id or its name will do."""

    # --- the life of a group ------------------------------------------------------------------------------------------

    def create_consumer_group(
        self, group_config: Mapping[str, Any] | GroupConfig, tenant_id: str = DEFAULT_TENANT, user_id: str | None = None
    ) -> str:
        """Make a group; returns its id. Making it again with the same settings returns the same id. The server knows by the token
        who makes it, so ``user_id`` is not looked at."""
        config = group_config if isinstance(group_config, GroupConfig) else read_config(group_config)
        body = msgspec.to_builtins(config)
        answer = self._asked(Data, "POST", path_of(_GROUPS), tenant_id, body, is_keyed=True)
        return str(answer["group_id"])

    def get_consumer_group(self, group_id: str, tenant_id: str = DEFAULT_TENANT) -> Group:
        """The group, with its members. Raises ``GroupNotFoundError``."""
        return self._group(self.describe_consumer_group(group_id, tenant_id), tenant_id)

    def _group(self, told: Data, tenant_id: str) -> Group:
        members = told.get("members", [])
        ids = {each["stream"]: each["stream_id"] for member in members for each in member["assignment"]}
        for name in sorted({name for member in members for name in member["streams"]} - ids.keys()):
            try:
                ids[name] = (self._asked(Data, "GET", path_of("streams", name), tenant_id))["stream_id"]
            except StreamNotFoundError:  # dropped since
                ids[name] = name
        return group_of(told, self._tenant(tenant_id), ids)

    def list_consumer_groups(self, tenant_id: str = DEFAULT_TENANT) -> list[Group]:
        """The tenant's groups by name."""
        groups = []
        for told in self._listed("consumer_groups", _GROUPS, tenant_id):
            if told["active_consumers"]:
                try:
                    groups.append(self.get_consumer_group(told["group_id"], tenant_id))
                except GroupNotFoundError:  # deleted since
                    continue
            else:
                groups.append(self._group(told, tenant_id))
        return groups

    def describe_consumer_group(self, group_id: str, tenant_id: str = DEFAULT_TENANT) -> dict[str, Any]:
        """The group as plain data: its settings, its state and generation, and its members with what each of them reads."""
        return self._asked(Data, "GET", path_of(_GROUPS, group_id), tenant_id)

    def delete_consumer_group(self, group_id: str, tenant_id: str = DEFAULT_TENANT) -> Group:
        """Forget a group and what it has committed; returns it as it was. Its members are told so when they next ask."""
        group = self.get_consumer_group(group_id, tenant_id)
        self._asked(Data, "DELETE", path_of(_GROUPS, group_id), tenant_id)
        return group

    def pause(self, group_id: str, tenant_id: str = DEFAULT_TENANT) -> Group:
        """Give the group's members no events until it is resumed. They stay members, and keep their partitions."""
        return self._done(group_id, "pause", tenant_id)

    def resume(self, group_id: str, tenant_id: str = DEFAULT_TENANT) -> Group:
        """Let a paused group go on from what it has committed."""
        return self._done(group_id, "resume", tenant_id)

    def trigger_rebalance(self, group_id: str, tenant_id: str = DEFAULT_TENANT) -> Group:
        """Let all members join anew, so that partitions are shared out again. A group without members stays as it is."""
        return self._done(group_id, "rebalance", tenant_id)

    def _done(self, group_id: str, action: str, tenant_id: str) -> Group:
        self._asked(Data, "POST", path_of(_GROUPS, group_id, action), tenant_id, is_repeatable=True)
        return self.get_consumer_group(group_id, tenant_id)

    # --- lag and resets -----------------------------------------------------------------------------------------------

    def get_consumer_lag(self, group_id: str, tenant_id: str = DEFAULT_TENANT) -> dict[str, Any]:
        """How far behind the group is, computed now from the log."""
        return self._asked(Data, "GET", path_of(_GROUPS, group_id, "lag"), tenant_id)

    def preview_reset(
        self,
        group_id: str,
        tenant_id: str = DEFAULT_TENANT,
        *,
        to: object,
        streams: Sequence[str] | None = None,
        partitions: Sequence[int] | None = None,
        lanes: Sequence[str] | None = None,
    ) -> dict[str, Any]:
        """What ``reset_offsets`` would do; nothing is changed."""
        return self._reset(group_id, tenant_id, to, streams, partitions, lanes, is_preview=True)

    def reset_offsets(
        self,
        group_id: str,
        tenant_id: str = DEFAULT_TENANT,
        *,
        to: object,
        streams: Sequence[str] | None = None,
        partitions: Sequence[int] | None = None,
        lanes: Sequence[str] | None = None,
    ) -> dict[str, Any]:
        """Let the group go on elsewhere; returns what was done, as ``preview_reset`` tells it.

        ``to``: ``"earliest"``, ``"latest"``, ``{"offset": n}`` or ``{"timestamp": ...}``.
        """
        return self._reset(group_id, tenant_id, to, streams, partitions, lanes, is_preview=False)

    def _reset(
        self,
        group_id: str,
        tenant_id: str,
        to: object,
        streams: Sequence[str] | None,
        partitions: Sequence[int] | None,
        lanes: Sequence[str] | None,
        *,
        is_preview: bool,
    ) -> dict[str, Any]:
        body = {"to": to, "streams": streams, "partitions": partitions, "lanes": lanes}
        path = path_of(_GROUPS, group_id, "reset-offsets", preview=is_preview)
        told = self._asked(Data, "POST", path, tenant_id, body, is_repeatable=is_preview)
        return {name: value for name, value in told.items() if name not in ("is_preview", "message")}
