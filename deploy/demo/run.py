"""The demo: a month of flights and weather through the bus, flows over them, and questions to the history.

python deploy/demo/run.py [--data FOLDER|URL] [--flights FILE] [--weather FILE]
"""

import argparse
import shutil
import sys
import time
from pathlib import Path
from typing import Any, Final

sys.path.insert(0, str(Path(__file__).parent))

import load

from event_streaming_bus.bus import Bus, open_bus
from event_streaming_bus.cli.progress import progress_bar
from event_streaming_bus.cli.run import run_plan
from event_streaming_bus.cli.tables import print_table
from event_streaming_bus.errors import BusError, InvalidInputError
from event_streaming_bus.flows.deploy import deploy
from event_streaming_bus.flows.metrics import flow_metrics
from event_streaming_bus.flows.spec import load_flow
from event_streaming_bus.store.history import History
from event_streaming_bus.testing import read_all

HERE: Final = Path(__file__).parent
FLOWS: Final = (HERE / "flights.yaml", HERE / "weather.yaml", HERE / "departures.yaml")
_MARKER: Final = ".made-by-the-demo"
QUESTIONS: Final = (
    (
        "What became of the flights, step by step?",
        """SELECT processor_name AS step, processing_stage AS stage, status, count(*) AS events
           FROM processing_history WHERE stream_id IN (SELECT DISTINCT stream_id FROM events WHERE stream = 'flights')
           GROUP BY ALL ORDER BY min(started_at), events DESC""",
    ),
    (
        "Which routes were delayed by more than an hour most often?",
        """SELECT payload->>'from' AS "from", payload->>'to' AS "to", count(*) AS delayed,
                  max((payload->>'minutes_late')::INTEGER) AS worst_minutes
           FROM events WHERE stream = 'delayed_departures'
           GROUP BY ALL ORDER BY delayed DESC, "from", "to" LIMIT 5""",
    ),
    (
        "How fast were the flows?",
        """SELECT flow, processor_name AS processor, status, events_in AS "in", events_out AS "out", events_late AS late,
                  round(date_diff('millisecond', started_at, ended_at) / 1000, 2) AS seconds
           FROM processor_runs ORDER BY started_at, processor""",
    ),
)


