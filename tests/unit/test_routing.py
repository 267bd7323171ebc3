"""Routing rules: what they do with events that are published, what is refused, and what history tells."""

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

import msgspec
import pytest
import xxhash
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from event_streaming_bus import ids
from event_streaming_bus.bus import Bus
from event_streaming_bus.errors import BusError, ConfigError, ExpressionError, StreamNotFoundError, ValidationFailedError
from event_streaming_bus.flows.letter_retries import Result
from event_streaming_bus.models import Event, EventConfig, EventPriority, InvalidEventPolicy, Receipt, StreamConfig
from event_streaming_bus.publishing import EventPublishingService
from event_streaming_bus.routing.model import RouteNotFoundError
from event_streaming_bus.routing.service import RouteChange, RoutingService, Verdict
from event_streaming_bus.routing.trial import try_routes
from event_streaming_bus.store.history import History
from event_streaming_bus.store.log.embedded import EmbeddedLog
from event_streaming_bus.store.storage import Storage
from event_streaming_bus.testing import read_all, temporary_bus

CONFIG = EventConfig(event_type="order.created", key="k")
DEAD = "_dead_letters"
NUMBERS = {"type": "object", "properties": {"n": {"type": "integer", "maximum": 5}}}


@pytest.fixture
def bus() -> Iterator[Bus]:
    """A bus with the streams ``orders``, ``a``, ``b`` and ``c``."""
    with temporary_bus() as opened:
        for name in ("orders", "a", "b", "c"):
            opened.create_stream(name)
        yield opened


def set_rules(bus: Bus, *configs: Mapping[str, Any], tenant_id: str = "default") -> list[RouteChange]:
    """Sets rules, which are of the stream ``orders`` and named by their place if they do not say otherwise."""
    service = RoutingService(bus.storage)
    whole = [{"name": f"r{i}", "stream": "orders", **config} for i, config in enumerate(configs)]
    return service.apply(service.read(whole, [f"routes[{i}]" for i in range(len(whole))], tenant_id), tenant_id)


def publish(bus: Bus, *payloads: Any, config: Any = CONFIG, stream: str = "orders") -> list[Receipt]:
    return bus.publishing.submit(config, payloads, stream_id=stream).result()


def found(bus: Bus, *streams: str) -> list[list[Any]]:
    """The payloads on streams, in the order in which they were published."""
    return [sorted((event.payload for event in read_all(bus, name)), key=str) for name in streams]


def steps(bus: Bus, event_id: str) -> list[dict[str, Any]]:
    history = History(bus.storage)
    try:
        history.catch_up()
        told: list[dict[str, Any]] = history.processing_history("default", event_id)["processing_history"]
        return told
    finally:
        history.close()


# --- what rules do ----------------------------------------------------------------------------------------------------


def test_matching_events_are_copied_and_copies_name_their_origin(bus: Bus) -> None:
    set_rules(bus, {"match": "payload.n > 1", "to": ["a", "b"]})
    one, two = publish(bus, {"n": 1}, {"n": 2})
    assert found(bus, "orders", "a", "b") == [[{"n": 1}, {"n": 2}], [{"n": 2}], [{"n": 2}]]
    (copy,), (other,) = read_all(bus, "a"), read_all(bus, "b")
    assert (copy.causation_id, copy.key, copy.event_type) == (two.event_id, "k", "order.created")
    assert len({copy.event_id, other.event_id, one.event_id, two.event_id}) == 4
    assert copy.event_id[:14] == two.event_id[:14]  # the same time, so that ids stay in the order of time


def test_rules_run_in_their_order_and_see_what_was_changed_before(bus: Bus) -> None:
    set_rules(
        bus,
        {"order": 30, "match": "metadata.level == 'gold'", "to": ["a"]},
        {"order": 20, "match": "payload.n > 1", "set_metadata": {"level": "'gold'"}, "priority": "HIGH"},
        {"order": 10, "match": "payload.n == 3", "then": "stop"},
    )
    publish(bus, {"n": 1}, {"n": 2}, {"n": 3})
    assert found(bus, "a") == [[{"n": 2}]]
    by_n = {event.payload["n"]: event for event in read_all(bus, "orders")}
    assert [by_n[n].priority for n in (1, 2, 3)] == [EventPriority.NORMAL, EventPriority.HIGH, EventPriority.NORMAL]
    assert (by_n[2].metadata, by_n[3].metadata) == ({"level": "gold"}, None)


def test_a_moved_event_keeps_its_id_where_it_goes_first(bus: Bus) -> None:
    set_rules(bus, {"to": ["a", "b"], "move": True, "match": "payload.n == 1"})
    moved, stayed = publish(bus, {"n": 1}, {"n": 2})
    assert found(bus, "orders", "a", "b") == [[{"n": 2}], [{"n": 1}], [{"n": 1}]]
    assert read_all(bus, "a")[0].event_id == moved.event_id
    assert read_all(bus, "b")[0].causation_id == moved.event_id
    a, orders = (bus.log.find_stream("default", name).stream_id for name in ("a", "orders"))
    assert [moved.position.split.stream_id, stayed.position.split.stream_id] == [a, orders]
    assert bus.log.locate("default", moved.event_id) == moved


