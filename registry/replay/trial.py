"""The contract time machine: a schema tried on the events that a stream holds already, before it is registered."""

import os
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import msgspec

from event_streaming_bus.errors import ExpressionError, InvalidInputError, SchemaError, StreamNotFoundError
from event_streaming_bus.models import DEFAULT_TENANT, Split, StreamInfo
from event_streaming_bus.registry.compatibility import Incompatibility
from event_streaming_bus.registry.parsing import ParsedSchema
from event_streaming_bus.registry.replay.checks import CandidateCheck, Part
from event_streaming_bus.registry.replay.tally import Failure, Tally
from event_streaming_bus.registry.replay.workers import Job, check_parts
from event_streaming_bus.registry.schema_configs import SchemaConfig, is_same_config, placed, read_config
from event_streaming_bus.registry.schema_references import with_references
from event_streaming_bus.registry.service import SchemaRegistryService
from event_streaming_bus.registry.subjects import EvolutionStrategy
from event_streaming_bus.store.log.base import EventLog
from event_streaming_bus.store.schemas import SchemaRecord
from event_streaming_bus.store.storage import Storage

DEFAULT_EXAMPLES: Final = 3
MAX_EXAMPLES: Final = 100
MAX_WORKERS: Final = 16
CANDIDATE: Final = "candidate"
_ALONE_EVENTS: Final = 150_000
"""Up to so many events are checked quicker by this process than others are started."""
_MIN_PART_EVENTS: Final = 4096
_MAX_PART_EVENTS: Final = 50_000

Progress = Callable[[int, int], None]
"""Called with how many events have been looked at, and how many there are to look at."""


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """What a candidate would mean for a stream.

    ``passes``: no event that was checked would be refused, all could be read, and the candidate is compatible, or says with the
    strategy ``BREAKING_CHANGE`` that it need not be. ``checked`` events are ``valid``, ``invalid`` or ``unreadable``; of them,
    ``warnings`` break a rule of severity ``warning``. ``failures`` lists the reasons, errors first, then the most frequent first,
    at most 100, each with examples; ``unlisted`` counts what has a reason that is not listed. ``is_limited``: there are more
    events than were looked at. ``dropped`` counts those that retention took away meanwhile.
    """

    passes: bool
    stream: str
    stream_id: str
    schema_name: str
    schema_version: str | None
    is_compatible: bool
    is_breaking_declared: bool
    compatibility_level: str
    incompatibilities: list[Incompatibility]
    checked: int
    valid: int
    invalid: int
    unreadable: int
    warnings: int
    unlisted: int
    dropped: int
    is_limited: bool
    failures: list[Failure]
    workers: int
    seconds: float


