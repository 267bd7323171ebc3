"""Projections as classes: what an event does is said in Python.

    class Users(Projection):
        table = {"columns": {"user_id": "text", "name": "text"}, "key": ["user_id"]}

        @projects("user.created", "user.renamed")
        def named(self, event, tables):
            tables.users.upsert(user_id=event.aggregate_id, name=event.payload["name"])

A handler gets the ``RecordedEvent`` and the ``Tables``. It must depend on these alone, not on the clock or on what is elsewhere:
events are projected again whenever the projection is built anew.
"""

import inspect
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, ClassVar, Final, TypeVar

import msgspec

from event_streaming_bus.errors import FlowError
from event_streaming_bus.flows.checker import Problems
from event_streaming_bus.flows.custom_functions import check_function, import_from_working_folder
from event_streaming_bus.sourcing.folds.code_hash import code_hash
from event_streaming_bus.sourcing.projection_errors import ProjectionConfigError
from event_streaming_bus.sourcing.projections.definition import EVERY_TYPE, ProjectionDefinition
from event_streaming_bus.sourcing.projections.reading import raise_if_any, read_projection, steadily
from event_streaming_bus.sourcing.projections.tables import Tables
from event_streaming_bus.store.recorded import RecordedEvent

Handler = Callable[[Any, RecordedEvent, Tables], None]
_H = TypeVar("_H", bound=Callable[..., None])
_PROJECTS: Final = "__projects__"


class Projection:
    """What a projection class derives from. An instance is made for each build, without arguments.

    The attributes say what a file would: ``table`` or ``tables``, ``store``, ``on_error``, ``aggregate_types``, and ``version``,
    to be counted up when what the handlers do has changed in a way that their code does not show. ``name`` is by default the
    class's own, in lower case with underscores.
    """

    name: ClassVar[str | None] = None
    description: ClassVar[str] = ""
    table: ClassVar[Mapping[str, Any] | None] = None
    tables: ClassVar[Mapping[str, Any] | None] = None
    aggregate_types: ClassVar[Sequence[str] | None] = None
    store: ClassVar[str] = "sqlite"
    on_error: ClassVar[str] = "stop"
    version: ClassVar[int] = 1


def projects(*event_types: str) -> Callable[[_H], _H]:
    """Marks the method that projects events of these types; ``"*"``: every event, before what its own type's method does."""
    if not event_types or not all(isinstance(each, str) and each for each in event_types):
        raise ProjectionConfigError(f"projects: expected event types as in @projects('user.created'), got {event_types!r}")

    def mark(method: _H) -> _H:
        setattr(method, _PROJECTS, event_types)
        return method

    return mark


def handlers_of(cls: type[Projection]) -> dict[str, str]:
    """The name of the method for each type of event. Raises ``ProjectionConfigError`` if two are for the same."""
    found: dict[str, str] = {}
    for name, method in inspect.getmembers(cls, inspect.isfunction):
        for event_type in getattr(method, _PROJECTS, ()):
            if event_type in found:
                raise ProjectionConfigError(f"{cls.__name__}: {found[event_type]} and {name} both project {event_type!r}")
            if inspect.iscoroutinefunction(method):
                raise ProjectionConfigError(f"{cls.__name__}.{name} is an async function; expected one made with def")
            found[event_type] = name
    if not found:
        raise ProjectionConfigError(f"{cls.__name__} projects nothing; mark methods with @projects('event.type')")
    return found


def definition_of(cls: type[Projection]) -> ProjectionDefinition:
    """The definition that a class stands for. Raises ``ProjectionConfigError`` with all that is wrong with it."""
    types = sorted(handlers_of(cls))
    source: dict[str, Any] = {} if EVERY_TYPE in types else {"event_types": types}
    if cls.aggregate_types is not None:
        source["aggregate_types"] = list(cls.aggregate_types)
    data: dict[str, Any] = {
        "name": cls.name or re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", cls.__name__).lower(),
        "description": cls.description,
        "from": source,
        "store": cls.store,
        "on_error": cls.on_error,
        "version": cls.version,
        "class": f"{cls.__module__}:{cls.__qualname__}",
        "code": steadily(lambda: code_hash(cls)),
    }
    data |= {key: value for key in ("table", "tables") if (value := getattr(cls, key)) is not None}
    # Whether the class can be imported is looked at when it must be: one of a notebook or a script works in its process.
    try:
        definition = read_projection(data | {"class": "a:B"}, kept=True)
    except ProjectionConfigError as error:
        raise ProjectionConfigError(f"{cls.__name__}: {error.message}", **error.details) from None
    made: ProjectionDefinition = msgspec.structs.replace(definition, class_name=data["class"])
    return made


def load_class(class_name: str) -> type[Projection]:
    """The projection class ``module:Class``, imported. Raises ``ProjectionConfigError``; the module must be an allowed one."""
    problems = Problems()
    if not check_function(class_name, ("class",), problems):
        raise_if_any(problems)
    module_name, _, name = class_name.partition(":")
    import_from_working_folder()
    try:
        found = getattr(__import__(module_name, fromlist=[name]), name)
    except (FlowError, ImportError, AttributeError) as error:
        raise ProjectionConfigError(f"class: {class_name} cannot be imported: {error}", path="class") from error
    except Exception as error:
        told = f"{type(error).__name__}: {error}"
        raise ProjectionConfigError(f"class: {module_name} cannot be imported: {told}", path="class") from error
    if not (inspect.isclass(found) and issubclass(found, Projection)):
        raise ProjectionConfigError(f"class: {class_name} is no class that derives from Projection", path="class")
    return found


class ClassProgram:
    """The program of a projection class."""

    def __init__(self, cls: type[Projection], tables: Tables) -> None:
        projection = cls()
        methods = {event_type: getattr(projection, name) for event_type, name in handlers_of(cls).items()}
        every = [methods.pop(EVERY_TYPE)] if EVERY_TYPE in methods else []
        self._every: list[Callable[[RecordedEvent, Tables], None]] = every
        self._on = {event_type: [*every, method] for event_type, method in methods.items()}
        self._name = cls.__name__
        self._tables = tables
        self._at = ""

    def prefetch(self, events: Iterable[tuple[RecordedEvent, Any]]) -> None:
        """A method's needs are not known before it runs."""

    def apply(self, event: RecordedEvent, payload: Any) -> None:
        for method in self._on.get(event.event_type, self._every):
            self._at = getattr(method, "__name__", "")
            method(event, self._tables)

    def explain(self, error: Exception, event: RecordedEvent, payload: Any) -> str:
        return f"{self._name}.{self._at}: {type(error).__name__}: {error}"
