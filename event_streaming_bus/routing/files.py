"""Rules declared in files: a list ``routes``, or a single rule."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from event_streaming_bus.errors import BusError, ConfigError
from event_streaming_bus.flows.checker import Problems
from event_streaming_bus.flows.flow_file import read_flow_file
from event_streaming_bus.models import DEFAULT_TENANT
from event_streaming_bus.routing.model import Route
from event_streaming_bus.routing.service import RoutingService


class RouteFile(NamedTuple):
    """What a file declares, not checked yet: the configurations and where each stands; ``problems`` knows the lines."""

    source: str
    configs: list[Any]
    places: list[str]
    problems: Problems


def read_route_file(path: Path) -> RouteFile:
    """The rules that a file (YAML, JSON or TOML) declares. Raises ``ConfigError`` with file and line."""
    data, problems = read_flow_file(path)
    problems.raise_if_any()
    source = str(path)
    if isinstance(data, dict) and "name" in data:
        return RouteFile(source, [data], [""], problems)
    if not isinstance(data, dict) or not isinstance(data.get("routes"), list):
        raise ConfigError(f"{source}: expected a list 'routes', or a rule with a name", path="")
    for key in data:
        if key != "routes":
            raise ConfigError(f"{source}:{problems.line((key,)) or 1}: {key}: unknown key (accepted: routes)", path=key)
    configs = data["routes"]
    return RouteFile(source, configs, [f"routes[{i}]" for i in range(len(configs))], problems)


def routes_of(service: RoutingService, file: RouteFile, tenant_id: str = DEFAULT_TENANT) -> list[Route]:
    """The rules of a file, checked. Raises what ``RoutingService.read`` raises, with file and line in front."""
    routes: list[Route] = []
    for i, (config, place) in enumerate(zip(file.configs, file.places, strict=True)):
        try:
            routes += service.read([config], [place], tenant_id)
        except BusError as error:
            raise _placed(error, file, i, place) from None
        if routes[-1].name in {each.name for each in routes[:-1]}:
            where = f"{place}.name"
            raise _placed(ConfigError(f"{where}: '{routes[-1].name}' is the name of a rule before", path=where), file, i, place)
    return routes


def _placed(error: BusError, file: RouteFile, index: int, place: str) -> BusError:
    where = str(error.details.get("path") or error.details.get("where") or place)
    inner = where.removeprefix(place).lstrip(".").split(".")[0]
    field, _, number = inner.rstrip("]").partition("[")
    path: Sequence[str | int] = ["routes", index] if place else []
    path = [*path, *([field] if field else []), *([int(number)] if number.isdigit() else [])]
    line = file.problems.line(tuple(path))
    at = file.source if line is None else f"{file.source}:{line}"
    return type(error)(f"{at}: {error.message}", **error.details)
