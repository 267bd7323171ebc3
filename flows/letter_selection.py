"""Which dead letters a call means: those with certain ids, the open ones of a filter, or those that a query finds."""

from collections.abc import Callable, Iterable, Sequence
from typing import Final

import msgspec

from event_streaming_bus.errors import InvalidInputError, QueryError
from event_streaming_bus.store.letters import Letter, LetterBox, LetterFilter, LetterStatus
from event_streaming_bus.store.questions import Answer

MAX_IDS: Final = 1000
MAX_SELECTED: Final = 100_000
"""How many letters a question to the history may find."""
ID_COLUMN: Final = "dead_letter_id"

Ask = Callable[[str], Answer]


class Selected(msgspec.Struct, frozen=True):
    """The letters meant, block by block in the order in which they were written, and ids that were found but that no letter has:
    retention may have dropped it since."""

    blocks: Iterable[list[Letter]]
    unknown: Sequence[str] = ()


def select(
    box: LetterBox, ask: Ask, *, ids: Sequence[str] | None = None, where: LetterFilter | None = None, sql: str | None = None
) -> Selected:
    """The letters with these ``ids``, the OPEN ones of the filter ``where``, or those whose ids the answer to ``sql`` has in a
    column ``dead_letter_id``; one of the three is given. ``ask`` asks the history.

    Raises ``InvalidInputError``, ``QueryError``, and ``DeadLetterNotFoundError`` for one of ``ids``, before a letter is read.
    """
    if sum(given is not None for given in (ids, where, sql)) != 1:
        raise InvalidInputError("ids, filter, sql: expected one of the three: the ids of dead letters, a filter, or a query")
    if ids is not None:
        if len(ids) > MAX_IDS:
            raise InvalidInputError(f"ids: at most {MAX_IDS:,} are accepted, got {len(ids):,}; use a filter, or sql")
        return Selected(box.find_all(ids))
    if sql is not None:
        positions, unknown = box.locate(found_ids(ask(sql)))
        return Selected(box.at(positions), unknown)
    if where is None or where.status is not LetterStatus.OPEN:
        raise InvalidInputError("filter.status: only OPEN letters can be retried or dropped; leave it out")
    return Selected(box.blocks(where))


def found_ids(answer: Answer) -> list[str]:
    """The ids in an answer's column ``dead_letter_id``, each once; nulls are none. Raises ``QueryError`` if there is no such
    column, it holds anything else, or there are more than ``MAX_SELECTED``."""
    column = next((i for i, name in enumerate(answer.columns) if name.lower() == ID_COLUMN), None)
    if column is None:
        raise QueryError(f"sql: expected a column {ID_COLUMN} in the answer; it has {', '.join(answer.columns)}")
    found: dict[str, None] = {}
    for row in answer.rows:
        value = row[column]
        if value is None:
            continue
        if not isinstance(value, str):
            raise QueryError(f"sql: expected the ids of dead letters in the column {ID_COLUMN}, got {value!r}")
        found[value] = None
        if len(found) > MAX_SELECTED:
            break
    if len(found) > MAX_SELECTED or answer.truncated:
        raise QueryError(f"sql: it finds more than {MAX_SELECTED:,} letters; WHERE or LIMIT make it fewer, or use a filter")
    return list(found)
