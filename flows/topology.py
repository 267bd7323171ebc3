"""Checks how the processors of a flow are joined: names, ports, circles, and outputs that go nowhere.

It works on the flow's data, not on its spec, so that these problems are told together with all the others of a flow in
which some processor could not be read.
"""

from collections.abc import Collection, Mapping
from typing import Any, Final, NamedTuple

from event_streaming_bus.flows.checker import Path, Problems
from event_streaming_bus.models import ErrorHandlingStrategy, ProcessorType

OUTPUT: Final = ""
LATE: Final = "late"
ERRORS: Final = "errors"
PORTS: Final = (LATE, ERRORS)
_CHANGELOG: Final = ("state_store_config", "changelog_topic")
_STATEFUL: Final = (ProcessorType.AGGREGATE, ProcessorType.JOIN, ProcessorType.WINDOW, ProcessorType.DEDUPLICATE)
KEEPS_NO_ERRORS: Final = (ErrorHandlingStrategy.SKIP, ErrorHandlingStrategy.STOP)
"""The strategies with which a failed event goes nowhere."""


class SourceRef(NamedTuple):
    """What a processor reads: a stream, or a processor's output or another ``port`` of it."""

    name: str
    port: str = OUTPUT


def source_ref(source: str, processors: Collection[str]) -> SourceRef:
    """What a source's name stands for, given the names of the flow's processors."""
    name, dot, port = source.rpartition(".")
    return SourceRef(name, port) if dot and source not in processors and name in processors else SourceRef(source)


class _Link(NamedTuple):
    """What a processor reads and writes, as far as its data can tell. ``sources`` and ``written``: where each name of a source,
    or of a stream that it writes, stands, and what it says."""

    path: Path
    name: str
    sources: tuple[tuple[Path, str], ...]
    target: str | None
    written: tuple[tuple[Path, str], ...]
    has_state: bool
    needs_reader: bool
    strategy: object


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
    written = [(at, stream) for link in links for at, stream in link.written]
    targets = {stream for _, stream in written}
    for link in named:
        if link.name in stream_names | targets:
            problems.add((*link.path, "processor_name"), f"{link.name!r} is a stream's name too; rename one of them")
    _check_port_names(
        [*(((*path, "name"), name) for path, item in streams if isinstance(name := item.get("name"), str)), *written],
        by_name,
        problems,
    )
    for link in links:
        _check_changelog(link, problems)
    _check_state_names(_items(flow, "processors"), by_name, problems)
    read = {source_ref(source, by_name) for link in links for _, source in link.sources}
    for link in links:
        _check_sources(link, by_name, problems)
        _check_output(link, read, problems)
    _check_circles(links, by_name, problems)
    for link in links:
        _check_late_readers(link, by_name, problems)


class FlowNames(NamedTuple):
    """What a flow's data names: its processors, the streams and processors whose events or output they read, and the streams
    that they write."""

    processors: set[str]
    read: set[str]
    written: set[str]


def names_of(flow: Mapping[Any, object]) -> FlowNames:
    """The names in a flow, as far as its data can tell."""
    links = [_link(path, item) for path, item in _items(flow, "processors")]
    processors = {link.name for link in links if link.name}
    refs = [source_ref(source, processors) for link in links for _, source in link.sources]
    read = {ref.name for ref in refs if ref.port == OUTPUT}
    return FlowNames(processors, read, {stream for link in links for _, stream in link.written})


def _items(flow: Mapping[Any, object], section: str) -> list[tuple[Path, Mapping[Any, object]]]:
    items = flow.get(section)
    if not isinstance(items, (list, tuple)):
        return []
    return [((section, i), item) for i, item in enumerate(items) if isinstance(item, Mapping)]


