"""Processes that append to aggregates at once: started as ``python aggregate_writers.py HOW FOLDER NOTES COUNT ...``.

One process loads the code and then forks ``COUNT`` writers, each a process of its own that opens the data folder itself. What a
writer did is in its file ``NOTES/NUMBER``, one JSON list a line: written at once, so that a killed writer's notes are whole but
for the last line.
"""

import gc
import json
import os
import random
import sys
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

from event_streaming_bus.sourcing.appender import Appender
from event_streaming_bus.sourcing.model import NewEvent, NewEvents
from event_streaming_bus.store.aggregate_errors import VersionConflictError
from event_streaming_bus.store.recorded import Recorded
from event_streaming_bus.store.storage import Storage, open_storage

CONTESTED: Final = "contested"
TYPES: Final = ("Account", "Order", "Parcel")
AGGREGATES: Final = 3  # of each type

Note = Callable[..., None]
Writer = Callable[[Storage, int, Note, list[list[Any]]], None]


def contend(storage: Storage, number: int, note: Note, _: list[list[Any]]) -> None:
    """Append to the one aggregate at the version that was read, until so many appends have won; read again after a conflict."""
    wins, appender = int(sys.argv[5]), Appender(storage)
    while wins:
        version = storage.aggregates.find("default", CONTESTED).version
        event = NewEvent(event_type="won", event_data={"writer": number, "left": wins})
        append = NewEvents(aggregate_id=CONTESTED, aggregate_type="Contest", events=[event], expected_version=version)
        try:
            if wins % 2:
                (recorded,) = appender.append([append], "default", None)
            else:
                (recorded,) = appender.submit([append], "default", None).result()
        except VersionConflictError as error:
            told = [(each["version"], each["event_id"], each["event_data"]) for each in error.details["events"]]
            note("lost", version, error.details["current_version"], told)
        else:
            wins -= 1
            note("won", version, recorded.version, recorded.event_id, {"writer": number, "left": wins + 1})


def keep_appending(storage: Storage, number: int, note: Note, before: list[list[Any]]) -> None:
    """Append for ever to one aggregate or to several, with ids of one's own or without. What was under way in the life before
    is done again if it had ids; then everything with ids that was done before is tried once more, at random."""
    chance, appender = random.Random(f"{number} {len(before)} {os.getpid()}"), Appender(storage)
    wanted = {note[1]: note[2] for note in before if note[0] == "wants"}
    done = {note[1] for note in before if note[0] == "done"}
    count = max([*wanted, 0])
    again = [each for each in wanted if each not in done and with_ids(wanted[each])]
    while True:
        if not again and done and chance.random() < 0.1:
            again = [each for each in chance.sample(sorted(done), 1) if with_ids(wanted[each])]
        if again:
            each = again.pop()
        else:
            count += 1
            each, wanted[count] = count, appends_of(chance, f"{number}-{count}")
            note("wants", each, wanted[each])
        try:
            recorded = appender.append(made(wanted[each]), "default", None)
        except VersionConflictError as error:
            note("refused", each, error.details["current_version"])
        else:
            done.add(each)
            note("done", each, list(map(noted, recorded)))


def appends_of(chance: random.Random, name: str) -> list[list[Any]]:
    """Some appends in plain data: ``[aggregate type, aggregate id, expected version, [[event id, payload], ...]]``."""
    has_ids, chosen = chance.random() < 0.5, chance.sample(range(len(TYPES) * AGGREGATES), chance.choice([1, 1, 2, 3]))
    appends, number = [], 0
    sizes = [chance.choice([1, 1, 2, 5]) for _ in chosen]
    for place, size in zip(chosen, sizes, strict=True):
        kind, of_kind = divmod(place, AGGREGATES)
        events = []
        for _ in range(size):
            number += 1
            payload = {"append": name, "of": sum(sizes), "pad": "x" * chance.choice([0, 300])}
            events.append([f"{name}-{number}" if has_ids else None, payload])
        expected = chance.choice(["any", "any", "stream_exists", "no_stream"])
        appends.append([TYPES[kind], f"{TYPES[kind]}-{of_kind}", expected, events])
    return appends


def with_ids(appends: list[list[Any]]) -> bool:
    return appends[0][3][0][0] is not None


def made(appends: list[list[Any]]) -> list[NewEvents]:
    return [
        NewEvents(
            aggregate_id=aggregate_id,
            aggregate_type=aggregate_type,
            expected_version=expected,
            events=[NewEvent(event_type="t", event_data=payload, event_id=event_id) for event_id, payload in events],
        )
        for aggregate_type, aggregate_id, expected, events in appends
    ]


def noted(recorded: Recorded) -> list[Any]:
    assert recorded.place is not None
    place = [recorded.place.split.partition, recorded.place.offset]
    return [recorded.event_id, recorded.aggregate_id, recorded.version, recorded.position, place, recorded.duplicate]


def notes_in(file: Path) -> list[list[Any]]:
    """The notes of a writer; a last line that it was killed over is left out."""
    lines = file.read_text().split("\n") if file.exists() else [""]
    return [json.loads(line) for line in lines[:-1] if line.endswith("]")]


def taking_notes(file: Path) -> Iterator[Note]:
    descriptor = os.open(file, os.O_CREAT | os.O_APPEND | os.O_WRONLY)
    if file.stat().st_size:
        os.write(descriptor, b"\n")  # ends the line that was cut off, if there is one

    def note(*values: Any) -> None:
        os.write(descriptor, json.dumps(values).encode() + b"\n")

    yield note
    os.close(descriptor)


WRITERS: Final[dict[str, Writer]] = {"contend": contend, "keep_appending": keep_appending}


def main() -> None:
    how, folder, notes, count = WRITERS[sys.argv[1]], sys.argv[2], Path(sys.argv[3]), int(sys.argv[4])
    gc.freeze()
    children = []
    for number in range(count):
        if (pid := os.fork()) == 0:
            code = 1
            try:
                before = notes_in(notes / f"{number}")
                for note in taking_notes(notes / f"{number}"):
                    how(open_storage(folder), number, note, before)
                code = 0
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(code)
        children.append(pid)
    print("started", flush=True)
    codes = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in children]
    sys.exit(max(map(abs, codes)))


if __name__ == "__main__":
    main()
