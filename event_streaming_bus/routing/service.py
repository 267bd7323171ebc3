"""Managing routing rules: read, set and remove them. The same service is behind the REST API and ``esb routes``."""

import asyncio
import time
from collections.abc import Iterable, Mapping, Sequence
from enum import StrEnum
from typing import Any, Final

import msgspec

from event_streaming_bus.errors import ConfigError, StreamNotFoundError
from event_streaming_bus.models import DEFAULT_TENANT
from event_streaming_bus.registry.json_diff import Change, changes
from event_streaming_bus.routing.cache import cache_of
from event_streaming_bus.routing.graph import check_paths
from event_streaming_bus.routing.model import (
    ANY_STREAM,
    Route,
    RouteNotFoundError,
    Rule,
    read_route,
    route_data,
    rule_of,
    stored,
)
from event_streaming_bus.store.storage import Storage, open_storage

MAX_RULES: Final = 1000


class Verdict(StrEnum):
    """What becomes of a rule that is applied."""

    NEW = "new"
    CHANGED = "changed"
    UNCHANGED = "unchanged"


class RouteChange(msgspec.Struct, frozen=True):
    """What becomes of a rule: ``version`` is the one that it has then, ``changes`` what is different from the one before."""

    name: str
    verdict: Verdict
    version: int
    changes: list[Change] = []


class RoutingService:
    """Reads, sets and removes the rules by which events are routed. Safe to use from any thread and any number of processes.

    Changes count at once for what is published in this process, and within a second in others.
    """

    def __init__(self, storage: Storage | None = None) -> None:
        self._storage = storage or open_storage()
        self._store = self._storage.routes

    async def list_routes(self, tenant_id: str = DEFAULT_TENANT, *, stream: str | None = None) -> list[Rule]:
        """The tenant's rules, those of one stream (``*``: for every stream) or all, in the order in which they run."""
        return await asyncio.to_thread(self.rules, tenant_id, stream)

    async def get_route(self, name: str, tenant_id: str = DEFAULT_TENANT, *, version: int | None = None) -> Rule:
        """A rule as it is, or as it was in a version. Raises ``RouteNotFoundError``."""
        return await asyncio.to_thread(self.find, name, tenant_id, version)

    async def set_route(self, config: Mapping[str, Any], tenant_id: str = DEFAULT_TENANT, changed_by: str | None = None) -> Rule:
        """Make a rule, or replace the one of this name. One that is there as it is keeps its version.

        Raises ``ConfigError`` and ``ExpressionError`` naming the place, and ``StreamNotFoundError``.
        """
        await self.apply_routes([config], tenant_id, changed_by)
        return await self.get_route(str(config["name"]), tenant_id)

    async def apply_routes(
        self, configs: Sequence[Mapping[str, Any]], tenant_id: str = DEFAULT_TENANT, changed_by: str | None = None
    ) -> list[RouteChange]:
        """Make or replace several rules, all of them or none; other rules stay. Raises as ``set_route``."""
        places = [f"routes[{i}]" if len(configs) > 1 else "" for i in range(len(configs))]
        return await asyncio.to_thread(lambda: self.apply(self.read(configs, places, tenant_id), tenant_id, changed_by))

    async def remove_route(self, name: str, tenant_id: str = DEFAULT_TENANT) -> Rule:
        """Remove a rule; returns what it was. Its versions can still be looked up. Raises ``RouteNotFoundError``."""
        return await asyncio.to_thread(self.remove, name, tenant_id)

    # --- the same, blocking -------------------------------------------------------------------------------------------

    def rules(self, tenant_id: str = DEFAULT_TENANT, stream: str | None = None) -> list[Rule]:
        """See ``list_routes``."""
        rules = [rule_of(record) for record in self._store.current(tenant_id)]
        if stream is not None and stream != ANY_STREAM:
            stream = self._storage.log.find_stream(tenant_id, stream).name
        found = [rule for rule in rules if stream is None or rule.route.stream == stream]
        return sorted(found, key=lambda rule: (rule.route.stream, rule.route.order, rule.route.name))

    def find(self, name: str, tenant_id: str = DEFAULT_TENANT, version: int | None = None) -> Rule:
        """See ``get_route``."""
        record = self._store.find(tenant_id, name, version)
        if record is None:
            which = f"version {version} of a rule '{name}'" if version is not None else f"routing rule '{name}'"
            raise RouteNotFoundError(f"There is no {which}. `esb routes list` shows what there is.", name=name)
        return rule_of(record)

    def read(self, configs: Sequence[object], places: Sequence[str], tenant_id: str = DEFAULT_TENANT) -> list[Route]:
        """The rules that plain data configures, with streams by their names; ``places`` are where each stands.

        Raises what ``set_route`` raises.
        """
        routes: list[Route] = []
        for config, place in zip(configs, places, strict=True):
            route = self._with_names(read_route(config, place), place, tenant_id)
            if route.name in {each.name for each in routes}:
                path = f"{place}.name"
                raise ConfigError(f"{path}: there are two rules with the name '{route.name}'", path=path)
            routes.append(route)
        return routes

    def _with_names(self, route: Route, place: str, tenant_id: str) -> Route:
        def name_of(reference: str, field: str) -> str:
            path = f"{place}.{field}" if place else field
            try:
                name = self._storage.log.find_stream(tenant_id, reference).name
            except StreamNotFoundError as error:
                raise StreamNotFoundError(f"{path}: {error.message}", path=path, **error.details) from None
            return name

        stream = route.stream if route.stream == ANY_STREAM else name_of(route.stream, "stream")
        named = msgspec.structs.replace(
            route, stream=stream, to=tuple(name_of(target, f"to[{i}]") for i, target in enumerate(route.to))
        )
        return read_route(route_data(named), place) if named != route else named  # an id and a name may be the same stream

    def preview(self, routes: Sequence[Route], tenant_id: str = DEFAULT_TENANT) -> list[RouteChange]:
        """What ``apply`` would do. Raises ``ConfigError`` for what it would refuse."""
        return _changes([rule_of(record) for record in self._store.current(tenant_id)], routes)

    def apply(self, routes: Sequence[Route], tenant_id: str = DEFAULT_TENANT, changed_by: str | None = None) -> list[RouteChange]:
        """Make or replace rules, all of them or none, as ``read`` returned them. Raises ``ConfigError`` for cycles."""
        now_ms = time.time_ns() // 1_000_000
        told = []
        with self._store.writing("changing routing rules") as tables:
            planned = _changes([rule_of(record) for record in tables.current(tenant_id)], routes)
            for route, change in zip(routes, planned, strict=True):
                if change.verdict is not Verdict.UNCHANGED:
                    record = tables.put(tenant_id, route.name, stored(route), now_ms, changed_by)
                    change = msgspec.structs.replace(change, version=record.version)
                told.append(change)
        cache_of(self._store).forget(tenant_id)
        return told

    def remove(self, name: str, tenant_id: str = DEFAULT_TENANT) -> Rule:
        """See ``remove_route``."""
        rule = self.find(name, tenant_id)
        with self._store.writing("removing a routing rule") as tables:
            tables.remove(tenant_id, name)
        cache_of(self._store).forget(tenant_id)
        return rule


