"""Schemas in files: what a folder declares, what applying it would do, and exports from which the same registry is made again."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from event_streaming_bus.bus import open_bus
from event_streaming_bus.cli.schema_reading import read_files
from event_streaming_bus.errors import BusError, InvalidStateError, SchemaError
from event_streaming_bus.flows.flow_file import read_flow_file
from event_streaming_bus.registry.schema_files import SchemaFile, declared_in, exported, folder_of, written
from event_streaming_bus.registry.schema_plans import Plan, apply, plan
from event_streaming_bus.registry.service import SchemaRegistryService, describe

TEXT = {"type": "string"}
Registry = SchemaRegistryService


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[Registry]:
    with open_bus(tmp_path / "data") as bus:
        yield bus.schemas


def schema(name: str, *required: str, **more: Any) -> dict[str, Any]:
    properties = dict.fromkeys(required, TEXT)
    return {"schema_name": name, "json_schema": {"type": "object", "properties": properties, "required": list(required)}, **more}


def file_of(*configs: Mapping[str, Any], **more: Any) -> SchemaFile:
    return declared_in({"schemas": list(configs), **more}, "contracts.yaml")


def verdicts(made: Plan) -> dict[str, str]:
    return {f"{step.declared.name}@{step.schema_version}": step.verdict.value for step in made.steps}


# --- reading ------------------------------------------------------------------------------------------------------------


def test_every_file_below_a_folder_is_read(tmp_path: Path) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / ".git").mkdir()
    (tmp_path / "one.yaml").write_text("schema_name: one\njson_schema: true\n")
    (tmp_path / "a" / "two.json").write_text('{"schemas": [{"schema_name": "two", "json_schema": true}]}')
    (tmp_path / "a" / "b" / "three.toml").write_text('schema_name = "three"\njson_schema = true\n')
    (tmp_path / "a" / "four-value.avsc").write_text('{"type": "record", "name": "F", "fields": []}')
    (tmp_path / "notes.md").write_text("# no schema")
    (tmp_path / ".git" / "five.yaml").write_text("schema_name: five")
    names = [schema.name for file in read_files([str(tmp_path)]) for schema in file.schemas]
    assert sorted(names) == ["four-value", "one", "three", "two"]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("a: 1\n", "s.yaml:1: expected a schema_name"),
        ("- a\n", "s.yaml:1: expected a mapping"),
        ("schemas: []\nprocesors: []\n", "s.yaml:2: procesors: unknown key (accepted: schemas,"),
        ("schemas:\n  - 5\n", "s.yaml:2: schemas[0]: expected a mapping"),
        ("compatibility_levels:\n  a: FULL\n  b: HALF\n", "s.yaml:3: compatibility_levels.b: 'HALF' is no level; accepted: NONE"),
    ],
)
def test_a_file_that_declares_nothing_is_told_with_its_line(tmp_path: Path, text: str, told: str) -> None:
    (tmp_path / "s.yaml").write_text(text)
    with pytest.raises(SchemaError) as error:
        read_files([str(tmp_path / "s.yaml")])
    assert told in error.value.message


@pytest.mark.parametrize(
    ("lines", "told"),
    [
        (
            ["schemas:", "  - schema_name: s", "    schema_version: one", "    json_schema: true"],
            ":3: schemas[0].schema_version: exp",
        ),
        (["schema_name: s", "json_schema:", "  properties:", "    a: {type: objct}"], ":4: json_schema/properties/a/type: "),
        (
            ["schema_name: s", "json_schema: true", "validation_rules:", "  business_rules:", "    - {name: a, rule: 1 +}"],
            ":5: valid",
        ),
        (["schema_name: s", "json_schema: true", "eventtype: x"], ":3: eventtype: unknown field; did you mean 'event_type'?"),
    ],
)
def test_what_is_wrong_with_a_schema_is_told_with_its_line(
    registry: Registry, tmp_path: Path, lines: list[str], told: str
) -> None:
    (tmp_path / "s.yaml").write_text("\n".join(lines))
    [step] = plan(registry, "default", read_files([str(tmp_path / "s.yaml")])).refused
    assert f"s.yaml{told}" in step.reason


# --- planning and applying ----------------------------------------------------------------------------------------------


def test_a_plan_says_what_would_happen_and_does_nothing(registry: Registry) -> None:
    registry.register(schema("kept", "a"))
    registry.register(schema("grown", "a"))
    registry.register(schema("broken", "a"))
    broken = schema("broken", "a", "b", evolution_strategy="BREAKING_CHANGE")
    grown = {**schema("grown", "a"), "validation_rules": {"business_rules": [{"name": "r", "rule": "a != ''"}]}}
    made = plan(
        registry, "default", [file_of(schema("kept", "a"), grown, broken, schema("new", "a"), schema("bad", "a") | {"x": 1})]
    )
    assert verdicts(made) == {
        "bad@None": "refused",
        "broken@2.0": "new version",
        "grown@1.1": "new version",
        "kept@1.0": "unchanged",
        "new@1.0": "new",
    }
    steps = {step.declared.name: step for step in made.steps}
    assert (steps["grown"].change, steps["grown"].before, steps["broken"].change) == ("minor", "1.0", "major")
    assert [change.pointer for change in steps["grown"].changes] == ["/validation_rules"]
    kinds = [difference.kind for difference in steps["broken"].incompatibilities[0].differences]
    assert "REQUIRED_ATTRIBUTE_ADDED" in kinds
    assert len(registry.subjects.store.versions("default", deleted=True)) == 3


def test_an_incompatible_schema_is_refused_with_its_differences_and_nothing_is_applied(registry: Registry) -> None:
    registry.register(schema("order", "a"))
    made = plan(registry, "default", [file_of(schema("order", "a", "b"), schema("fine", "a"))])
    [step] = made.refused
    assert (step.reason, step.level) == ("contracts.yaml: schemas[0]: incompatible at level BACKWARD", "BACKWARD")
    assert "/required" in [difference.pointer for difference in step.incompatibilities[0].differences]
    with pytest.raises(InvalidStateError):
        apply(registry, "default", made)
    assert [record.schema_name for record in registry.subjects.store.versions("default")] == ["order"]


def test_applying_twice_changes_nothing(registry: Registry) -> None:
    files = [
        file_of(
            schema("a", "x"), schema("a", "x", event_type="t", schema_version="1.1"), schema("b", "x", compatibility_level="FULL")
        )
    ]
    assert len(apply(registry, "default", plan(registry, "default", files), "me")) == 3
    before = [describe(record) for record in registry.subjects.store.versions("default")]
    made = plan(registry, "default", files)
    assert (set(verdicts(made).values()), made.levels) == ({"unchanged"}, [])
    assert apply(registry, "default", made) == []
    assert [describe(record) for record in registry.subjects.store.versions("default")] == before


def test_the_same_version_with_other_contents_is_refused(registry: Registry) -> None:
    registry.register(schema("a", "x", schema_version="1.0"))
    made = plan(registry, "default", [file_of(schema("a", schema_version="1.0"))])
    assert "a 1.0 exists with other contents" in made.refused[0].reason


def test_schemas_are_applied_after_those_they_refer_to(registry: Registry) -> None:
    def referring(name: str, *to: Mapping[str, Any]) -> dict[str, Any]:
        properties = {reference["name"]: {"$ref": reference["name"]} for reference in to}
        return {"schema_name": name, "json_schema": {"properties": properties}, "references": list(to)}

    files = [
        file_of(
            referring("a", {"name": "b", "subject": "b"}),
            referring("b", {"name": "c", "subject": "c", "version": "latest"}, {"name": "old", "subject": "c", "version": "1.0"}),
            schema("c", "x", schema_version="1.1", event_type="e"),
            schema("c", "x", schema_version="1.0"),
        )
    ]
    made = plan(registry, "default", files)
    assert [f"{step.declared.name} {step.schema_version}" for step in made.steps] == ["c 1.0", "c 1.1", "b 1.0", "a 1.0"]
    apply(registry, "default", made)
    b = registry.find("default", "b")
    assert [(reference.name, reference.version) for reference in b.text.references] == [("c", 2), ("old", 1)]


def test_a_circle_of_references_is_refused(registry: Registry) -> None:
    a = {"schema_name": "a", "json_schema": True, "references": [{"name": "b", "subject": "b"}]}
    b = {"schema_name": "b", "json_schema": True, "references": [{"name": "a", "subject": "a"}]}
    reasons = [step.reason for step in plan(registry, "default", [file_of(a, b, schema("c"))]).refused]
    assert len(reasons) == 2
    assert all("refer to each other in a circle: a, b" in reason for reason in reasons)


def test_levels_are_set_before_schemas_are_checked(registry: Registry) -> None:
    registry.register(schema("order"))
    files = [
        file_of(schema("order") | {"event_type": "t"}, compatibility_levels={"order": "FULL"}, default_compatibility_level="NONE")
    ]
    made = plan(registry, "default", files)
    assert [(level.subject, level.before, level.after) for level in made.levels] == [("order", None, "FULL"), ("", None, "NONE")]
    apply(registry, "default", made)
    assert registry.find("default", "order").compatibility_level == "FULL"
    assert (registry.subjects.settings.level("default", "order"), registry.subjects.settings.level("default", "x")) == (
        "FULL",
        "NONE",
    )
    assert plan(registry, "default", files).levels == []


def test_what_somebody_else_registers_meanwhile_is_told(registry: Registry) -> None:
    made = plan(registry, "default", [file_of(schema("a"), schema("b", schema_version="1.0"))])
    registry.register(schema("b", "x", schema_version="1.0"))
    with pytest.raises(BusError, match=r"schemas\[1\].*other contents.*\(1 of 2 were registered before\)"):
        apply(registry, "default", made)


# --- exporting ----------------------------------------------------------------------------------------------------------


def fill(registry: Registry) -> None:
    """Schemas of both formats, with references, rules, migrations, strategies, levels and names of all sorts."""
    rules = {"business_rules": [{"name": "r", "rule": "a != 'NO'", "description": "no, 1e5, ~", "severity": "warning"}]}
    registry.register(schema("order", "a", compatibility_level="NONE"))
    registry.register(schema("order", "a", "b", schema_version="2.0", validation_rules=rules, event_type="true"))
    migration = {"fields": {"c": "b + '!'"}, "remove": ["b"]}
    registry.register(
        schema("order", "a", "c", evolution_strategy="BREAKING_CHANGE", migration=migration, metadata={"tags": {"x": ["1"]}})
    )
    registry.register(schema("order", "a", "c", event_type="late", evolution_strategy="DEPRECATE", is_active=False))
    money = {"type": "record", "name": "shop.Money", "fields": [{"name": "amount", "type": "double"}]}
    registry.register({"schema_name": "shop/money %", "avro_schema": money} | {"schema_name": "shop/money%"})
    price = {
        "type": "record",
        "name": "shop.Price",
        "fields": [{"name": "price", "type": ["null", "shop.Money"], "default": None}],
    }
    reference = {"name": "shop.Money", "subject": "shop/money%", "version": 1}
    registry.register({"schema_name": ":.shop:price", "avro_schema": price, "references": [reference]})
    registry.register({"schema_name": "..", "avro_schema": "string"})
    holder = {"schema_name": "Ünï", "json_schema": {"$ref": "order", "maximum": 1e22, "minimum": 1.0, "default": "0012"}}
    registry.register(holder | {"references": [{"name": "order", "subject": "order", "version": 2}]})
    registry.subjects.settings.set_config("default", "", {"compatibilityLevel": "FULL_TRANSITIVE"})
    registry.subjects.settings.set_config("default", "order", {"compatibilityLevel": "FORWARD"})


def state(registry: Registry) -> list[dict[str, Any]]:
    """All that an export keeps."""
    gone = ("schema_id", "created_at", "created_by", "id", "deprecated")
    versions = [describe(record) for record in registry.subjects.store.versions("default")]
    kept = [{name: value for name, value in told.items() if name not in gone} for told in versions]
    levels = {
        name: registry.subjects.settings.level("default", name) for name in (*registry.subjects.store.subjects("default"), "x")
    }
    return [*kept, levels]


@pytest.mark.parametrize("form", ["yaml", "json"])
def test_an_export_makes_the_same_registry_again(registry: Registry, tmp_path: Path, form: str) -> None:
    fill(registry)
    for path, contents in exported(registry, "default").items():
        file = tmp_path / "out" / f"{path}.{form}"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(written(contents, form))
    files = read_files([str(tmp_path / "out")])
    assert set(verdicts(plan(registry, "default", files)).values()) == {"unchanged"}
    with open_bus(tmp_path / "empty") as empty:
        made = plan(empty.schemas, "default", files)
        assert [step.reason for step in made.refused] == []
        apply(empty.schemas, "default", made)
        assert state(empty.schemas) == state(registry)
        assert plan(empty.schemas, "default", files).changing == []
        assert exported(empty.schemas, "default") == exported(registry, "default")


def test_an_export_of_some_has_what_they_refer_to(registry: Registry) -> None:
    fill(registry)
    assert sorted(exported(registry, "default", ["..", ":.shop:price"])) == [
        "%2E./1.0",
        "%3A.shop%3Aprice/1.0",
        "compatibility-levels",
        "shop%2Fmoney%25/1.0",
    ]


@pytest.mark.parametrize("name", ["..", ".", "a/../../b", "/etc/passwd", "a\\b", ".hidden", "x" * 249, "é/" * 100, ":.ctx:a b"])
def test_no_name_leads_out_of_the_folder(name: str, tmp_path: Path) -> None:
    folder = folder_of(name)
    assert (tmp_path / folder).resolve().parent == tmp_path.resolve()
    assert len(folder) <= 200
    assert not folder.startswith(".")


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**60), 2**60) | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=60)
@given(st.dictionaries(st.text(), _JSON, min_size=1, max_size=4))
def test_what_is_written_as_yaml_is_read_as_it_was(tmp_path_factory: pytest.TempPathFactory, contents: dict[str, Any]) -> None:
    path = tmp_path_factory.mktemp("yaml") / "s.yaml"
    path.write_text(written(contents, "yaml"), encoding="utf-8")
    document = read_flow_file(path)
    assert (document.data, document.problems.found) == (contents, [])


def test_what_is_registered_belongs_to_one_tenant(registry: Registry) -> None:
    registry.register(schema("order", "a"), "other")
    assert exported(registry, "default") == {}
    assert verdicts(plan(registry, "default", [file_of(schema("order", "b"))])) == {"order@1.0": "new"}