def test_metadata_is_removed_then_set_by_expressions_and_literals(bus: Bus) -> None:
    changes = {"total": "payload.a + payload.b", "list": [1, "x"], "on": True, "who": "'x'", "lane": "priority", "a": "payload.a"}
    set_rules(bus, {"remove_metadata": ["old", "a"], "set_metadata": changes})
    config = EventConfig(event_type="t", metadata={"old": 1, "kept": 2, "total": 0})
    publish(bus, {"a": 1, "b": 2}, {"a": 2**70}, config=config)
    first, second = read_all(bus, "orders")
    same = {"kept": 2, "list": [1, "x"], "on": True, "who": "x", "lane": "NORMAL"}
    assert first.metadata == same | {"total": 3, "a": 1}
    assert second.metadata == same | {"total": 0}  # null cannot be added, and no metadata holds 2**70


def test_a_sample_is_the_same_each_time(bus: Bus) -> None:
    set_rules(bus, {"to": ["a"], "sample": 0.3}, {"to": ["b"], "sample": 0.3}, {"to": ["c"], "sample": 0})
    configs = [EventConfig(event_type="t", event_id=f"e{i}") for i in range(1000)]
    publish(bus, *range(1000), config=configs)
    (a, b, c), taken = found(bus, "a", "b", "c"), [i for i in range(1000) if in_sample("r0", f"e{i}", 0.3)]
    assert sorted(a) == taken
    assert 250 < len(a) < 350
    assert a != b  # each rule takes a sample of its own
    assert c == []


def in_sample(rule: str, event_id: str, sample: float) -> bool:
    return xxhash.xxh3_64_intdigest(f"{rule}\x1f{event_id}".encode()) / 2**64 < sample


def test_a_rule_puts_events_aside_as_dead_letters(bus: Bus) -> None:
    set_rules(bus, {"match": "payload.n < 0", "dead_letter": "negative"}, {"to": ["a"]})
    _, bad = publish(bus, {"n": 1}, {"n": -1})
    assert found(bus, "orders", "a") == [[{"n": 1}], [{"n": 1}]]
    (letter,) = read_all(bus, DEAD)
    assert (letter.event_id, letter.payload) == (bad.event_id, {"n": -1})
    assert letter.metadata is not None
    why = letter.metadata["dead_letter"]
    assert (why["step"], why["error_message"], why["rule"], why["rule_version"]) == ("routing", "negative", "r0", 1)
    assert bad.position.split.stream_id == bus.storage.dead_letters("default").stream_id
    (report,) = bus.dead_letters.retry([bad.event_id])
    assert report.result is Result.RETRIED


def test_a_routed_event_is_routed_on_by_the_rules_of_its_target(bus: Bus) -> None:
    set_rules(
        bus, {"to": ["a"]}, {"stream": "a", "to": ["b"], "match": "payload.n == 2"}, {"stream": "b", "to": ["c"], "move": True}
    )
    publish(bus, {"n": 1}, {"n": 2})
    assert found(bus, "orders", "a", "b", "c") == [[{"n": 1}, {"n": 2}], [{"n": 1}, {"n": 2}], [], [{"n": 2}]]


def test_an_event_comes_to_a_stream_once(bus: Bus) -> None:
    set_rules(
        bus,
        {"to": ["a", "b"]},
        {"to": ["c"], "match": "payload.n == 1", "set_metadata": {"by": "'orders'"}},
        {"stream": "a", "to": ["c"], "set_metadata": {"by": "'a'"}},
        {"stream": "b", "to": ["c"], "set_metadata": {"by": "'b'"}},
    )
    publish(bus, {"n": 1}, {"n": 2})
    assert {event.payload["n"]: event.metadata for event in read_all(bus, "c")} == {1: {"by": "orders"}, 2: {"by": "a"}}
    assert len(read_all(bus, "c")) == 2


def test_an_event_stays_where_it_cannot_be_moved_from_to_a_stream_it_has_not_been_at(bus: Bus) -> None:
    set_rules(bus, {"to": ["a"]}, {"to": ["b"], "move": True}, {"stream": "b", "to": ["a"], "move": True})
    (receipt,) = publish(bus, {"n": 1})
    assert found(bus, "orders", "a", "b") == [[], [{"n": 1}], [{"n": 1}]]
    assert read_all(bus, "b")[0].event_id == receipt.event_id


def test_a_rule_for_every_stream_leaves_out_those_it_sends_to(bus: Bus) -> None:
    set_rules(bus, {"stream": "*", "to": ["a"]}, {"stream": "*", "to": ["b"]})
    publish(bus, 1)
    publish(bus, 2, stream="a")
    publish(bus, 3, stream="c")
    assert found(bus, "orders", "a", "b", "c") == [[1], [1, 2, 3], [1, 2, 3], [3]]


