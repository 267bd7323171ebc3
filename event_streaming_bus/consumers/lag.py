"""Consumer lag: how far behind a group is, split by split, for how long, and whether somebody should look at it.

All of it is computed when it is asked for, from the log as it is and from what the group has committed. A verdict goes by the
last commits of a split, in this order:

1. nothing waits: OK
2. the committed offset went back, and the split was not caught up with since: REWOUND
3. events have waited without a commit for longer than the last commits span, and than the group's session timeout: STOPPED
4. it was caught up with at one of the last commits: OK
5. all of the last commits say the same offset: STALLED
6. the lag never fell from one commit to the next: WARN
7. else: OK

Waiting begins when the oldest event that is not committed was appended, which the log knows. So nobody is called STOPPED because
a slow stream had nothing to read, and a consumer that had caught up and then died is.
"""

from collections.abc import Mapping, Sequence
from enum import StrEnum
from itertools import pairwise
from typing import Final, NamedTuple

import msgspec

from event_streaming_bus.consumers.model import Commit, Group, OffsetReset, Partition
from event_streaming_bus.errors import OffsetOutOfRangeError, StreamNotFoundError
from event_streaming_bus.models import Split, StreamInfo, rfc3339
from event_streaming_bus.store.log.base import EventLog
from event_streaming_bus.store.redeliveries import retry_stream_name

LEAST_COMMITS: Final = 3
"""With fewer commits than this nothing is called STALLED or WARN: two that are alike say little."""
RATE_PERIOD_MS: Final = 600_000
"""Commits that are older than this do not count for the rate of consumption."""
RATE_SILENCE_MS: Final = 60_000
"""After so long without a commit, and twice the usual time between two, the rate is 0."""


class Verdict(StrEnum):
    """What is to be thought of a split's lag, from harmless to grave."""

    OK = "OK"
    WARN = "WARN"
    REWOUND = "REWOUND"
    STALLED = "STALLED"
    STOPPED = "STOPPED"


SEVERITY: Final = {verdict: rank for rank, verdict in enumerate(Verdict)}


class Judgement(NamedTuple):
    """A verdict, and a sentence that says why."""

    verdict: Verdict
    reason: str


class SplitLag(msgspec.Struct, frozen=True, kw_only=True):
    """How far behind a group is on a split.

    ``position`` is where its members read on: what is ``committed``, or if that is nothing, or is no longer kept, where the
    group's ``auto_offset_reset`` leads (to the beginning for ``none``). ``expired`` is how many events retention has dropped
    before they were committed. ``waiting_since_ms`` is when the event at ``position`` was appended; ``None`` if nothing waits.
    """

    split: Split
    stream: str
    committed: int | None
    position: int
    end_offset: int
    expired: int
    waiting_since_ms: int | None
    seconds_behind: float
    rate: float
    commits: tuple[Commit, ...]
    member_id: str | None
    verdict: Verdict
    reason: str

    @property
    def lag(self) -> int:
        return self.end_offset - self.position


def streams_of(log: EventLog, group: Group, committed: Mapping[Split, int]) -> list[StreamInfo]:
    """The streams that the group reads: those its members ask for, those it has committed to, and that of its redeliveries. By
    name, the last one last; ones that were dropped are left out."""
    retries = retry_stream_name(group.group_id)
    wanted = {stream_id for member in group.members for stream_id in member.streams}
    wanted |= {split.stream_id for split in committed} | {retries}
    found: dict[str, StreamInfo] = {}
    for reference in wanted:
        try:
            info = log.find_stream(group.tenant_id, reference)
        except StreamNotFoundError:
            continue
        found[info.stream_id] = info
    return sorted(found.values(), key=lambda info: (info.name == retries, info.name))


def reset_of(group: Group, stream: StreamInfo) -> OffsetReset:
    """Where the group's members begin to read a stream of which nothing is committed: what is redelivered they read all of."""
    is_redelivery = stream.name == retry_stream_name(group.group_id)
    return OffsetReset.EARLIEST if is_redelivery else group.config.auto_offset_reset


def position_of(committed: int | None, begin: int, end: int, reset: OffsetReset) -> int:
    """Where a member reads on that comes to a split with the offsets ``begin`` to ``end``."""
    if committed is not None and committed >= begin:
        return min(committed, end)
    return end if reset is OffsetReset.LATEST else begin


def measured(
    log: EventLog, group: Group, committed: Mapping[Split, int], commits: Mapping[Split, Sequence[Commit]], now_ms: int
) -> list[SplitLag]:
    """The group's lag on every split of its streams. One record batch is read of each split on which it is behind.

    ``committed`` and ``commits`` must have been read before this is called, so that no lag comes out negative.
    """
    owners = {partition: member.member_id for member in group.members for partition in member.assignment}
    found = []
    for info in streams_of(log, group, committed):
        begins, ends = log.begin_offsets(info.stream_id), log.end_offsets(info.stream_id)
        for split in info.splits():
            position = position_of(committed.get(split), begins[split], ends[split], reset_of(group, info))
            window = tuple(commits.get(split, ()))
            waiting_since_ms = _appended_at_ms(log, split, position) if position < ends[split] else None
            judgement = judge(
                window,
                lag=ends[split] - position,
                waiting_since_ms=waiting_since_ms,
                silent_since_ms=window[-1].at_ms if window else group.last_rebalance_at_ms or group.created_at_ms,
                patience_ms=group.config.session_timeout_ms,
                now_ms=now_ms,
            )
            found.append(
                SplitLag(
                    split=split,
                    stream=info.name,
                    committed=committed.get(split),
                    position=position,
                    end_offset=ends[split],
                    expired=max(0, begins[split] - committed.get(split, begins[split])),
                    waiting_since_ms=waiting_since_ms,
                    seconds_behind=0.0 if waiting_since_ms is None else max(0, now_ms - waiting_since_ms) / 1000,
                    rate=rate_of(window, now_ms),
                    commits=window,
                    member_id=owners.get(Partition(info.stream_id, split.partition)),
                    verdict=judgement.verdict,
                    reason=judgement.reason,
                )
            )
    return found


