"""Correlation: what followed from an event, what led to it, and what belongs together."""

import asyncio
import json
import re
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from bytewax.testing import run_main
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from running import Esb, commands, served

from event_streaming_bus import ids
from event_streaming_bus.bus import Bus
from event_streaming_bus.correlation.forms import drawn, escaped, listed, mermaid, nested
from event_streaming_bus.correlation.model import Trace, TracedEvent
from event_streaming_bus.correlation.service import MAX_DEPTH, MAX_EVENTS, CorrelationService
from event_streaming_bus.errors import EventNotFoundError, InvalidInputError, NotFoundError
from event_streaming_bus.flows.build import build
from event_streaming_bus.flows.dead_letters import DeadLetterService
from event_streaming_bus.flows.deploy import deploy
from event_streaming_bus.flows.runner import current_ends
from event_streaming_bus.flows.spec import parse_flow
from event_streaming_bus.models import EventConfig, InvalidEventPolicy, StreamConfig
from event_streaming_bus.sourcing.model import NewEvent, NewEvents
from event_streaming_bus.store.history import History
from event_streaming_bus.testing import read_all, temporary_bus

FLOW = {
    "streams": [{"name": "orders"}, {"name": "big"}, {"name": "bills"}],
    "processors": [
        {
            "processor_name": "big_orders",
            "processor_type": "FILTER",
            "source_stream_id": "orders",
            "target_stream_id": "big",
            "processing_logic": {"filter_expression": "payload.total > 10"},
        },
        {
            "processor_name": "bill",
            "processor_type": "MAP",
            "source_stream_id": "big",
            "target_stream_id": "bills",
            "processing_logic": {"fields": {"amount": "payload.total * 2"}},
        },
    ],
}
NASTY = [
    "'; DROP TABLE events; --",
    "a'b\"c",
    "{event_id}",
    "a\0b",
    "ä\u202eb",
    "%s $1 ?",
    "\\'",
    "x" * 5000,
    " ",
    "\n",
    "\ud800",
]


@pytest.fixture
def bus() -> Iterator[Bus]:
    with temporary_bus() as opened:
        yield opened


@pytest.fixture
def tracing(bus: Bus) -> Iterator[CorrelationService]:
    history = History(bus.storage)
    yield CorrelationService(bus.storage, history=history)
    history.close()


def publish(bus: Bus, causes: dict[str, str | None], *, tenant_id: str = "default", **more: Any) -> None:
    """Publish events with these ids, each with its cause, to the stream ``s``."""
    bus.create_stream("s", tenant_id=tenant_id)
    configs = [EventConfig(event_type="t", event_id=each, causation_id=cause, **more) for each, cause in causes.items()]
    bus.publishing.submit(configs, [{}] * len(configs), stream_id="s", tenant_id=tenant_id).result()


def event_ids(trace: Trace) -> list[str]:
    return [event.event_id for event in trace.events]


# --- what events have as their cause --------------------------------------------------------------------------------------


async def test_the_tree_goes_through_flows_and_to_dead_letters(bus: Bus, tracing: CorrelationService) -> None:
    plan = deploy(parse_flow(FLOW, name="flow"), bus.storage)
    config = EventConfig(event_type="order.created", correlation_id="c-1")
    good, bad = bus.publishing.submit(config, [{"total": 20}, {"total": "many"}], stream_id="orders").result()

    def run() -> None:
        run_main(build(plan, bus.storage, until=current_ends(plan, bus.storage)))

    await asyncio.to_thread(run)
    await asyncio.to_thread(run)  # what the first processor has written by now
    (letter,) = read_all(bus, "_dead_letters")
    trace = await tracing.tree(good.event_id)
    (big,), (bill,) = read_all(bus, "big"), read_all(bus, "bills")
    assert [(event.stream, event.event_id, event.causation_id) for event in trace.events] == [
        ("orders", good.event_id, None),
        ("big", big.event_id, good.event_id),
        ("bills", bill.event_id, big.event_id),
    ]
    assert [event.event_type for event in trace.events] == ["order.created"] * 3
    assert event_ids(await tracing.ancestors(bill.event_id)) == event_ids(trace)
    assert event_ids(await tracing.tree(bad.event_id)) == [bad.event_id, letter.event_id]
    together = await tracing.by_correlation("c-1")
    assert sorted(event_ids(together)) == sorted([good.event_id, bad.event_id, letter.event_id, big.event_id, bill.event_id])
    assert len(together.edges) == 3
    assert not trace.is_cut_off
    assert not together.is_cut_off