def test_inactive_rules_and_those_of_other_tenants_do_nothing(bus: Bus) -> None:
    bus.create_stream("orders", tenant_id="other")
    set_rules(bus, {"to": ["a"], "is_active": False}, {"to": ["orders"], "stream": "a"})
    set_rules(bus, {"priority": "LOW"}, tenant_id="other")
    publish(bus, 1)
    assert found(bus, "a") == [[]]
    assert read_all(bus, "orders")[0].priority is EventPriority.NORMAL


def test_events_of_one_key_stay_in_order_on_whatever_way_they_come(bus: Bus) -> None:
    set_rules(
        bus, {"match": "payload % 2 == 0", "to": ["a"]}, {"match": "payload % 2", "to": ["b"]}, {"stream": "a", "to": ["b"]}
    )
    publish(bus, *range(10))
    assert [event.payload for event in read_all(bus, "b")] == list(range(10))


# --- schemas ----------------------------------------------------------------------------------------------------------


def test_what_a_targets_schema_refuses_goes_to_the_dead_letters_and_the_rest_goes_on(bus: Bus) -> None:
    schema = bus.schemas.register({"schema_name": "s", "json_schema": NUMBERS})
    bus.log.create_stream(StreamConfig(name="small", schema_id=schema.schema_id))  # on_invalid: REFUSE
    set_rules(bus, {"to": ["small", "a"]}, {"stream": "small", "to": ["b"]})
    publish(bus, {"n": 1}, {"n": 9})
    assert found(bus, "small", "a", "b") == [[{"n": 1}], [{"n": 1}, {"n": 9}], [{"n": 1}]]
    (letter,) = read_all(bus, DEAD)
    assert letter.metadata is not None
    why = letter.metadata["dead_letter"]
    assert (why["step"], why["stream"], why["error_type"], why["rule"]) == ("validation", "small", "ValidationFailedError", "r0")
    assert why["error_message"].startswith("n: ")
    (report,) = bus.dead_letters.retry([letter.event_id])
    assert report.result is Result.FAILED  # the target's schema still refuses it
    assert read_all(bus, "small")[0].schema_id == schema.schema_id


def test_a_moved_event_that_its_target_refuses_is_a_letter_under_its_own_id(bus: Bus) -> None:
    schema = bus.schemas.register({"schema_name": "s", "json_schema": NUMBERS})
    bus.log.create_stream(StreamConfig(name="small", schema_id=schema.schema_id))
    set_rules(bus, {"to": ["small"], "move": True})
    (receipt,) = publish(bus, {"n": 9})
    assert [event.event_id for event in read_all(bus, DEAD)] == [receipt.event_id]
    assert found(bus, "orders", "small") == [[], []]


def test_events_are_written_in_the_format_of_the_target(bus: Bus) -> None:
    fields = [{"name": "n", "type": "int"}]
    schema = bus.schemas.register({"schema_name": "s", "avro_schema": {"type": "record", "name": "R", "fields": fields}})
    bus.log.create_stream(StreamConfig(name="avro", schema_id=schema.schema_id))
    set_rules(bus, {"to": ["avro"]}, {"stream": "avro", "to": ["a"], "match": "payload.n == 2"})
    publish(bus, {"n": 1}, {"n": 2}, {"n": "x"})
    assert found(bus, "avro", "a", DEAD) == [[{"n": 1}, {"n": 2}], [{"n": 2}], [{"n": "x"}]]
    assert [event.serialization_format for event in (*read_all(bus, "avro"), *read_all(bus, "a"))] == ["AVRO", "AVRO", "JSON"]


def test_events_that_their_own_stream_refuses_are_not_routed(bus: Bus) -> None:
    schema = bus.schemas.register({"schema_name": "s", "json_schema": NUMBERS})
    lenient = InvalidEventPolicy.DEAD_LETTER
    bus.log.create_stream(StreamConfig(name="lenient", schema_id=schema.schema_id, on_invalid=lenient))
    bus.log.create_stream(StreamConfig(name="strict", schema_id=schema.schema_id))
    set_rules(
        bus,
        {"stream": "lenient", "to": ["a"]},
        {"stream": "strict", "to": ["a"]},
        {"stream": "lenient", "to": ["b"], "move": True},
    )
    receipts = publish(bus, {"n": 9}, {"n": 1}, {"n": 8}, stream="lenient")
    assert found(bus, "a", "b", DEAD) == [[{"n": 1}], [{"n": 1}], [{"n": 8}, {"n": 9}]]
    by_id = {event.event_id: event.payload for name in ("b", DEAD) for event in read_all(bus, name)}
    assert [by_id[receipt.event_id]["n"] for receipt in receipts] == [9, 1, 8]
    with pytest.raises(ValidationFailedError):
        publish(bus, {"n": 1}, {"n": 9}, stream="strict")
    assert found(bus, "a") == [[{"n": 1}]]


