"""Migrations: payloads of the version before turned into ones of this version."""

from typing import Any

import pytest

from event_streaming_bus.errors import ExpressionError, SchemaError
from event_streaming_bus.registry.migrations import migration_of

OLD: dict[str, Any] = {"first": "Ada", "last": "L", "total": 5, "customer": {"mail": "a@b.c", "age": 3}}


@pytest.mark.parametrize(
    ("migration", "expected"),
    [
        ({"fields": {"name": "first + ' ' + last"}, "remove": ["first", "last"]}, {"name": "Ada L", "total": 5}),
        ({"fields": {"total": "total * 100"}}, {"total": 500, "first": "Ada"}),
        (
            {"fields": {"customer.email": "customer.mail"}, "remove": ["customer.mail"]},
            {"customer": {"email": "a@b.c", "age": 3}},
        ),
        ({"fields": {"a.b.c": "1"}}, {"a": {"b": {"c": 1}}}),
        ({"fields": {"total": "first", "first": "total"}}, {"total": "Ada", "first": 5}),
        ({"remove": ["nothing", "total.x", "customer.age"]}, {"customer": {"mail": "a@b.c"}, "total": 5}),
    ],
)
def test_fields_are_computed_from_the_old_payload(migration: dict[str, Any], expected: dict[str, Any]) -> None:
    before = {**OLD, "customer": dict(OLD["customer"])}
    migrate = migration_of(migration)
    assert migrate is not None
    made = migrate(OLD)
    assert {name: made[name] for name in expected} == expected
    assert not {"first", "last"} & made.keys() or "first" not in migration.get("remove", [])
    assert before == OLD


def test_a_field_that_cannot_be_computed_is_told_with_its_reason() -> None:
    migrate = migration_of({"fields": {"total": "nothing * 2"}})
    assert migrate is not None
    with pytest.raises(ValueError, match=r"the field total cannot be migrated: nothing \* 2: .*nothing is null"):
        migrate(OLD)


def test_nothing_declared_is_no_migration() -> None:
    assert migration_of(None) is None
    assert migration_of({}) is None


@pytest.mark.parametrize(
    ("migration", "told"),
    [
        ({"fields": {"": "1"}}, "expected the path of a field"),
        ({"remove": ["a."]}, "expected the path of a field"),
        ({"fields": {f"f{i}": "1" for i in range(201)}}, "more than 200"),
        ({"fields": []}, "migration: "),
    ],
)
def test_a_malformed_one_is_refused(migration: dict[str, Any], told: str) -> None:
    with pytest.raises(SchemaError, match=told):
        migration_of(migration)
    with pytest.raises(ExpressionError, match=r"migration\.fields\.a"):
        migration_of({"fields": {"a": "import os"}})
