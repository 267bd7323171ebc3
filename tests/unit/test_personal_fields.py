"""Personal fields: which values of a payload a schema marks as personal, whose they are, and which marks are refused."""

from typing import Any

import msgspec
import pytest

from event_streaming_bus.errors import SchemaError
from event_streaming_bus.registry.avro.personal import personal_of_avro
from event_streaming_bus.registry.json.personal import personal_of_json
from event_streaming_bus.registry.personal import NoSubjectError, PersonalFields

MARKED = {"type": "string", "x-personal": True}


def fields(schema: Any, **references: Any) -> PersonalFields:
    found = personal_of_json(schema, references)
    assert found is not None
    return found


def paths(schema: Any, payload: Any, **references: Any) -> set[str]:
    """The dotted paths of the personal values of a payload."""
    return {".".join(map(str, place.path)) for place in fields(schema, **references).places(payload)}


def obj(**properties: Any) -> dict[str, Any]:
    return {"type": "object", "properties": properties}


def test_a_schema_without_marks_has_no_personal_fields() -> None:
    assert personal_of_json(obj(email={"type": "string"}), {}) is None
    assert personal_of_json(obj(email={"type": "string", "x-personal": False}), {}) is None
    assert personal_of_json(True, {}) is None


def test_marks_count_wherever_a_value_can_be() -> None:
    person = obj(name=MARKED, tags={"type": "array", "items": MARKED})
    assert paths(obj(a=person), {"a": {"name": "x", "tags": ["y", "z"], "b": 1}}) == {"a.name", "a.tags.0", "a.tags.1"}
    assert paths({"items": obj(n=MARKED)}, [{"n": "x"}, {}, {"n": "y"}]) == {"0.n", "2.n"}
    assert paths({"prefixItems": [{}, MARKED], "items": obj(n=MARKED)}, ["x", "y", {"n": "z"}]) == {"1", "2.n"}
    assert paths({"contains": MARKED}, ["x"]) == {"0"}
    assert paths({"patternProperties": {"^p_": MARKED}, "additionalProperties": False}, {"p_x": "1", "q": "2"}) == {"p_x"}
    others = {"properties": {"a": {}}, "patternProperties": {"^p_": {}}, "additionalProperties": MARKED}
    assert paths(others, {"a": 1, "p_x": 2, "z": "3"}) == {"z"}
    assert paths(MARKED, "x") == {""}


def test_marks_of_older_drafts_count_as_well() -> None:
    old = {"$schema": "http://json-schema.org/draft-07/schema#"}
    assert paths(old | {"items": [{}, MARKED], "additionalItems": obj(n=MARKED)}, [1, "x", {"n": "y"}]) == {"1", "2.n"}
    aside = old | obj(mail={"$ref": "#/definitions/text", "x-personal": True}) | {"definitions": {"text": {"type": "string"}}}
    assert paths(aside, {"mail": "x"}) == {"mail"}  # a $ref hides what is beside it, but not this


@pytest.mark.parametrize("keyword", ["allOf", "anyOf", "oneOf"])
def test_what_is_personal_in_one_branch_is_personal(keyword: str) -> None:
    schema = {keyword: [obj(kind={"const": "a"}, name=MARKED), obj(kind={"const": "b"}, note={})]}
    assert paths(schema, {"kind": "b", "name": "x", "note": "y"}) == {"name"}


def test_conditions_and_dependent_schemas_are_looked_into() -> None:
    schema = {"if": obj(a=MARKED), "then": obj(b=MARKED), "else": obj(c=MARKED), "dependentSchemas": {"d": obj(e=MARKED)}}
    assert paths(schema, dict.fromkeys("abcde", "x")) == {"a", "b", "c", "e"}


def test_references_are_followed_round_in_circles_and_into_other_documents() -> None:
    tree = {"$defs": {"node": obj(name=MARKED, children={"items": {"$ref": "#/$defs/node"}})}, "$ref": "#/$defs/node"}
    assert paths(tree, {"name": "x", "children": [{"children": [{"name": "y"}]}]}) == {"name", "children.0.children.0.name"}
    assert paths(obj(who={"$ref": "person"}), {"who": {"email": "x"}}, person=obj(email=MARKED)) == {"who.email"}


def test_nothing_within_a_personal_value_is_looked_at_and_null_is_none() -> None:
    schema = obj(who={"x-personal": True, "properties": {"name": MARKED}}, other=MARKED)
    assert paths(schema, {"who": {"name": "x"}, "other": None}) == {"who"}


def test_deep_payloads_are_no_trouble() -> None:
    deep: Any = {"v": "x"}
    for _ in range(5000):
        deep = {"n": deep}
    (place,) = fields({"$defs": {"n": obj(n={"$ref": "#/$defs/n"}, v=MARKED)}, "$ref": "#/$defs/n"}).places(deep)
    assert len(place.path) == 5001


