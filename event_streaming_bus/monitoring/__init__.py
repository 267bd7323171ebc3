"""What the bus measures of itself: sampled when somebody asks, written for Prometheus."""

from event_streaming_bus.monitoring.meter import Limits, Meter
from event_streaming_bus.monitoring.sample import Sample

__all__ = ["Limits", "Meter", "Sample"]
