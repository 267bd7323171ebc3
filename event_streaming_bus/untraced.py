"""Errors that are kept, without the frames in which they were raised."""

from typing import Final, TypeVar

_Error = TypeVar("_Error", bound=BaseException)
_MOST_LINKS: Final = 100


def untraced(error: _Error) -> _Error:
    """The error, with its traceback taken off, and off those that led to it.

    A traceback holds its frames and all that these hold: the events of a whole batch, and the list that the error is put into.
    That is a circle, which would only go with Python's collector, and workers seldom run that.
    """
    link: BaseException | None = error
    for _ in range(_MOST_LINKS):
        if link is None:
            break
        link.__traceback__ = None
        link = link.__cause__ or link.__context__
    return error
