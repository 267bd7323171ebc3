"""Tokens: they give back any JSON value where they were made, and nothing anywhere else, to anybody else, or once changed."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from event_streaming_bus.models import Event
from event_streaming_bus.registry.protection import changed, key_ids_of, reveal, reveal_events, shown
from event_streaming_bus.registry.tokens import MARKER, sealed, token_of
from event_streaming_bus.store.subject_keys import Shredding, SubjectKey, SubjectKeys

JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=15,
)


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SubjectKeys]:
    keys = SubjectKeys(tmp_path_factory.mktemp("keys"))
    yield keys
    keys.close()


def key_of(keys: SubjectKeys, subject: str, tenant_id: str = "t") -> SubjectKey:
    return keys.of_subjects(tenant_id, [subject])[subject]


def token(keys: SubjectKeys, value: Any, place: str = "/a", *subjects: str) -> str:
    return sealed([key_of(keys, subject) for subject in subjects or ("anna",)], place, value)


@settings(max_examples=60)
@given(value=JSON_VALUES)
def test_any_json_value_comes_back_as_it_was(keys: SubjectKeys, value: Any) -> None:
    hidden = {"a": token(keys, value), "b": [1, {"c": token(keys, value, "/b/*/c", "anna", "bob")}]}
    told = reveal(keys, "t", hidden)
    assert json.dumps(told) == json.dumps({"a": value, "b": [1, {"c": value}]})


def test_a_token_tells_little_of_its_value(keys: SubjectKeys) -> None:
    assert token(keys, "yes") != token(keys, "yes")
    assert len({len(token(keys, value)) for value in ("", "no", "yes", "a text of 20 letters")}) == 1
    assert "anna" not in token(keys, "anna")


def test_what_has_the_form_of_a_token_by_chance_stays_as_it_is(keys: SubjectKeys) -> None:
    for text in (MARKER, f"{MARKER}x", f"{MARKER}k:t:!!", f"{MARKER}k:x:AAAA", f"{MARKER}k:t:AAAA", f"x{token(keys, 1)}"):
        assert shown(keys, "t", {"a": text}).value == {"a": text}
    written = f"{MARKER}{key_of(keys, 'anna').key_id}:t:AAAA"
    assert shown(keys, "t", {"a": written}).unreadable == ["/a"]
    assert token_of(7) is None


def test_a_value_that_looks_like_a_token_is_not_opened_twice(keys: SubjectKeys) -> None:
    inner = token(keys, "secret")
    assert reveal(keys, "t", {"a": token(keys, inner)}) == {"a": inner}


def test_every_change_of_a_token_is_noticed(keys: SubjectKeys) -> None:
    good = token(keys, "text")
    bob = key_of(keys, "bob").key_id
    head, kind, body = good.rsplit(":", 2)
    bad = [f"{head}:v:{body}", good.replace(head, f"{MARKER}{bob}"), good.replace(head, f"{head}.{bob}")]
    bad += [f"{head}:{kind}:{body[:i]}{'A' if body[i] != 'A' else 'B'}{body[i + 1 :]}" for i in range(0, len(body), 7)]
    for each in bad:
        found = shown(keys, "t", {"a": each})
        assert (found.value, found.unreadable) == ({"a": each}, ["/a"])


def test_a_token_counts_only_in_its_place(keys: SubjectKeys) -> None:
    good = token(keys, "text")
    for payload in ({"b": good}, [good], {"x": {"a": good}}, good):
        found = shown(keys, "t", payload)
        assert found.value == payload
        assert len(found.unreadable) == 1
    listed = token(keys, "text", "/a/*")
    assert reveal(keys, "t", {"a": [1, listed, listed]}) == {"a": [1, "text", "text"]}


def test_a_token_of_another_tenant_or_folder_is_none(keys: SubjectKeys, tmp_path: Path) -> None:
    payload = {"a": token(keys, "text")}
    assert shown(keys, "other", payload).unreadable == ["/a"]
    elsewhere = SubjectKeys(tmp_path)
    assert reveal(elsewhere, "t", payload) == payload
    key_of(elsewhere, "anna")
    assert shown(elsewhere, "t", payload).unreadable == ["/a"]
    elsewhere.close()


def test_what_was_erased_is_told_by_its_type(keys: SubjectKeys) -> None:
    payload = {"text": "", "number": 5, "object": {"x": 1}, "both": "of two", "bobs": "stays"}
    hidden = {name: token(keys, value, f"/{name}", "erik") for name, value in payload.items()}
    hidden |= {"both": token(keys, "of two", "/both", "erik", "bob"), "bobs": token(keys, "stays", "/bobs", "bob")}
    assert reveal(keys, "t", hidden) == payload

    def certify(shredding: Shredding) -> tuple[str, bytes]:
        return "c", b""

    keys.shred("t", "erik", certify)
    found = shown(keys, "t", hidden)
    assert found.value == {"text": "[erased]", "number": None, "object": None, "both": "[erased]", "bobs": "stays"}
    assert sorted(found.erased) == ["/both", "/number", "/object", "/text"]


def test_events_without_tokens_are_the_same_objects(keys: SubjectKeys) -> None:
    plain = Event("e1", "t", 0, b'{"a": 1}', tenant_id="t")
    broken = Event("e2", "t", 0, b'{"a": "esb:enc:1:', tenant_id="t")
    events = [plain, broken]
    assert reveal_events(keys, [plain]) == [plain]
    assert all(a is b for a, b in zip(reveal_events(keys, events), events, strict=True))
    hidden = Event("e3", "t", 0, b'{"a": "%s"}' % token(keys, "x", "/a", "anna", "bob").encode(), tenant_id="t")
    assert [event.payload for event in reveal_events(keys, [plain, hidden])] == [{"a": 1}, {"a": "x"}]
    assert key_ids_of([plain, hidden]) == {key_of(keys, "anna").key_id, key_of(keys, "bob").key_id}


def test_changing_a_value_leaves_the_one_given_alone() -> None:
    given_value = {"a": [{"b": 1}, {"b": 2}], "c": {"d": 3}}
    before = json.dumps(given_value)
    made = changed(given_value, [(("a", 0, "b"), 10), (("a", 1, "b"), 20)])
    assert made == {"a": [{"b": 10}, {"b": 20}], "c": {"d": 3}}
    assert json.dumps(given_value) == before
    assert made["c"] is given_value["c"]
    assert changed(given_value, []) is given_value