async def test_what_came_of_a_dead_letter_follows_from_it(bus: Bus, tracing: CorrelationService) -> None:
    schema = bus.schemas.register({"schema_name": "s", "json_schema": {"required": ["total"]}})
    config = StreamConfig(name="s", schema_id=schema.schema_id, on_invalid=InvalidEventPolicy.DEAD_LETTER)
    stream = bus.log.create_stream(config)
    (refused,) = bus.publishing.submit(EventConfig(event_type="t", causation_id="why"), [{}], stream_id="s").result()
    bus.log.set_stream_schema(stream.stream_id, None)
    await DeadLetterService(bus.storage).retry_dead_letter(refused.event_id)
    (again,) = read_all(bus, "s")
    assert [(each.stream, each.event_id, each.causation_id) for each in (await tracing.tree("why")).events[1:]] == [
        ("_dead_letters", refused.event_id, "why"),
        ("s", again.event_id, refused.event_id),
    ]
    assert event_ids(await tracing.ancestors(again.event_id)) == ["why", refused.event_id, again.event_id]


async def test_events_of_aggregates_are_told_with_their_versions(bus: Bus, tracing: CorrelationService) -> None:
    def append(aggregate_id: str, kind: str, *causes: str | None) -> list[str]:
        events = [NewEvent(event_type="t", event_data={}, causation_id=cause, correlation_id="c") for cause in causes]
        appends = [NewEvents(aggregate_id=aggregate_id, aggregate_type=kind, events=events)]
        return [each.event_id for each in bus.sourcing.append_now(appends)]

    append("o-1", "Order", None, None)
    (placed,) = append("o-1", "Order", None)
    packed = append("p-1", "Parcel", placed, placed)
    bus.create_stream("s")
    config = EventConfig(event_type="t", event_id="x", aggregate_id="p-1", aggregate_type="Parcel", causation_id=packed[0])
    bus.publishing.submit(config, [{}], stream_id="s").result()  # about the aggregate, and not in it
    told = [(event.aggregate_type, event.aggregate_id, event.version) for event in (await tracing.tree(placed)).events]
    assert told == [("Order", "o-1", 3), ("Parcel", "p-1", 1), ("Parcel", "p-1", 2), ("Parcel", "p-1", None)]


async def test_an_id_that_events_name_and_the_history_does_not_know_has_a_tree(bus: Bus, tracing: CorrelationService) -> None:
    publish(bus, {"a": "command-7", "b": "a"})
    trace = await tracing.tree("command-7")
    assert [(event.event_id, event.is_known) for event in trace.events] == [("command-7", False), ("a", True), ("b", True)]
    assert nested(trace)["trees"][0]["is_known"] is False
    back = await tracing.ancestors("b")
    assert [(event.event_id, event.is_known) for event in back.events] == [("command-7", False), ("a", True), ("b", True)]


async def test_what_is_not_there_is_said(bus: Bus, tracing: CorrelationService) -> None:
    publish(bus, {"a": None})
    for asked in (tracing.tree("none"), tracing.ancestors("none")):
        with pytest.raises(EventNotFoundError, match="no event 'none'"):
            await asked
    with pytest.raises(NotFoundError, match="correlation id 'none'"):
        await tracing.by_correlation("none")


# --- bounds ---------------------------------------------------------------------------------------------------------------


async def test_answers_are_bounded_and_say_that_there_was_more(bus: Bus, tracing: CorrelationService) -> None:
    publish(bus, {"root": None, **{f"a{n}": "root" for n in range(5)}, "b": "a0", "c": "b"}, correlation_id="c-1")
    everything = ["root", "a0", "a1", "a2", "a3", "a4", "b", "c"]
    for most in range(1, 9):
        trace = await tracing.tree("root", max_events=most)
        assert (event_ids(trace), trace.is_cut_off) == (everything[:most], most < 8)
        trace = await tracing.by_correlation("c-1", max_events=most)
        assert (len(trace.events), trace.is_cut_off) == (most, most < 8)
    for depth, count in ((1, 6), (2, 7), (3, 8), (4, 8)):
        trace = await tracing.tree("root", max_depth=depth)
        assert (event_ids(trace), trace.is_cut_off) == (everything[:count], count < 8)
    for depth, back in ((1, ["b", "c"]), (2, ["a0", "b", "c"]), (3, ["root", "a0", "b", "c"])):
        trace = await tracing.ancestors("c", max_depth=depth)
        assert (event_ids(trace), trace.is_cut_off) == (back, depth < 3)
    for wrong in ({"max_events": 0}, {"max_events": MAX_EVENTS + 1}, {"max_depth": 0}, {"max_depth": MAX_DEPTH + 1}):
        with pytest.raises(InvalidInputError, match=next(iter(wrong))):
            await tracing.tree("root", **wrong)


