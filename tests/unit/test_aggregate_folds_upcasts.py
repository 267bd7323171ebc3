"""Upcasters: which payloads pass through which, before the fold; and the migrations that are declared with schemas."""

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from event_streaming_bus.models import SerializationFormat, StreamConfig, StreamInfo
from event_streaming_bus.registry.semantic_versions import numbers
from event_streaming_bus.registry.upcasting import Upcaster
from event_streaming_bus.sourcing.folds.aggregate import Aggregate, applies
from event_streaming_bus.sourcing.folds.events import AppliedEvent
from event_streaming_bus.sourcing.folds.fold_file import read_folds
from event_streaming_bus.sourcing.folds.folds import Folds
from event_streaming_bus.sourcing.folds.merging import MergeFold
from event_streaming_bus.sourcing.folds.upcasts import Upcast, Upcasting, upcasts
from event_streaming_bus.sourcing.sourcing_errors import FoldConfigError, FoldError
from event_streaming_bus.store.recorded import RecordedEvent
from event_streaming_bus.testing import temporary_bus


def event(payload: Any, schema_id: str | None = None, event_type: str = "user.updated") -> RecordedEvent:
    return RecordedEvent(7, "u_1", "User", 3, event_type, "evt_1", 0, 0, msgspec.json.encode(payload), schema_id=schema_id)


def passed(version: str) -> Upcast:
    def note(payload: dict[str, Any]) -> dict[str, Any]:
        payload["passed"].append(version)
        return payload

    return upcasts("user.updated", from_version=version)(note)


versions = st.tuples(st.integers(0, 3), st.integers(0, 3), st.integers(0, 2)).map(lambda parts: ".".join(map(str, parts)))


@given(written_with=versions, steps=st.sets(versions, max_size=6))
def test_a_payload_passes_through_the_upcasters_from_its_version_on_in_order(written_with: str, steps: set[str]) -> None:
    upcasting = Upcasting(map(passed, steps), version_of={"sch_1": written_with}.get)
    (payload,) = upcasting.payloads([event({"passed": []}, "sch_1")], "fold")
    expected = [step for step in steps if numbers(step) >= numbers(written_with)]
    assert payload["passed"] == sorted(expected, key=numbers)


@pytest.mark.parametrize(
    ("schema_id", "unversioned", "expected"),
    [(None, None, []), (None, "1.0", ["1.0", "2.0"]), (None, "1.5", ["2.0"]), ("unknown", None, []), ("unknown", "2.0", ["2.0"])],
)
def test_an_event_without_a_version_is_left_unless_it_is_said_what_it_counts_as(
    schema_id: str | None, unversioned: str | None, expected: list[str]
) -> None:
    upcasting = Upcasting([passed("2.0"), passed("1.0")], lambda _: None, unversioned)
    given_events = [event({"passed": []}, schema_id), event({"passed": []}, schema_id, "user.created")]
    assert [each["passed"] for each in upcasting.payloads(given_events, "fold")] == [expected, []]


class User(Aggregate):
    name: str = ""

    @applies("user.updated")
    def updated(self, event: AppliedEvent) -> None:
        self.name = event.payload["name"]

    @upcasts("user.updated", from_version="1.0")
    @staticmethod
    def with_one_name(payload: dict[str, Any]) -> dict[str, Any]:
        return {"name": f"{payload['first']} {payload['last']}"}


@upcasts("user.updated", from_version="0.1")
def from_the_beginning(payload: dict[str, Any]) -> dict[str, Any]:
    first, last = payload["names"]
    return {"first": first, "last": last}


def test_upcasters_of_classes_files_and_the_sdk_come_before_the_fold() -> None:
    folds = Folds({"old": "0.1", "new": "1.0", "newest": "2.0"}.get, [from_the_beginning])
    declared = {
        "aggregate_type": "Person",
        "apply": {"user.updated": {"name": "payload.name"}},
        "upcasts": [
            {"event_type": "user.updated", "from_version": "1.0", "fields": {"name": "f'{first} {last}'"}, "remove": ["first"]}
        ],
    }
    folds.register(User)
    folds.register(read_folds(declared)[0].fold, "Person")
    given_events = [
        event({"names": ["Ann", "Lee"]}, "old"),
        event({"first": "Ann", "last": "Lee"}, "new"),
        event({"name": "Ann Lee"}, "newest"),
    ]
    for each in given_events:
        user, person = (folds.fold_of(name) for name in ("User", "Person"))
        assert user.apply_many(user.initial(), [each]) == User("Ann Lee")
        assert person.apply_many({}, [each]) == {"name": "Ann Lee"}
    assert folds.fold_of("Other").apply_many({}, given_events[:1]) == {"first": "Ann", "last": "Lee"}


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (
            lambda payload: payload["a"],
            r"the upcaster from version 1.0: KeyError: 'a' \(test_aggregate_folds_upcasts.py, line \d+: ",
        ),
        (lambda payload: payload.clear(), "the upcaster from version 1.0 returned None; it must return the payload, a dict"),
        (lambda payload: [payload], "returned a list"),
    ],
)
def test_an_upcaster_that_fails_is_told_with_the_event(change: Any, told: str) -> None:
    fold = MergeFold(Upcasting([upcasts("user.updated", from_version="1.0")(change)], unversioned="1.0"))
    with pytest.raises(FoldError, match=rf"cannot apply user.updated \(event evt_1, version 3 of u_1, position 7\): .*{told}"):
        fold.apply_many({"a": 1}, [event({"b": 1})])


