"""The vocabulary of stories. Times are RFC 3339 text in UTC; durations are milliseconds."""

from typing import Any

import msgspec


class Place(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """An event by its id and its place in the log. ``by``: the processor that made it, where that can be told."""

    event_id: str
    event_type: str | None = None
    stream: str | None = None
    lane: str | None = None
    partition: int | None = None
    offset: int | None = None
    timestamp: str | None = None
    published_at: str | None = None
    by: str | None = None


class Failure(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What went wrong."""

    error_type: str | None = None
    message: str | None = None
    stack_trace: str | None = None


class Step(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Something that happened to the event. ``stage`` is one of history, or ``LATE``. ``told`` is what the step found out: for
    ROUTING the rule, its version, and from where to where; for VALIDATION the schema's version; for RETRY which one it was."""

    at: str
    stage: str
    status: str
    by: str
    by_id: str | None = None
    completed_at: str | None = None
    duration_ms: float | None = None
    told: Any = None
    error: Failure | None = None
    outputs: tuple[str, ...] = ()


class Delivery(msgspec.Struct, frozen=True, kw_only=True):
    """What a consumer group had of the event. ``redeliveries`` are those from its dead letters."""

    group: str
    group_id: str
    state: str
    deliveries: int
    redeliveries: int
    retries: int
    dead_letters: int
    first_at: str | None
    last_at: str | None


class Origin(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What the event was made from. ``found_by`` says how that is known, and what may be wrong with it. ``offsets`` are the
    events by split: ``{"stream", "lane", "partition", "first", "last", "events"}``."""

    found_by: str
    processor: str | None = None
    processor_id: str | None = None
    window_start: str | None = None
    window_end: str | None = None
    key: str | None = None
    events: tuple[Place, ...] = ()
    offsets: tuple[dict[str, Any], ...] = ()
    is_cut_off: bool = False


class Story(msgspec.Struct, frozen=True, kw_only=True):
    """The whole of it. ``event`` is its envelope, with the payload as ``payload``, cut as ``truncated`` says.

    ``waits``: ``scheduled_ms`` from acceptance until it came into its stream, where it was to be delivered later; ``append_ms``
    the same for others; ``lane_ms`` from there until it was first processed or delivered. ``is_cut_off``: a list has more.
    """

    event_id: str
    summary: str
    event: dict[str, Any]
    waits: dict[str, float]
    steps: tuple[Step, ...] = ()
    origin: Origin | None = None
    outputs: tuple[Place, ...] = ()
    results: tuple[Place, ...] = ()
    deliveries: tuple[Delivery, ...] = ()
    dead_letters: tuple[dict[str, Any], ...] = ()
    totals: dict[str, Any] = {}
    is_cut_off: bool = False