def test_events_for_a_stream_that_was_dropped_are_dead_letters(bus: Bus) -> None:
    set_rules(bus, {"to": ["a", "b"]})
    bus.log.drop_stream(bus.log.find_stream("default", "a").stream_id)
    publish(bus, 1)
    assert found(bus, "orders", "b", DEAD) == [[1], [1], [1]]
    (letter,) = read_all(bus, DEAD)
    assert letter.metadata is not None
    assert "could not be sent to a: There is no stream 'a'" in letter.metadata["dead_letter"]["error_message"]
    bus.create_stream("a")
    publish(bus, 2)
    assert found(bus, "a") == [[2]]


# --- publishing again -------------------------------------------------------------------------------------------------


def test_publishing_an_id_again_appends_nothing_anywhere(bus: Bus) -> None:
    set_rules(
        bus,
        {"to": ["a"], "match": "payload == 0"},
        {"to": ["b", "c"], "move": True, "match": "payload == 1"},
        {"dead_letter": "no", "match": "payload == 2"},
    )
    configs = [EventConfig(event_type="t", event_id=f"e{i}") for i in range(3)]
    first = publish(bus, 0, 1, 2, config=configs)
    before = found(bus, "orders", "a", "b", "c", DEAD)
    assert before == [[0], [0], [1], [1], [2]]
    again = publish(bus, 0, 1, 2, config=configs)
    assert found(bus, "orders", "a", "b", "c", DEAD) == before
    assert again == [msgspec.structs.replace(receipt, duplicate=True) for receipt in first]


def test_an_id_that_is_given_twice_in_a_call_is_routed_once(bus: Bus) -> None:
    set_rules(bus, {"to": ["a"], "move": True, "match": "payload == 1"})
    config = EventConfig(event_type="t", event_id="e")
    first, second = publish(bus, 1, 2, config=[config, config])
    assert found(bus, "orders", "a") == [[], [1]]
    assert second == msgspec.structs.replace(first, duplicate=True)


# --- history ----------------------------------------------------------------------------------------------------------


def test_history_says_which_rule_and_version_moved_an_event(bus: Bus) -> None:
    set_rules(bus, {"to": ["b"]}, {"match": "payload == 1", "priority": "HIGH"})
    set_rules(
        bus, {"to": ["b"]}, {"match": "payload == 1", "priority": "HIGH", "order": 1}, {"stream": "b", "to": ["a"], "move": True}
    )
    one, two = publish(bus, 1, 2)
    told = [(step["processor_id"], step["processor_name"], step["status"]) for step in steps(bus, one.event_id)]
    changed = ("route_r1", "r1@2: orders (priority)", "COMPLETED")
    assert told == [("proc_publisher", "publisher", "COMPLETED"), changed, ("route_r0", "r0@1: orders -> b", "COMPLETED")]
    assert [step["processing_stage"] for step in steps(bus, two.event_id)] == ["PUBLISH", "ROUTING"]
    copies = {event.payload: steps(bus, event.event_id) for event in read_all(bus, "a")}
    names = {n: [step["processor_name"] for step in of_copy] for n, of_copy in copies.items()}
    way = ["r0@1: orders -> b", "r2@1: b -> a"]
    assert names == {1: ["publisher", "r1@2: orders (priority)", *way], 2: ["publisher", *way]}


def test_history_has_failures_and_every_event_once(bus: Bus) -> None:
    schema = bus.schemas.register({"schema_name": "s", "json_schema": NUMBERS})
    bus.log.create_stream(StreamConfig(name="small", schema_id=schema.schema_id))
    set_rules(bus, {"to": ["small"], "match": "payload.n > 0"}, {"match": "payload.n < 0", "dead_letter": "negative"})
    receipts = publish(bus, {"n": 1}, {"n": 9}, {"n": -1}, {"n": -2}, {"n": 0})
    history = History(bus.storage)
    history.catch_up()
    rows = history.query("select stream, count(*) from events group by stream order by stream").rows()
    assert list(rows) == [(DEAD, 3), ("orders", 3), ("small", 1)]
    by_step = "select processing_stage, status, count(*) from processing_history group by all order by all"
    counts = list(history.query(by_step).rows())
    assert counts == [
        *[("PUBLISH", "COMPLETED", 6), ("ROUTING", "COMPLETED", 4), ("ROUTING", "FAILED", 2)],
        *[("VALIDATION", "COMPLETED", 1), ("VALIDATION", "FAILED", 1)],
    ]
    letters = "select stream, step, error_message from dead_letters where stream = 'orders'"
    assert set(history.query(letters).rows()) == {("orders", "routing", "negative")}
    history.close()
    publishing, failed = steps(bus, receipts[2].event_id)
    assert publishing["processing_stage"] == "PUBLISH"
    assert (failed["error_type"], failed["error_message"]) == ("RoutedToDeadLetters", "negative")