def test_a_declared_upcaster_tells_which_field_it_cannot_make() -> None:
    declared = {
        "aggregate_type": "User",
        "otherwise": "merge",
        "unversioned": "1.0",
        "upcasts": [{"event_type": "user.updated", "from_version": "1.0", "fields": {"total": "cents / 100"}}],
    }
    fold = read_folds(declared)[0].fold
    assert fold.apply_many({}, [event({"cents": 250})]) == {"cents": 250, "total": 2.5}
    with pytest.raises(FoldError, match=r"the field total cannot be migrated: cents / 100: cents is null"):
        fold.apply_many({}, [event({})])


def test_two_upcasters_from_one_version_and_no_version_are_refused() -> None:
    with pytest.raises(FoldConfigError, match=r"there are two upcasters of user\.updated from version 1.0"):
        Upcasting([passed("1.0"), passed("1.0.0")])
    with pytest.raises(FoldConfigError, match=r"from_version: expected two or three numbers as in '1\.0', got 'one'"):
        passed("one")


@pytest.mark.parametrize("written_in", list(SerializationFormat))
def test_migrations_that_are_declared_with_schemas_come_first(written_in: SerializationFormat) -> None:
    first, second = fields_schema(written_in, "cents"), fields_schema(written_in, "total")
    migration = {"fields": {"total": "cents / 100"}, "remove": ["cents"]}
    with temporary_bus() as bus:
        ids = [
            bus.schemas.register({"schema_name": "users", "schema_version": version, **config}).schema_id
            for version, config in (
                ("1.0", first),
                ("2.0", {**second, "migration": migration, "compatibility_level": "NONE"}),
            )
        ]
        stream = StreamInfo(stream_id="str_1", config=StreamConfig(name="users", schema_id=ids[1]), created_at_ms=0)
        fold = MergeFold()
        migrated = fold.upcasted_by(fold.upcasting.through(Upcaster(bus.schemas, stream)))
        written = []
        for schema_id, payload in zip(ids, ({"cents": 250.0}, {"total": 3.0}), strict=True):
            guard = bus.schemas.guard("default", schema_id)
            data = guard.write_many([payload])[0][0] if guard.avro else msgspec.json.encode(payload)
            written.append(msgspec.structs.replace(event({}, schema_id), data=data, serialization_format=written_in))
        assert fold.apply_many({}, written[:1]) == {"cents": 250}
        assert migrated.apply_many({}, written[:1]) == {"total": 2.5}
        assert migrated.apply_many({}, written) == {"total": 3}
        assert migrated.fold_hash != fold.fold_hash


def test_a_payload_that_cannot_be_migrated_is_told_with_its_event() -> None:
    with temporary_bus() as bus:
        old = bus.schemas.register({"schema_name": "users", **fields_schema(SerializationFormat.JSON, "cents")})
        new = bus.schemas.register(
            {
                "schema_name": "users",
                "schema_version": "2.0",
                "compatibility_level": "NONE",
                "migration": {"fields": {"total": "cents / 100"}},
                **fields_schema(SerializationFormat.JSON, "total"),
            }
        )
        stream = StreamInfo(stream_id="str_1", config=StreamConfig(name="users", schema_id=new.schema_id), created_at_ms=0)
        fold = MergeFold(Upcasting(registry=Upcaster(bus.schemas, stream)))
        with pytest.raises(FoldError, match=r"position 7\): the payload cannot be brought to users 2.0: .*cents is text"):
            fold.apply_many({}, [event({"total": 1}, new.schema_id), event({"cents": "x"}, old.schema_id)])


def fields_schema(written_in: SerializationFormat, name: str) -> dict[str, Any]:
    """The schema of payloads with one field, a number."""
    if written_in is SerializationFormat.AVRO:
        return {"avro_schema": {"type": "record", "name": "users", "fields": [{"name": name, "type": "double"}]}}
    return {"json_schema": {"type": "object", "properties": {name: {}}}}
