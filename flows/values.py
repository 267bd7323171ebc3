"""JSON values as keys and as what is summed up."""

import msgspec


def group_value(value: object, path: str) -> object:
    """A group's value other than text or an integer, such that equal JSON values, and only those, are equal: ``1`` and ``1.0``
    are, ``1`` and ``true`` are not."""
    if value is None:
        return value
    if isinstance(value, bool):
        return (value,)  # true == 1 in Python; in a tuple it is only equal to itself
    if isinstance(value, float):
        return int(value) if value.is_integer() else value
    raise TypeError(f"payload.{path} is {kind_of_value(value)}; a key needs text, a number, true, false or null")


def group_key(values: tuple[object, ...]) -> bytes:
    """The group's values as a JSON array."""
    if len(values) == 1 and (values[0].__class__ is str or values[0].__class__ is int):
        return msgspec.json.encode(values)
    return msgspec.json.encode([value[0] if isinstance(value, tuple) else value for value in values])


def refuse_value(value: object, path: str, accepted: frozenset[type]) -> None:
    """Raise ``TypeError`` for a value that cannot be aggregated."""
    wanted = "a number or text" if str in accepted else "a number"
    raise TypeError(f"payload.{path} is {kind_of_value(value)}; the aggregation needs {wanted}")


def kind_of_value(value: object) -> str:
    """What a JSON value is, in words."""
    kinds = {str: "text", bool: "true or false", list: "a list", dict: "an object", int: "a number", float: "a number"}
    return kinds.get(value.__class__, "null")
