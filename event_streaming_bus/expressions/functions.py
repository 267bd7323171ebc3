"""What expressions may call: functions, methods of text, and the guarded forms of operators.

Values are JSON: null, true and false, numbers, text, lists and objects. Everything here leaves its arguments as they are and
bounds what it makes: text and lists to ``budget.MAX_SIZE``, integers to ``MAX_BITS``.
"""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Final, Literal, NamedTuple

import msgspec
import xxhash

from event_streaming_bus.errors import InvalidInputError
from event_streaming_bus.expressions.budget import Budget, check_size, size_of
from event_streaming_bus.expressions.patterns import compiled_pattern
from event_streaming_bus.models import rfc3339, time_ms

MAX_BITS: Final = 4096
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_NUMBERS: Final = (int, float)
# Those of strftime's directives that depend neither on the platform nor on the locale or time zone of the machine.
_TIME_FORMAT: Final = re.compile(r"(?:[^%]|%[HIMSUVWYdfjmuwy%])*")
_DIRECTIVE: Final = re.compile(r"%.")


def get_path(value: object, path: Sequence[str]) -> Any:
    """The field at ``path`` of nested objects; null where a field is missing or its parent is no object."""
    for name in path:
        if value.__class__ is not dict:
            return None
        value = value.get(name)
    return value


def _number(value: Any, what: str) -> Any:
    if value.__class__ not in _NUMBERS and value.__class__ is not bool:
        raise TypeError(f"{what} needs numbers, not {kind_of(value)}")
    return value


def _bounded_integer(value: Any) -> Any:
    if value.__class__ is int and value.bit_length() > MAX_BITS:
        raise ValueError(f"the result is too large: an integer of more than {MAX_BITS} bits")
    return value


def kind_of(value: object) -> str:
    """What a JSON value is, for messages."""
    kinds: dict[type, str] = {str: "text", bool: "true or false", list: "a list", tuple: "a list", dict: "an object"}
    if value is None:
        return "null"
    return "text" if isinstance(value, str) else kinds.get(value.__class__, "a number")


def add(a: Any, b: Any) -> Any:
    if a.__class__ in _NUMBERS and b.__class__ in _NUMBERS:
        return _bounded_integer(a + b)
    if isinstance(a, str | list):
        if not isinstance(b, str if isinstance(a, str) else list):
            raise TypeError(f"cannot add {kind_of(b)} to {kind_of(a)}")
        check_size(len(a) + len(b))
        return a + b  # type: ignore[operator]
    return _number(a, "+") + _number(b, "+")


def multiply(a: Any, b: Any) -> Any:
    if a.__class__ in _NUMBERS and b.__class__ in _NUMBERS:
        return _bounded_integer(a * b)
    return _bounded_integer(_number(a, "*") * _number(b, "*"))


def modulo(a: Any, b: Any) -> Any:
    if a.__class__ in _NUMBERS and b.__class__ in _NUMBERS:
        return a % b
    return _number(a, "%") % _number(b, "%")


def power(a: Any, b: Any) -> Any:
    _number(a, "**"), _number(b, "**")
    if a.__class__ is not float and b.__class__ is not float and abs(b) * max(1, int(a).bit_length()) > MAX_BITS:
        raise ValueError(f"the result is too large: an integer of more than {MAX_BITS} bits")
    result = a**b
    if isinstance(result, complex):
        raise ValueError("the root of a negative number is no number")
    return result


def index(value: Any, at: Any) -> Any:
    """An element of a list, a character of text, a field of an object; null where there is none."""
    if value is None:
        return None
    if value.__class__ is dict:
        return value.get(at) if isinstance(at, str) else None
    if not isinstance(value, str | list | tuple) or at.__class__ is not int:
        raise TypeError(f"cannot index {kind_of(value)} with {kind_of(at)}")
    return value[at] if -len(value) <= at < len(value) else None


def part(value: Any, begin: Any, end: Any) -> Any:
    """The elements of a list or the characters of text from ``begin`` up to before ``end``; null is the list's own end."""
    if not isinstance(value, str | list | tuple):
        raise TypeError(f"cannot slice {kind_of(value)}")
    for bound in (begin, end):
        if bound is not None and bound.__class__ is not int:
            raise TypeError(f"cannot slice {kind_of(value)} with {kind_of(bound)}")
    return value[begin:end]


