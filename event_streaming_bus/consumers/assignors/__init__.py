"""How partitions are shared among members: one file for each strategy, one table of them."""

from typing import Final

from event_streaming_bus.consumers.assignors.base import Assignor, Owned
from event_streaming_bus.consumers.assignors.cooperative_sticky import assign_cooperative_sticky
from event_streaming_bus.consumers.assignors.range import assign_range
from event_streaming_bus.consumers.assignors.roundrobin import assign_roundrobin
from event_streaming_bus.consumers.assignors.sticky import assign_sticky
from event_streaming_bus.consumers.model import AssignmentStrategy

ASSIGNORS: Final[dict[AssignmentStrategy, Assignor]] = {
    AssignmentStrategy.RANGE: assign_range,
    AssignmentStrategy.ROUNDROBIN: assign_roundrobin,
    AssignmentStrategy.STICKY: assign_sticky,
    AssignmentStrategy.COOPERATIVE_STICKY: assign_cooperative_sticky,
}

__all__ = ["ASSIGNORS", "Assignor", "Owned"]