def main() -> int:
    """Run the demo; 0 if all went well."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", default="demo-data", help="a folder, made anew (default: ./demo-data), or the URL of a new log")
    parser.add_argument("--flights", type=Path, default=HERE / "data" / "flights-2013-01.csv.gz")
    parser.add_argument("--weather", type=Path, default=HERE / "data" / "weather-2013-01.csv.gz")
    options = parser.parse_args()
    try:
        started_s = time.monotonic()
        with open_bus(options.data if "://" in options.data else _new_folder(Path(options.data))) as bus:
            if any(stream.name == "flights" for stream in bus.log.list_streams()):
                raise InvalidInputError(f"{options.data} has a stream 'flights' already; name another log with --data")
            run(bus, options.flights, options.weather)
            show(bus)
        print(f'\nDone in {time.monotonic() - started_s:.1f} s. Ask on: esb --data {options.data} sql "FROM events LIMIT 3"')  # noqa: T201
    except BusError as error:
        print(f"demo: {error.message}", file=sys.stderr)  # noqa: T201
        return 1
    return 0


def run(bus: Bus, flights: Path, weather: Path) -> None:
    """Publish both files, then run the flows to the end."""
    plans = [deploy(load_flow(file), bus.storage) for file in FLOWS]  # the first two make the streams that the last one reads
    for path, *how in (
        (flights, "flights", "flight.departure", "carrier", load.departure_ms),
        (weather, "weather", "weather.observed", "origin", load.observed_ms),
    ):
        stream, event_type, key, time_of = how
        with progress_bar(f"publishing {stream}") as bar:
            started_s = time.monotonic()

            def told(done: int, total: int, started_s: float = started_s, bar: Any = bar) -> None:
                bar.update(done, total, f"{done:,} events  {done / (time.monotonic() - started_s):,.0f}/s")

            load.publish(bus.publishing, stream, event_type, load.rows(path), key, time_of, told)
    for file, plan in zip(FLOWS, plans, strict=True):
        code, error = run_plan(bus.storage, plan, str(file), until_end=True)
        if code:
            raise BusError(f"the flow {plan.name} failed: {error}")


def show(bus: Bus) -> None:
    """Print what the flows answered, and what the history says."""
    names = {row["carrier"]: row["name"] for row in load.rows(HERE / "data" / "airlines.csv")}
    print_table(
        ["processor", "events in", "passed", "filtered", "late", "dead", "out"],
        [
            [m.name, m.events_in, m.events_passed, m.events_filtered, m.events_late, m.events_dead, m.events_out]
            for file in FLOWS
            for m in flow_metrics(deploy(load_flow(file), bus.storage), bus.storage)
        ],
        title="The flows",
    )
    days = [event.payload for event in read_all(bus, "carrier_days")]
    worst = sorted(days, key=lambda day: -(day["avg_dep_delay"] or 0))[:8]
    print_table(
        ["day (UTC)", "carrier", "flights", "departed", "avg delay (min)", "max delay (min)"],
        [
            [
                *(d["window_start"][:10], names.get(d["carrier"], d["carrier"]), d["flights"], d["departed"]),
                *(round(d["avg_dep_delay"], 1), d["max_dep_delay"]),
            ]
            for d in worst
        ],
        title=f"The worst of {len(days)} carrier days",
    )
    hours = [event.payload for event in read_all(bus, "airport_hours")]
    busiest = sorted(hours, key=lambda hour: (-hour["departures"], hour["window_start"]))[:5]
    print_table(
        ["hour (UTC)", "airport", "departures"],
        [[h["window_start"][:16].replace("T", " "), h["origin"], h["departures"]] for h in busiest],
        title=f"The busiest of {len(hours)} airport hours",
    )
    weather = sorted((e.payload for e in read_all(bus, "weather_days")), key=lambda day: -(day["sum_precip"] or 0))[:5]
    print_table(
        ["day (UTC)", "airport", "rain (in)", "gusts (mph)", "coldest (F)"],
        [
            [w["window_start"][:10], w["origin"], round(w["sum_precip"], 2), round(w["max_wind_gust"] or 0, 1), w["min_temp"]]
            for w in weather
        ],
        title="The wettest days",
    )
    windy = sorted((e.payload for e in read_all(bus, "windy_hours")), key=lambda hour: (-hour["flights"], hour["window_start"]))
    print_table(
        ["hour (UTC)", "airport", "flights", "wind (mph)", "avg delay (min)"],
        [
            [
                *(w["window_start"][:16].replace("T", " "), w["origin"], w["flights"], round(w["max_wind_speed"], 1)),
                "-" if w["avg_dep_delay"] is None else round(w["avg_dep_delay"], 1),
            ]
            for w in windy[:5]
        ],
        title=f"The busiest of {len(windy)} hours of strong wind",
    )
    aircraft = [event.payload for event in read_all(bus, "aircraft_days")]
    restless = sorted(aircraft, key=lambda day: (-day["departures"], -day["miles"]))[:5]
    print_table(
        ["from (UTC)", "aircraft", "departures", "first from", "last to", "miles"],
        [
            [
                *(a["window_start"][:16].replace("T", " "), a["tailnum"], a["departures"]),
                *(a["first_origin"], a["last_dest"], a["miles"]),
            ]
            for a in restless
        ],
        title=f"The most restless of {len(aircraft)} aircraft days",
    )
    history = History(bus.storage)
    try:
        with progress_bar("loading history") as bar:
            history.catch_up(lambda done, total: bar.update(done, total, f"{done:,} of {total:,} records"))
        for title, question in QUESTIONS:
            answer = history.query(question)
            print_table(answer.columns, answer.rows(), title=title)
    finally:
        history.close()


def _new_folder(folder: Path) -> Path:
    """The folder, empty. One that the demo did not make is left alone."""
    if folder.exists():
        if not (folder / _MARKER).exists():
            raise InvalidInputError(f"{folder} exists and was not made by the demo; name another with --data")
        shutil.rmtree(folder)
    folder.mkdir(parents=True)
    (folder / _MARKER).touch()
    return folder


if __name__ == "__main__":
    sys.exit(main())