def test_what_history_is_told_is_one_record_for_a_rule_and_a_run(bus: Bus) -> None:
    set_rules(bus, {"match": "payload % 3 == 0", "to": ["a"]})
    publish(bus, *range(100))
    records = [msgspec.msgpack.decode(event.data) for event in read_all(bus, "_history", "_system")]
    routed = [record for record in records if record.get("stage") == "ROUTING"]
    assert [(record["run"][3:], len(record["outcomes"])) for record in routed] == [([0, 100], 100), ([0, 34], 1)]
    told = {"rule": "r0", "rule_version": 1, "from_stream": "orders", "to_streams": ["a"], "moved": False, "changed": []}
    assert [msgspec.json.decode(record["output"]) for record in routed] == [told, told]


# --- changing rules ---------------------------------------------------------------------------------------------------


def test_a_change_makes_a_version_and_setting_a_rule_again_none(bus: Bus) -> None:
    service = RoutingService(bus.storage)
    assert [change.verdict for change in set_rules(bus, {"to": ["a"]})] == [Verdict.NEW]
    assert set_rules(bus, {"to": "a"}) == [RouteChange("r0", Verdict.UNCHANGED, 1)]
    (change,) = set_rules(bus, {"to": ["a"], "sample": 0.5})
    assert (change.verdict, change.version) == (Verdict.CHANGED, 2)
    assert [(each.pointer, each.before, each.after) for each in change.changes] == [("/sample", 1.0, 0.5)]
    assert service.remove("r0").version == 2
    publish(bus, 1)
    assert found(bus, "a") == [[]]
    with pytest.raises(RouteNotFoundError):
        service.find("r0")
    set_rules(bus, {"to": ["b"]})
    assert service.find("r0").version == 3  # what history names stays what it was
    assert [service.find("r0", version=version).route.to for version in (1, 2, 3)] == [("a",), ("a",), ("b",)]


def test_values_that_are_equal_but_not_the_same_make_a_version(bus: Bus) -> None:
    set_rules(bus, {"set_metadata": {"x": 1}})
    assert [change.version for change in set_rules(bus, {"set_metadata": {"x": True}})] == [2]


def test_changes_by_another_process_are_seen_within_a_second(bus: Bus, monkeypatch: pytest.MonkeyPatch) -> None:
    now_s = 1000.0
    monkeypatch.setattr("event_streaming_bus.routing.cache.time.monotonic", lambda: now_s)
    other = Storage(
        bus.folder, EmbeddedLog(bus.folder), shared=bus.storage.shared
    )  # with a store and a cache of its own, as another process has
    elsewhere = EventPublishingService(other)
    elsewhere.submit(CONFIG, [1], stream_id="orders").result()
    set_rules(bus, {"to": ["a"]})
    elsewhere.submit(CONFIG, [2], stream_id="orders").result()
    now_s += 1.0
    elsewhere.submit(CONFIG, [3], stream_id="orders").result()
    RoutingService(bus.storage).remove("r0")
    now_s += 1.0
    elsewhere.submit(CONFIG, [4], stream_id="orders").result()
    assert found(bus, "orders", "a") == [[1, 2, 3, 4], [3]]
    other.close()


def test_rules_are_listed_in_the_order_in_which_they_run(bus: Bus) -> None:
    set_rules(
        bus, {"to": ["a"], "order": 5}, {"stream": "*", "to": ["b"]}, {"to": ["b"], "order": 3}, {"stream": "a", "to": ["c"]}
    )
    service = RoutingService(bus.storage)
    assert [rule.route.name for rule in service.rules()] == ["r1", "r3", "r2", "r0"]
    assert [rule.route.name for rule in service.rules(stream="orders")] == ["r2", "r0"]
    assert [rule.route.name for rule in service.rules(stream=bus.log.find_stream("default", "a").stream_id)] == ["r3"]
    with pytest.raises(StreamNotFoundError):
        service.rules(stream="none")


def test_streams_may_be_given_by_their_ids(bus: Bus) -> None:
    orders, a = (bus.log.find_stream("default", name).stream_id for name in ("orders", "a"))
    set_rules(bus, {"stream": orders, "to": [a]})
    assert RoutingService(bus.storage).find("r0").route.to == ("a",)
    with pytest.raises(ConfigError, match=r"routes\[0\]\.to\[0\]: 'orders' is the stream that the events come from"):
        set_rules(bus, {"stream": "orders", "to": [orders]})