def _link(path: Path, item: Mapping[Any, object]) -> _Link:
    name, target, logic, kind = (
        item.get(key) for key in ("processor_name", "target_stream_id", "processing_logic", "processor_type")
    )
    inner = logic if isinstance(logic, Mapping) else {}
    sources: list[tuple[Path, object]] = [((*path, "source_stream_id"), item.get("source_stream_id"))]
    if kind == ProcessorType.JOIN:
        sources.append(((*path, "processing_logic", "join_stream_id"), inner.get("join_stream_id")))
    store = item.get("state_store_config")
    written: list[tuple[Path, object]] = [((*path, "target_stream_id"), target)]
    if isinstance(store, Mapping):
        written.append(((*path, *_CHANGELOG), store.get(_CHANGELOG[-1])))
    keyed = kind == ProcessorType.CUSTOM and inner.get("form") == "keyed"
    strategy = item.get("error_handling_strategy")
    return _Link(
        path,
        name if isinstance(name, str) else "",
        tuple((at, source) for at, source in sources if isinstance(source, str)),
        target if isinstance(target, str) else None,
        tuple((at, stream) for at, stream in written if isinstance(stream, str)),
        kind in _STATEFUL or keyed,
        item.get("dead_letters") is False and strategy not in KEEPS_NO_ERRORS,
        strategy,
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


def _check_port_names(streams: list[tuple[Path, str]], by_name: Mapping[str, _Link], problems: Problems) -> None:
    """Report streams that could not be read in the flow, since their names stand for ports."""
    for at, stream in streams:
        name, dot, port = stream.rpartition(".")
        if dot and name in by_name:
            told = f"{stream!r} stands for the port {port!r} of processor {name!r}; give the stream another name"
            problems.add(at, told)


def _check_changelog(link: _Link, problems: Problems) -> None:
    if len({stream for _, stream in link.written}) < len(link.written):
        problems.add((*link.path, *_CHANGELOG), "is the target_stream_id too; changes of state need a stream of their own")


def check_alone(processor: Mapping[Any, object], path: Path, problems: Problems) -> None:
    """Report what is wrong with how a processor is joined with the streams around it, if it is a flow of its own."""
    link = _link(path, processor)
    read = {source for _, source in link.sources}
    for at, stream in link.written:
        if stream in read:
            problems.add(at, "is the source too, and each event would run in a circle")
    if link.name in read | {stream for _, stream in link.written}:
        problems.add((*path, "processor_name"), f"{link.name!r} is a stream's name too; rename one of them")
    _check_changelog(link, problems)
    if link.needs_reader:
        problems.add((*path, "dead_letters"), "only in a flow can another processor read its errors; leave dead_letters true")
    _check_state_names([(path, processor)], {}, problems)


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


def _check_sources(link: _Link, by_name: Mapping[str, _Link], problems: Problems) -> None:
    for at, source in link.sources:
        name, port = source_ref(source, by_name)
        if name == source:
            continue
        if port == LATE and not by_name[name].has_state:
            problems.add(at, f"{name!r} has no port late: it has no state, and nothing comes too late for it")
        elif port not in PORTS:
            ports = PORTS if by_name[name].has_state else (ERRORS,)
            told = " and ".join(f"'{name}.{each}'" for each in ports)
            problems.add(at, f"processor {name!r} has no port {port!r}; {name!r} is its output, and there is {told}")
        elif port == ERRORS and by_name[name].strategy in KEEPS_NO_ERRORS:
            problems.add(at, f"nothing would come: the error_handling_strategy of {name!r} is {by_name[name].strategy}")


def _check_output(link: _Link, read: Collection[SourceRef], problems: Problems) -> None:
    if link.target is None and SourceRef(link.name) not in read:
        output = f"the output of {link.name!r}" if link.name else "its output"
        problems.add(
            (*link.path, "target_stream_id"),
            f"{output} goes nowhere; name a target stream, or let another processor read it",
        )
    if link.needs_reader and SourceRef(link.name, ERRORS) not in read:
        problems.add(
            (*link.path, "dead_letters"),
            f"its errors would go nowhere; let a processor read '{link.name}.errors', or leave dead_letters true",
        )


def _check_circles(links: list[_Link], by_name: Mapping[str, _Link], problems: Problems) -> None:
    """Report each circle once: processors joined by ports or by the streams that they write and read."""
    readers: dict[str, list[int]] = {}
    for i, link in enumerate(links):
        for name in dict.fromkeys(source_ref(source, by_name).name for _, source in link.sources):
            readers.setdefault(name, []).append(i)
    following = [
        list(
            dict.fromkeys(
                reader
                for output in dict.fromkeys((link.name, *(stream for _, stream in link.written)))
                if output
                for reader in readers.get(output, ())
            )
        )
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


def _check_late_readers(link: _Link, by_name: Mapping[str, _Link], problems: Problems) -> None:
    """Report a processor with state that reads late events without a stream between: for it they would be late again, for it
    cannot know how late events may still come."""
    if not link.has_state:
        return
    for at, source in link.sources:
        ref = source_ref(source, by_name)
        seen: set[str] = set()
        nearest = ref
        while ref.name in by_name and ref.name not in seen:
            seen.add(ref.name)
            if ref.port == LATE and by_name[ref.name].has_state:
                # A target stream takes the output alone: what is read by way of a port needs a processor that writes it.
                between = f"{nearest.name!r}" if nearest.port == OUTPUT else f"a MAP or FILTER that reads {source!r}"
                problems.add(
                    at,
                    f"{link.name!r} has state and cannot read late events directly; give {between} a target_stream_id and "
                    "read that stream",
                )
                break
            above = by_name[ref.name]
            if above.has_state or not above.sources:
                break
            ref = source_ref(above.sources[0][1], by_name)
