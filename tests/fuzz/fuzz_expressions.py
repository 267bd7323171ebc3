"""Expressions: whatever is written, and whatever the event holds, nothing but its value comes out, in bounded time and memory."""

from typing import Any, Final

import msgspec
from fuzz_choices import Choices
from fuzz_target import Target

from event_streaming_bus.errors import ExpressionError
from event_streaming_bus.expressions import Scope, parse
from event_streaming_bus.models import Event

ALLOWED: Final = (TypeError, AttributeError, ValueError, ArithmeticError, RecursionError)
MAX_INT_BITS: Final = 1 << 15
MAX_ANSWER: Final = 1 << 25
MAX_TEXT: Final = 4 << 20
"""One operation makes at most a fourth of it; capitals may be longer than small letters."""

_NAMES: Final = (
    "a", "b", "text", "items", "big", "neg", "nested", "payload", "event_type", "timestamp", "metadata", "left", "right", "key",
    "__class__", "_fields", "_budget", "_call_abs", "__builtins__", "ª", "𝐥𝐞𝐧", "ſum", "tenant_id", "null", "true", "K",
)  # fmt: skip
_ATOMS: Final = (
    "0", "1", "-1", "2", "1e308", "0.1", "9" * 400, "1" + "0" * 1200, "0xffffffffffffffff", "''", "'a'", "'%d'",
    "'{0.__class__}'",
    "'\\ud800'", "'\\N{BELL}'", "[]", "{}", "()", "null", "true", "b'x'", "1j", "...", "'x' * 9", "'%Y-%m'", "r'(a|a)*$'",
    "r'(?=a)'",
    "r'\\w{500}'", "'é'", "[0, 1, 2]", "{'a': {'b': [1]}}", "1_000", "'iso'", "r'(a{1000}){1000}'", "1e999", "''.join(items)",
)  # fmt: skip
_OPERATORS: Final = (
    "+",
    "-",
    "*",
    "/",
    "//",
    "%",
    "**",
    "==",
    "!=",
    "<",
    ">=",
    "in",
    "not in",
    "and",
    "or",
    "<<",
    ">>",
    "|",
    "&",
    "^",
    "@",
    "is",
)
_CALLS: Final = (
    "abs", "all", "any", "bool", "coalesce", "concat", "date", "float", "format_time", "hash", "hour", "int", "len",
    "matches", "max",
    "min", "parse_time", "round", "sorted", "str", "sum", "exists", "eval", "getattr", "type", "__import__", "format", "open",
)  # fmt: skip
_METHODS: Final = (
    "upper", "split", "replace", "join", "zfill", "strip", "find", "startswith", "removeprefix", "title", "format", "encode",
    "__class__", "mro", "format_map", "ljust", "translate", "lower", "__add__", "isnumeric", "rstrip",
)  # fmt: skip
PAYLOADS: Final[tuple[Any, ...]] = (
    {
        "a": 1, "b": {"c": None, "d": [1, "x", None, 2.5]}, "text": "x" * 60_000, "items": ["ab", "c"] * 3_000, "big": 2**63 - 1,
        "neg": -1e308, "nested": [[list(range(500))] * 20], "key": "k", "__class__": 3,
    },
    {"a": "12", "b": [], "text": "ÄÖ\U0001f600 \u0130\u1e9e", "items": [{"a": 1}, {"a": None}, {}], "big": 10**18, "neg": 0.0},
    {"a": None, "b": True, "text": "", "items": {}, "big": 1e308, "neg": -(2**63), "left": {"a": 1}, "right": {"a": 2}},
    ["no", "object"],
    None,
)  # fmt: skip
_ENCODED: Final = [msgspec.json.encode(payload) for payload in PAYLOADS]


def written(choices: Choices, depth: int = 0) -> str:
    """An expression, or nearly one."""
    if depth > 6 or not choices.are_left:
        return choices.of(_NAMES) if choices.below(2) else choices.of(_ATOMS)

    def part() -> str:
        return written(choices, depth + 1)

    match choices.below(16):
        case 0:
            return choices.of(_ATOMS)
        case 1:
            return choices.of(_NAMES)
        case 2 | 3 | 4:
            return f"({part()} {choices.of(_OPERATORS)} {part()})"
        case 5 | 6:
            return f"{choices.of(_CALLS)}({', '.join(part() for _ in range(choices.below(4)))})"
        case 7:
            return f"({part()}).{choices.of(_METHODS)}({', '.join(part() for _ in range(choices.below(3)))})"
        case 8:
            return f"({part()}).{choices.of(_NAMES)}"
        case 9:
            return f"({part()})[{part()}]" if choices.below(2) else f"({part()})[{part()}:{part()}]"
        case 10:
            loop = f"{part()} for x in {part()}" + (f" if {part()}" if choices.below(2) else "")
            return choices.of(("[{}]", "sum({})", "sorted({})", "any({})", "max({})", "','.join({})", "{{{}}}", "({})")).format(
                loop
            )
        case 11:
            return f"({part()} if {part()} else {part()})"
        case 12:
            return choices.of(
                ("f'{{{}}}{{{}}}'", "f'{{{}!r}}{{{}}}'", "f'{{{}:>9}}{{{}}}'", "-({}) - ({})", "not ({}) + ({})")
            ).format(part(), part())
        case 13:
            return " + ".join([part()[:500]] * (1 + choices.below(300)))[:6000]
        case 14:
            return "(" * choices.below(150) + part()[:6000] + ")" * choices.below(150)
        case _:
            return choices.raw(30).decode("utf-8", "replace")


def run(data: bytes) -> None:
    text = written(Choices(data[1:])) if data[:1] and data[0] & 1 else data[1:].decode("utf-8", "surrogateescape")
    is_evaluated = False
    for scope in Scope:
        try:
            expression = parse(text, scope)
        except ExpressionError as error:
            assert len(str(error)) < 20_000  # noqa: PT017
            continue
        is_evaluated = True
        function = expression.compile()
        for payload, before in zip(PAYLOADS, _ENCODED, strict=True):
            value: Any = payload
            if scope is Scope.ENVELOPE:
                value = Event("evt_1", "t", 1_700_000_000_000, before, metadata={"a": [1]})
            elif scope is Scope.JOIN and not isinstance(payload, dict):
                continue
            try:
                answer = function(value)
            except ALLOWED as error:
                expression.explain(error, value).encode("utf-8", "surrogatepass")
            else:
                check_value(answer)
    if is_evaluated:  # looked at once: it takes longer than most evaluations
        assert list(map(msgspec.json.encode, PAYLOADS)) == _ENCODED, "a payload was changed"


def check_value(answer: Any) -> None:
    """JSON and nothing else, of bounded size."""
    seen, waiting = 0, [answer]
    while waiting:
        each = waiting.pop()
        seen += 1
        assert each is None or isinstance(each, bool | int | float | str | list | tuple | dict), type(each)
        if isinstance(each, str):
            assert len(each) <= MAX_TEXT, "the text is huge"
        if isinstance(each, str | list | tuple | dict):
            seen += len(each)
            waiting += [*each.values()] if isinstance(each, dict) else each if not isinstance(each, str) else ()
        elif isinstance(each, int):
            assert each.bit_length() <= MAX_INT_BITS
        assert seen <= MAX_ANSWER, "the answer is huge"


EXPRESSIONS: Final = Target(
    "expressions",
    run,
    3000,
    tuple(word.encode() for word in (*_ATOMS[:20], *_OPERATORS, *_CALLS, "for x in", " if ", ".", "(", ")", "[", "]")),
)