# --- what is refused --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"to": ["orders"]}, r"routes\[0\]\.to\[0\]: 'orders' is the stream that the events come from"),
        ({"to": ["a", "a"]}, r"routes\[0\]\.to\[1\]: 'a' stands here twice"),
        ({"to": ["_dead_letters"]}, r"routes\[0\]\.to\[0\]: '_dead_letters' is one of the bus's own"),
        ({"to": ["nope"]}, r"routes\[0\]\.to\[0\]: There is no stream 'nope'"),
        ({"stream": "order", "to": ["a"]}, r"routes\[0\]\.stream: There is no stream 'order'\. Did you mean 'orders'"),
        ({"to": 5}, r"routes\[0\]\.to: Expected `array`, got `int`"),
        ({"name": "a b", "to": ["a"]}, r"routes\[0\]\.name: 'a b' is no name"),
        ({"priority": "URGENT"}, r"routes\[0\]\.priority: 'URGENT' is none of CRITICAL, HIGH, NORMAL, LOW"),
        ({"to": ["a"], "then": "halt"}, r"routes\[0\]\.then: 'halt' is none of continue, stop"),
        ({"to": ["a"], "sample": 1.5}, r"routes\[0\]\.sample: expected 0 to 1, got 1.5"),
        ({"to": ["a"], "sample": "half"}, r"routes\[0\]\.sample: Expected `float`, got `str`"),
        ({"to": ["a"], "sampel": 1}, r"routes\[0\]\.sampel: unknown key; did you mean 'sample'\?"),
        ({"move": True}, r"routes\[0\]\.move: needs streams"),
        ({}, r"routes\[0\]: the rule does nothing"),
        ({"dead_letter": "x", "to": ["a"]}, r"routes\[0\]\.dead_letter: the event is kept as it is"),
        ({"dead_letter": " "}, r"routes\[0\]\.dead_letter: expected the reason"),
        ({"set_metadata": {"dead_letter": 1}}, r"routes\[0\]\.set_metadata: 'dead_letter' is where"),
        ({"set_metadata": {"big": [2**70]}}, r"routes\[0\]\.set_metadata: cannot be metadata"),
        ({"name": None, "to": ["a"]}, r"routes\[0\]\.name: Expected `str`, got `null`"),
    ],
)
def test_bad_rules_are_refused_with_their_place(bus: Bus, config: dict[str, Any], message: str) -> None:
    with pytest.raises(BusError, match=message):
        set_rules(bus, config)
    assert RoutingService(bus.storage).rules() == []


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"match": "payload.n >> 1", "to": ["a"]}, "routes[0].match: "),
        ({"set_metadata": {"region": "eu"}}, "routes[0].set_metadata.region: there is no name eu"),
    ],
)
def test_what_is_wrong_with_an_expression_has_a_caret(bus: Bus, config: dict[str, Any], message: str) -> None:
    with pytest.raises(ExpressionError) as caught:
        set_rules(bus, config)
    assert caught.value.message.startswith(message)
    assert "\n    ^" in caught.value.message or " ^" in caught.value.message


def test_one_bad_rule_keeps_all_from_being_set(bus: Bus) -> None:
    with pytest.raises(ConfigError, match=r"routes\[1\]\.sample"):
        set_rules(bus, {"to": ["a"]}, {"to": ["b"], "sample": 2})
    with pytest.raises(ConfigError, match=r"routes\[1\]\.name: there are two rules with the name 'x'"):
        set_rules(bus, {"name": "x", "to": ["a"]}, {"name": "x", "to": ["b"]})
    with pytest.raises(ConfigError, match="a cycle"):
        set_rules(bus, {"to": ["a"]}, {"to": ["orders"], "stream": "a"})
    assert RoutingService(bus.storage).rules() == []


