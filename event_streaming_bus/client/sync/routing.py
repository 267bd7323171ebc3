# Made by `python -m event_streaming_bus.client.twin` of client/routing.py; change that one, and make this one anew.
"""The routing rules of a server."""

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from event_streaming_bus.client.answers import rule_of
from event_streaming_bus.client.requests import path_of, plain_config
from event_streaming_bus.client.sync.remote_service import Data, RemoteService
from event_streaming_bus.errors import ConfigError, StreamNotFoundError
from event_streaming_bus.models import DEFAULT_TENANT
from event_streaming_bus.routing.model import ANY_STREAM, Route, Rule, read_route, route_data
from event_streaming_bus.routing.service import RouteChange


class RoutingService(RemoteService):
    """Reads, sets and removes the rules by which a server routes events."""

    def list_routes(self, tenant_id: str = DEFAULT_TENANT, *, stream: str | None = None) -> list[Rule]:
        """The tenant's rules, those of one stream (``*``: for every stream) or all, in the order in which they run."""
        rules = [rule_of(each) for each in self._listed("routes", "routes", tenant_id, stream=stream)]
        return sorted(rules, key=lambda rule: (rule.route.stream, rule.route.order, rule.route.name))

    def get_route(self, name: str, tenant_id: str = DEFAULT_TENANT, *, version: int | None = None) -> Rule:
        """A rule as it is, or as it was in a version. Raises ``RouteNotFoundError``."""
        return rule_of(self._asked(Data, "GET", path_of("routes", name, version=version), tenant_id))

    def set_route(self, config: Mapping[str, Any], tenant_id: str = DEFAULT_TENANT, changed_by: str | None = None) -> Rule:
        """Make a rule, or replace the one of this name. The server knows by the token who does, so ``changed_by`` is not looked
        at."""
        told = plain_config(config, "config")
        name = told.get("name")
        if not isinstance(name, str) or not name:
            raise ConfigError("name: expected the name of the rule", path="name")
        return rule_of(self._asked(Data, "PUT", path_of("routes", name), tenant_id, told))

    def apply_routes(
        self, configs: Sequence[Mapping[str, Any]], tenant_id: str = DEFAULT_TENANT, changed_by: str | None = None
    ) -> list[RouteChange]:
        """Make or replace several rules, all of them or none; other rules stay. ``changed_by`` is not looked at."""
        return self._applied([plain_config(config, f"configs[{i}]") for i, config in enumerate(configs)], tenant_id)

    def _applied(self, configs: list[Data], tenant_id: str, *, dry_run: bool = False) -> list[RouteChange]:
        body = {"routes": configs, "dry_run": dry_run}
        told: Data = self._asked(Data, "POST", path_of("routes", "apply"), tenant_id, body, is_repeatable=True)
        return msgspec.convert(told["routes"], list[RouteChange])

    def remove_route(self, name: str, tenant_id: str = DEFAULT_TENANT) -> Rule:
        """Remove a rule; returns what it was. Its versions can still be looked up. Raises ``RouteNotFoundError``."""
        rule = self.get_route(name, tenant_id)
        self._asked(Data, "DELETE", path_of("routes", name), tenant_id)
        return rule

    # --- the same, blocking -------------------------------------------------------------------------------------------

    def rules(self, tenant_id: str = DEFAULT_TENANT, stream: str | None = None) -> list[Rule]:
        """See ``list_routes``."""
        return self._connection.now(self.list_routes(tenant_id, stream=stream))

    def find(self, name: str, tenant_id: str = DEFAULT_TENANT, version: int | None = None) -> Rule:
        """See ``get_route``."""
        return self._connection.now(self.get_route(name, tenant_id, version=version))

    def remove(self, name: str, tenant_id: str = DEFAULT_TENANT) -> Rule:
        """See ``remove_route``."""
        return self._connection.now(self.remove_route(name, tenant_id))

    def read(self, configs: Sequence[object], places: Sequence[str], tenant_id: str = DEFAULT_TENANT) -> list[Route]:
        """The rules that plain data configures, with streams by their names, for which the server is asked; ``places`` are where
        each stands. Raises what ``set_route`` raises."""
        names: dict[str, str] = {ANY_STREAM: ANY_STREAM}
        routes: list[Route] = []
        for config, place in zip(configs, places, strict=True):
            route = self._with_names(read_route(config, place), place, tenant_id, names)
            if route.name in {each.name for each in routes}:
                path = f"{place}.name"
                raise ConfigError(f"{path}: there are two rules with the name '{route.name}'", path=path)
            routes.append(route)
        return routes

    def _with_names(self, route: Route, place: str, tenant_id: str, names: dict[str, str]) -> Route:
        """The rule with streams by their names. ``names``: those that were asked for already."""

        def name_of(reference: str, field: str) -> str:
            if reference not in names:
                path = f"{place}.{field}" if place else field
                try:
                    asked: Data = self._connection.now(self._asked(Data, "GET", path_of("streams", reference), tenant_id))
                except StreamNotFoundError as error:
                    raise StreamNotFoundError(f"{path}: {error.message}", path=path, **error.details) from None
                names[reference] = asked["name"]
            return names[reference]

        stream = name_of(route.stream, "stream")
        to = tuple(name_of(target, f"to[{i}]") for i, target in enumerate(route.to))
        named = msgspec.structs.replace(route, stream=stream, to=to)
        return read_route(route_data(named), place) if named != route else named  # an id and a name may be the same stream

    def preview(self, routes: Sequence[Route], tenant_id: str = DEFAULT_TENANT) -> list[RouteChange]:
        """What ``apply`` would do. Raises ``ConfigError`` for what it would refuse."""
        return self._connection.now(self._applied(list(map(route_data, routes)), tenant_id, dry_run=True))

    def apply(self, routes: Sequence[Route], tenant_id: str = DEFAULT_TENANT, changed_by: str | None = None) -> list[RouteChange]:
        """Make or replace rules, all of them or none, as ``read`` returned them. Raises ``ConfigError`` for cycles."""
        return self._connection.now(self._applied(list(map(route_data, routes)), tenant_id))
