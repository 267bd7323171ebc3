"""Makes the payloads of a JOIN's results, many at once."""

from collections.abc import Callable, Sequence
from typing import Any, Final, TypeAlias

import msgspec

from event_streaming_bus.flows.codegen import Code, nested
from event_streaming_bus.flows.folds.joins import JoinedPair
from event_streaming_bus.flows.payload_structs import payload_struct
from event_streaming_bus.flows.processors.join import JoinLogic
from event_streaming_bus.flows.processors.map import set_path

PayloadMaker: TypeAlias = Callable[[Sequence[JoinedPair]], tuple[list[dict[str, Any]], list[tuple[int, Exception]]]]

_SIDES: Final = ("left", "right")
_TIMES: Final = {"left_timestamp": "pair.left_timestamp_ms", "right_timestamp": "pair.right_timestamp_ms"}


def payload_maker(logic: JoinLogic) -> PayloadMaker:
    """The function that makes the payloads of pairs: ``{"left": ..., "right": ...}``, or what ``fields`` says.

    It returns the payloads of the pairs that went well, in their order, and ``(index of the pair, what was raised)`` of the
    others. A payload that is in several pairs (the same bytes object) is decoded once, so what is made of it may be shared: it is
    not to be changed. With ``fields`` only the top-level fields that they touch are decoded.
    """
    sides = [_Side(name, _touched(logic, name)) for name in _SIDES]
    code = Code()
    code.constants |= {"id": id, "enumerate": enumerate, "_UNREADABLE": (msgspec.DecodeError, UnicodeDecodeError)}
    with code.block("def make(pairs):"):
        code.line("payloads, failures = [], []")
        for side in sides:
            side.generate_setup(code)
        with code.block("for i, pair in enumerate(pairs):"):
            for side in sides:
                side.generate_reading(code)
            _generate_payload(code, logic, dict(zip(_SIDES, sides, strict=True)))
        code.line("return payloads, failures")
    maker: PayloadMaker = code.define("make")
    return maker


class _Side:
    """How the generated code reads the payload of one side.

    ``fields`` are the top-level fields that are touched; ``None`` means the whole payload. The code has ``left`` (the payload as
    a struct, all null where there is no partner; or the whole of it, or null), ``left_fields`` (the whole of it, or ``{}``).
    """

    def __init__(self, name: str, fields: set[str] | None) -> None:
        self.name = name
        struct = None if fields is None else payload_struct(sorted(fields), None)
        self._attributes: dict[str, str] | None = None if struct is None else struct[0]
        self._payload_type: Any = dict[str, Any] if struct is None else struct[1]

    def generate_setup(self, code: Code) -> None:
        if self._attributes == {}:
            return
        code.constant(f"decode_{self.name}", msgspec.json.Decoder(self._payload_type).decode)
        code.constant(f"missing_{self.name}", None if self._attributes is None else self._payload_type())
        code.line(f"known_{self.name} = {{}}")

    def generate_reading(self, code: Code) -> None:
        """The pairs keep the bytes alive, so while the function runs an id stands for one object."""
        if self._attributes == {}:
            return
        name = self.name
        code.line(f"raw = pair.{name}")
        with code.block("if raw is None:"):
            code.line(f"{name} = missing_{name}")
        with code.block("else:"):
            code.line(f"{name} = known_{name}.get(id(raw))")
            with code.block(f"if {name} is None:"):
                with code.block("try:"):
                    code.line(f"{name} = known_{name}[id(raw)] = decode_{name}(raw)")
                with code.block("except _UNREADABLE as error:"):
                    wrapped = f"{code.constant('_unreadable', _unreadable)}({name!r}, error)"
                    code.line(f"failures.append((i, {wrapped}))")
                    code.line("continue")
        if self._attributes is None:
            code.line(f"{name}_fields = {name} or {{}}")

    def path(self, path: Sequence[str]) -> str:
        """The code that reads a dotted path of the payload; null where there is nothing."""
        if not path:
            return self.name
        top, *rest = path
        value = f"{self.name}_fields.get({top!r})" if self._attributes is None else f"{self.name}.{self._attributes[top]}"
        return nested(value, rest)


def _generate_payload(code: Code, logic: JoinLogic, sides: dict[str, _Side]) -> None:
    """The lines that make one payload and append it."""
    if not logic.fields:
        code.line('payloads.append({"left": left, "right": right})')
        return

    def resolve(path: Sequence[str]) -> str:
        name, *rest = path
        return sides[name].path(rest) if name in sides else nested(_TIMES[name], rest)

    texts = {path: f"({value.source(resolve)})" for path, value in logic.fields}
    with code.block("try:"):
        code.line(f"payload = {{{', '.join(f'{path[0]!r}: {text}' for path, text in texts.items() if len(path) == 1)}}}")
        for path, text in texts.items():
            if len(path) > 1:
                code.line(f"{code.constant('_set_path', set_path)}(payload, {path!r}, {text})")
    code.failure("i")
    with code.block("else:"):
        code.line("payloads.append(payload)")


def _touched(logic: JoinLogic, side: str) -> set[str] | None:
    """The top-level fields of a side's payload that are read; ``None`` if the whole of it is."""
    paths: set[tuple[str, ...]] = set() if logic.fields else {(side,)}

    def note(path: tuple[str, ...]) -> str:
        paths.add(path)
        return "_"

    for _, value in logic.fields:
        value.source(note)
    own = [path[1:] for path in paths if path[0] == side]
    fields = {path[0] for path in own if path}
    return None if () in own else fields


def _unreadable(side: str, error: Exception) -> ValueError:
    return ValueError(f"the {side} payload is no JSON object: {error}")
