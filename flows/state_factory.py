"""The state of each kind of processor with state, made of its configuration."""

from collections.abc import Callable
from typing import Final

from event_streaming_bus.flows.aggregations import field_plans
from event_streaming_bus.flows.folds.base import Fold
from event_streaming_bus.flows.folds.count import CountFold
from event_streaming_bus.flows.folds.deduplicate import DeduplicateFold
from event_streaming_bus.flows.folds.interval_join import IntervalJoinFold
from event_streaming_bus.flows.folds.lookup_join import LookupJoinFold
from event_streaming_bus.flows.folds.session import SessionFold
from event_streaming_bus.flows.folds.sliding import SlidingFold
from event_streaming_bus.flows.folds.updates import UpdatesFold
from event_streaming_bus.flows.folds.window_join import WindowJoinFold
from event_streaming_bus.flows.processors import aggregations_of
from event_streaming_bus.flows.processors.custom import CustomLogic
from event_streaming_bus.flows.processors.deduplicate import DeduplicateLogic
from event_streaming_bus.flows.processors.join import JoinLogic, JoinType
from event_streaming_bus.flows.slices import CalendarSlices, Slicing, bounds_of, slicing_of
from event_streaming_bus.flows.spec import ProcessorSpec
from event_streaming_bus.flows.states import KeyedState, MissedWindow, OrderedState, SlicedState
from event_streaming_bus.flows.window_config import (
    CalendarWindow,
    CountWindow,
    GlobalWindow,
    HoppingWindow,
    SessionWindow,
    SlidingWindow,
    TumblingWindow,
)

_LIVE_MS: Final = 60_000


def state_factory(spec: ProcessorSpec, make_keyed: Callable[[], Fold] | None = None) -> Callable[[], KeyedState]:
    """What makes the state of one key group of the processor. ``make_keyed`` makes the fold of a CUSTOM."""
    slicing = slicing_for(spec)
    if slicing is not None:
        plans = field_plans(aggregations_of(spec))
        return lambda: SlicedState(slicing, plans)
    fold = make_keyed if isinstance(spec.processing_logic, CustomLogic) else _fold(spec)
    assert fold is not None  # noqa: S101 - whoever builds a CUSTOM has its function
    missed_window = missed_window_of(spec)
    return lambda: OrderedState(fold(), missed_window)


def _fold(spec: ProcessorSpec) -> Callable[[], Fold]:
    logic, window = spec.processing_logic, spec.window
    if isinstance(logic, DeduplicateLogic):
        return lambda: DeduplicateFold(logic.within_ms)
    if isinstance(logic, JoinLogic):
        return _join(logic, spec)
    plans = field_plans(aggregations_of(spec))
    if isinstance(window, SessionWindow):
        return lambda: SessionFold(window, plans)
    if isinstance(window, CountWindow):
        return lambda: CountFold(window, plans)
    if isinstance(window, SlidingWindow):
        return lambda: SlidingFold(window, plans)
    assert isinstance(window, (TumblingWindow, CalendarWindow, GlobalWindow))  # noqa: S101 - the others are slices
    return lambda: UpdatesFold(window, plans)


def _join(logic: JoinLogic, spec: ProcessorSpec) -> Callable[[], Fold]:
    within, lookup = logic.within, logic.lookup
    if within is not None:
        return lambda: IntervalJoinFold(logic.join_type, within.before_ms, within.after_ms)
    if lookup is not None:
        return lambda: LookupJoinFold(logic.join_type, lookup.ttl_ms)
    bounds = missed_window_of(spec)
    return lambda: WindowJoinFold(logic.join_type, bounds)


def missed_window_of(spec: ProcessorSpec) -> MissedWindow:
    """The window that an event at a time would have been in; for what has no windows, the time it is compared with others."""
    window = spec.window
    if isinstance(window, (TumblingWindow, CalendarWindow)):
        return bounds_of(window)
    span_ms = span_of(spec)
    return lambda timestamp_ms: (timestamp_ms, timestamp_ms + span_ms)


def span_of(spec: ProcessorSpec) -> int:
    """How long after its time an event can still make a result, in milliseconds."""
    logic, window = spec.processing_logic, spec.window
    if isinstance(logic, JoinLogic) and logic.within is not None:
        return max(logic.within.before_ms, logic.within.after_ms)
    if isinstance(window, (TumblingWindow, HoppingWindow, SlidingWindow)):
        return window.window_size_ms
    if isinstance(window, CalendarWindow):
        return CalendarSlices(window).longest_ms
    return window.gap_ms if isinstance(window, SessionWindow) else 0


def live_ms_of(spec: ProcessorSpec) -> int:
    """How long after its time an event may be appended and still be live: as long as its window, or where there is none a
    minute."""
    span_ms = span_of(spec)
    return span_ms if spec.window is not None and span_ms else max(span_ms, _LIVE_MS)


def slicing_for(spec: ProcessorSpec) -> Slicing | None:
    """The slicing of a processor that sums up slices of time; ``None`` for one that takes events in order."""
    return None if isinstance(spec.processing_logic, JoinLogic) else slicing_of(spec.window)


def lag_of(spec: ProcessorSpec) -> int:
    """How far before the horizon at which it is due the time of a result may lie: an event of a JOIN that finds no partner is
    given out with its own time, when none can come any more."""
    logic = spec.processing_logic
    if not isinstance(logic, JoinLogic) or logic.within is None or logic.join_type is JoinType.INNER:
        return 0
    return max(logic.within.after_ms, logic.within.before_ms) + 1