async def test_causes_that_go_round_in_a_circle_end(bus: Bus, tracing: CorrelationService) -> None:
    publish(bus, {"a": "c", "b": "a", "c": "b", "d": "c", "self": "self"}, correlation_id="round")
    assert event_ids(await tracing.tree("a")) == ["a", "b", "c", "d"]
    assert event_ids(await tracing.ancestors("d")) == ["a", "b", "c", "d"]
    assert event_ids(await tracing.tree("self")) == event_ids(await tracing.ancestors("self")) == ["self"]
    together = await tracing.by_correlation("round")
    assert [(placed.event.event_id, placed.depth) for placed in together.placed()] == [
        ("a", 0),
        ("b", 1),
        ("c", 2),
        ("d", 3),
        ("self", 0),
    ]
    told = nested(together)
    assert [tree["event_id"] for tree in told["trees"]] == ["a", "self"]
    assert mermaid(together).count("-->") == 5


async def test_a_long_chain_can_be_told_in_every_form(bus: Bus, tracing: CorrelationService) -> None:
    publish(bus, {"0": None, **{f"{n}": f"{n - 1}" for n in range(1, 1500)}}, correlation_id="long")
    together = await tracing.by_correlation("long", max_events=2000)
    assert [placed.depth for placed in together.placed()] == list(range(1500))
    assert nested(together)["is_cut_off"]
    assert not listed(together)["is_cut_off"]
    assert len(drawn(together)) == 1500
    chain = await tracing.tree("0", max_depth=MAX_DEPTH)
    assert (len(chain.events), chain.is_cut_off) == (MAX_DEPTH + 1, True)
    depth, tree = 0, nested(chain)["trees"][0]
    while tree["followed_by"]:
        depth, tree = depth + 1, tree["followed_by"][0]
    assert depth == MAX_DEPTH


# --- tenants, and ids that would like to be SQL ---------------------------------------------------------------------------


async def test_a_tenant_never_sees_the_events_of_another(bus: Bus, tracing: CorrelationService) -> None:
    publish(bus, {"root": None, "mine": "root"}, correlation_id="c")
    publish(bus, {"root": "theirs-0", "theirs": "root", "deeper": "mine"}, tenant_id="other", correlation_id="c")
    publish(bus, {"only": "root"}, tenant_id="it's", correlation_id="c")
    assert event_ids(await tracing.tree("root")) == ["root", "mine"]
    assert event_ids(await tracing.tree("root", "other")) == ["root", "theirs"]
    assert event_ids(await tracing.ancestors("theirs", "other")) == ["theirs-0", "root", "theirs"]
    assert event_ids(await tracing.by_correlation("c")) == ["root", "mine"]
    assert event_ids(await tracing.tree("root", "it's")) == ["root", "only"]
    for hidden in (tracing.tree("theirs"), tracing.ancestors("mine", "other"), tracing.tree("only", "nobody")):
        with pytest.raises(EventNotFoundError):
            await hidden


@pytest.mark.parametrize("name", NASTY, ids=lambda name: ascii(name)[:20])
async def test_ids_may_be_any_text(bus: Bus, tracing: CorrelationService, name: str) -> None:
    publish(bus, {"other": None}, correlation_id="c")
    if name != "\ud800":
        publish(bus, {name: None, "effect": name}, correlation_id=name)
        assert event_ids(await tracing.tree(name)) == event_ids(await tracing.ancestors("effect")) == [name, "effect"]
        assert event_ids(await tracing.by_correlation(name)) == [name, "effect"]
    else:
        with pytest.raises(EventNotFoundError):
            await tracing.tree(name)
        with pytest.raises(NotFoundError):
            await tracing.by_correlation(name)


# --- against a model ------------------------------------------------------------------------------------------------------


