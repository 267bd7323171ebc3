"""Calendar windows: right where clocks change, and side by side everywhere."""

from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any
from zoneinfo import ZoneInfo, available_timezones

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from event_streaming_bus.flows.folds.calendar import Calendar
from event_streaming_bus.flows.window_config import CalendarUnit

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MINUTE_MS = 60_000
HOUR_MS = 60 * MINUTE_MS


def ms(moment: datetime) -> int:
    return (moment - EPOCH) // timedelta(milliseconds=1)


def at(text: str) -> int:
    """Milliseconds of an ISO time with its offset."""
    return ms(datetime.fromisoformat(text))


def clock(timestamp_ms: int, zone: str) -> str:
    return (EPOCH + timedelta(milliseconds=timestamp_ms)).astimezone(ZoneInfo(zone)).isoformat(timespec="minutes")


def window(unit: CalendarUnit, zone: str, text: str) -> tuple[str, str]:
    start_ms, end_ms = Calendar(unit, zone).bounds(at(text))
    return clock(start_ms, zone), clock(end_ms, zone)


@pytest.mark.parametrize(
    ("unit", "start", "end"),
    [
        (CalendarUnit.HOUR, "2024-05-16T13:00+02:00", "2024-05-16T14:00+02:00"),
        (CalendarUnit.DAY, "2024-05-16T00:00+02:00", "2024-05-17T00:00+02:00"),
        (CalendarUnit.WEEK, "2024-05-13T00:00+02:00", "2024-05-20T00:00+02:00"),
        (CalendarUnit.MONTH, "2024-05-01T00:00+02:00", "2024-06-01T00:00+02:00"),
        (CalendarUnit.QUARTER, "2024-04-01T00:00+02:00", "2024-07-01T00:00+02:00"),
        (CalendarUnit.YEAR, "2024-01-01T00:00+01:00", "2025-01-01T00:00+01:00"),
    ],
)
def test_each_unit_starts_and_ends_on_the_calendar_of_the_zone(unit: CalendarUnit, start: str, end: str) -> None:
    assert window(unit, "Europe/Berlin", "2024-05-16T13:59:59.999+02:00") == (start, end)


@pytest.mark.parametrize(
    ("zone", "inside", "hours"),
    [
        ("Europe/Berlin", "2024-03-31T12:00+02:00", 23),
        ("Europe/Berlin", "2024-10-27T12:00+01:00", 25),
        ("Australia/Lord_Howe", "2024-04-07T12:00+10:30", 24.5),
        ("Asia/Kolkata", "2024-03-31T12:00+05:30", 24),
    ],
)
def test_a_day_is_as_long_as_its_zone_makes_it(zone: str, inside: str, hours: float) -> None:
    start_ms, end_ms = Calendar(CalendarUnit.DAY, zone).bounds(at(inside))
    assert (end_ms - start_ms) / HOUR_MS == hours


def test_a_day_whose_midnight_does_not_exist_starts_when_the_clocks_jump() -> None:
    # On 2018-11-04 the clocks of Sao Paulo went from 23:59 to 1:00.
    assert window(CalendarUnit.DAY, "America/Sao_Paulo", "2018-11-04T12:00-02:00") == (
        "2018-11-04T01:00-02:00",
        "2018-11-05T00:00-02:00",
    )


def test_a_midnight_inside_a_jump_is_the_jump() -> None:
    # Toronto, 1919-03-30: 23:30 was followed by 0:30.
    assert window(CalendarUnit.DAY, "America/Toronto", "1919-03-31T12:00-04:00")[0] == "1919-03-31T00:30-04:00"


def test_a_day_that_its_zone_left_out_has_no_window() -> None:
    # Samoa went from 2011-12-29 to 2011-12-31.
    before = window(CalendarUnit.DAY, "Pacific/Apia", "2011-12-29T23:59-10:00")
    assert before == ("2011-12-29T00:00-10:00", "2011-12-31T00:00+14:00")


def test_a_day_has_begun_when_the_clocks_are_set_back_over_midnight() -> None:
    # St. John's, 2006-10-29: after 0:00 of the 29th came 23:01 of the 28th once more.
    zone = "America/St_Johns"
    assert window(CalendarUnit.DAY, zone, "2006-10-28T23:30-03:30") == ("2006-10-29T00:00-02:30", "2006-10-30T00:00-03:30")


def test_an_hour_that_comes_twice_is_two_windows() -> None:
    zone = "Europe/Berlin"
    assert window(CalendarUnit.HOUR, zone, "2024-10-27T02:30+02:00") == ("2024-10-27T02:00+02:00", "2024-10-27T02:00+01:00")
    assert window(CalendarUnit.HOUR, zone, "2024-10-27T02:30+01:00") == ("2024-10-27T02:00+01:00", "2024-10-27T03:00+01:00")


def test_an_hour_set_back_by_half_an_hour_lasts_90_minutes_and_one_set_forward_30() -> None:
    zone = "Australia/Lord_Howe"
    for inside in ("2024-04-07T01:10+11:00", "2024-04-07T01:59+11:00", "2024-04-07T01:30+10:30", "2024-04-07T01:59+10:30"):
        assert window(CalendarUnit.HOUR, zone, inside) == ("2024-04-07T01:00+11:00", "2024-04-07T02:00+10:30")
    assert window(CalendarUnit.HOUR, zone, "2024-10-06T02:40+11:00") == ("2024-10-06T02:30+11:00", "2024-10-06T03:00+11:00")


