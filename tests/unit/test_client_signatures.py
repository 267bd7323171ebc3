"""The services of the client cannot drift from those in process, nor its blocking half from the other one."""

import contextlib
import importlib
import inspect
import pkgutil
import subprocess
import sys
from typing import Any, NoReturn, get_type_hints

import msgspec
import pytest

import event_streaming_bus
from event_streaming_bus import client
from event_streaming_bus.access.tokens import TokenService
from event_streaming_bus.audit.service import AuditService
from event_streaming_bus.bus import Bus
from event_streaming_bus.client import sync, twin
from event_streaming_bus.client.client_errors import error_of, problem_of
from event_streaming_bus.consumers.consumer import Consumer
from event_streaming_bus.consumers.service import ConsumerManagementService
from event_streaming_bus.correlation.service import CorrelationService
from event_streaming_bus.erasure.service import ErasureService
from event_streaming_bus.errors import BusError, InvalidStateError, StreamNotFoundError
from event_streaming_bus.flows.dead_letters import DeadLetterService
from event_streaming_bus.flows.service import StreamManagementService
from event_streaming_bus.publishing import EventPublishingService
from event_streaming_bus.registry.service import SchemaRegistryService
from event_streaming_bus.routing.service import RoutingService
from event_streaming_bus.sourcing.lifecycle import AggregateLifecycle
from event_streaming_bus.sourcing.projections import ProjectionService
from event_streaming_bus.sourcing.service import EventSourcingService
from event_streaming_bus.store.aggregate_errors import VersionConflictError
from event_streaming_bus.store.settings import Settings

SERVICES: list[type[Any]] = [
    AggregateLifecycle,
    AuditService,
    Consumer,
    ConsumerManagementService,
    CorrelationService,
    DeadLetterService,
    ErasureService,
    EventPublishingService,
    EventSourcingService,
    ProjectionService,
    RoutingService,
    SchemaRegistryService,
    Settings,
    StreamManagementService,
    TokenService,
]
OF_THE_SERVER = {TokenService}
"""Those of which a client has only a part: the rest is for the server that tokens are shown to."""


def members(kind: type[Any]) -> dict[str, Any]:
    """The public methods and properties of a class, by name."""
    return {
        name: value
        for name, value in inspect.getmembers(kind)
        if not name.startswith("_") and (inspect.isfunction(value) or isinstance(value, property))
    }


def parameters(function: Any) -> list[tuple[str, Any, Any]]:
    # Functions that are defaults are told apart by what they return.
    return [
        (each.name, each.kind, each.default() if inspect.isfunction(each.default) else each.default)
        for each in inspect.signature(function).parameters.values()
    ]


def returned(function: Any, kind: type[Any]) -> Any:
    """What a method is said to return. Without names for what is only imported for type checkers, as text."""
    try:
        return get_type_hints(function).get("return")
    except NameError:
        return inspect.signature(function).return_annotation


@pytest.mark.parametrize("half", [client, sync], ids=["asynchronous", "blocking"])
@pytest.mark.parametrize("kind", SERVICES, ids=[kind.__name__ for kind in SERVICES])
def test_a_service_has_the_methods_that_it_has_in_process(kind: type[Any], half: Any) -> None:
    remote = getattr(half, kind.__name__)
    ours, theirs = members(kind), members(remote)
    assert kind in OF_THE_SERVER or ours.keys() <= theirs.keys()
    for name in ours.keys() & theirs.keys():
        here, there = ours[name], theirs[name]
        assert isinstance(here, property) == isinstance(there, property), name
        if isinstance(here, property):
            continue
        result = returned(there, remote)
        if result is NoReturn:  # it says what to do instead, whatever it is given
            continue
        assert parameters(there) == parameters(here), name
        is_async = inspect.iscoroutinefunction(here) and half is client
        assert inspect.iscoroutinefunction(there) == is_async, name
        expected = returned(here, kind)
        if half is client or "Async" not in str(expected):
            assert str(result) == str(expected), name