@pytest.mark.parametrize(
    ("schema", "place"),
    [
        ({"not": obj(a=MARKED)}, "/not/properties/a"),
        ({"propertyNames": MARKED}, "/propertyNames"),
        ({"unevaluatedProperties": MARKED}, "/unevaluatedProperties"),
        ({"allOf": [{"unevaluatedItems": obj(a=MARKED)}]}, "/allOf/0/unevaluatedItems/properties/a"),
        (obj(a={"x-personal": "yes"}), "/properties/a/x-personal"),
        (obj(a={"x-personal": {"subject": "user"}}), "/properties/a/x-personal/subject"),
        (obj(a={"x-personal": {"subject": "/b", "more": 1}}), "/properties/a/x-personal"),
        (obj(a=MARKED) | {"x-subject": "1/user"}, "/x-subject"),
        (obj(a=MARKED | {"x-subject": "/user"}), "/properties/a/x-subject"),
    ],
)
def test_marks_that_cannot_be_kept_are_refused_with_their_place(schema: Any, place: str) -> None:
    with pytest.raises(SchemaError) as caught:
        personal_of_json(schema, {})
    assert caught.value.details["pointer"] == place
    assert caught.value.message.startswith(place)


def subjects(schema: Any, payload: Any, default: str | None = "fallback") -> dict[str, list[str]]:
    found = fields(schema)
    return {place.pointer: found.subjects(payload, place, default) for place in found.places(payload)}


def test_whose_a_value_is_is_told_by_the_field_the_schema_or_the_event() -> None:
    other = {"type": "string", "x-personal": {"subject": "/other/0"}}
    schema = obj(mine=MARKED, theirs=other)
    payload = {"mine": "x", "theirs": "y", "user": 7, "other": ["bob"]}
    assert subjects(schema, payload) == {"/mine": ["fallback"], "/theirs": ["bob"]}
    assert subjects(schema | {"x-subject": "/user"}, payload) == {"/mine": ["7"], "/theirs": ["bob"]}


def test_items_of_a_list_have_subjects_of_their_own() -> None:
    guest = obj(id={}, name={"x-personal": {"subject": "1/id"}})
    payload = {"guests": [{"id": "a", "name": "A"}, {"id": "b", "name": "B"}]}
    found = fields(obj(guests={"items": guest}))
    told = {place.path[1]: found.subjects(payload, place, None) for place in found.places(payload)}
    assert told == {0: ["a"], 1: ["b"]}
    assert {place.pointer for place in found.places(payload)} == {"/guests/*/name"}


def test_a_value_that_two_branches_mark_is_that_of_both_subjects() -> None:
    schema = {"allOf": [obj(n={"x-personal": {"subject": "/a"}}), obj(n={"x-personal": {"subject": "/b"}})]}
    assert {frozenset(s) for s in subjects(schema, {"n": "x", "a": "anna", "b": "bob"}).values()} == {frozenset({"anna", "bob"})}


@pytest.mark.parametrize("user", [None, "", True, 1.5, {"id": "x"}, []])
def test_an_event_whose_subject_cannot_be_told_is_refused_with_the_field(user: Any) -> None:
    with pytest.raises(NoSubjectError, match=r"^/mail: .*there is no subject at /user$") as caught:
        subjects(obj(mail=MARKED) | {"x-subject": "/user"}, {"mail": "x", "user": user})
    assert caught.value.details["violations"][0]["pointer"] == "/mail"
    with pytest.raises(NoSubjectError, match="no aggregate_id and no key"):
        subjects(obj(mail=MARKED), {"mail": "x"}, None)


# --- Avro -------------------------------------------------------------------------------------------------------------


def record(name: str, *fields: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"type": "record", "name": name, "fields": list(fields), **more}


def field(name: str, kind: Any, **more: Any) -> dict[str, Any]:
    return {"name": name, "type": kind, **more}


def avro(schema: Any, *references: Any) -> PersonalFields | None:
    return personal_of_avro(msgspec.json.encode(schema).decode(), [msgspec.json.encode(each).decode() for each in references])


def test_avro_fields_are_marked_in_records_lists_maps_unions_and_references() -> None:
    name = field("name", ["null", "string"], personal=True)
    person = record("Person", name, field("friend", ["null", "Person"]), namespace="shop")
    order = record(
        "Order",
        field("buyer", "shop.Person"),
        field("others", {"type": "array", "items": "shop.Person"}),
        field("by_role", {"type": "map", "values": "shop.Person"}),
        field("mail", {"type": "string"}, personal={"subject": "/user"}),
        field("user", "string"),
        subject="/buyer_id",
    )
    found = avro(order, person)
    assert found is not None
    assert found.subject is not None
    assert found.subject.text == "/buyer_id"
    anna = {"name": "Anna", "friend": {"name": "Bob", "friend": None}}
    payload = {"buyer": anna, "others": [anna], "by_role": {"x": {"name": None, "friend": None}}, "mail": "m", "user": "u"}
    pointers = {place.pointer for place in found.places(payload)}
    assert pointers == {"/buyer/name", "/buyer/friend/name", "/others/*/name", "/others/*/friend/name", "/mail"}
    assert avro(person | {"subject": 5, "fields": [field("name", "string")]}) is None


@pytest.mark.parametrize(
    "kind", ["int", "bytes", ["string", "int"], {"type": "string", "logicalType": "uuid"}, {"type": "array", "items": "string"}]
)
def test_an_avro_field_that_cannot_hold_text_cannot_be_personal(kind: Any) -> None:
    with pytest.raises(SchemaError, match=r"^/fields/1/personal: the field 'age' cannot be personal"):
        avro(record("R", field("id", "string"), field("age", kind, personal=True)))
