# Made by `python -m event_streaming_bus.client.twin` of client/routing.py; change that one, and make this one anew.
"""The routing rules of a server."""

from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

from event_streaming_bus.client.answers import rule_of
from event_streaming_bus.client.client_errors import not_remote
from event_streaming_bus.client.requests import path_of, plain_config
from event_streaming_bus.client.sync.remote_service import Data, RemoteService
from event_streaming_bus.errors import ConfigError
from event_streaming_bus.models import DEFAULT_TENANT
from event_streaming_bus.routing.model import Route, Rule

_ONE_BY_ONE = "set_route makes or replaces one rule; `esb routes apply` on the server's machine takes several, all or none"


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
    ) -> NoReturn:
        """Raises ``NotRemoteError``."""
        raise not_remote("setting several rules at once", _ONE_BY_ONE)

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

    def read(self, configs: Sequence[object], places: Sequence[str], tenant_id: str = DEFAULT_TENANT) -> NoReturn:
        """Raises ``NotRemoteError``."""
        raise not_remote("reading rules without setting them", _ONE_BY_ONE)

    def preview(self, routes: Sequence[Route], tenant_id: str = DEFAULT_TENANT) -> NoReturn:
        """Raises ``NotRemoteError``."""
        raise not_remote("a preview of rules", "POST /api/v1/routes/try says what rules would do with stored events")

    def apply(self, routes: Sequence[Route], tenant_id: str = DEFAULT_TENANT, changed_by: str | None = None) -> NoReturn:
        """Raises ``NotRemoteError``."""
        raise not_remote("setting several rules at once", _ONE_BY_ONE)
