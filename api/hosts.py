"""Which names a server answers to: a page elsewhere could reach one on this machine by a name of its own."""

from collections.abc import Collection

from event_streaming_bus.errors import InvalidInputError


def check_host(host: str, accepted: Collection[str]) -> None:
    """Raise ``InvalidInputError`` if a Host header names none of the ``accepted`` hosts; ``*`` stands for all."""
    name = host if host.endswith("]") else host.rsplit(":", 1)[0]
    if name not in accepted and "*" not in accepted:
        raise InvalidInputError(f"this server is not {name[:200]}; it answers to {', '.join(sorted(accepted))}")
