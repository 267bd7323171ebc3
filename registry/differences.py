"""Differences between two schemas that keep a reader from reading what a writer may write."""

import msgspec


class Difference(msgspec.Struct, frozen=True):
    """Why something that is valid by the writer's schema may not be readable by the reader's.

    ``pointer`` is the JSON pointer (RFC 6901) of the place: in the reader's schema if ``side`` is ``reader``, in the writer's if
    what the difference is about is only there. ``kind`` is a word in capitals that names the rule, as ``TYPE_NARROWED``.
    ``message`` says what differs, ``fix`` in one sentence what would make the two compatible.
    """

    kind: str
    pointer: str
    message: str
    fix: str
    side: str = "reader"
