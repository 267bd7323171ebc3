"""Folds of aggregates: what they make of events, and what they tell of those that they cannot apply."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, ClassVar

import msgspec
import pytest
from msgspec.structs import replace

from event_streaming_bus.sourcing.folds.aggregate import Aggregate, applies
from event_streaming_bus.sourcing.folds.base import Fold
from event_streaming_bus.sourcing.folds.class_fold import ClassFold
from event_streaming_bus.sourcing.folds.events import AppliedEvent
from event_streaming_bus.sourcing.folds.fold_file import read_fold_file, read_folds
from event_streaming_bus.sourcing.folds.folds import Folds
from event_streaming_bus.sourcing.folds.merging import MergeFold
from event_streaming_bus.sourcing.sourcing_errors import FoldConfigError, FoldError
from event_streaming_bus.store.recorded import RecordedEvent

Given = tuple[str, Mapping[str, Any]]


def events(*given: Given, after: int = 0) -> list[RecordedEvent]:
    """Events of one aggregate: each is its type and its payload."""
    return [
        RecordedEvent(
            position=10 * version,
            aggregate_id="acc_1",
            aggregate_type="Account",
            version=version,
            event_type=event_type,
            event_id=f"evt_{version}",
            timestamp_ms=1_357_034_400_000 + version,
            recorded_at_ms=1_400_000_000_000,
            data=msgspec.json.encode(payload),
            metadata={"source": "test"},
            user_id="ann",
        )
        for version, (event_type, payload) in enumerate(given, after + 1)
    ]


def folded(fold: Fold[Any], *given: Given) -> Any:
    return fold.apply_many(fold.initial(), events(*given))


def declared(**data: Any) -> Fold[dict[str, Any]]:
    (read,) = read_folds({"aggregate_type": "Account", **data})
    return read.fold


def refused(**data: Any) -> str:
    with pytest.raises(FoldConfigError) as caught:
        declared(**data)
    return caught.value.message


# --- the default ------------------------------------------------------------------------------------------------------


def test_the_default_merges_the_fields_of_payloads() -> None:
    assert folded(
        MergeFold(),
        ("user.created", {"user_name": "john.doe", "status": "new", "address": {"city": "Oslo", "zip": "1"}}),
        ("user.updated", {"status": None, "address": {"city": "Rome"}}),
    ) == {"user_name": "john.doe", "status": None, "address": {"city": "Rome"}}


def test_no_events_leave_the_state_as_it_is() -> None:
    state = {"a": 1}
    assert MergeFold().apply_many(state, []) is state


@pytest.mark.parametrize("data", [b"[]", b'{"a": ', b'{"a": 1}, {"b": 2}', b"", b'{"a": "\xff"}'])
def test_a_payload_that_is_no_object_is_told_with_its_event(data: bytes) -> None:
    given = events(("a", {}), ("b", {}), ("c", {}))
    given[1] = replace(given[1], data=data)
    with pytest.raises(FoldError, match=r"the default fold cannot apply b \(event evt_2, version 2 of acc_1, position 20\)"):
        MergeFold().apply_many({}, given)


# --- declared ---------------------------------------------------------------------------------------------------------


def test_expressions_see_the_state_the_payload_and_the_envelope() -> None:
    fold = declared(
        initial={"balance": 0, "log": []},
        apply={
            "account.deposited": {
                "balance": "state.balance + payload.amount",
                "log": "state.log + [{'by': user_id, 'from': metadata.source, 'version': version}]",
                "last": "[event_type, event_id, aggregate_id, date(timestamp), position]",
            }
        },
    )
    assert folded(fold, ("account.deposited", {"amount": 5}), ("account.deposited", {"amount": 2})) == {
        "balance": 7,
        "log": [{"by": "ann", "from": "test", "version": 1}, {"by": "ann", "from": "test", "version": 2}],
        "last": ["account.deposited", "evt_2", "acc_1", "2013-01-01", 20],
    }


def test_all_expressions_of_an_event_see_the_state_before_it() -> None:
    fold = declared(initial={"a": 1, "b": 2}, merge=["swap"], apply={"swap": {"a": "state.b", "b": "state.a"}})
    assert folded(fold, ("swap", {"a": 9, "c": 3})) == {"a": 2, "b": 1, "c": 3}


def test_fields_below_the_top_are_set_and_removed_without_touching_what_others_see() -> None:
    fold = declared(
        apply={"moved": {"address.city": "payload.city", "before": "state.address"}},
        remove={"cleared": ["address.zip", "gone.a"]},
    )
    before = {"address": {"city": "Oslo", "zip": "1"}, "gone": 5}
    after = fold.apply_many(before, events(("moved", {"city": "Rome"}), ("cleared", {})))
    assert after == {"address": {"city": "Rome"}, "before": {"city": "Oslo", "zip": "1"}, "gone": 5}
    assert before == {"address": {"city": "Oslo", "zip": "1"}, "gone": 5}


def test_the_state_can_be_a_part_of_itself() -> None:
    fold = declared(apply={"kept": {"before": "state"}})
    assert folded(fold, ("kept", {}), ("kept", {})) == {"before": {"before": {}}}


def test_constants_stand_for_themselves() -> None:
    fold = declared(apply={"closed": {"open": False, "balance": 0, "owner": None, "status": "'closed'"}})
    assert folded(fold, ("closed", {})) == {"open": False, "balance": 0, "owner": None, "status": "closed"}


@pytest.mark.parametrize(
    ("otherwise", "expected"), [("ignore", {"n": 1}), (None, {"n": 1}), ("merge", {"n": 1, "x": 1}), ("fail", None)]
)
def test_events_of_other_types_are_ignored_merged_or_fail(otherwise: str | None, expected: Any) -> None:
    fold = declared(apply={"known": {"n": 1}}, ignore=["dull"], **({"otherwise": otherwise} if otherwise else {}))
    given = [("known", {}), ("dull", {"y": 1}), ("other", {"x": 1})]
    if expected is None:
        with pytest.raises(FoldError, match=r"other \(event evt_3.*it knows no events of this type \(known: known, dull\)"):
            folded(fold, *given)
    else:
        assert folded(fold, *given) == expected


@pytest.mark.parametrize(
    ("expression", "payload", "told"),
    [
        ("state.balance + payload.amount", {}, "payload.amount is null"),
        ("state.balance / payload.amount", {"amount": 0}, "division by zero: payload.amount is 0"),
        ("payload.amount * 1e308 * 10", {"amount": 5}, "too large for a number"),
        ("[payload.amount * 1e308 * 10]", {"amount": 5}, "too large for a number"),
    ],
)
def test_an_expression_that_fails_is_told_with_its_place_and_the_state_stays(
    expression: str, payload: Mapping[str, Any], told: str
) -> None:
    fold = declared(initial={"balance": 1}, apply={"deposited": {"first": "version", "balance": expression}})
    state = {"balance": 1}
    with pytest.raises(FoldError) as caught:
        fold.apply_many(state, events(("deposited", {"amount": 1}), ("deposited", payload), after=5))
    error = caught.value
    assert error.message.startswith("the fold of Account cannot apply deposited (event evt_")
    assert told in error.message
    assert error.details["where"] == 'apply["deposited"].balance'
    assert error.details["version"] in (6, 7)
    assert error.details["position"] == 10 * error.details["version"]
    assert error.details["event_type"] == "deposited"
    assert state == {"balance": 1}


def test_lists_and_tuples_are_lists_wherever_they_come_from() -> None:
    texts = ["(1, 2)", "[(1, 2)]", "{'a': (1,)}", "(1, 2) if true else 0", "[(x, 1) for x in payload.l]", "sorted([(2,), (1,)])"]
    fold = declared(apply={"a": {f"f{i}": text for i, text in enumerate(texts)}})
    state = folded(fold, ("a", {"l": [1]}))
    assert msgspec.json.decode(msgspec.json.encode(state)) == state
    assert "(" not in repr(state)


def test_types_are_checked_when_fields_get_values() -> None:
    fold = declared(
        state={"balance": "number", "owner": "text?"},
        initial={"balance": 0},
        merge=["named"],
        apply={"deposited": {"balance": "payload.amount"}},
    )
    assert folded(fold, ("deposited", {"amount": 2.5}), ("named", {"owner": "Ann", "more": 1}), ("named", {"owner": None}))
    with pytest.raises(FoldError, match=r"balance: payload.amount: state.balance is number, not '5'"):
        folded(fold, ("deposited", {"amount": "5"}))
    with pytest.raises(FoldError, match=r"state.owner is text\?, not true"):
        folded(fold, ("named", {"owner": True}))


@pytest.mark.parametrize(
    ("data", "told"),
    [
        ({"apply": {"account.paid": {"balance": "state.balance +"}}}, 'apply["account.paid"].balance: does not parse'),
        (
            {"apply": {"a": {"balance": "state.balance + amount"}}},
            "apply.a.balance: there is no name amount; did you mean payload.amount?",
        ),
        ({"apply": {"a": {"balance": "1 + stat.x"}}}, "did you mean state"),
        ({"apply": {"a": {"balance": "1 + stat.x"}}}, "(column 5)"),
        ({"apply": {"a": {"balance": "1 +\n  stat.x"}}}, "(line 2, column 3)"),
        ({"apply": {"a": {"x": "open('f')"}}}, "apply.a.x: there is no function open"),
        ({"apply": {"a": {"x": 1, "x.y": 2}}}, "apply.a"),
        ({"aply": {}}, "aply: unknown key; did you mean 'apply'?"),
        (
            {"merge": ["a"], "otherwise": "merg"},
            "otherwise: expected one of ignore, merge, fail, got 'merg'; did you mean 'merge'?",
        ),
        ({"merge": ["a"], "ignore": ["a"]}, "ignore[0]: a is not ignored"),
        ({}, "the fold applies nothing"),
        ({"merge": ["a"], "initial": 5}, "initial: expected a mapping, got 5"),
        ({"merge": ["a"], "fold_version": 0}, "fold_version: expected an integer >= 1"),
        ({"merge": ["a"], "state": {"n": "int"}}, "state.n: expected one of any, boolean, integer"),
        ({"merge": ["a"], "state": {"n": "integer"}}, "state.n: has no initial value"),
        ({"merge": ["a"], "state": {"n": "integer"}, "initial": {"n": "x"}}, "initial.n: state.n is integer, not 'x'"),
        ({"state": {"n": "text?"}, "apply": {"a": {"m": "1"}}}, "apply.a.m: 'state' names no field 'm'"),
        ({"state": {"n": "text?"}, "apply": {"a": {"n": "1 + 1"}}}, "apply.a.n: this is an integer, but state.n is text?"),
        ({"state": {"name": "text?"}, "apply": {"a": {"name": "state.nam"}}}, "state has no field 'nam'; did you mean 'name'?"),
        (
            {"state": {"n": "text"}, "initial": {"n": ""}, "remove": {"a": ["n"]}},
            "remove.a[0]: n is text, which null is not",
        ),
        ({"merge": ["a"], "upcasts": [{"event_type": "a", "from_version": 1.0}]}, "from_version: expected a version"),
        (
            {"merge": ["a"], "upcasts": [{"event_type": "a", "from_version": "1.0", "fields": {"x": "1 +"}}]},
            "upcasts[0].fields.x: does not parse",
        ),
        (
            {"merge": ["a"], "upcasts": [{"event_type": "a", "from_version": v} for v in ("1.0", "1.0.0")]},
            "upcasts: there are two upcasters of a from version 1.0",
        ),
    ],
)
def test_a_declaration_that_cannot_work_is_refused_with_its_place(data: dict[str, Any], told: str) -> None:
    assert told in refused(**data)


def test_a_file_holds_one_fold_or_several_and_problems_have_lines(tmp_path: Path) -> None:
    one = tmp_path / "one.toml"
    one.write_text('aggregate_type = "Account"\n[apply."account.closed"]\nstatus = "\'closed\'"\n')
    (read,) = read_fold_file(one)
    assert read.aggregate_type == "Account"
    assert folded(read.fold, ("account.closed", {})) == {"status": "closed"}
    several = tmp_path / "several.yaml"
    several.write_text(
        "folds:\n  - aggregate_type: A\n    otherwise: merge\n  - aggregate_type: B\n    apply:\n      b.done: {at: timestamp}\n"
    )
    assert [each.aggregate_type for each in read_fold_file(several)] == ["A", "B"]
    broken = tmp_path / "broken.yaml"
    broken.write_text(
        "folds:\n  - aggregate_type: A\n    otherwise: merge\n  - aggregate_type: A\n    apply:\n      x:\n        y: z\n"
    )
    with pytest.raises(FoldConfigError) as caught:
        read_fold_file(broken)
    assert f"{broken}:7: folds[1].apply.x.y: there is no name z" in caught.value.message
    with pytest.raises(FoldConfigError, match="expected a file of folds ending in"):
        read_fold_file(tmp_path / "fold.txt")
    with pytest.raises(FoldConfigError, match="there is no such file"):
        read_fold_file(tmp_path / "none.yaml")


# --- classes ----------------------------------------------------------------------------------------------------------


class Deposited(msgspec.Struct):
    amount: int
    at: datetime | None = None


@dataclass
class Renamed:
    owner: str


class Account(Aggregate):
    balance: int = 0
    owner: str | None = None
    last: datetime | None = None
    entries: list[int] = msgspec.field(default_factory=list)
    versions: dict[int, str] = msgspec.field(default_factory=dict)

    @applies("account.deposited")
    def deposited(self, payload: Deposited, event: AppliedEvent) -> None:
        self.balance += payload.amount
        self.last = payload.at or event.timestamp
        self.versions[event.version] = event.event_id

    @applies("account.renamed")
    def renamed(self, renamed: Renamed) -> None:
        self.owner = renamed.owner

    @applies("account.noted", "account.marked")
    def noted(self, event: AppliedEvent) -> None:
        self.entries.append(event.payload["n"])
        event.payload["n"] = 0
        event.metadata.clear()

    @applies("account.set")
    def set_balance(self, payload: dict[str, Any]) -> None:
        self.balance = payload["balance"]


def test_methods_of_a_class_apply_typed_events() -> None:
    fold = ClassFold(Account)
    given = events(
        ("account.deposited", {"amount": 5, "at": "2013-01-01T10:00:00Z"}),
        ("account.renamed", {"owner": "Ann", "more": 1}),
        ("account.noted", {"n": 1}),
        ("account.marked", {"n": 2}),
        ("unknown", {}),
    )
    state = fold.apply_many(fold.initial(), given)
    at = datetime(2013, 1, 1, 10, tzinfo=UTC)
    assert state == Account(balance=5, owner="Ann", last=at, entries=[1, 2], versions={1: "evt_1"})
    assert fold.to_json(state) == {
        "balance": 5,
        "owner": "Ann",
        "last": "2013-01-01T10:00:00Z",
        "entries": [1, 2],
        "versions": {"1": "evt_1"},
    }
    assert fold.from_json(fold.to_json(state)) == state
    assert given[2].metadata == {"source": "test"}


def test_a_method_that_raises_is_told_with_its_line_and_the_state_stays() -> None:
    fold = ClassFold(Account)
    state = Account(entries=[1])
    with pytest.raises(FoldError) as caught:
        fold.apply_many(state, events(("account.noted", {"n": 2}), ("account.noted", {"m": 3})))
    told = caught.value.message
    assert told.startswith("the fold Account cannot apply account.noted (event evt_2, version 2 of acc_1, position 20): ")
    assert "KeyError: 'n' (test_aggregate_folds.py, line " in told
    assert 'self.entries.append(event.payload["n"])' in told
    assert isinstance(caught.value.__cause__, KeyError)
    assert state == Account(entries=[1])


def test_a_payload_of_another_type_is_told() -> None:
    with pytest.raises(FoldError, match=r"the payload: Expected `int`, got `str` - at `\$.amount`"):
        folded(ClassFold(Account), ("account.deposited", {"amount": "5"}))


def test_a_value_of_another_type_than_the_class_says_names_the_event_that_set_it() -> None:
    given = [("account.set", {"balance": n}) for n in (1, 2, 3)] + [("account.set", {"balance": "x"})] * 3
    with pytest.raises(FoldError, match=r"evt_4.*not what the class says: Expected `int`, got `str` - at `\$.balance`"):
        folded(ClassFold(Account), *given)


def test_a_value_that_a_snapshot_would_change_is_told() -> None:
    class Loose(Aggregate):
        pair: Any = None
        ratio: float = 0

        @applies("a")
        def a(self, event: AppliedEvent) -> None:
            self.pair = (1, 2)

        @applies("b")
        def b(self, event: AppliedEvent) -> None:
            self.ratio = float("inf")

        @applies("c")
        def c(self, event: AppliedEvent) -> None:
            self.pair = [self]

    assert repr(ClassFold(Loose).initial()) == "Loose(pair=None, ratio=0.0)"
    with pytest.raises(FoldError, match=r"pair: \(1, 2\) would be read back as \[1, 2\]; annotate the field"):
        folded(ClassFold(Loose), ("a", {}))
    with pytest.raises(FoldError, match=r"cannot apply b .*Expected `float`, got `null`"):
        folded(ClassFold(Loose), ("b", {}))
    with pytest.raises(FoldError, match=r"cannot apply c .*recursion"):
        folded(ClassFold(Loose), ("c", {}))


def test_methods_of_frozen_classes_return_the_new_state() -> None:
    class Counter(Aggregate, frozen=True):
        n: int = 0

        @applies("counted")
        def counted(self, event: AppliedEvent) -> "Counter":
            return replace(self, n=self.n + 1)

        @applies("wrong")
        def wrong(self, event: AppliedEvent) -> int:
            return 5

    assert folded(ClassFold(Counter), ("counted", {}), ("counted", {})) == Counter(2)
    with pytest.raises(FoldError, match="wrong returned a int; expected a state or nothing"):
        folded(ClassFold(Counter), ("wrong", {}))


def test_a_strict_class_refuses_events_that_no_method_applies() -> None:
    class Strict(Account):
        otherwise = "fail"

    with pytest.raises(FoldError, match=r"it knows no events of this type \(known: account.deposited, "):
        folded(ClassFold(Strict), ("account.opened", {}))


def test_an_overriding_method_applies_what_the_one_before_did() -> None:
    class Doubled(Account):
        def set_balance(self, payload: dict[str, Any]) -> None:
            self.balance = 2 * payload["balance"]

    assert folded(ClassFold(Doubled), ("account.set", {"balance": 2})) == Doubled(balance=4)


def _unfit_classes() -> dict[str, type]:
    class Required(Aggregate):
        owner: str

    class Twice(Aggregate):
        @applies("a")
        def one(self, event: AppliedEvent) -> None: ...

        @applies("a")
        def two(self, event: AppliedEvent) -> None: ...

    class Later(Aggregate):
        @applies("a")
        async def one(self, event: AppliedEvent) -> None: ...

    class Raw(Aggregate):
        @applies("a")
        def one(self, event: RecordedEvent) -> None: ...

    class Nothing(Aggregate):
        @applies("a")
        def one(self) -> None: ...

    class Other(msgspec.Struct):
        pass

    class Odd(Aggregate):
        @applies("a")
        def one(self, payload: Deposited | Other) -> None: ...

    class Field(Aggregate):
        pair: Any = (1, 2)

    class Word(Aggregate):
        otherwise: ClassVar[Any] = "merge"

    class Version(Aggregate):
        fold_version: int = 2

    return {
        r"Version.fold_version would be a field of the state; set it without an annotation": Version,
        r"Required.owner has no default": Required,
        r"both one and two apply a; one method is for it": Twice,
        r"Later.one: expected a plain method, neither async": Later,
        r"Raw.one, event: an event comes as AppliedEvent": Raw,
        r"Nothing.one: expected a method of self and the event": Nothing,
        r"Odd.one, payload: a payload cannot be converted": Odd,
        r"Field: its defaults are no state that a snapshot can hold: pair": Field,
        r"Word.otherwise: expected 'ignore' or 'fail', got 'merge'": Word,
        r"expected a class that derives from Aggregate": dict,
    }


@pytest.mark.parametrize("told", _unfit_classes())
def test_a_class_that_cannot_be_a_fold_is_refused(told: str) -> None:
    with pytest.raises(FoldConfigError, match=told):
        ClassFold(_unfit_classes()[told])


# --- which one is in force ----------------------------------------------------------------------------------------------


def test_each_type_has_its_fold_and_others_the_default(tmp_path: Path) -> None:
    (tmp_path / "shop.py").write_text(
        "from event_streaming_bus.sourcing.folds.aggregate import Aggregate, applies\n\n"
        "class Basket(Aggregate):\n    n: int = 0\n\n"
        "    @applies('basket.filled')\n    def filled(self, event):\n        self.n += 1\n"
    )
    file = tmp_path / "folds.yaml"
    file.write_text("folds:\n  - class: shop.py:Basket\n  - {aggregate_type: Order, merge: [order.placed]}\n")
    folds = Folds()
    folds.register(Account)
    folds.load_file(file)
    assert [(name, fold.kind) for name, fold in folds.all().items()] == [
        ("Account", "class"),
        ("Basket", "class"),
        ("Order", "declared"),
    ]
    assert folds.fold_of("User").kind == "merge"
    assert folded(folds.fold_of("Basket"), ("basket.filled", {})).n == 1


def test_a_type_keeps_its_fold_unless_it_is_replaced_on_purpose() -> None:
    folds = Folds()
    folds.register(Account)
    folds.register(Account)
    with pytest.raises(FoldConfigError, match="Account has a fold already, the fold Account; pass replace=True"):
        folds.register(declared(merge=["a"]), "Account")
    assert folds.register(declared(merge=["a"]), "Account", replace=True) is folds.fold_of("Account")
    with pytest.raises(FoldConfigError, match="expected the type of aggregate"):
        folds.register(MergeFold())
