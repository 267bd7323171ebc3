"""Inferred types hold for what expressions really give: checked with random expressions over random payloads."""

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from event_streaming_bus.errors import ExpressionError
from event_streaming_bus.expressions import Scope, parse
from event_streaming_bus.flows.inference import assume, infer
from event_streaming_bus.flows.schema_types import type_of_schema
from event_streaming_bus.flows.types import Kind, Type, field_of, kind_of

SCHEMA: dict[str, Any] = {
    "type": "object",
    "additionalProperties": False,
    "required": ["n", "maybe", "text", "word", "list", "inner", "flag"],
    "properties": {
        "n": {"type": "integer"},
        "x": {"type": "number"},
        "maybe": {"type": ["integer", "null"]},
        "text": {"type": "string"},
        "other": {"type": "string"},
        "word": {"enum": ["a", "b", 1, None]},
        "list": {"type": "array", "items": {"type": ["string", "null"]}},
        "flag": {"type": "boolean"},
        "inner": {
            "type": "object",
            "required": ["n"],
            "additionalProperties": False,
            "properties": {"n": {"type": "integer"}, "s": {"type": "string"}},
        },
    },
}
ROOT = type_of_schema(SCHEMA)
PATHS = [
    "n",
    "x",
    "maybe",
    "text",
    "other",
    "word",
    "list",
    "flag",
    "inner",
    "inner.n",
    "inner.s",
    "gone",
    "text.gone",
    "inner['s']",
]
CONSTANTS = ["1", "2.5", "'a'", "'b'", "true", "null", "[]", "['a', null]", "-3", "0"]

numbers = st.integers(-3, 3)
texts = st.sampled_from(["", "a", "b", "12"])


def optional(required: dict[str, Any], others: dict[str, Any]) -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries(required, optional=others)


payloads = optional(
    {
        "n": numbers,
        "maybe": st.none() | numbers,
        "text": texts,
        "word": st.sampled_from(["a", "b", 1, None]),
        "list": st.lists(texts | st.none(), max_size=2),
        "flag": st.booleans(),
        "inner": optional({"n": numbers}, {"s": texts}),
    },
    {"x": st.sampled_from([0.5, 1, -2.0]), "other": texts},
)


def larger(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    def pair(operators: list[str]) -> st.SearchStrategy[str]:
        return st.builds(lambda a, o, b: f"({a} {o} {b})", inner, st.sampled_from(operators), inner)

    def of(shape: str) -> st.SearchStrategy[str]:
        return st.builds(lambda *parts: shape.format(*parts), *[inner] * shape.count("{}"))

    shapes = [
        "(not {})",
        "(-{})",
        "({} if {} else {})",
        "len({})",
        "str({})",
        "coalesce({}, {})",
        "{}.lower()",
        "{}.startswith({})",
    ]
    shapes += ["({})[0]", "round({})", "max({}, {})", "int({})", "concat({}, {})", "[each for each in {}]", "sum({})", "abs({})"]
    shapes += ["any(each == {} for each in {})", "[{}, {}]", "bool({})", "sorted({})", "({})[{}]", "float({})"]
    return st.one_of(
        pair(["+", "-", "*", "/", "//", "%"]),
        pair(["==", "!=", "<", "<=", ">", ">="]),
        pair(["in", "not in"]),
        pair(["and", "or"]),
        pair(["and", "or"]),
        st.one_of(*map(of, shapes)),
        st.sampled_from([f"exists({path})" for path in PATHS]),
    )


expressions = st.recursive(st.sampled_from(PATHS + CONSTANTS), larger, max_leaves=8)


def holds(kind: Type, value: Any) -> bool:
    """Whether the value is of the type."""
    if kind.kinds is None:
        return True
    if kind_of(value) not in kind.kinds:
        return False
    if kind.values is not None and not any(value == each and kind_of(value) == kind_of(each) for each in kind.values):
        return False
    if isinstance(value, list) and kind.item is not None:
        return all(holds(kind.item, each) for each in value)
    return True


def read(text: str) -> Any:
    try:
        return parse(text, Scope.PAYLOAD)
    except ExpressionError:
        return None


def evaluated(expression: Any, payload: dict[str, Any]) -> tuple[Any, str]:
    """What the expression gives for the payload, and how it failed: by the value or by the kind of something, or not at all."""
    try:
        return expression.compile()(payload), ""
    except (TypeError, AttributeError):
        return None, "kind"
    except (ValueError, ArithmeticError):
        return None, "value"


@settings(max_examples=800, deadline=None)
@given(expressions, payloads)
def test_an_expression_gives_what_was_inferred(text: str, payload: dict[str, Any]) -> None:
    if (expression := read(text)) is None:
        return
    kind = infer(expression, ROOT, lambda severity, code, message: None)
    value, failed = evaluated(expression, payload)
    assert failed or holds(kind, value), (kind, value)


FAILS = {"maybe-null", "always-null", "wrong-type"}
terms = st.recursive(
    st.sampled_from(["n", "x", "maybe", "text", "other", "inner.n", "inner.s", "1", "0.5", "'a'"]),
    lambda inner: st.one_of(
        st.builds(lambda a, o, b: f"({a} {o} {b})", inner, st.sampled_from(["+", "-", "*", "/", "%"]), inner),
        st.builds(lambda a, f: f"{f}({a})", inner, st.sampled_from(["len", "round", "abs", "-"])),
        st.builds(lambda a, m: f"({a}).{m}()", inner, st.sampled_from(["lower", "isdigit", "strip"])),
    ),
    max_leaves=4,
)
comparisons = st.builds(lambda a, o, b: f"{a} {o} {b}", terms, st.sampled_from(["<", ">=", "==", "!="]), terms)
guards = st.sampled_from(["maybe != null", "x", "exists(other)", "not (inner.s == null)", "maybe in (1, 2)", "true"])
guarded = st.builds(lambda a, o, b: f"{a} {o} {b}", guards, st.sampled_from(["and", "or"]), comparisons) | comparisons


@settings(max_examples=1500, deadline=None)
@given(guarded, payloads)
def test_an_expression_of_which_nothing_is_told_never_fails_on_the_kind_of_a_value(text: str, payload: dict[str, Any]) -> None:
    expression = parse(text, Scope.PAYLOAD)
    told: set[str] = set()
    infer(expression, ROOT, lambda severity, code, message: told.add(code))
    _, failed = evaluated(expression, payload)
    assert failed != "kind" or told & FAILS


@settings(max_examples=1500, deadline=None)
@given(expressions, payloads)
def test_what_an_expression_rules_out_is_never_there(text: str, payload: dict[str, Any]) -> None:
    expression = read(text)
    if expression is None or not evaluated(expression, payload)[0]:
        return
    after = assume(expression, ROOT)
    for name in SCHEMA["properties"]:
        assert holds(field_of(after, name), payload.get(name)), (name, field_of(after, name))
    inner = field_of(after, "inner")
    assert Kind.OBJECT in (inner.kinds or {Kind.OBJECT})
    for name in ("n", "s"):
        assert holds(field_of(inner, name), payload["inner"].get(name)), (name, inner)