def try_schema(
    storage: Storage,
    schema_config: Mapping[str, Any],
    stream: str,
    tenant_id: str = DEFAULT_TENANT,
    *,
    since_ms: int | None = None,
    until_ms: int | None = None,
    limit: int | None = None,
    workers: int | None = None,
    examples: int = DEFAULT_EXAMPLES,
    progress: Progress | None = None,
) -> Report:
    """Check the events of ``stream`` whose time is ``since_ms`` or later and before ``until_ms`` against a schema and its rules.
    Nothing is registered.

    Events that were written with an earlier version of the same schema are first brought to the candidate, as readers of the
    stream would get them: by the migrations of the versions between and its own, or in Avro by the rules of schema resolution.
    With a ``limit``, that many events are looked at, the oldest of each split, in proportion to what the splits hold.

    Large streams are checked by ``workers`` processes (by default one for each CPU), which end with this call, however it ends.
    Raises ``SchemaError`` and ``ExpressionError`` for the schema, ``StreamNotFoundError``, ``InvalidInputError``, and
    ``CorruptLogError`` if the log is damaged.
    """
    started_s = time.monotonic()
    _check_options(since_ms, until_ms, limit, workers, examples)
    registry = SchemaRegistryService(storage)
    config = read_config(with_references(registry, tenant_id, schema_config))
    record, parsed = candidate_of(registry, tenant_id, config)
    found = registry.subjects.check(tenant_id, config.schema_name, record.text, level=config.compatibility_level)
    info = storage.log.find_stream(tenant_id, stream)
    ranges, is_limited = _ranges(storage.log, info, since_ms, limit)
    total = sum(end - begin for begin, end in ranges.values())
    count = 1 if total <= _ALONE_EVENTS else workers or _cpus()
    parts = _parts(ranges, max(_MIN_PART_EVENTS, min(_MAX_PART_EVENTS, total // (count * 8) + 1)))
    count = min(count, max(1, len(parts)))
    tell = progress or (lambda done, of: None)
    tell(0, total)
    try:
        if count == 1:
            check = CandidateCheck(registry, record, parsed)
            tallies, done = [], 0
            for part in parts:
                tallies.append(check.check(storage.log, info.stream_id, part, examples, since_ms, until_ms))
                done += part.end - part.begin
                tell(done, total)
        else:
            job = Job(storage.url, tenant_id, info.stream_id, record, examples, since_ms, until_ms)
            tallies = check_parts(job, parts, count, lambda done: tell(done, total))
    except StreamNotFoundError as error:
        raise StreamNotFoundError(f"The stream {info.name} was dropped while it was read.", **error.details) from error
    tally = Tally(examples)
    for each in tallies:
        tally.merge(each)
    is_breaking = config.evolution_strategy is EvolutionStrategy.BREAKING_CHANGE
    return Report(
        passes=not (tally.invalid or tally.unreadable) and (not found or is_breaking),
        stream=info.name,
        stream_id=info.stream_id,
        schema_name=config.schema_name,
        schema_version=config.schema_version,
        is_compatible=not found,
        is_breaking_declared=is_breaking,
        compatibility_level=record.compatibility_level,
        incompatibilities=found,
        checked=tally.checked,
        valid=tally.checked - tally.invalid - tally.unreadable,
        invalid=tally.invalid,
        unreadable=tally.unreadable,
        warnings=tally.warnings,
        unlisted=tally.unlisted,
        dropped=tally.dropped,
        is_limited=is_limited,
        failures=sorted(tally.failures.values(), key=lambda failure: (failure.severity != "error", -failure.count)),
        workers=count,
        seconds=round(time.monotonic() - started_s, 3),
    )


def candidate_of(registry: SchemaRegistryService, tenant_id: str, config: SchemaConfig) -> tuple[SchemaRecord, ParsedSchema]:
    """``(the version that registering the configuration would make, its schema)``, without an id. Raises ``SchemaError``."""
    candidate = config.candidate(None)
    try:
        parsed = registry.subjects.parse(tenant_id, candidate.text)
    except (SchemaError, ExpressionError) as error:
        raise placed(error, config.definition_field) from error
    versions = registry.subjects.store.versions(tenant_id, config.schema_name, deleted=True)
    there = [
        each
        for each in versions
        if config.schema_version == each.schema_version or (config.schema_version is None and is_same_config(each, candidate))
    ]
    level = config.compatibility_level or registry.subjects.settings.level(tenant_id, config.schema_name)
    record = SchemaRecord(
        schema_id="",
        tenant_id=tenant_id,
        schema_name=config.schema_name,
        version=there[-1].version if there else 1 + max((each.version for each in versions), default=0),
        schema_version=config.schema_version or CANDIDATE,
        text=candidate.text,
        event_type=config.event_type,
        compatibility_level=level.value,
        evolution_strategy=config.evolution_strategy.value,
        validation_rules=candidate.validation_rules,
        migration=candidate.migration,
        is_active=config.is_active,
        created_at_ms=time.time_ns() // 1_000_000,
    )
    return record, parsed


def _check_options(since_ms: int | None, until_ms: int | None, limit: int | None, workers: int | None, examples: int) -> None:
    if since_ms is not None and until_ms is not None and until_ms <= since_ms:
        raise InvalidInputError("until: expected a time after the one that since names")
    if limit is not None and limit < 1:
        raise InvalidInputError(f"limit: expected a positive number of events, got {limit}")
    if workers is not None and not 1 <= workers <= MAX_WORKERS:
        raise InvalidInputError(f"workers: expected 1 to {MAX_WORKERS}, got {workers}")
    if not 0 <= examples <= MAX_EXAMPLES:
        raise InvalidInputError(f"examples: expected 0 to {MAX_EXAMPLES}, got {examples}")


def _cpus() -> int:
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(usable, MAX_WORKERS)


def _ranges(
    log: EventLog, info: StreamInfo, since_ms: int | None, limit: int | None
) -> tuple[dict[Split, tuple[int, int]], bool]:
    """``(which offsets of each split to look at, whether the limit leaves some out)``."""
    begins, ends = log.begin_offsets(info.stream_id), log.end_offsets(info.stream_id)
    ranges = {}
    for split, end in ends.items():
        begin = begins.get(split, 0)
        if since_ms is not None and begin < end:
            begin = max(begin, log.offset_for_time(split, since_ms))
        if begin < end:
            ranges[split] = (begin, end)
    total = sum(end - begin for begin, end in ranges.values())
    if limit is None or total <= limit:
        return ranges, False
    limited, left, seen = {}, limit, 0
    for split, (begin, end) in ranges.items():
        seen += end - begin
        share = limit * seen // total - (limit - left)
        limited[split] = (begin, begin + share)
        left -= share
    return {split: (begin, end) for split, (begin, end) in limited.items() if begin < end}, True


def _parts(ranges: Mapping[Split, tuple[int, int]], most: int) -> Sequence[Part]:
    """The ranges cut into parts of at most ``most`` events, in order."""
    return [
        Part(split.partition, split.lane, at, min(at + most, end))
        for split, (begin, end) in ranges.items()
        for at in range(begin, end, most)
    ]