def with_candidates(current: Iterable[Rule], routes: Sequence[Route]) -> list[Rule]:
    """The rules as they are once ``routes`` are applied. Raises ``ConfigError`` for cycles and too many rules."""
    rules = {rule.route.name: rule for rule in current}
    for route in routes:
        before = rules.get(route.name)
        if before is None or stored(before.route) != stored(route):
            rules[route.name] = Rule(route, before.version + 1 if before is not None else 1)
    if len(rules) > MAX_RULES:
        raise ConfigError(f"routes: {len(rules):,} rules; at most {MAX_RULES:,} are accepted", path="routes")
    check_paths(rule.route for rule in rules.values())
    return list(rules.values())


def _changes(current: Sequence[Rule], routes: Sequence[Route]) -> list[RouteChange]:
    before = {rule.route.name: rule for rule in current}
    after = {rule.route.name: rule for rule in with_candidates(current, routes)}
    told = []
    for route in routes:
        old, new = before.get(route.name), after[route.name]
        if old is None:
            told.append(RouteChange(route.name, Verdict.NEW, new.version))
        elif old is new:
            told.append(RouteChange(route.name, Verdict.UNCHANGED, old.version))
        else:
            differences = changes(route_data(old.route), route_data(route))
            told.append(RouteChange(route.name, Verdict.CHANGED, new.version, differences))
    return told