@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(parents=st.lists(st.integers(0, 20), min_size=1, max_size=20), most=st.integers(1, 25), depth=st.integers(1, 8))
def test_trees_are_what_a_search_through_all_events_finds(
    bus: Bus, tracing: CorrelationService, parents: list[int], most: int, depth: int
) -> None:
    tenant_id = ids.new_id("tenant_")
    causes = {f"e{n:02}": f"e{parent:02}" if parent != n else None for n, parent in enumerate(parents)}
    publish(bus, causes, tenant_id=tenant_id)
    for root in (*causes, "e20"):
        found, depths, level = [root], {root: 0}, [root]
        for step in range(1, 22):
            level = [each for each, cause in causes.items() if cause in level and each not in depths]
            depths |= dict.fromkeys(level, step)
            found += level
        if root not in causes and len(found) == 1:
            continue
        near = [each for each in found if depths[each] <= depth][:most]
        trace = asyncio.run(tracing.tree(root, tenant_id, max_events=most, max_depth=depth))
        assert (event_ids(trace), trace.is_cut_off) == (near, len(near) < len(found))
        assert {edge.effect for edge in trace.edges} >= set(near) - {root}
        if root in causes:
            back, wanted = [root], causes[root]
            while wanted is not None and wanted not in back and len(back) <= depth:
                back.append(wanted)
                wanted = causes.get(wanted)
            trace = asyncio.run(tracing.ancestors(root, tenant_id, max_depth=depth))
            assert (event_ids(trace), trace.is_cut_off) == (back[::-1], wanted is not None and wanted not in back)


# --- forms ----------------------------------------------------------------------------------------------------------------

LABEL = r"(?:[\w .,:/+@…-]|#\d+;|<br/>|</?b>)*"
LINE = re.compile(
    rf'flowchart TD|    n\d+\["{LABEL}"\]:::(?:event|dead|unknown)|    n\d+ --> n\d+|    more\["there is more"\]:::unknown'
    r"|    classDef \w+ [\w#:,; -]+"
)


@given(st.lists(st.tuples(*[st.text(max_size=20)] * 5), min_size=1, max_size=5), st.booleans())
@example([('end"]; click n0 callback', "</b><script>alert(1)</script>", "%%{init: {}}%%", "`md`\n**x**", "subgraph")], True)
@example([("#quot;", "#35;", "\u2028n1 --> n0", "a|b", "_x_ ~~y~~")], False)
def test_nothing_breaks_out_of_a_picture_or_a_line(fields: list[tuple[str, str, str, str, str]], is_cut_off: bool) -> None:
    events = [
        TracedEvent(event_id=f"{n}{a}", event_type=b, stream=c, aggregate_id=d, aggregate_type=e, causation_id=f"0{fields[0][0]}")
        for n, (a, b, c, d, e) in enumerate(fields)
    ]
    trace = Trace(events=tuple(events), is_cut_off=is_cut_off)
    lines = mermaid(trace).split("\n")
    assert lines.pop() == ""
    assert all(LINE.fullmatch(line) for line in lines), lines
    assert len(lines) == 1 + 2 * len(events) + is_cut_off + 3
    assert len(drawn(trace)) == len(events) + is_cut_off
    assert json.loads(json.dumps(nested(trace)))["trees"][0]["followed_by"] == [
        json.loads(json.dumps(dict(listed(trace)["events"][n], followed_by=[]))) for n in range(1, len(events))
    ]


@given(st.text(max_size=60))
def test_a_label_says_what_the_text_says(text: str) -> None:
    read = re.sub(r"#(\d+);", lambda found: chr(int(found[1])), escaped(text))
    assert read == " ".join("".join(each if each.isprintable() else " " for each in text).split())


def test_a_tree_is_drawn() -> None:
    causes = {"a": None, "b": "a", "c": "b", "d": "a", "e": "d", "f": None}
    events = tuple(TracedEvent(event_id=each, event_type=each.upper(), causation_id=cause) for each, cause in causes.items())
    assert drawn(Trace(events=events, is_cut_off=True)) == [
        "A  a",
        "├─ B  b",
        "│  └─ C  c",
        "└─ D  d",
        "   └─ E  e",
        "F  f",
        "... there is more",
    ]


# --- over REST and on the command line ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("served")


@pytest.fixture(scope="module")
def url(folder: Path) -> Iterator[str]:
    with served(folder / "esb-data") as url:
        yield url


