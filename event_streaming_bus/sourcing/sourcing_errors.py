"""The errors of event sourcing."""

from event_streaming_bus.errors import BusError, ConfigError


class FoldError(BusError):
    """An event cannot be applied to the state of its aggregate, which stays as it was. ``details`` name the fold, the event and
    its place; mend the fold, or bring the event up to date with an upcaster."""


class FoldConfigError(ConfigError):
    """A fold is not acceptable. ``details['path']`` names the place in its file, as in ``apply["order.paid"].total``."""
