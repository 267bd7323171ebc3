"""The payloads that a JOIN makes of its pairs."""

from typing import Any

import msgspec

from event_streaming_bus.expressions import Scope, parse
from event_streaming_bus.flows.folds.joins import JoinedPair
from event_streaming_bus.flows.joined_payloads import payload_maker
from event_streaming_bus.flows.processors.join import JoinLogic


def logic(**fields: str) -> JoinLogic:
    """A JOIN's logic; ``a__b`` stands for the output path ``a.b``."""
    written = tuple((tuple(path.split("__")), parse(text, Scope.PAYLOAD)) for path, text in fields.items())
    return JoinLogic(join_stream_id="weather", on=((("at",), ("place",)),), fields=written)


def pair(left: Any, right: Any) -> JoinedPair:
    raw = [None if each is None else msgspec.json.encode(each) for each in (left, right)]
    return JoinedPair(*raw, None if left is None else 100, None if right is None else 90)


def made(of: JoinLogic, *pairs: JoinedPair) -> list[dict[str, Any]]:
    payloads, failures = payload_maker(of)(pairs)
    assert failures == []
    return payloads


def test_without_fields_the_payload_has_both_sides() -> None:
    pairs = [pair({"at": "BER"}, {"place": "BER"}), pair({"at": "BER"}, None), pair(None, {"place": "BER"})]
    assert made(logic(), *pairs) == [
        {"left": {"at": "BER"}, "right": {"place": "BER"}},
        {"left": {"at": "BER"}, "right": None},
        {"left": None, "right": {"place": "BER"}},
    ]


def test_fields_are_made_of_both_payloads_and_their_times() -> None:
    of = logic(flight="left.id", wind="right.wind.knots * 2", age_ms="left_timestamp - right_timestamp")
    flight = {"id": "LH1", "at": "BER", "right": 0}
    assert made(of, pair(flight, {"place": "BER", "wind": {"knots": 12}})) == [{"flight": "LH1", "wind": 24, "age_ms": 10}]


def test_a_field_may_have_any_name() -> None:
    of = logic(wind="right['kn\"ots']", id="left.id")
    assert made(of, pair({"id": 1}, {'kn"ots': 12}), pair({"id": 2}, None)) == [{"wind": 12, "id": 1}, {"wind": None, "id": 2}]


def test_without_a_partner_its_fields_and_its_time_are_null() -> None:
    of = logic(wind="right.wind.knots", seen="right_timestamp", alone="right == null", nested="right.wind")
    assert made(of, pair({"id": 1}, None)) == [{"wind": None, "seen": None, "alone": True, "nested": None}]
    assert made(logic(wind="right.wind"), pair({"id": 1}, None)) == [{"wind": None}]


def test_a_whole_side_and_a_field_of_it_can_be_used_together() -> None:
    of = logic(weather="right", wind="right.wind", flight="left.id")
    assert made(of, pair({"id": 1}, {"wind": 3}), pair({"id": 2}, {})) == [
        {"weather": {"wind": 3}, "wind": 3, "flight": 1},
        {"weather": {}, "wind": None, "flight": 2},
    ]


def test_nested_output_paths_make_objects() -> None:
    of = logic(weather__wind="right.wind", id="left.id", weather__sky__clouds="right.clouds")
    expected = {"id": 1, "weather": {"wind": 3, "sky": {"clouds": True}}}
    assert made(of, pair({"id": 1}, {"wind": 3, "clouds": True})) == [expected]


def test_fields_of_any_name_can_be_read() -> None:
    of = logic(out="left['two words'] + left['class'] + left['f0']")
    assert made(of, pair({"two words": 1, "class": 2, "f0": 4}, None)) == [{"out": 7}]


def test_a_comprehension_sees_both_sides() -> None:
    of = logic(prices="[item.net * right.rate for item in left.items]")
    assert made(of, pair({"items": [{"net": 1}, {"net": 2}]}, {"rate": 3})) == [{"prices": [3, 6]}]


def test_a_pair_that_fails_does_not_keep_the_others_back() -> None:
    of = logic(total="left.net * right.rate")
    good = pair({"net": 2}, {"rate": 3})
    payloads, failures = payload_maker(of)([good, pair({"net": 2}, None), good])
    assert payloads == [{"total": 6}, {"total": 6}]
    assert [(index, type(error)) for index, error in failures] == [(1, TypeError)]


def test_a_payload_that_is_no_object_is_told_with_its_side() -> None:
    for of in (logic(), logic(id="left.id", wind="right.wind")):
        broken = JoinedPair(b'{"id":1}', b"[1", 1, 2)
        payloads, failures = payload_maker(of)([broken, pair([1], {"wind": 2}), pair({"id": 1}, {"wind": 2})])
        assert len(payloads) == 1
        assert [index for index, _ in failures] == [0, 1]
        assert str(failures[0][1]).startswith("the right payload is no JSON object: ")
        assert str(failures[1][1]).startswith("the left payload is no JSON object: ")


def test_a_row_that_serves_many_events_is_decoded_once() -> None:
    row = b'{"place":"BER","wind":{"knots":3}}'
    pairs = [JoinedPair(b'{"id":%d}' % i, row, i, 0) for i in range(3)]
    first, second, third = made(logic(id="left.id", wind="right.wind"), *pairs)
    assert first["wind"] is second["wind"] is third["wind"]
    assert [first["id"], second["id"], third["id"]] == [0, 1, 2]


def test_a_side_that_no_field_reads_is_not_decoded() -> None:
    broken = JoinedPair(b'{"id":1}', b"no JSON", 1, 2)
    assert made(logic(id="left.id", at="right_timestamp"), broken) == [{"id": 1, "at": 2}]


def test_no_pairs_make_no_payloads() -> None:
    assert payload_maker(logic())([]) == ([], [])