@pytest.fixture
async def client(url: str) -> AsyncIterator[httpx.AsyncClient]:
    """A client of a tenant of its own, which has published ``a``, ``b`` because of it, and ``c`` because of that."""
    async with httpx.AsyncClient(base_url=url, headers={"X-Tenant-Id": ids.new_id("tenant_")}, timeout=30) as client:
        for name, cause in (("a", None), ("b", "a"), ("c", "b")):
            body = {"event_type": f"{name}.done", "event_id": name, "causation_id": cause, "correlation_id": "c-1", "payload": {}}
            assert (await client.post("/api/v1/events", json=body)).status_code == 201
        yield client


async def test_traces_over_rest(client: httpx.AsyncClient) -> None:
    told = (await client.get("/api/v1/events/a/tree")).json()
    assert (told["event_id"], told["is_cut_off"]) == ("a", False)
    (tree,) = told["trees"]
    assert (tree["event_type"], tree["stream"], tree["correlation_id"]) == ("a.done", "events", "c-1")
    assert tree["followed_by"][0]["followed_by"][0]["event_id"] == "c"
    told = (await client.get("/api/v1/events/a/tree", params={"format": "list", "max_depth": 1})).json()
    assert told["edges"] == [{"cause": "a", "effect": "b"}]
    assert told["is_cut_off"]
    picture = await client.get("/api/v1/events/c/ancestors", params={"format": "mermaid"})
    assert picture.headers["content-type"] == "text/plain; charset=utf-8"
    assert picture.text.startswith('flowchart TD\n    n0["<b>a.done</b><br/>a<br/>events<br/>')
    assert "n0 --> n1\n    n1 --> n2" in picture.text
    together = (await client.get("/api/v1/correlations/c-1", params={"format": "list"})).json()
    assert [event["event_id"] for event in together["events"]] == ["a", "b", "c"]


async def test_what_cannot_be_traced_is_a_problem(client: httpx.AsyncClient) -> None:
    for path, status in (
        ("events/none/tree", 404),
        ("events/none/ancestors", 404),
        ("correlations/none", 404),
        ("events/a/tree?format=png", 400),
        ("events/a/tree?max_events=0", 400),
        ("events/a/ancestors?max_depth=1000", 400),
    ):
        answer = await client.get(f"/api/v1/{path}")
        assert (answer.status_code, answer.headers["content-type"]) == (status, "application/problem+json"), answer.text
    elsewhere = await client.get("/api/v1/events/a/tree", headers={"X-Tenant-Id": "somebody"})
    assert elsewhere.status_code == 404


@pytest.fixture
def esb(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Esb]:
    with commands(folder, monkeypatch) as run:
        yield run


async def test_the_command_asks_the_server_that_has_the_history(client: httpx.AsyncClient, esb: Esb) -> None:
    def ask(*words: str, code: int = 0) -> Any:
        return asyncio.to_thread(esb, "--tenant", client.headers["X-Tenant-Id"], "trace", *words, code=code)

    told = (await ask("a")).out.splitlines()
    assert re.fullmatch(r"a\.done  a  events  \S+Z", told[0])
    assert re.fullmatch(r"   └─ c\.done  c  events  \S+Z", told[2])
    assert json.loads((await ask("b", "--json")).out)["trees"][0]["event_id"] == "b"
    assert (await ask("c", "--back", "--mermaid")).out.startswith("flowchart TD\n")
    assert len((await ask("c-1", "--correlation", "--max-events", "2")).out.splitlines()) == 3
    assert (await ask("none", code=1)).err == "esb: There is no event 'none' in the history.\n"


def test_the_command_without_a_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with commands(tmp_path, monkeypatch) as esb:
        Path("rows.ndjson").write_text('{"n": 1}\n')
        esb("stream", "create", "s")
        esb("publish", "s", "rows.ndjson", "--type", "row\x1b[31m.read")
        event_id = json.loads(esb("sql", "select event_id from events", "--json").out)["event_id"]
        (line,) = esb("trace", event_id).out.splitlines()
        assert line.startswith(f"row\\x1b[31m.read  {event_id}  s  ")
        assert esb("trace", "none", code=1).err == "esb: There is no event 'none' in the history.\n"
        assert "choose one of" in esb("trace", event_id, "--json", "--mermaid", code=2).err
