"""Checks how the processors of a flow are joined: names, ports, circles, and outputs that go nowhere.

It works on the flow's data, not on its spec, so that these problems are told together with all the others of a flow in
which some processor could not be read.
"""

from collections.abc import Mapping
from typing import Any, Final, NamedTuple

from event_streaming_bus.flows.checker import Path, Problems
from event_streaming_bus.models import ProcessorType

CLOSED_PORTS: Final = ("late", "errors")


class _Link(NamedTuple):
    """What a processor reads and writes, as far as its data can tell."""

    path: Path
    name: str
    source: str | None
    target: str | None
    aggregates: bool


def check_topology(flow: Mapping[Any, object], problems: Problems) -> None:
    """Report what is wrong with the names of a flow's streams, schemas and processors and with how they are joined."""
    streams = _items(flow, "streams")
    stream_names = {name for _, item in streams if isinstance(name := item.get("name"), str)}
    _check_unique([(path, "stream", item.get("name"), "name") for path, item in streams], problems)
    _check_unique(
        [
            (path, "schema", f"{item['schema_name']}@{item.get('schema_version') or ''}".rstrip("@"), "schema_name")
            for path, item in _items(flow, "schemas")
            if isinstance(item.get("schema_name"), str)
        ],
        problems,
    )
    links = [_link(path, item) for path, item in _items(flow, "processors")]
    named = [link for link in links if link.name]
    _check_unique([(link.path, "processor", link.name, "processor_name") for link in named], problems)
    by_name = {link.name: link for link in reversed(named)}
    targets = {link.target for link in links if link.target}
    for link in named:
        if link.name in stream_names | targets:
            problems.add((*link.path, "processor_name"), f"{link.name!r} is a stream's name too; rename one of them")
    _check_state_names(_items(flow, "processors"), by_name, problems)
    for link in links:
        _check_source(link, by_name, problems)
        _check_output(link, links, problems)
    _check_circles(links, problems)
    _check_nested_aggregates(links, by_name, problems)


def _items(flow: Mapping[Any, object], section: str) -> list[tuple[Path, Mapping[Any, object]]]:
    items = flow.get(section)
    if not isinstance(items, (list, tuple)):
        return []
    return [((section, i), item) for i, item in enumerate(items) if isinstance(item, Mapping)]


def _link(path: Path, item: Mapping[Any, object]) -> _Link:
    name, source, target = (item.get(key) for key in ("processor_name", "source_stream_id", "target_stream_id"))
    return _Link(
        path,
        name if isinstance(name, str) else "",
        source if isinstance(source, str) else None,
        target if isinstance(target, str) else None,
        item.get("processor_type") == ProcessorType.AGGREGATE,
    )


def _check_unique(named: list[tuple[Path, str, object, str]], problems: Problems) -> None:
    first: dict[object, str] = {}
    for path, noun, name, key in named:
        if not isinstance(name, str):
            continue
        here = f"{path[0]}[{path[1]}]"
        if name in first:
            problems.add((*path, key), f"the {noun} {name!r} is there already, as {first[name]}")
        first.setdefault(name, here)


def _check_state_names(items: list[tuple[Path, Mapping[Any, object]]], by_name: Mapping[str, _Link], problems: Problems) -> None:
    """Report processors that claim the state of one that is still there, or the same state."""
    claimed: dict[str, object] = {}
    for path, item in items:
        old = item.get("renamed_from")
        if not isinstance(old, str):
            continue
        here = (*path, "renamed_from")
        if old == item.get("processor_name"):
            problems.add(here, f"{old!r} is its name now; leave it out")
        elif old in by_name:
            problems.add(here, f"there still is a processor {old!r}, whose state stays its own; leave renamed_from out")
        elif old in claimed:
            problems.add(here, f"{claimed[old]!r} was renamed from {old!r} too; the state can go to one of them only")
        claimed.setdefault(old, item.get("processor_name"))


def _check_source(link: _Link, by_name: Mapping[str, _Link], problems: Problems) -> None:
    if link.source is None or link.source in by_name:
        return
    name, dot, port = link.source.partition(".")
    if not dot or name not in by_name:
        return
    here = (*link.path, "source_stream_id")
    if port in CLOSED_PORTS:
        told = " and ".join(CLOSED_PORTS)
        problems.add(here, f"ports {told} are not available in this version; {name!r} is its output")
    else:
        problems.add(here, f"processor {name!r} has no port {port!r}; {name!r} is its output")


def _check_output(link: _Link, links: list[_Link], problems: Problems) -> None:
    if link.target is None and not any(other.source == link.name for other in links):
        output = f"the output of {link.name!r}" if link.name else "its output"
        problems.add(
            (*link.path, "target_stream_id"),
            f"{output} goes nowhere; name a target stream, or let another processor read it",
        )


def _check_circles(links: list[_Link], problems: Problems) -> None:
    """Report each circle once: processors joined by ports or by the streams that they write and read."""
    readers: dict[str, list[int]] = {}
    for i, link in enumerate(links):
        if link.source:
            readers.setdefault(link.source, []).append(i)
    following = [
        [reader for output in dict.fromkeys((link.name, link.target)) if output for reader in readers.get(output, ())]
        for link in links
    ]
    # A depth-first walk with its own stack: a processor met again while still on the path closes a circle.
    done: set[int] = set()
    for start in range(len(links)):
        path: list[int] = []
        stack: list[tuple[int, int]] = [(start, 0)] if start not in done else []
        while stack:
            at, turn = stack.pop()
            if turn == 0:
                path.append(at)
            if turn == len(following[at]):
                done.add(path.pop())
                continue
            stack.append((at, turn + 1))
            reader = following[at][turn]
            if reader in path:
                _report_circle([links[i] for i in path[path.index(reader) :]], problems)
            elif reader not in done:
                stack.append((reader, 0))


def _report_circle(circle: list[_Link], problems: Problems) -> None:
    told = " -> ".join(link.name or f"{link.path[0]}[{link.path[1]}]" for link in [*circle, circle[0]])
    problems.add((*circle[0].path, "source_stream_id"), f"events would run in a circle: {told}")


def _check_nested_aggregates(links: list[_Link], by_name: Mapping[str, _Link], problems: Problems) -> None:
    for link in links:
        nearest = above = by_name.get(link.source or "") if link.aggregates else None
        seen: set[str] = set()
        while above and not above.aggregates and above.name not in seen:
            seen.add(above.name)
            above = by_name.get(above.source or "")
        if nearest and above and above.aggregates and above is not link:
            through = "" if above is nearest else f" by way of {nearest.name!r}"
            problems.add(
                (*link.path, "source_stream_id"),
                f"AGGREGATE {link.name!r} cannot read AGGREGATE {above.name!r} directly{through};"
                f" give {nearest.name!r} a target_stream_id and read that stream",
            )