def test_hours_of_a_zone_off_by_half_an_hour_start_with_its_own_clock() -> None:
    start_ms, end_ms = Calendar(CalendarUnit.HOUR, "Asia/Kolkata").bounds(at("2024-05-16T12:10+00:00"))
    assert (start_ms, end_ms) == (at("2024-05-16T11:30+00:00"), at("2024-05-16T12:30+00:00"))


@pytest.mark.parametrize("text", ["0001-01-01T00:00+00:00", "9999-12-31T23:59:59.999+00:00"])
@pytest.mark.parametrize("zone", ["Pacific/Kiritimati", "America/Los_Angeles"])
@pytest.mark.parametrize("unit", list(CalendarUnit))
def test_the_first_and_the_last_year_have_windows(unit: CalendarUnit, zone: str, text: str) -> None:
    start_ms, end_ms = Calendar(unit, zone).bounds(at(text))
    assert start_ms <= at(text) < end_ms
    assert Calendar(unit, zone).bounds(end_ms - 1) == (start_ms, end_ms)


units = st.sampled_from(list(CalendarUnit))
zones = st.sampled_from(sorted(available_timezones() - {"localtime"}))
times = st.integers(at("1900-01-01T00:00+00:00"), at("2200-01-01T00:00+00:00"))


@given(units, zones, times, st.floats(0, 1))
@example(CalendarUnit.DAY, "America/St_Johns", at("2006-10-28T23:30-03:30"), 0.01)
@example(CalendarUnit.HOUR, "America/St_Johns", at("2006-10-29T00:00-02:30"), 0.5)
@example(CalendarUnit.DAY, "Pacific/Apia", at("2011-12-31T00:00+14:00"), 0.5)
@example(CalendarUnit.HOUR, "Australia/Lord_Howe", at("2024-04-07T01:45+10:30"), 0.1)
@example(CalendarUnit.HOUR, "Europe/Amsterdam", at("1937-06-30T22:00+00:00"), 0.9)
def test_windows_lie_side_by_side(unit: CalendarUnit, zone: str, timestamp_ms: int, where: float) -> None:
    start_ms, end_ms = Calendar(unit, zone).bounds(timestamp_ms)
    assert start_ms <= timestamp_ms < end_ms
    inside_ms = start_ms + int((end_ms - 1 - start_ms) * where)
    for other_ms in (start_ms, inside_ms, end_ms - 1):
        assert Calendar(unit, zone).bounds(other_ms) == (start_ms, end_ms)
    assert Calendar(unit, zone).bounds(end_ms)[0] == end_ms
    assert Calendar(unit, zone).bounds(start_ms - 1)[1] == start_ms


def turns(zone: str) -> list[int]:
    """When the clocks of a zone changed from 1960 to 2030, to the millisecond."""

    def offset(timestamp_ms: int) -> Any:
        return (EPOCH + timedelta(milliseconds=timestamp_ms)).astimezone(ZoneInfo(zone)).utcoffset()

    found = []
    day_ms = 24 * HOUR_MS
    for low in range(at("1960-01-01T00:00+00:00"), at("2030-01-01T00:00+00:00"), day_ms):
        high = low + day_ms
        if offset(low) != offset(high):
            while high - low > 1:
                middle = (low + high) // 2
                low, high = (middle, high) if offset(middle) == offset(low) else (low, middle)
            found.append(high)
    return found


@pytest.mark.parametrize("zone", ["America/St_Johns", "Australia/Lord_Howe", "Asia/Gaza", "Antarctica/Troll"])
@pytest.mark.parametrize("unit", [CalendarUnit.HOUR, CalendarUnit.DAY])
def test_windows_lie_side_by_side_wherever_clocks_change(unit: CalendarUnit, zone: str) -> None:
    changes = turns(zone)
    assert len(changes) > 20
    calendar = Calendar(unit, zone)
    for change_ms in changes:
        known = {calendar.bounds(change_ms + minute * MINUTE_MS) for minute in range(-180, 180)}
        assert all(one[1] == other[0] for one, other in pairwise(sorted(known)))


@given(units, zones, st.lists(st.integers(0, 400), min_size=1, max_size=40))
def test_what_was_asked_before_makes_no_difference(unit: CalendarUnit, zone: str, steps: list[int]) -> None:
    calendar = Calendar(unit, zone)
    start_ms = at("2024-10-26T00:00+00:00")
    for step in steps:
        timestamp_ms = start_ms + step * 13 * MINUTE_MS
        assert calendar.bounds(timestamp_ms) == Calendar(unit, zone).bounds(timestamp_ms)


def test_any_number_of_times_may_be_asked_about() -> None:
    calendar = Calendar(CalendarUnit.HOUR, "Europe/Berlin")
    for hour in range(10_000):
        assert calendar.bounds(hour * HOUR_MS + 1) == (hour * HOUR_MS, (hour + 1) * HOUR_MS)
    assert len(calendar._slots) <= 4096
