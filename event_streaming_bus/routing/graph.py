"""Where rules lead: cycles, and chains that are too long, found before they are kept."""

from collections.abc import Iterable, Mapping, Sequence
from graphlib import CycleError, TopologicalSorter
from itertools import pairwise
from typing import Final

from event_streaming_bus.errors import ConfigError
from event_streaming_bus.routing.model import ANY_STREAM, Route

MAX_HOPS: Final = 8
"""How often an event is sent on from one stream to the next, at most."""


def check_paths(routes: Iterable[Route]) -> None:
    """Raise ``ConfigError`` that names the path if active rules lead an event back to where it was, or over too many streams.

    Whether the rules match is not looked at. A rule for every stream counts as one of each stream but those that it sends to.
    """
    active = [route for route in routes if route.is_active and route.to]
    named: dict[str, dict[str, str]] = {}  # stream -> target -> the name of a rule
    for route in active:
        if route.stream != ANY_STREAM:
            for target in route.to:
                named.setdefault(route.stream, {}).setdefault(target, route.name)
    depth = _depths(_in_order(named), named)
    longest = max((_longest_from(stream, depth, named) for stream in named), key=len, default=[])
    for route in active:
        if route.stream == ANY_STREAM:
            for target in route.to:
                _check_way_back(route, target, named)
                longest = max(longest, [ANY_STREAM, *_longest_from(target, depth, named)], key=len)
    if len(longest) - 1 > MAX_HOPS:
        raise ConfigError(
            f"routes: {' -> '.join(longest)}: {len(longest) - 1} hops; an event is sent on at most {MAX_HOPS} times",
            path="routes",
        )


def _in_order(named: Mapping[str, Mapping[str, str]]) -> list[str]:
    """The streams, each before those that it sends to."""
    sorter: TopologicalSorter[str] = TopologicalSorter()
    for stream, targets in named.items():
        for target in targets:
            sorter.add(target, stream)
    try:
        return list(sorter.static_order())
    except CycleError as error:
        raise _cycle(error.args[1], named, None) from None


def _check_way_back(route: Route, target: str, named: Mapping[str, Mapping[str, str]]) -> None:
    """Refuse a rule for every stream if its target leads to a stream that the rule applies to."""
    before: dict[str, str | None] = {target: None}
    waiting = [target]
    while waiting:
        stream = waiting.pop()
        for following in named.get(stream, ()):
            if following in before:
                continue
            before[following] = stream
            if following not in route.to:
                path, at = [following], before[following]
                while at is not None:
                    path.append(at)
                    at = before[at]
                raise _cycle([following, *reversed(path)], named, route)
            waiting.append(following)


def _cycle(path: Sequence[str], named: Mapping[str, Mapping[str, str]], everywhere: Route | None) -> ConfigError:
    names = [named[a][b] if b in named.get(a, ()) else "" for a, b in pairwise(path)]
    if everywhere is not None:
        names[0] = f"{everywhere.name}, which is for every stream"
    hint = " Name the streams of that rule in place of '*'." if everywhere is not None else ""
    return ConfigError(
        f"routes: {' -> '.join(path)}: a cycle (by the rules {'; '.join(dict.fromkeys(names))}).{hint}",
        path="routes",
        cycle=list(path),
    )


def _longest_from(start: str, depth: Mapping[str, int], named: Mapping[str, Mapping[str, str]]) -> list[str]:
    """The longest way from a stream on, as far as it is of interest: one stream more than is allowed."""
    path = [start]
    while len(path) <= MAX_HOPS + 1 and named.get(path[-1]):
        path.append(max(named[path[-1]], key=lambda target: depth.get(target, 0)))
    return path


def _depths(order: Sequence[str], named: Mapping[str, Mapping[str, str]]) -> dict[str, int]:
    """How many hops it is at most from each stream to an end."""
    depth: dict[str, int] = {}
    for stream in reversed(order):
        depth[stream] = max((1 + depth[target] for target in named.get(stream, ())), default=0)
    return depth