def test_the_bus_has_the_attributes_that_it_has_in_process() -> None:
    names = {name for name in dir(Bus) if not name.startswith("_")}
    for half in (client, sync):
        assert names <= set(dir(half.RemoteBus))
        for name in ("create_stream", "consumer", "close"):
            assert parameters(getattr(half.RemoteBus, name)) == parameters(getattr(Bus, name))


def test_the_blocking_half_is_made_of_the_other_one() -> None:
    folder = twin.FOLDER / "sync"
    for name, text in twin.twins().items():
        told = f"{name}: `python -m event_streaming_bus.client.twin` writes it anew"
        assert (folder / f"{name}.py").read_text(encoding="utf-8") == text, told
    by_hand = {"__init__", *twin.BY_HAND}
    assert {path.stem for path in folder.glob("*.py")} == by_hand | set(twin.MODULES)


def test_what_is_made_does_not_wait_asynchronously() -> None:
    source = "async def a() -> None:\n    async with b() as c:\n        return await c.d()  # await\n"
    assert twin.blocking(source) == "def a() -> None:\n    with b() as c:\n        return c.d()  # await\n"
    assert twin.blocking("from event_streaming_bus.client.exchange import Exchange\n").startswith(
        "from event_streaming_bus.client.sync.exchange"
    )


# --- errors -----------------------------------------------------------------------------------------------------------


def all_errors() -> list[type[BusError]]:
    """All errors of the bus that services raise."""
    not_of_services = tuple(f"event_streaming_bus.{name}" for name in ("api", "cli", "client"))
    for module in pkgutil.walk_packages(event_streaming_bus.__path__, "event_streaming_bus."):
        if not module.name.startswith(not_of_services):
            with contextlib.suppress(ImportError):  # it needs a library that is optional
                importlib.import_module(module.name)
    found, kinds = [], [BusError]
    while kinds:
        kind = kinds.pop()
        kinds += kind.__subclasses__()
        if kind.__module__.startswith("event_streaming_bus.") and not kind.__module__.startswith(not_of_services):
            found.append(kind)
    return found


def test_every_error_comes_as_the_class_that_it_is() -> None:
    errors = all_errors()
    assert {BusError, StreamNotFoundError, VersionConflictError} <= set(errors)
    for kind in errors:
        body = msgspec.json.encode({"title": kind.__name__.removesuffix("Error"), "detail": "told", "a": 1})
        error = error_of(500, problem_of(500, body, "http://x"))
        assert (type(error), error.message, error.details) == (kind, "told", {"a": 1}), (
            "client_errors.MODULES must have its module"
        )


@pytest.mark.parametrize(
    ("status", "body", "kind", "message"),
    [
        (404, b'{"title":"StreamNotFound","detail":"no","stream":"x","message":"m"}', StreamNotFoundError, "no"),
        (409, b'{"title":"SomethingNewer","detail":"no"}', InvalidStateError, "no"),
        (502, b"<html>Bad gateway</html>", BusError, "http://x answered with the status 502: <html>Bad gateway</html>"),
        (502, b"", BusError, "http://x answered with the status 502: and nothing else"),
        (500, b"[1]", BusError, "http://x answered with the status 500: [1]"),
    ],
)
def test_what_is_no_error_of_ours_is_told_as_well_as_can_be(status: int, body: bytes, kind: type[BusError], message: str) -> None:
    error = error_of(status, problem_of(status, body, "http://x"))
    assert (type(error), error.message) == (kind, message)
    if kind is StreamNotFoundError:
        assert error.details == {"stream": "x", "message": "m"}


# --- what is loaded ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("code", "absent"),
    [
        ("from event_streaming_bus import open_bus; open_bus('data').close()", {"httpx"}),
        ("from event_streaming_bus import open_bus; open_bus('http://127.0.0.1:9').close()", {"duckdb", "litestar", "bytewax"}),
    ],
)
def test_nothing_is_loaded_that_is_not_used(code: str, absent: set[str], tmp_path: Any) -> None:
    told = f"import sys; {code}; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", told], cwd=tmp_path, capture_output=True, text=True, check=True, timeout=60)
    assert not absent & set(done.stdout.split())
