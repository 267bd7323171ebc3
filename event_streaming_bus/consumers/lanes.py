"""Which lane an event is handed out from next.

CRITICAL goes first, always: while it has events, the other lanes wait. HIGH, NORMAL and LOW share what is left by the weights
6 : 3 : 1, with ageing. Each of them has a due: after an event of it was handed out, ``6 / weight`` (HIGH 1, NORMAL 2, LOW 6). The
waiting lane with the smallest due is next, the more urgent one where two are equal, and what that due was is taken off
the dues of the other lanes that wait. So a lane comes nearer with every event that passes it by.

The bound: while an event of a lane waits, at most ``MAX_PASSED`` events of the other two, however these come and go, are handed
out before it: 2 for HIGH, 3 for NORMAL, 10 for LOW. Lanes that always have events get exactly 6, 3 and 1 of every 10.
"""

from collections.abc import Collection, Mapping
from typing import Final

from event_streaming_bus.models import LANES, EventPriority

WEIGHTS: Final[Mapping[EventPriority, int]] = {EventPriority.HIGH: 6, EventPriority.NORMAL: 3, EventPriority.LOW: 1}
"""How the lanes behind CRITICAL share."""

MAX_PASSED: Final[Mapping[EventPriority, int]] = {
    EventPriority.CRITICAL: 0,
    EventPriority.HIGH: 2,
    EventPriority.NORMAL: 3,
    EventPriority.LOW: 10,
}
"""How many events of less than CRITICAL may be handed out while one of this lane waits at the head of it."""

_CRITICAL: Final = EventPriority.CRITICAL
_DUE: Final = {lane: 6 // weight for lane, weight in WEIGHTS.items()}


class LaneChooser:
    """Chooses lanes, one event at a time. What it remembers is one small number a lane."""

    def __init__(self) -> None:
        self._due = dict(_DUE)

    def plan(
        self, waiting: Mapping[EventPriority, int], most: int, unread: Collection[EventPriority] = ()
    ) -> list[EventPriority]:
        """The lanes of the next events, at most ``most``, of which ``waiting`` has how many each lane can give.

        ``unread``: lanes with more events in the log than can be given now. Once one of these has given all it can, the plan
        ends, for whose turn is next is not known before its events are read. A plan is not empty if anything waits.
        """
        left = {lane: waiting[lane] for lane in LANES if waiting.get(lane, 0) > 0}
        critical = min(left.pop(_CRITICAL, 0), most)
        plan = [_CRITICAL] * critical
        most -= critical
        if critical and (most == 0 or (critical == waiting[_CRITICAL] and _CRITICAL in unread)):
            return plan
        if len(left) == 1:
            (lane,) = left
            self._due = dict(_DUE)
            return plan + [lane] * min(left[lane], most)
        due = self._due
        for lane in _DUE:
            if lane not in left:
                due[lane] = _DUE[lane]
        while most and left:
            chosen = min(left, key=due.__getitem__)  # the first of equal ones, which is the most urgent
            passed = due[chosen]
            for lane in left:
                due[lane] -= passed
            due[chosen] = _DUE[chosen]
            plan.append(chosen)
            most -= 1
            left[chosen] -= 1
            if not left[chosen]:
                del left[chosen]
                if chosen in unread:
                    break
        return plan
