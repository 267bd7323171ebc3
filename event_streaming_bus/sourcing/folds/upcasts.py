"""Upcasters: what brings payloads that were recorded with an earlier version of a schema to what a fold expects.

An upcaster belongs to a type of event and to the version from which it leads on. A payload passes through all upcasters of its
type whose ``from_version`` is the payload's version or a later one, in the order of versions. So a payload of version 1.1 passes
through those from 1.1 and from 2.0, and not through the one from 1.0.
"""

import inspect
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Final, Self, TypeAlias

import msgspec

from event_streaming_bus import payloads as schema_payloads
from event_streaming_bus.errors import BusError
from event_streaming_bus.models import SerializationFormat
from event_streaming_bus.registry.guards import SchemaGuard
from event_streaming_bus.registry.migrations import Migration, MigrationConfig
from event_streaming_bus.registry.semantic_versions import is_version, numbers
from event_streaming_bus.registry.upcasting import Upcaster
from event_streaming_bus.sourcing.folds.code_hash import code_hash
from event_streaming_bus.sourcing.folds.events import Payload, failure, read_payloads
from event_streaming_bus.sourcing.folds.user_code import explained
from event_streaming_bus.sourcing.sourcing_errors import FoldConfigError
from event_streaming_bus.store.recorded import RecordedEvent

Change: TypeAlias = Callable[[Payload], Payload]
VersionOf: TypeAlias = Callable[[str], str | None]
"""Gives the semantic version of the schema with an id, None if it is not known."""

_MAX_CHAINS: Final = 4096
_CHUNK: Final = 256


class Upcast:
    """One upcaster. It can be called with a payload, which it may change, and gives the new one."""

    def __init__(self, event_type: str, from_version: str, change: Change, code: Callable[[], str]) -> None:
        if not is_version(from_version):
            raise FoldConfigError(
                f"from_version: expected two or three numbers as in '1.0', got {from_version!r}", path="from_version"
            )
        self.event_type = event_type
        self.from_version = from_version
        self._change = change
        self._code = code

    def __call__(self, payload: Payload) -> Payload:
        return self._change(payload)

    def explained(self, error: Exception) -> str:
        """Why it failed, for people."""
        return str(error) if isinstance(self._change, Migration) else explained(error)

    @property
    def code(self) -> str:
        """Text that differs for upcasters that do something else."""
        return f"{self.event_type} {numbers(self.from_version)} {self._code()}"

    def __repr__(self) -> str:
        return f"Upcast({self.event_type!r}, from_version={self.from_version!r})"


def upcasts(event_type: str, *, from_version: str) -> Callable[[Change], Upcast]:
    """Make an upcaster of a function that takes a payload and returns the new one.

    The function may change the payload that it is given. Raises ``FoldConfigError`` for what is no version.
    """

    def decorate(function: Change) -> Upcast:
        plain = function.__func__ if isinstance(function, staticmethod) else function
        if inspect.iscoroutinefunction(plain) or inspect.isgeneratorfunction(plain):
            raise FoldConfigError(f"{plain.__qualname__}: an upcaster is a plain function, neither async nor a generator")
        # The hash is taken when a fold is made: what the function calls may be defined after it.
        return Upcast(event_type, from_version, plain, lambda: code_hash(plain))

    return decorate


def declared_upcast(event_type: str, from_version: str, config: MigrationConfig, where: str) -> Upcast:
    """The upcaster that a file declares as the registry declares migrations: expressions over the old payload. Raises
    ``FoldConfigError``, ``SchemaError`` and ``ExpressionError``."""
    text = msgspec.json.encode(config, order="sorted").decode()
    return Upcast(event_type, from_version, Migration(config, where), lambda: text)