def items(value: Any) -> Any:
    """What comprehensions run over, and what some functions take: a list."""
    if value.__class__ not in (list, tuple):
        raise TypeError(f"a list is needed, not {kind_of(value)}")
    return value


def text(value: Any) -> str:
    """Text as it is, everything else as JSON."""
    return value if isinstance(value, str) else _encoded(value).decode()


def _encoded(value: Any, order: Literal["sorted"] | None = None) -> bytes:
    """The value as JSON, unless it is too large."""
    if value.__class__ in (list, tuple, dict):
        check_size(size_of(value))
    return msgspec.json.encode(value, order=order)


def _texts(values: Iterable[Any], between: int = 0) -> list[str]:
    """The values as text, null as none; refused as soon as they are too large, with so many characters ``between`` them: a small
    list may hold one large value many times."""
    made: list[str] = []
    size = 0
    for value in values:
        part = "" if value is None else text(value)
        size += len(part) + between
        check_size(size)
        made.append(part)
    return made


def concat(*values: Any) -> str:
    """The values as text, one after the other; null counts as empty."""
    return "".join(_texts(values))


def replace(value: str, old: str, new: str) -> str:
    _need_text(value, "replace")
    check_size(len(value) + value.count(old) * max(0, len(new) - len(old)))
    return value.replace(old, new)


def join(separator: str, values: Any) -> str:
    """The values of a list as text, with the separator between them; null counts as empty."""
    _need_text(separator, "join")
    return separator.join(_texts(items(values), len(separator)))


def zfill(value: str, width: int) -> str:
    _need_text(value, "zfill")
    check_size(width)
    return value.zfill(width)


def _need_text(value: Any, method: str) -> None:
    if not isinstance(value, str):
        raise TypeError(f"{method} needs text, not {kind_of(value)}")


def to_int(value: Any) -> int:
    """A number cut to an integer, or text that is one."""
    if value.__class__ not in (int, float, str, bool):
        raise TypeError(f"int needs a number or text, not {kind_of(value)}")
    return _bounded_integer(int(value))  # type: ignore[no-any-return]


def to_float(value: Any) -> float:
    """A number, or text that is one, as a float; not NaN or infinity, which JSON does not have."""
    if value.__class__ not in (int, float, str, bool):
        raise TypeError(f"float needs a number or text, not {kind_of(value)}")
    number = float(value)
    if number - number != 0:
        raise ValueError(f"{value!r} is no finite number")
    return number


def coalesce(*values: Any) -> Any:
    """The first value that is not null."""
    return next((value for value in values if value is not None), None)


def parse_time(value: Any) -> int:
    """Epoch milliseconds of an RFC 3339 text (or of epoch milliseconds)."""
    if not isinstance(value, str | int):
        raise TypeError(f"parse_time needs text, not {kind_of(value)}")
    try:
        return time_ms(value, "parse_time")
    except InvalidInputError as error:
        raise ValueError(error.message) from None


def _at(value: Any, function: str) -> datetime:
    if value.__class__ not in _NUMBERS:
        raise TypeError(f"{function} needs epoch milliseconds, not {kind_of(value)}")
    return _EPOCH + timedelta(milliseconds=int(value))


def check_time_format(form: Any) -> None:
    """Raises ``ValueError`` if ``format_time`` does not take ``form``."""
    if not isinstance(form, str) or len(form) > 100 or not _TIME_FORMAT.fullmatch(form):
        raise ValueError(
            "a time format is 'iso' or at most 100 characters with the directives %Y %y %m %d %j %H %I %M %S %f %u %w %U %V %W %%"
        )


def format_time(value: Any, form: str = "iso") -> str:
    """Epoch milliseconds as RFC 3339 (``iso``) or by a ``strftime`` format, in UTC. See ``check_time_format``."""
    moment = _at(value, "format_time")
    if form == "iso":
        return rfc3339(int(value))
    check_time_format(form)
    # Whether %Y pads a year below 1000 is the platform's choice.
    return moment.strftime(_DIRECTIVE.sub(lambda found: f"{moment.year:04}" if found[0] == "%Y" else found[0], form))


