"""The types of processors, read from plain data: what is accepted, what is told, and the way back."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from event_streaming_bus.errors import FlowError
from event_streaming_bus.flows.processors.aggregate import AggregateLogic
from event_streaming_bus.flows.processors.custom import CustomForm, CustomLogic
from event_streaming_bus.flows.processors.deduplicate import DeduplicateLogic
from event_streaming_bus.flows.processors.join import JoinLogic, JoinType, Lookup, Within
from event_streaming_bus.flows.processors.map import MapLogic
from event_streaming_bus.flows.processors.window import WindowLogic, WindowOutput
from event_streaming_bus.flows.retry_policy import RetryPolicy
from event_streaming_bus.flows.spec import parse_flow, parse_processor, to_data
from event_streaming_bus.flows.window_config import Timing, TumblingWindow

HOUR = {"window_type": "tumbling", "window_size_ms": 3_600_000}
UPDATED = HOUR | {"emit": {"every_events": 10}}
ON = {"join_stream_id": "payments", "on": ["order_id"]}


def processor(kind: str, logic: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {
        "processor_name": "p",
        "processor_type": kind,
        "source_stream_id": "in",
        "target_stream_id": "out",
        "processing_logic": logic,
    } | more


def counting(window: dict[str, Any], **logic: Any) -> dict[str, Any]:
    return processor("AGGREGATE", {"aggregation_function": "count"} | logic, window_config=window)


def told(data: dict[str, Any]) -> list[str]:
    """The problems of a processor, each as ``path: message``."""
    with pytest.raises(FlowError) as caught:
        parse_processor(data, path="p")
    return str(caught.value).splitlines()


@pytest.mark.parametrize(
    ("logic", "expected"),
    [
        ({"within_ms": 5}, {"within": Within(before_ms=5, after_ms=5)}),
        (
            {"within": {"after_ms": 9}, "join_type": "outer"},
            {"within": Within(before_ms=0, after_ms=9), "join_type": JoinType.OUTER},
        ),
        ({"lookup": True, "join_type": "left"}, {"lookup": Lookup(), "join_type": JoinType.LEFT}),
        ({"lookup": {"ttl_ms": 7}}, {"lookup": Lookup(ttl_ms=7)}),
    ],
)
def test_a_join_is_read(logic: dict[str, Any], expected: dict[str, Any]) -> None:
    read = parse_processor(processor("JOIN", ON | logic)).processing_logic
    assert isinstance(read, JoinLogic)
    assert {name: getattr(read, name) for name in expected} == expected
    assert (read.join_stream_id, read.on) == ("payments", ((("order_id",), ("order_id",)),))


def test_a_join_may_pair_fields_of_different_names_and_have_a_window() -> None:
    window = {"window_type": "tumbling", "window_size_ms": 10}
    spec = parse_processor(processor("JOIN", ON | {"on": {"id": "order.id"}}, window_config=window))
    assert isinstance(spec.processing_logic, JoinLogic)
    assert spec.processing_logic.on == ((("id",), ("order", "id")),)
    assert spec.window == TumblingWindow(window_size_ms=10)


def test_the_expressions_of_a_join_are_over_its_sides() -> None:
    spec = parse_processor(processor("JOIN", ON | {"within_ms": 1, "fields": {"x": "left.a + right.b"}}))
    assert isinstance(spec.processing_logic, JoinLogic)
    (_, expression), *_ = spec.processing_logic.fields
    assert expression.compile()({"left": {"a": 1}, "right": {"b": 2}}) == 3
    assert expression.names == {"left", "right"}
    problem = told(processor("JOIN", ON | {"within_ms": 1, "fields": {"x": "payload.a"}}))[0]
    assert problem.startswith("p.processing_logic.fields.x: ")


@pytest.mark.parametrize(
    ("logic", "window", "problem"),
    [
        ({}, None, "p.processing_logic: a JOIN needs within_ms, within or lookup in its processing_logic, or a window_config"),
        ({"within_ms": 1, "lookup": True}, None, "p.processing_logic: expected either within or lookup, got both"),
        (
            {"within_ms": 1, "within": {"after_ms": 1}},
            None,
            "p.processing_logic: expected either within_ms or within, got both",
        ),
        ({"within": {}}, None, "p.processing_logic.within: expected at least one of before_ms, after_ms"),
        ({"lookup": False}, None, "p.processing_logic.lookup: expected true, or a mapping with ttl_ms, got false"),
        ({"lookup": {"ttl": 1}}, None, "p.processing_logic.lookup.ttl: unknown key; did you mean 'ttl_ms'? (accepted: ttl_ms)"),
        (
            {"within_ms": 1, "join_type": "LEFT"},
            None,
            "p.processing_logic.join_type: expected one of inner, left, outer, got 'LEFT'; did you mean 'left'?",
        ),
        ({"within_ms": 1, "on": {}}, None, "p.processing_logic.on: expected a mapping of 1 to 20 entries, got 0"),
        (
            {"within_ms": 1, "on": "a"},
            None,
            "p.processing_logic.on: expected a list, or a mapping of left path to right path, got 'a'",
        ),
        (
            {"within_ms": 1, "fields": {"a": "left.a", "a.b": "right.b"}},
            None,
            "p.processing_logic.fields: fields 'a' and fields 'a.b' write the same place",
        ),
        (
            {"within_ms": 1, "join_stream_id": "a b"},
            None,
            "p.processing_logic.join_stream_id: expected a stream's name or id, or a processor's name, got 'a b'",
        ),
        (
            {"lookup": True, "join_type": "outer"},
            None,
            "p.processing_logic.join_type: a lookup is inner or left: rows of a table are no events without a partner",
        ),
        (
            {"within_ms": 1},
            {"window_type": "tumbling", "window_size_ms": 1},
            "p.window_config: a JOIN has either a window or within_ms; leave one of them out",
        ),
        (
            {"grace_period_ms": 1},
            {"window_type": "tumbling", "window_size_ms": 1},
            "p.processing_logic.grace_period_ms: stands in the window_config of a JOIN with a window",
        ),
        (
            {},
            {"window_type": "session", "gap_ms": 1},
            "p.window_config.window_type: a JOIN has a tumbling or calendar window; for others use within_ms",
        ),
        (
            {},
            {"window_type": "tumbling", "window_size_ms": 9, "emit": {"every_ms": 3}},
            "p.window_config.emit: a JOIN gives out its results when the window closes; leave it out",
        ),
    ],
)
def test_a_join_that_cannot_be_is_told(logic: dict[str, Any], window: dict[str, Any] | None, problem: str) -> None:
    assert told(processor("JOIN", ON | logic, window_config=window)) == [problem]


def test_a_custom_is_read_with_what_its_form_needs() -> None:
    logic = {"function": "my.flows:price", "form": "keyed", "key": ["k"], "params": {"rate": 2}, "state_ttl_ms": 9}
    read = parse_processor(processor("CUSTOM", logic)).processing_logic
    assert isinstance(read, CustomLogic)
    assert (read.form, read.key, read.params, read.state_ttl_ms) == (CustomForm.KEYED, (("k",),), {"rate": 2}, 9)


@pytest.mark.parametrize(
    ("logic", "problem"),
    [
        (
            {"function": "price"},
            "function: expected a function as module:function, such as 'my_flows.prices:convert', got 'price'",
        ),
        ({"function": "m:f", "form": "keyed"}, "key: required, but missing: the form keyed needs the fields that name the state"),
        ({"function": "m:f", "key": ["k"]}, "key: only the form keyed has state; leave key out"),
        ({"function": "m:f", "grace_period_ms": 5}, "grace_period_ms: only the form keyed has state; leave grace_period_ms out"),
        ({"function": "m:f", "params": {"a b": 1}}, "params: expected names of arguments as keys, got 'a b'"),
        ({"function": "m:f", "params": {"a": [float("nan")]}}, "params.a[0]: expected a finite number, got nan"),
        ({"function": "m:f", "params": {"a": {1, 2}}}, "params.a: expected a JSON value, got a value of type set"),
        ({"function": "m:f", "params": {"a": {1: 2}}}, "params.a: expected keys that are text, got the key 1"),
        ({"function": "m:f", "form": "keyd"}, "form: expected one of event, batch, keyed, got 'keyd'; did you mean 'keyed'?"),
        ({"function": "m:f", "state_ttl_ms": 5}, "state_ttl_ms: only the form keyed has state; leave state_ttl_ms out"),
    ],
)
def test_a_custom_that_cannot_be_is_told(logic: dict[str, Any], problem: str) -> None:
    assert told(processor("CUSTOM", logic)) == [f"p.processing_logic.{problem}"]


def test_a_join_of_which_a_key_is_misspelt_is_told_of_that_alone() -> None:
    (problem,) = told(processor("JOIN", ON | {"witin_ms": 5}))
    assert problem.startswith("p.processing_logic.witin_ms: unknown key; did you mean 'within_ms'?")


def test_a_join_does_not_write_what_it_reads() -> None:
    data = processor("JOIN", ON | {"within_ms": 5}, target_stream_id="payments")
    assert told(data) == ["p.target_stream_id: is the source too, and each event would run in a circle"]


def test_a_window_processor_is_read() -> None:
    data = processor("WINDOW", {"output": "events", "group_by": ["a.b"], "max_events": 5}, window_config=HOUR)
    assert parse_processor(data).processing_logic == WindowLogic(output=WindowOutput.EVENTS, group_by=(("a", "b"),), max_events=5)


@pytest.mark.parametrize(
    ("logic", "problem"),
    [
        ({"output": "event"}, "output: expected one of contents, events, marks, got 'event'; did you mean 'events'?"),
        ({"max_events": 100_001}, "max_events: expected an integer from 1 to 100000, got 100001"),
        ({"output": "marks", "max_events": 5}, "max_events: the output marks has no events; leave it out"),
        (
            {"group_by": ["window_start"]},
            "group_by[0]: 'window_start' is written by the window's start and by group_by[0]; rename the field with a MAP first",
        ),
        (
            {"group_by": ["a", "count"], "output": "marks"},
            "group_by[1]: 'count' is written by the number of events and by group_by[1]; rename the field with a MAP first",
        ),
        (
            {"group_by": ["events"]},
            "group_by[0]: 'events' is written by the window's events and by group_by[0]; rename the field with a MAP first",
        ),
        (
            {"group_by": ["a.b", "a_b"]},
            "group_by[1]: 'a_b' is written by group_by[0] and by group_by[1]; rename the field with a MAP first",
        ),
        ({"group": ["a"]}, "group: unknown key; did you mean 'group_by'? (accepted: output, group_by, max_events)"),
    ],
)
def test_a_window_processor_that_cannot_be_is_told(logic: dict[str, Any], problem: str) -> None:
    assert told(processor("WINDOW", logic, window_config=HOUR)) == [f"p.processing_logic.{problem}"]


def test_names_that_an_output_does_not_have_are_free() -> None:
    marks = processor("WINDOW", {"output": "marks", "group_by": ["events", "revision"]}, window_config=HOUR)
    events = processor("WINDOW", {"output": "events", "group_by": ["count", "window_end"]}, window_config=HOUR)
    assert all(parse_processor(data).window is not None for data in (marks, events))


def test_windows_with_updates_write_names_that_are_taken() -> None:
    aggregations = [{"function": "count", "as": "is_final"}, {"function": "count", "as": "retraction"}]
    data = processor("AGGREGATE", {"aggregations": aggregations, "group_by": ["revision"]}, window_config=UPDATED)
    assert told(data) == [
        "p.processing_logic.group_by[0]: 'revision' is written by the window's updates and by group_by[0]; "
        "rename the field with a MAP first",
        "p.processing_logic.aggregations[0]: 'is_final' is written by the window's updates and by aggregations[0]; "
        "name it with 'as'",
        "p.processing_logic.aggregations[1]: 'retraction' is written by the window's updates and by aggregations[1]; "
        "name it with 'as'",
    ]
    assert told(processor("WINDOW", {"group_by": ["revision"]}, window_config=UPDATED)) == [
        "p.processing_logic.group_by[0]: 'revision' is written by the window's updates and by group_by[0]; "
        "rename the field with a MAP first",
    ]
    assert isinstance(parse_processor(data | {"window_config": HOUR}).processing_logic, AggregateLogic)


def test_the_events_of_a_window_come_once() -> None:
    assert told(processor("WINDOW", {"output": "events"}, window_config=UPDATED)) == [
        "p.processing_logic.output: the output events gives out events when their window closes, and cannot go with a window "
        "that has updates; use contents or marks, or leave out its emit"
    ]


def test_having_sees_revisions_only_where_there_are_updates() -> None:
    data = processor("AGGREGATE", {"aggregation_function": "count", "having": "is_final or count > 9"}, window_config=UPDATED)
    assert parse_processor(data).window is not None
    assert told(data | {"window_config": HOUR}) == [
        "p.processing_logic.having: is_final is there only where the window has updates; see its emit"
    ]
    own = {"aggregation_function": "count", "as": "revision", "having": "revision > 9"}
    assert parse_processor(processor("AGGREGATE", own, window_config=HOUR)).window is not None


def test_a_deduplicate_is_read() -> None:
    logic = {"deduplicate_by": ["a.b", "c"], "within_ms": 5, "grace_period_ms": 7, "close_when_idle_ms": "never"}
    read = parse_processor(processor("DEDUPLICATE", logic)).processing_logic
    timing = Timing(grace_period_ms=7, close_when_idle_ms=None)
    assert read == DeduplicateLogic(deduplicate_by=(("a", "b"), ("c",)), within_ms=5, timing=timing)


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"deduplicate_by": []}, "deduplicate_by: expected a list of 1 to 20 items, got 0"),
        ({"deduplicate_by": None}, "deduplicate_by: required, but missing"),
        ({"within_ms": 0}, "within_ms: expected an integer >= 1, got 0"),
        ({"within_ms": None}, "within_ms: required, but missing"),
        ({"max_future_ms": "soon"}, "max_future_ms: expected an integer >= 0 or 'never', got 'soon'"),
        (
            {"grace_ms": 5},
            "grace_ms: unknown key; did you mean 'grace_period_ms'? (accepted: deduplicate_by, within_ms, grace_period_ms, "
            "close_when_idle_ms, max_future_ms)",
        ),
    ],
)
def test_a_deduplicate_that_cannot_be_is_told(change: dict[str, Any], problem: str) -> None:
    logic = {"deduplicate_by": ["a"], "within_ms": 5} | change
    assert told(processor("DEDUPLICATE", logic)) == [f"p.processing_logic.{problem}"]


@pytest.mark.parametrize("kind", ["DEDUPLICATE", "CUSTOM"])
def test_what_has_no_window_is_told_so(kind: str) -> None:
    logic = {"deduplicate_by": ["a"], "within_ms": 5} if kind == "DEDUPLICATE" else {"function": "m:f"}
    assert told(processor(kind, logic, window_config=HOUR)) == [
        "p.window_config: only AGGREGATE, WINDOW and some JOINs have a window; leave it out"
    ]


def test_a_map_may_do_nothing_but_flatten() -> None:
    read = parse_processor(processor("MAP", {"flatten": "order.items"})).processing_logic
    assert isinstance(read, MapLogic)
    assert read.flatten == ("order", "items")
    assert told(processor("MAP", {"flatten": ["items"]})) == [
        "p.processing_logic.flatten: expected a field or a dotted path such as 'customer.region', got a list"
    ]


def test_only_what_has_state_has_a_changelog() -> None:
    store = {"state_store_config": {"changelog_topic": "changes"}}
    assert parse_processor(processor("DEDUPLICATE", {"deduplicate_by": ["a"], "within_ms": 5}, **store)).state_store_config
    assert parse_processor(processor("CUSTOM", {"function": "m:f", "form": "keyed", "key": ["a"]}, **store)).state_store_config
    for kind, logic in (("MAP", {"drop": ["a"]}), ("CUSTOM", {"function": "m:f"})):
        assert told(processor(kind, logic, **store)) == [
            "p.state_store_config.changelog_topic: only a processor with state has changes to write; leave it out"
        ]


@pytest.mark.parametrize(
    ("topic", "problem"),
    [
        ("a b", "expected a letter or digit, then up to 199 of the characters A-Z a-z 0-9 . _ -, got 'a b'"),
        ("in", "is the source too, and each event would run in a circle"),
        ("out", "is the target_stream_id too; changes of state need a stream of their own"),
    ],
)
def test_a_changelog_is_a_stream_of_its_own(topic: str, problem: str) -> None:
    data = processor("DEDUPLICATE", {"deduplicate_by": ["a"], "within_ms": 5}, state_store_config={"changelog_topic": topic})
    assert told(data) == [f"p.state_store_config.changelog_topic: {problem}"]


def test_only_the_strategy_retry_has_a_retry() -> None:
    spec = parse_processor(processor("CUSTOM", {"function": "m:f"}, error_handling_strategy="RETRY", retry={"max_attempts": 7}))
    assert spec.retry_policy == RetryPolicy(max_attempts=7)
    assert told(processor("CUSTOM", {"function": "m:f"}, retry={})) == [
        "p.retry: only the error_handling_strategy RETRY tries again; leave it out"
    ]


def test_only_a_custom_has_a_retry() -> None:
    data = processor("MAP", {"drop": ["a"]}, error_handling_strategy="RETRY")
    assert parse_processor(data).retry_policy == RetryPolicy()
    assert told(data | {"retry": {"max_attempts": 5}}) == [
        "p.retry: only CUSTOM is tried again, for whatever else fails would fail again; leave it out"
    ]


@pytest.mark.parametrize(
    ("retry", "problem"),
    [
        ({"max_attempts": 0}, "max_attempts: expected an integer from 1 to 100, got 0"),
        ({"jitter": 1.5}, "jitter: expected a number from 0 to 1, got 1.5"),
        ({"backoff_ms": 20_000}, "max_backoff_ms: expected at least backoff_ms (20000), got 10000"),
        (
            {"attempts": 5},
            "attempts: unknown key; did you mean 'max_attempts'? (accepted: max_attempts, backoff_ms, max_backoff_ms, jitter)",
        ),
    ],
)
def test_a_retry_that_cannot_be_is_told(retry: dict[str, Any], problem: str) -> None:
    data = processor("CUSTOM", {"function": "m:f"}, error_handling_strategy="RETRY", retry=retry)
    assert told(data) == [f"p.retry.{problem}"]


@pytest.mark.parametrize("strategy", ["SKIP", "STOP"])
def test_what_writes_no_dead_letters_need_not_say_so(strategy: str) -> None:
    data = processor("CUSTOM", {"function": "m:f"}, error_handling_strategy=strategy, dead_letters=False)
    assert told(data) == [f"p.dead_letters: the error_handling_strategy {strategy} writes no dead letters anyway; leave it out"]


@pytest.mark.parametrize("strategy", ["DEAD_LETTER", "RETRY"])
def test_a_processor_on_its_own_has_dead_letters(strategy: str) -> None:
    data = processor("CUSTOM", {"function": "m:f"}, error_handling_strategy=strategy, dead_letters=False)
    assert told(data) == ["p.dead_letters: only in a flow can another processor read its errors; leave dead_letters true"]


def test_a_processor_is_not_renamed_from_its_own_name() -> None:
    data = processor("CUSTOM", {"function": "m:f"}, renamed_from="p")
    assert told(data) == ["p.renamed_from: 'p' is its name now; leave it out"]
    assert parse_processor(data | {"renamed_from": "before"}).state_name == "before"


@pytest.mark.parametrize(
    "data",
    [
        processor(
            "JOIN", ON | {"on": {"a": "b.c"}, "within": {"before_ms": 3}, "fields": {"x.y": "left.a"}, "grace_period_ms": 4}
        ),
        processor("JOIN", ON | {"lookup": {"ttl_ms": 3}, "join_type": "left", "max_future_ms": "never"}),
        processor("JOIN", ON | {"lookup": True}),
        processor("JOIN", ON, window_config={"window_type": "calendar", "calendar_unit": "day"}),
        processor("WINDOW", {"output": "marks", "group_by": ["a.b"]}, window_config={"window_type": "session", "gap_ms": 1}),
        processor("DEDUPLICATE", {"deduplicate_by": ["a", "b.c"], "within_ms": 5, "close_when_idle_ms": "never"}),
        processor(
            "CUSTOM", {"function": "m:f", "params": {"a": [1, None]}}, error_handling_strategy="RETRY", retry={"jitter": 0}
        ),
        processor("CUSTOM", {"function": "m:f", "form": "keyed", "key": ["k"]}, renamed_from="q"),
        processor("MAP", {"flatten": "items", "drop": ["x"]}),
        counting({"window_type": "hopping", "window_size_ms": 9, "advance_ms": 3}, having="count > 1"),
    ],
)
def test_a_processor_written_as_data_is_read_as_the_same(data: dict[str, Any]) -> None:
    spec = parse_processor(data)
    assert parse_processor(to_data(spec)) == spec


paths = st.lists(st.sampled_from(["a", "b", "c.d", "c.e"]), min_size=1, max_size=4, unique=True)
timings = st.fixed_dictionaries(
    {},
    optional={
        "grace_period_ms": st.integers(0, 10**9),
        "close_when_idle_ms": st.integers(0, 10**6) | st.just("never"),
        "max_future_ms": st.integers(0, 10**9) | st.just("never"),
    },
)
fields = st.fixed_dictionaries(
    {}, optional={"fields": st.dictionaries(st.sampled_from(["x", "y.z", "n"]), st.sampled_from(["left.a", "1"]), min_size=1)}
)
ons = paths | st.dictionaries(st.sampled_from(["a", "c.d"]), st.sampled_from(["b", "e.f"]), min_size=1)
joins = st.builds(
    lambda on, kind, ways, more, timing: processor(
        "JOIN", {"join_stream_id": "other", "on": on, "join_type": kind} | ways | more | timing
    ),
    ons,
    st.sampled_from(["inner", "left"]),
    st.one_of(
        st.builds(lambda n: {"within_ms": n}, st.integers(0, 10**6)),
        st.builds(lambda n: {"within": {"before_ms": n}}, st.integers(0, 10**6)),
        st.builds(lambda n: {"lookup": n if n is True else {"ttl_ms": n}}, st.just(True) | st.integers(1, 10**6)),
    ),
    fields,
    timings,
)
window_processors = st.builds(
    lambda output, groups, window: processor("WINDOW", {"output": output, "group_by": groups}, window_config=window),
    st.sampled_from(WindowOutput),
    paths,
    timings.map(lambda timing: HOUR | timing),
)
deduplicates = st.builds(
    lambda by, n, timing: processor("DEDUPLICATE", {"deduplicate_by": by, "within_ms": n} | timing),
    paths,
    st.integers(1, 10**6),
    timings,
)
values = st.recursive(st.none() | st.booleans() | st.integers() | st.text(max_size=3), lambda v: st.lists(v, max_size=2))
customs = st.builds(
    lambda state, params, retry: processor(
        "CUSTOM", {"function": "m.n:f", "params": params} | state, error_handling_strategy="RETRY", retry=retry
    ),
    st.sampled_from([{}, {"form": "batch"}]) | timings.map(lambda timing: {"form": "keyed", "key": ["a", "b.c"]} | timing),
    st.dictionaries(st.sampled_from(["a", "b"]), values),
    st.builds(
        lambda n, pause, jitter: {"max_attempts": n, "backoff_ms": pause, "jitter": jitter},
        st.integers(1, 100),
        st.integers(0, 10_000),
        st.floats(0, 1),
    ),
)


@given(joins | window_processors | deduplicates | customs)
def test_any_processor_written_as_data_is_read_as_the_same(data: dict[str, Any]) -> None:
    spec = parse_processor(data)
    assert parse_processor(to_data(spec)) == spec
    flow = parse_flow({"name": "f", "processors": [data]}, name="f")
    assert parse_flow(to_data(flow), name="f") == flow


def test_params_have_a_bound_on_their_depth() -> None:
    deep: Any = 1
    for _ in range(5000):
        deep = [deep]
    (problem,) = told(processor("CUSTOM", {"function": "m:f", "params": {"a": deep}}))
    assert problem == "p.processing_logic.params.a: expected at most 64 levels"
