"""What can be wrong with projections."""

from event_streaming_bus.errors import BusError, ConfigError, InvalidStateError, NotFoundError


class ProjectionConfigError(ConfigError):
    """A projection is not acceptable. ``details['errors']`` lists each place with what would be accepted."""


class ProjectionNotFoundError(NotFoundError):
    """The projection does not exist. ``esb projections list`` shows what there is."""


class ProjectionFailedError(InvalidStateError):
    """The projection has stopped at an event that it could not project. Its status says why; resume it when that is mended."""


class ProjectionNotRunningError(InvalidStateError):
    """Nobody runs the projection, so it does not move on. ``esb serve`` runs projections."""


class ProjectionLagError(BusError):
    """The projection has not come so far within the time given. Try again, or give it longer."""
