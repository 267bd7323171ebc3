"""Python code being written for one schema: lines, the constants they use, and which place of the schema each line is about."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Any, Final

MAX_NESTING: Final = 4
"""How many collections are written inside each other before a function of its own is made: Python accepts 20 blocks."""
MAX_FUNCTIONS: Final = 20_000


class TooComplexError(Exception):
    """More functions would be needed than are made for one schema."""


class Code:
    """A module being written, function by function. A place that is asked for while another is being written waits in a queue, so
    that deep schemas need no deep calls."""

    def __init__(self, title: str, constants: dict[str, Any]) -> None:
        self._filename = f"<avro {title}>"
        self._constants = dict(constants)
        self._lines: list[str] = []
        self._places: list[str] = []
        self._functions: dict[Any, str] = {}
        self._waiting: list[Callable[[], None]] = []
        self._indent = 0
        self._place = ""
        self._numbers = 0

    def line(self, text: str) -> None:
        self._lines.append("    " * self._indent + text)
        self._places.append(self._place)

    @contextmanager
    def block(self, header: str) -> Iterator[None]:
        self.line(header)
        self._indent += 1
        yield
        self._indent -= 1

    @contextmanager
    def at(self, part: str) -> Iterator[None]:
        """What is written within is about the part ``.name`` or ``[]`` of the place at hand."""
        before, self._place = self._place, self._place + part
        yield
        self._place = before

    def variable(self, letter: str) -> str:
        """A new name."""
        self._numbers += 1
        return f"{letter}{self._numbers}"

    def constant(self, value: Any) -> str:
        """A new name that stands for ``value``."""
        name = self.variable("C")
        self._constants[name] = value
        return name

    def function(self, key: Any, write: Callable[[str], None]) -> str:
        """The name of the function for ``key``, which ``write(name)`` writes when what is being written is done."""
        name = self._functions.get(key)
        if name is None:
            if len(self._functions) >= MAX_FUNCTIONS:
                raise TooComplexError
            name = self._functions[key] = self.variable("f")
            self._waiting.append(lambda: write(name))
        return name

    def compile(self, name: str) -> Callable[..., Any]:
        """The function ``name``, after what still waits has been written."""
        while self._waiting:
            self._indent, self._place = 0, ""
            self._waiting.pop()()
        exec(compile("\n".join(self._lines), self._filename, "exec"), self._constants)  # noqa: S102 - names are checked ones
        function: Callable[..., Any] = self._constants[name]
        return function

    def place_of(self, traceback: TracebackType | None) -> str:
        """The place in the schema that the code was at when an exception was raised, as in ``orders[].price``."""
        place = ""
        while traceback is not None:
            if traceback.tb_frame.f_code.co_filename == self._filename:
                place += self._places[traceback.tb_lineno - 1]
            traceback = traceback.tb_next
        return place.removeprefix(".")