def matches(value: Any, pattern: str) -> bool:
    """Whether the pattern is found anywhere in the text; ``^`` and ``$`` tie it to the ends. See ``patterns``."""
    _need_text(value, "matches")
    return compiled_pattern(pattern)(value)


def date(value: Any) -> str:
    """The day of epoch milliseconds in UTC, ``2013-01-31``."""
    return _at(value, "date").date().isoformat()


def hour(value: Any) -> int:
    """The hour of epoch milliseconds in UTC, 0 to 23."""
    return _at(value, "hour").hour


def stable_hash(value: Any) -> int:
    """A number from 0 to 2**63 - 1 that is always the same for the same value (XXH3 of its JSON)."""
    return xxhash.xxh3_64_intdigest(_encoded(value, "sorted")) >> 1


def rounded(value: Any, digits: int = 0) -> Any:
    """The number rounded half to even, to an integer or to some digits after the point (-100 to 100)."""
    _number(value, "round")
    if digits.__class__ is not int or not -100 <= digits <= 100:
        raise ValueError("round takes -100 to 100 digits")
    return round(value, digits) if digits else round(value)


def _sorted(value: Any) -> list[Any]:
    return sorted(items(value))


def _sum(value: Iterable[Any]) -> Any:
    total: Any = 0
    for each in value:
        total = add(total, _number(each, "sum"))
    return total


class Function(NamedTuple):
    """A function of the language, and how many arguments it takes (``most`` is ``None``: any number)."""

    call: Callable[..., Any]
    least: int
    most: int | None


FUNCTIONS: Final[Mapping[str, Function]] = {
    "abs": Function(abs, 1, 1),
    "all": Function(all, 1, 1),
    "any": Function(any, 1, 1),
    "bool": Function(bool, 1, 1),
    "coalesce": Function(coalesce, 1, None),
    "concat": Function(concat, 1, None),
    "date": Function(date, 1, 1),
    "float": Function(to_float, 1, 1),
    "format_time": Function(format_time, 1, 2),
    "hash": Function(stable_hash, 1, 1),
    "hour": Function(hour, 1, 1),
    "int": Function(to_int, 1, 1),
    "len": Function(len, 1, 1),
    "matches": Function(matches, 2, 2),
    "max": Function(max, 1, None),
    "min": Function(min, 1, None),
    "parse_time": Function(parse_time, 1, 1),
    "round": Function(rounded, 1, 2),
    "sorted": Function(_sorted, 1, 1),
    "str": Function(text, 1, 1),
    "sum": Function(_sum, 1, 1),
}
"""Beside these there is ``exists(path)``, which is true unless the path is null or missing."""

METHODS: Final[Mapping[str, tuple[int, int]]] = {
    "capitalize": (0, 0),
    "endswith": (1, 1),
    "find": (1, 2),
    "isalnum": (0, 0),
    "isalpha": (0, 0),
    "isdigit": (0, 0),
    "islower": (0, 0),
    "isnumeric": (0, 0),
    "isspace": (0, 0),
    "isupper": (0, 0),
    "lower": (0, 0),
    "lstrip": (0, 1),
    "removeprefix": (1, 1),
    "removesuffix": (1, 1),
    "rstrip": (0, 1),
    "split": (0, 2),
    "startswith": (1, 1),
    "strip": (0, 1),
    "title": (0, 0),
    "upper": (0, 0),
}
"""Methods of text that are called as they are, with how many arguments they take. No other JSON value has one of them."""

GUARDED_METHODS: Final[Mapping[str, tuple[int, Callable[..., Any]]]] = {
    "join": (1, join),
    "replace": (2, replace),
    "zfill": (1, zfill),
}
"""Methods of text whose result is bounded, with how many arguments they take."""

NAMESPACE: Final[dict[str, Any]] = {
    "__builtins__": {},
    "_int": int,
    "_get_path": get_path,
    "_add": add,
    "_multiply": multiply,
    "_modulo": modulo,
    "_power": power,
    "_index": index,
    "_items": items,
    "_slice": part,
    "_Budget": Budget,
    "_concat": concat,
    **{f"_call_{name}": function.call for name, function in FUNCTIONS.items()},
    **{f"_method_{name}": call for name, (_, call) in GUARDED_METHODS.items()},
}
"""What generated code needs, and all that it gets."""
