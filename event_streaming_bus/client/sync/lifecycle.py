# Made by `python -m event_streaming_bus.client.twin` of client/lifecycle.py; change that one, and make this one anew.
"""The life of a server's aggregates: archive, restore, delete, and how long the events of a type are kept."""

from collections.abc import Callable
from typing import Any, Final, NoReturn

import msgspec

from event_streaming_bus.client.answers import change_of
from event_streaming_bus.client.client_errors import not_remote
from event_streaming_bus.client.requests import path_of
from event_streaming_bus.client.sync.remote_service import Data, RemoteService
from event_streaming_bus.models import DEFAULT_TENANT
from event_streaming_bus.sourcing.lifecycle import SCAVENGE_EVERY_S, ScavengeReport
from event_streaming_bus.store.aggregate_lifecycle import LifecycleChange, Retention

_SOURCING: Final = "event-sourcing"
_WORKING_S: Final = 600.0


def _never() -> bool:
    return False


class AggregateLifecycle(RemoteService):
    """What becomes of aggregates and their events in the end."""

    def archive(self, aggregate_id: str, tenant_id: str = DEFAULT_TENANT) -> LifecycleChange:
        """Close an aggregate, and pack its events. Raises ``AggregateNotFoundError`` and ``InvalidStateError``."""
        return self._changed("POST", path_of(_SOURCING, "aggregates", aggregate_id, "archive"), tenant_id)

    def restore(self, aggregate_id: str, tenant_id: str = DEFAULT_TENANT) -> LifecycleChange:
        """Put the events of an archived aggregate back, with the positions that they had."""
        return self._changed("POST", path_of(_SOURCING, "aggregates", aggregate_id, "restore"), tenant_id)

    def delete(
        self,
        aggregate_id: str,
        tenant_id: str = DEFAULT_TENANT,
        *,
        hard: bool = False,
        expected_version: int | None = None,
    ) -> LifecycleChange:
        """Delete an aggregate; with ``hard``, for ever. Raises ``VersionConflictError`` if it is not at the expected version."""
        path = path_of(_SOURCING, "aggregates", aggregate_id, hard=hard, expected_version=expected_version)
        return self._changed("DELETE", path, tenant_id)

    def _changed(self, method: str, path: str, tenant_id: str) -> LifecycleChange:
        return change_of(self._asked(Data, method, path, tenant_id, more_s=_WORKING_S))

    def set_retention(
        self,
        aggregate_type: str,
        tenant_id: str = DEFAULT_TENANT,
        *,
        max_age_ms: int | None = None,
        max_count: int | None = None,
    ) -> Retention:
        """Keep events of a type for so long after they were recorded, and at most so many of each aggregate, the newest."""
        body = {"max_age_ms": max_age_ms, "max_count": max_count}
        return self._asked(Retention, "PUT", path_of(_SOURCING, "retention", aggregate_type), tenant_id, body)

    def retention(self, aggregate_type: str, tenant_id: str = DEFAULT_TENANT) -> Retention:
        """How long events of a type are kept."""
        return self._asked(Retention, "GET", path_of(_SOURCING, "retention", aggregate_type), tenant_id)

    def retentions(self, tenant_id: str = DEFAULT_TENANT) -> list[Retention]:
        """The types whose events are not kept without end."""
        told: dict[str, Any] = self._asked(Data, "GET", path_of(_SOURCING, "retention"), tenant_id)
        return msgspec.convert(told["retention"], list[Retention])

    def scavenge(
        self, tenant_id: str = DEFAULT_TENANT, aggregate_type: str | None = None, *, preview: bool = False
    ) -> ScavengeReport:
        """Drop the events that are kept no longer, of one type or of all. With ``preview`` nothing is changed."""
        path = path_of(_SOURCING, "scavenge", aggregate_type=aggregate_type, preview=preview)
        return self._asked(ScavengeReport, "POST", path, tenant_id, is_repeatable=True, more_s=_WORKING_S)

    def scavenge_now(
        self,
        tenant_id: str = DEFAULT_TENANT,
        aggregate_type: str | None = None,
        *,
        preview: bool = False,
        is_stopped: Callable[[], bool] = _never,
    ) -> ScavengeReport:
        """As ``scavenge``, blocking. The server does not stop early: ``is_stopped`` is not looked at."""
        return self._connection.now(self.scavenge(tenant_id, aggregate_type, preview=preview))

    def start_scavenging(self, every_s: float = SCAVENGE_EVERY_S) -> NoReturn:
        """Raises ``NotRemoteError``."""
        raise not_remote("scavenging now and then", "the server does so by itself")