@pytest.mark.parametrize(
    ("rules", "cycle"),
    [
        (
            [("orders", "a"), ("a", "b"), ("b", "orders")],
            {"orders -> a -> b -> orders", "a -> b -> orders -> a", "b -> orders -> a -> b"},
        ),
        ([("*", "a"), ("a", "orders")], {"orders -> a -> orders"}),
        ([("*", "a"), ("a", "b"), ("b", "c")], {"b -> a -> b"}),
    ],
)
def test_cycles_are_refused_with_their_path(bus: Bus, rules: list[tuple[str, str]], cycle: set[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        set_rules(bus, *({"stream": stream, "to": [target]} for stream, target in rules))
    assert caught.value.message.removeprefix("routes: ").partition(": a cycle")[0] in cycle
    inactive = [{"stream": stream, "to": [target], "is_active": i == 0} for i, (stream, target) in enumerate(rules)]
    set_rules(bus, *inactive)


def test_streams_that_share_targets_are_no_cycle(bus: Bus) -> None:
    set_rules(
        bus,
        {"to": ["a", "b", "c"]},
        {"stream": "a", "to": ["c"]},
        {"stream": "b", "to": ["a", "c"]},
        {"stream": "*", "to": ["c"]},
    )


def test_chains_of_more_than_eight_hops_are_refused(bus: Bus) -> None:
    chain = [f"s{i}" for i in range(10)]
    for name in chain:
        bus.create_stream(name)
    hops = [{"stream": chain[i], "to": [chain[i + 1]]} for i in range(9)]
    set_rules(bus, *hops[:8])
    publish(bus, 1, stream="s0")
    assert found(bus, "s8") == [[1]]
    with pytest.raises(ConfigError, match=r"s0 -> s1 -> .* -> s9: 9 hops"):
        set_rules(bus, *hops)
    with pytest.raises(ConfigError, match=r"\* -> s0 -> .* -> s8: 9 hops|a cycle"):
        set_rules(bus, *hops[:8], {"stream": "*", "to": ["s0"]})


# --- dry runs ---------------------------------------------------------------------------------------------------------


def test_a_dry_run_tells_what_rules_would_do_and_writes_nothing(bus: Bus) -> None:
    publish(bus, *({"n": n} for n in (1, 2, 3, None, -1)))
    set_rules(bus, {"match": "payload.n > 1", "to": ["a"]}, {"stream": "a", "to": ["b"], "match": "payload.n == 3"})
    before = bus.log.version()
    service = RoutingService(bus.storage)
    more = [{"name": "no", "stream": "orders", "match": "payload.n < 0", "dead_letter": "negative", "order": 1}]
    told = try_routes(bus.storage, "orders", candidates=service.read(more, [""]))
    assert bus.log.version() == before
    assert {name: told[name] for name in ("events", "stayed", "unchanged", "events_to")} == {
        "events": 5,
        "stayed": 4,
        "unchanged": 2,
        "events_to": {"a": 2, "b": 1, DEAD: 1},
    }
    assert told["dead_letters"] == [{"reason": "RoutedToDeadLetters: negative", "count": 1}]
    assert [(rule["name"], rule["matched"], rule["by_stream"]) for rule in told["rules"]] == [
        ("no", 1, {"orders": 1}),
        ("r0", 2, {"orders": 2}),
        ("r1", 1, {"a": 1}),
    ]
    (example,) = told["rules"][1]["examples"]
    assert (told["rules"][1]["not_evaluated"], example["place"], example["message"]) == (1, "match", "payload.n is null")
    assert try_routes(bus.storage, "orders", last=2)["events"] == 2
    with pytest.raises(RouteNotFoundError):
        service.find("no")


# --- beside a simple implementation -----------------------------------------------------------------------------------

STREAMS = ("s0", "s1", "s2", "s3", "s4")
MATCHES = (
    None,
    "payload.n > 3",
    "payload.n % 2 == 0",
    "metadata.k == 2",
    "priority == 'HIGH'",
    "payload.none > 1",
    "'r1' in metadata.by",
)


def rule_strategy(i: int) -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries(
        {
            "name": st.just(f"r{i}"),
            "stream": st.sampled_from(["*", "s0", "s0", "s1", "s2", "s3"]),
            "order": st.integers(0, 3),
            "match": st.sampled_from(MATCHES),
            "then": st.sampled_from(["continue", "continue", "stop"]),
        },
        optional={
            "to": st.lists(st.sampled_from(STREAMS[1:]), max_size=3, unique=True),
            "move": st.booleans(),
            "priority": st.sampled_from(["HIGH", "LOW"]),
            "set_metadata": st.sampled_from([{"k": "payload.n"}, {"by": f"'r{i}'"}, {"x": "payload.none + 1", "y": 1}]),
            "remove_metadata": st.sampled_from([["k"], ["by"]]),
            "sample": st.sampled_from([1.0, 0.5]),
            "dead_letter": st.just("no"),
        },
    )


def usable(rule: dict[str, Any]) -> dict[str, Any]:
    """The rule without what does not go with the rest of it."""
    if "dead_letter" in rule:
        for name in ("to", "move", "priority", "set_metadata", "remove_metadata"):
            rule.pop(name, None)
    elif not rule.get("to"):
        rule.pop("move", None)
        rule.setdefault("priority", "LOW")
    if rule["stream"] in rule.get("to", ()):
        rule["to"] = [target for target in rule["to"] if target > rule["stream"]] or ["s4"]
    return rule


@pytest.fixture(scope="module")
def shared_bus() -> Iterator[Bus]:
    with temporary_bus() as opened:
        yield opened


class Seen:
    """An event as the simple implementation has it."""

    def __init__(self, n: int, event_id: str, priority: str, metadata: dict[str, Any], is_root: bool) -> None:
        self.n, self.event_id, self.priority, self.metadata, self.is_root = n, event_id, priority, metadata, is_root

    def copy(self) -> "Seen":
        return Seen(self.n, self.event_id, self.priority, dict(self.metadata), self.is_root)

    def told(self) -> str:
        return f"{self.n} {self.priority} {sorted(self.metadata.items())} {self.is_root}"


def matches(text: str | None, event: Seen) -> bool:
    metadata = event.metadata
    return {
        None: True,
        "payload.n > 3": event.n > 3,
        "payload.n % 2 == 0": event.n % 2 == 0,
        "metadata.k == 2": metadata.get("k") == 2,
        "priority == 'HIGH'": event.priority == "HIGH",
        "payload.none > 1": False,
        "'r1' in metadata.by": "r1" in metadata.get("by", ""),
    }[text]


def simple(rules: list[dict[str, Any]], stream: str, event: Seen, out: dict[str, list[str]]) -> None:
    """Where an event that is published to ``stream`` ends up, by the sentences of the documentation."""
    visited, level = {stream}, [(stream, event)]
    for hop in range(9):
        following: list[tuple[str, Seen]] = []
        for at, came in sorted(level, key=lambda each: each[0]):
            mine = [
                rule
                for rule in rules
                if rule["stream"] == at or (hop == 0 and rule["stream"] == "*" and at not in rule.get("to", ()))
            ]
            now, copies, moved_to, letter = came.copy(), [], [], False
            for rule in sorted(mine, key=lambda rule: (rule["order"], rule["name"])):
                if "dead_letter" in rule and moved_to:
                    continue
                if not matches(rule["match"], now) or not in_sample(rule["name"], came.event_id, rule.get("sample", 1.0)):
                    continue
                if "dead_letter" in rule:
                    letter = True
                    break
                now = now.copy()
                now.priority = rule.get("priority", now.priority)
                for key in rule.get("remove_metadata", ()):
                    now.metadata.pop(key, None)
                for key in rule.get("set_metadata", {}):
                    if key in ("k", "by", "y"):
                        now.metadata[key] = {"k": now.n, "by": rule["name"], "y": 1}[key]
                copies += [(target, now) for target in rule.get("to", ())]
                moved_to += rule["to"] if rule.get("move") else []
                if rule["then"] == "stop":
                    break
            goes = next((target for target in moved_to if target not in visited), None)
            for target, copied in copies:
                if target not in visited:
                    visited.add(target)
                    sent = copied.copy()
                    if target != goes:
                        sent.event_id, sent.is_root = copy_id(came.event_id, target), False
                    following.append((target, sent))
            if letter or goes is None:
                out[DEAD if letter else at].append(now.told())
        level = following


def copy_id(event_id: str, target: str) -> str:
    """The id of a copy on a stream."""
    derived = ids.derived_id(ids.EVENT, 0, "routed", event_id, target)
    return event_id[:14] + derived[14:] if event_id.startswith(ids.EVENT) else derived


def told(event: Event, roots: set[str]) -> str:
    metadata = {key: value for key, value in (event.metadata or {}).items() if key != "dead_letter"}
    return f"{event.payload['n']} {event.priority.value} {sorted(metadata.items())} {event.event_id in roots}"


@settings(max_examples=60, deadline=None)
@given(
    rules=st.lists(st.integers(0, 5), max_size=6, unique=True).flatmap(lambda of: st.tuples(*map(rule_strategy, of))),
    numbers=st.lists(st.integers(0, 6), min_size=1, max_size=8),
    given_ids=st.booleans(),
    stream=st.sampled_from(STREAMS[:2]),
)
def test_what_is_appended_is_what_a_simple_implementation_says(
    shared_bus: Bus, rules: tuple[dict[str, Any], ...], numbers: list[int], given_ids: bool, stream: str
) -> None:
    bus, tenant_id = shared_bus, ids.new_id("tenant_")
    for name in STREAMS:
        bus.create_stream(name, tenant_id=tenant_id)
    wanted = [usable(dict(rule)) for rule in rules]
    try:
        set_rules(bus, *wanted, tenant_id=tenant_id)
    except ConfigError as error:
        assume("cycle" not in error.message)
        raise
    names = [f"e{i}" for i in range(len(numbers))]
    configs = [EventConfig(event_type="t", event_id=name if given_ids else None) for name in names]
    submitted = bus.publishing.submit(configs, [{"n": n} for n in numbers], stream_id=stream, tenant_id=tenant_id)
    receipts = submitted.result()
    roots = [receipt.event_id for receipt in receipts]

    expected: dict[str, list[str]] = {name: [] for name in (*STREAMS, DEAD)}
    for n, root in zip(numbers, roots, strict=True):
        simple(wanted, stream, Seen(n, root, "NORMAL", {}, True), expected)
    bus.storage.dead_letters(tenant_id)
    found_ = {name: [told(event, set(roots)) for event in read_all(bus, name, tenant_id)] for name in expected}
    assert {name: Counter(each) for name, each in found_.items()} == {name: Counter(each) for name, each in expected.items()}
    for receipt in receipts:
        assert bus.log.locate(tenant_id, receipt.event_id) == receipt
    again = [msgspec.structs.replace(config, event_id=root) for config, root in zip(configs, roots, strict=True)]
    payloads = [{"n": n} for n in numbers]
    repeated = bus.publishing.submit(again, payloads, stream_id=stream, tenant_id=tenant_id).result()
    assert repeated == [msgspec.structs.replace(receipt, duplicate=True) for receipt in receipts]
    assert {name: len(read_all(bus, name, tenant_id)) for name in expected} == {name: len(each) for name, each in found_.items()}


def test_a_routing_step_has_what_the_rule_did_as_its_output(bus: Bus) -> None:
    set_rules(bus, {"name": "big", "match": "payload.n > 10", "to": ["a"], "priority": "HIGH"})
    (receipt,) = publish(bus, {"n": 50})
    (step,) = [step for step in steps(bus, receipt.event_id) if step["processing_stage"] == "ROUTING"]
    assert step["processor_id"] == "route_big"
    assert "big@1" in step["processor_name"]
    assert step["output_data"]["to_streams"] == ["a"]
    assert step["output_data"]["changed"] == ["priority"]