class Upcasting:
    """How the payloads of a fold are brought up to date. Immutable.

    ``version_of`` gives the version of an event's schema; an event that has none counts as written with ``unversioned``, and is
    left as it is if that is None. ``registry`` comes first if there is one: it brings payloads to the version that their stream
    has now, by the migrations that are declared with the schemas. Raises ``FoldConfigError`` if two upcasters lead on from the
    same version of a type of event.
    """

    def __init__(
        self,
        steps: Iterable[Upcast] = (),
        version_of: VersionOf | None = None,
        unversioned: str | None = None,
        registry: Upcaster | None = None,
    ) -> None:
        self.steps = tuple(sorted(steps, key=lambda step: (step.event_type, numbers(step.from_version))))
        self.version_of = version_of
        self.unversioned = unversioned
        self.registry = registry
        for step, after in zip(self.steps, self.steps[1:], strict=False):
            if step.event_type == after.event_type and numbers(step.from_version) == numbers(after.from_version):
                raise FoldConfigError(f"there are two upcasters of {step.event_type} from version {step.from_version}")
        self._by_type: defaultdict[str, list[Upcast]] = defaultdict(list)
        for step in self.steps:
            self._by_type[step.event_type].append(step)
        self._chains: dict[tuple[str, str | None], tuple[Upcast, ...]] = {}
        self._code = "\n".join([f"unversioned {unversioned}", *(step.code for step in self.steps)]) if self.steps else ""

    def with_steps(self, steps: Iterable[Upcast], version_of: VersionOf | None, unversioned: str | None = None) -> Self:
        """The same with more upcasters, and with ``version_of`` and ``unversioned`` where it had none."""
        return type(self)(
            (*self.steps, *steps), self.version_of or version_of, self.unversioned or unversioned, registry=self.registry
        )

    def through(self, registry: Upcaster | None) -> Self:
        """The same behind the registry's migrations."""
        return type(self)(self.steps, self.version_of, self.unversioned, registry)

    @property
    def code(self) -> str:
        """Text that differs for what changes payloads in another way; it names the version that the registry brings them to."""
        schema_id = None if self.registry is None else self.registry.schema_id
        return self._code if schema_id is None else f"{self._code}\nregistry {schema_id}"

    def payloads(self, events: Sequence[RecordedEvent], fold: str) -> Iterator[Payload]:
        """The payloads of the events, in order, up to date. Raises ``FoldError`` for one that cannot be read or brought up to
        date, when it is its turn."""
        for start in range(0, len(events), _CHUNK):  # decoded payloads of a few events at a time stay in the processor's cache
            chunk = events[start : start + _CHUNK]
            if self.registry is not None:
                yield from self._stepped(*_migrated(self.registry, chunk), fold)
            elif self.steps:
                yield from self._stepped(chunk, {}, fold)
            else:
                yield from read_payloads(chunk, fold)

    def _stepped(self, events: Sequence[RecordedEvent], failures: dict[int, Exception], fold: str) -> Iterator[Payload]:
        by_type = self._by_type
        for i, (event, read) in enumerate(zip(events, read_payloads(events, fold), strict=True)):
            payload = read
            if i in failures:
                raise failure(fold, event, str(failures[i])) from failures[i]
            if event.event_type in by_type:
                for step in self._chain(event, fold):
                    payload = _stepped(step, payload, event, fold)
            yield payload

    def _chain(self, event: RecordedEvent, fold: str) -> tuple[Upcast, ...]:
        """The upcasters that the event's payload must pass through."""
        key = event.event_type, event.schema_id
        chain = self._chains.get(key)
        if chain is None:
            try:
                known = None if event.schema_id is None or self.version_of is None else self.version_of(event.schema_id)
                version = known or self.unversioned
                steps = self._by_type[event.event_type] if version is not None else []
                chain = tuple(step for step in steps if numbers(step.from_version) >= numbers(version or ""))
            except BusError as error:
                raise failure(fold, event, f"the version of its schema {event.schema_id}: {error.message}") from error
            if known is not None or event.schema_id is None:  # a schema that is not known now may be known later
                if len(self._chains) >= _MAX_CHAINS:
                    self._chains.clear()
                self._chains[key] = chain
        return chain


NO_UPCASTING: Final = Upcasting()


def _stepped(step: Upcast, payload: Payload, event: RecordedEvent, fold: str) -> Payload:
    try:
        made: Any = step(payload)
    except Exception as error:
        raise failure(fold, event, f"the upcaster from version {step.from_version}: {step.explained(error)}") from error
    if not isinstance(made, dict):
        kind = "None" if made is None else f"a {type(made).__name__}"
        reason = f"the upcaster from version {step.from_version} returned {kind}; it must return the payload, a dict"
        raise failure(fold, event, reason)
    return made


def _migrated(registry: Upcaster, events: Sequence[RecordedEvent]) -> tuple[Sequence[RecordedEvent], dict[int, Exception]]:
    """The events with payloads in the version that their stream has, and by index why one is not."""
    if all(event.schema_id is None or event.schema_id == registry.schema_id for event in events):
        return events, {}
    upcasted = registry([event.schema_id for event in events], [event.data for event in events])
    changed = [
        event
        if schema_id == event.schema_id
        else msgspec.structs.replace(
            event, data=data, schema_id=schema_id, serialization_format=_format(schema_id) or event.serialization_format
        )
        for event, data, schema_id in zip(events, upcasted.data, upcasted.schema_ids, strict=True)
    ]
    return changed, upcasted.failures


def _format(schema_id: str | None) -> SerializationFormat | None:
    """The format of payloads of this version: a newer one may be of another."""
    try:
        reader = schema_payloads.reader(schema_id)
    except msgspec.DecodeError:
        return None
    return reader.format if isinstance(reader, SchemaGuard) else None