def judge(
    commits: Sequence[Commit],
    *,
    lag: int,
    waiting_since_ms: int | None,
    silent_since_ms: int,
    patience_ms: int,
    now_ms: int,
) -> Judgement:
    """What is to be thought of a split on which ``lag`` events wait, the oldest since ``waiting_since_ms``.

    ``commits`` are the last ones, oldest first. Silence begins with the last one, or where there is none when the group last
    rebalanced or was made, and is no concern before it has lasted ``patience_ms``.
    """
    if lag == 0:
        return Judgement(Verdict.OK, "every event is committed")
    rewind = max((i for i, (a, b) in enumerate(pairwise(commits), 1) if b.offset < a.offset), default=0)
    caught_up = [commit for commit in commits[rewind:] if commit.offset >= commit.end_offset]
    if rewind and not caught_up:
        before, after = commits[rewind - 1], commits[rewind]
        told = f"the committed offset went back from {before.offset:,} to {after.offset:,} at {rfc3339(after.at_ms)}"
        return Judgement(Verdict.REWOUND, told)
    span_ms = commits[-1].at_ms - commits[0].at_ms if commits else 0
    waited_ms = now_ms - max(silent_since_ms, waiting_since_ms or 0)
    if waited_ms > max(span_ms, patience_ms):
        return Judgement(Verdict.STOPPED, _stopped(commits, lag, waited_ms, span_ms, patience_ms))
    if caught_up:
        return Judgement(Verdict.OK, f"it had caught up at {rfc3339(caught_up[-1].at_ms)}")
    if len(commits) < LEAST_COMMITS:
        return Judgement(Verdict.OK, f"no commit is overdue, and there are too few, {len(commits)}, to say more")
    if commits[0].offset == commits[-1].offset:
        told = f"the last {len(commits)} commits all say offset {commits[-1].offset:,}, and {lag:,} events wait"
        return Judgement(Verdict.STALLED, told)
    lags = [*(commit.end_offset - commit.offset for commit in commits), lag]
    if all(a <= b for a, b in pairwise(lags)):
        told = f"the lag never fell over the last {len(commits)} commits: it went from {lags[0]:,} to {lag:,}"
        return Judgement(Verdict.WARN, told)
    return Judgement(Verdict.OK, f"the lag fell within the last {len(commits)} commits, to {min(lags):,} at the least")


def rate_of(commits: Sequence[Commit], now_ms: int) -> float:
    """Events a second over the last commits of a split, at most ten minutes old; offsets that went back do not count.

    It falls while a commit is overdue, as seen from the time between them. It is 0 once there was none for a minute and twice
    that time, and with fewer than two commits.
    """
    recent = [commit for commit in commits if commit.at_ms > now_ms - RATE_PERIOD_MS]
    if len(recent) < 2:
        return 0.0
    span_ms, silence_ms = recent[-1].at_ms - recent[0].at_ms, now_ms - recent[-1].at_ms
    usual_ms = span_ms / (len(recent) - 1)
    if silence_ms > max(RATE_SILENCE_MS, 2 * usual_ms):
        return 0.0
    elapsed_ms = max(span_ms + max(0, silence_ms - usual_ms), 1)
    return 1000 * sum(max(0, b.offset - a.offset) for a, b in pairwise(recent)) / elapsed_ms


def _appended_at_ms(log: EventLog, split: Split, offset: int) -> int | None:
    """When the event at ``offset`` was appended, or the oldest one if retention drops that one at this moment."""
    try:
        batches = log.read(split, offset, 1)
    except OffsetOutOfRangeError as error:
        batches = log.read(split, max(offset, int(error.details["begin"])), 1)
    return batches[0].appended_at_ms if batches else None


def _stopped(commits: Sequence[Commit], lag: int, waited_ms: int, span_ms: int, patience_ms: int) -> str:
    events = "1 event waits" if lag == 1 else f"{lag:,} events wait"
    if not commits:
        return f"{events}, nothing was ever committed, and {_seconds(waited_ms)} have passed"
    compared = (
        f"the last {len(commits)} commits span {_seconds(span_ms)}"
        if span_ms > patience_ms
        else f"the session timeout is {_seconds(patience_ms)}"
    )
    return f"{events} without a commit for {_seconds(waited_ms)}; {compared}"


def _seconds(time_ms: int) -> str:
    return f"{time_ms / 1000:,.1f} s"
