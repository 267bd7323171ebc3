"""What is tried on flows in the crash matrix: one of each kind, run as a worker of ``esb run`` is. As in ``crash_log``."""

import os
import random
from collections.abc import Callable
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any, Final

import msgspec
from crash_lives import Life, Told
from crash_log import Scenario
from replay_flows import TUMBLING, aggregate, join, processor
from replay_harness import Row, check_sound, outcome_of, publish

from event_streaming_bus import Event, KeyState
from event_streaming_bus.bus import Bus, open_bus
from event_streaming_bus.flows import source, worker
from event_streaming_bus.flows.custom_functions import CUSTOM_MODULES
from event_streaming_bus.flows.deploy import deploy
from event_streaming_bus.flows.runner import current_ends, ends_to_json
from event_streaming_bus.flows.spec import load_flow
from event_streaming_bus.store.storage import open_storage

ROWS: Final = 360
CHUNK_EVENTS: Final = 30
_SNAPSHOT_INTERVAL_MS: Final = 4


def counted(event: Event, state: KeyState) -> dict[str, Any] | None:
    """The function of the CUSTOM flow: every third event of a key, with how many there were."""
    state.value = (state.value or 0) + 1
    return {"k": event.payload["k"], "n": state.value} if state.value % 3 == 0 else None


STATELESS: Final = [
    processor("f", "FILTER", {"filter_expression": "payload.x != 5"}),
    processor(
        "a",
        "MAP",
        {"fields": {"k": "payload.k", "y": "10 / payload.x"}},
        source_stream_id="f",
        target_stream_id="out",
        error_handling_strategy="DEAD_LETTER",
    ),
]
CUSTOM: Final = processor(
    "a", "CUSTOM", {"function": "crash_flows:counted", "form": "keyed", "key": ["k"]}, target_stream_id="out"
)
FLOWS: Final[dict[str, list[dict[str, Any]]]] = {
    "flow_stateless": STATELESS,
    "flow_window": [aggregate(TUMBLING)],
    "flow_session": [aggregate({"window_type": "session", "gap_ms": 7})],
    "flow_join": [join(join_type="outer", within={"before_ms": 4, "after_ms": 7})],
    "flow_custom": [CUSTOM],
}


def rows_of(seed: int) -> list[Row]:
    """Events of two streams, out of order within and beyond the grace period."""
    chance, found = random.Random(seed), []
    for n in range(ROWS):
        at_ms = max(0, n + chance.randrange(5) - (chance.random() < 0.05) * chance.randrange(60))
        payload = {"k": chance.choice("abcd"), "x": chance.randrange(8)}
        found.append(Row(f"e{n}", chance.choice(("in", "other")), at_ms, payload, partition=chance.randrange(2)))
    return found


def prepare(processors: list[dict[str, Any]], folder: Path, seed: int) -> None:
    """The flow file, and all events, published by twos so that chunks can be small."""
    streams = [*({"name": name, "partitions": 2} for name in ("in", "other")), {"name": "out"}]
    file = folder / "flow.json"
    file.write_bytes(msgspec.json.encode({"streams": streams, "processors": processors}))
    os.environ[CUSTOM_MODULES] = __name__
    with open_bus(folder / "data") as bus:
        deploy(load_flow(file), bus.storage)
        publish(bus, rows_of(seed))


def work(life: Life) -> None:
    """Run the flow to the end of what is there, in this very process."""
    os.environ[CUSTOM_MODULES] = __name__
    source.MAX_CHUNK_EVENTS = CHUNK_EVENTS  # type: ignore[misc] # of this process alone
    file = life.folder / "flow.json"
    try:
        with closing(life.insist(lambda: open_storage(life.data))) as storage:
            plan = life.insist(lambda: deploy(load_flow(file), storage))
            life.insist(lambda: worker.prepare_recovery(storage, plan))
            until = ends_to_json(current_ends(plan, storage))
        arguments = ["--data", str(life.data), "--flow", str(file), "--until", until, "--parent", str(os.getppid())]
        code = worker.main([*arguments, "--snapshot-interval-ms", str(_SNAPSHOT_INTERVAL_MS)])
    except BaseException as error:  # Bytewax panics
        if life.may_fail:
            raise Told(str(error)) from error
        raise
    if code and life.may_fail:
        raise Told(f"the worker ended with {code}")
    assert code == 0, f"the worker ended with {code}"
    life.note("ran")


def check(life: Life, is_done: bool) -> Any:
    """Nothing was written twice, and no event was lost count of; in the end, there is all that an undisturbed run writes."""
    os.environ[CUSTOM_MODULES] = __name__
    with open_bus(life.data) as bus:
        found = _outcome(bus, life.folder / "flow.json")
    if is_done:
        check_sound(found)
    for stream, events in found.outputs.items():
        ids = [event_id for event_id, *_ in events] if stream != "_dead_letters" else found.dead_letter_ids
        assert len(ids) == len(set(ids)), f"{stream} has an event twice"
    return msgspec.to_builtins(found.answers()) if is_done else None


def _outcome(bus: Bus, file: Path) -> Any:
    return outcome_of(bus, deploy(load_flow(file), bus.storage), 0)


def _scenario(name: str, processors: list[dict[str, Any]]) -> Scenario:
    making: Callable[[Path, int], None] = partial(prepare, processors)
    return Scenario(name, making, work, check, ("log.db", "/recovery/"), goes_on=False)


SCENARIOS: Final = tuple(_scenario(name, processors) for name, processors in FLOWS.items())
