"""The demo's answers, checked against the same questions asked of the CSV files directly."""

import sys
from collections.abc import Callable
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any

import duckdb
import pytest

from event_streaming_bus.bus import Bus
from event_streaming_bus.models import rfc3339
from event_streaming_bus.store.history import History
from event_streaming_bus.testing import read_all

DEMO = Path(__file__).parents[2] / "deploy" / "demo"
FLIGHTS, WEATHER = DEMO / "data" / "flights-2013-01.csv.gz", DEMO / "data" / "weather-2013-01.csv.gz"
TIME = "epoch_ms(time_hour::TIMESTAMP)"


def load_module(name: str) -> ModuleType:
    spec = spec_from_file_location(name, DEMO / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def bus(new_bus: Callable[[], Bus]) -> Bus:
    load_module("load")
    demo = load_module("run")
    bus = new_bus()
    demo.run(bus, FLIGHTS, WEATHER)
    return bus


def ask(question: str) -> list[dict[str, Any]]:
    database = duckdb.connect()
    for name, path in (("flights", FLIGHTS), ("weather", WEATHER)):
        database.execute(f"CREATE VIEW {name} AS FROM read_csv('{path}', nullstr='NA', types={{'time_hour': 'VARCHAR'}})")
    cursor = database.execute(question)
    names = [column[0] for column in cursor.description]
    return [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]


def answers(bus: Bus, stream: str, *key: str) -> dict[tuple[Any, ...], dict[str, Any]]:
    payloads = [event.payload for event in read_all(bus, stream)]
    found = {tuple(payload[name] for name in key): payload for payload in payloads}
    assert len(found) == len(payloads)
    return found


def window(expression_ms: str, size_ms: int) -> str:
    return f"strftime(epoch_ms(({expression_ms} // {size_ms}) * {size_ms}), '%Y-%m-%dT%H:%M:%S.000Z')"


def test_every_carrier_day_is_what_the_file_says(bus: Bus) -> None:
    expected = ask(
        f"""SELECT carrier, {window(f"({TIME} + minute * 60000)", 86_400_000)} AS window_start, count(*) AS flights,
                   count(dep_delay) AS departed, sum(dep_delay)::BIGINT AS sum_dep_delay, avg(dep_delay) AS avg_dep_delay,
                   max(dep_delay) AS max_dep_delay FROM flights GROUP BY ALL"""
    )
    found = answers(bus, "carrier_days", "carrier", "window_start")
    assert len(found) == len(expected) > 400
    for row in expected:
        payload = found[row["carrier"], row["window_start"]]
        assert {name: payload[name] for name in row} == row


def test_every_airport_hour_is_what_the_file_says(bus: Bus) -> None:
    expected = ask(
        f"""SELECT origin, {window(f"({TIME} + minute * 60000)", 3_600_000)} AS window_start, count(*) AS departures
            FROM flights GROUP BY ALL"""
    )
    found = answers(bus, "airport_hours", "origin", "window_start")
    assert {key: payload["departures"] for key, payload in found.items()} == {
        (row["origin"], row["window_start"]): row["departures"] for row in expected
    }


def test_every_delayed_departure_is_told_once(bus: Bus) -> None:
    expected = ask(
        """SELECT carrier || ' ' || flight AS flight, origin AS "from", dest AS "to", dep_delay AS minutes_late
           FROM flights WHERE dep_delay > 60"""
    )
    found = [{name: event.payload[name] for name in expected[0]} for event in read_all(bus, "delayed_departures")]
    assert sorted(map(repr, found)) == sorted(map(repr, expected))


def test_every_day_of_weather_is_what_the_file_says(bus: Bus) -> None:
    expected = ask(
        f"""SELECT origin, {window(TIME, 86_400_000)} AS window_start, fsum(precip) AS sum_precip,
                   max(wind_gust) AS max_wind_gust, min(temp) AS min_temp FROM weather GROUP BY ALL"""
    )
    found = answers(bus, "weather_days", "origin", "window_start")
    assert len(found) == len(expected) == 96
    for row in expected:
        payload = found[row["origin"], row["window_start"]]
        assert {name: payload[name] for name in row} == row


def test_every_flight_is_joined_with_the_weather_as_of_its_departure(bus: Bus) -> None:
    expected = ask(
        f"""WITH f AS (SELECT *, epoch_ms({TIME} + minute * 60000) AS at FROM flights),
                 w AS (SELECT *, epoch_ms({TIME}) AS at FROM weather)
            SELECT f.carrier || ' ' || f.flight AS flight, f.origin, f.dest, f.dep_delay,
                   CASE WHEN f.at - w.at <= INTERVAL 3 HOURS THEN w.time_hour END AS observed,
                   CASE WHEN f.at - w.at <= INTERVAL 3 HOURS THEN w.wind_speed END AS wind_speed,
                   CASE WHEN f.at - w.at <= INTERVAL 3 HOURS THEN w.visib END AS visib
            FROM f ASOF LEFT JOIN w ON f.origin = w.origin AND f.at >= w.at"""
    )
    found = [event.payload for event in read_all(bus, "flights_in_weather")]
    assert sum(row["observed"] is not None for row in expected) > 26_000
    assert sorted(map(repr, found)) == sorted(map(repr, expected))


def test_every_windy_hour_is_what_the_files_say(bus: Bus) -> None:
    flights = ask(
        f"""WITH f AS (SELECT *, epoch_ms({TIME} + minute * 60000) AS at FROM flights),
                 w AS (SELECT *, epoch_ms({TIME}) AS at FROM weather)
            SELECT f.origin, {window("(epoch_ms(f.at))", 3_600_000)} AS window_start, count(*) AS flights,
                   avg(f.dep_delay) AS avg_dep_delay, max(w.wind_speed) AS max_wind_speed
            FROM f ASOF JOIN w ON f.origin = w.origin AND f.at >= w.at
            WHERE w.wind_speed > 25 AND f.at - w.at <= INTERVAL 3 HOURS GROUP BY ALL"""
    )
    found = answers(bus, "windy_hours", "origin", "window_start")
    assert len(found) == len(flights) > 50
    for row in flights:
        payload = found[row["origin"], row["window_start"]]
        assert {name: payload[name] for name in row} == row


def test_every_aircraft_day_is_what_the_file_says(bus: Bus) -> None:
    rest_ms = 28_800_000
    flights = ask(f"SELECT *, {TIME} + minute * 60000 AS t FROM flights WHERE tailnum IS NOT NULL AND dep_time IS NOT NULL")
    days: dict[str, list[list[dict[str, Any]]]] = {}
    for flight in sorted(flights, key=lambda flight: flight["t"]):  # of equal times in the order of the file
        of_aircraft = days.setdefault(flight["tailnum"], [])
        if not of_aircraft or flight["t"] - of_aircraft[-1][-1]["t"] > rest_ms:
            of_aircraft.append([])
        of_aircraft[-1].append(flight)
    expected = {
        (tailnum, rfc3339(day[0]["t"])): {
            "tailnum": tailnum,
            "window_start": rfc3339(day[0]["t"]),
            "window_end": rfc3339(day[-1]["t"] + rest_ms),
            "departures": len(day),
            "first_origin": day[0]["origin"],
            "last_dest": day[-1]["dest"],
            "miles": sum(flight["distance"] for flight in day),
        }
        for tailnum, of_aircraft in days.items()
        for day in of_aircraft
        if len(day) >= 2
    }
    assert len(expected) > 3_000
    assert answers(bus, "aircraft_days", "tailnum", "window_start") == expected


def test_the_history_has_every_event_and_every_step(bus: Bus) -> None:
    history = History(bus.storage)
    try:
        history.catch_up()
        counts = dict(history.query("SELECT stream, count(*) FROM events GROUP BY ALL").rows())
        steps = dict(
            history.query(
                "SELECT processor_name || ' ' || status, count(*) FROM processing_history "
                "WHERE processing_stage IN ('PROCESSING', 'ENRICHMENT') GROUP BY ALL"
            ).rows()
        )
    finally:
        history.close()
    flights, weather = ask("SELECT count(*) AS n FROM flights")[0]["n"], ask("SELECT count(*) AS n FROM weather")[0]["n"]
    delayed = ask("SELECT count(*) AS n FROM flights WHERE dep_delay > 60")[0]["n"]
    assert counts == {
        "flights": flights,
        "weather": weather,
        "delayed_departures": delayed,
        "carrier_days": len(read_all(bus, "carrier_days")),
        "airport_hours": len(read_all(bus, "airport_hours")),
        "weather_days": 96,
        "flights_in_weather": flights,
        "windy_hours": len(read_all(bus, "windy_hours")),
        "aircraft_days": len(read_all(bus, "aircraft_days")),
    }
    known = ask("SELECT count(*) AS n FROM flights WHERE tailnum IS NOT NULL AND dep_time IS NOT NULL")[0]["n"]
    assert steps == {
        "delayed COMPLETED": delayed,
        "delayed FILTERED": flights - delayed,
        "delay_notice COMPLETED": delayed,
        "carrier_day COMPLETED": flights,
        "airport_hour COMPLETED": flights,
        "weather_day COMPLETED": weather,
        "with_weather COMPLETED": flights + weather,
        "known_aircraft COMPLETED": known,
        "known_aircraft FILTERED": flights - known,
        "aircraft_day COMPLETED": known,
    }
