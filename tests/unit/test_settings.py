"""Settings of a data folder: set, reset, from the environment, seen by other processes, over REST and on the command line."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from running import Esb, commands, served

from event_streaming_bus.bus import Bus, open_bus
from event_streaming_bus.errors import InvalidInputError, NotFoundError
from event_streaming_bus.sourcing.model import NewEvent, NewEvents
from event_streaming_bus.sourcing.service import EventSourcingService
from event_streaming_bus.store.settings import KEEP_DAYS, ROLL_OFF_DAYS, SETTINGS, SNAPSHOT_EVENTS, SNAPSHOT_MS, Settings


@pytest.fixture
def bus(tmp_path: Path) -> Iterator[Bus]:
    with open_bus(tmp_path) as bus:
        yield bus


@pytest.fixture
def settings(bus: Bus) -> Settings:
    return bus.storage.settings


def test_what_was_set_counts_then_the_environment_then_the_default(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    assert (settings.value(ROLL_OFF_DAYS), settings.value(SNAPSHOT_EVENTS)) == (None, 200)
    monkeypatch.setenv("ESB_HISTORY_DAYS", "30")
    assert settings.value(ROLL_OFF_DAYS) == 30
    settings.set(ROLL_OFF_DAYS, None, changed_by="ada")
    assert settings.value(ROLL_OFF_DAYS) is None
    (told,) = settings.told(ROLL_OFF_DAYS)
    assert (told["value"], told["source"], told["changed_by"]) == (None, "set", "ada")
    settings.reset(ROLL_OFF_DAYS)
    assert (settings.value(ROLL_OFF_DAYS), settings.told(ROLL_OFF_DAYS)[0]["source"]) == (30, "environment")


@pytest.mark.parametrize("value", [-1, 100_001, "7", 1.5, True])
def test_what_no_setting_can_be_is_refused_with_its_name(settings: Settings, value: Any) -> None:
    with pytest.raises(InvalidInputError, match=r"history\.keep_days: expected a whole number, 0 to 100,000"):
        settings.set(KEEP_DAYS, value)
    assert settings.value(KEEP_DAYS) is None


def test_a_variable_that_is_no_number_is_named(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ESB_HISTORY_KEEP_DAYS", "soon")
    with pytest.raises(InvalidInputError, match="ESB_HISTORY_KEEP_DAYS: expected a number"):
        settings.value(KEEP_DAYS)


def test_an_unknown_name_is_told_with_those_there_are(settings: Settings) -> None:
    for ask in (settings.told, settings.reset, lambda name: settings.set(name, 1)):
        with pytest.raises(NotFoundError, match=r"no setting 'colour'; there are history\.roll_off_days"):
            ask("colour")


def test_another_process_s_change_is_seen_when_it_is_looked_at_anew(bus: Bus, settings: Settings) -> None:
    other = Settings(bus.folder / "log.db")
    try:
        assert other.value(SNAPSHOT_EVENTS) == 200
        settings.set(SNAPSHOT_EVENTS, 3)
        assert other.told(SNAPSHOT_EVENTS)[0]["value"] == 3
    finally:
        other.close()


async def test_snapshots_are_left_as_the_settings_say(bus: Bus, settings: Settings) -> None:
    settings.set(SNAPSHOT_MS, None)
    settings.set(SNAPSHOT_EVENTS, 3)
    service = EventSourcingService(bus.storage)
    for version, expected in ((2, None), (3, 3)):
        events = [NewEvent(event_type="t", event_data={"n": 1})] * (2 if version == 2 else 1)
        service.append_now([NewEvents(aggregate_id="a", aggregate_type="T", events=events)])
        await service.rebuild("a")
        assert (await service.rebuild("a")).snapshot_version == expected


# --- over REST and on the command line --------------------------------------------------------------------------------


@pytest.fixture
def client(tmp_path: Path) -> Iterator[httpx.Client]:
    with served(tmp_path) as url, httpx.Client(base_url=url) as client:
        yield client


def test_settings_over_rest_have_tags_and_are_audited(client: httpx.Client) -> None:
    listed = client.get("/api/v1/settings").json()["settings"]
    assert [each["name"] for each in listed] == list(SETTINGS)
    address = f"/api/v1/settings/{ROLL_OFF_DAYS}"
    tag = client.get(address).headers["etag"]
    changed = client.put(address, json={"value": 7}, headers={"If-Match": tag})
    assert (changed.status_code, changed.json()["value"], changed.json()["source"]) == (200, 7, "set")
    assert client.put(address, json={"value": 8}, headers={"If-Match": tag}).status_code == 412
    assert client.put(address, json={"value": "x"}).status_code == 400
    assert client.put("/api/v1/settings/colour", json={"value": 1}).status_code == 404
    assert client.delete(address).json()["source"] == "default"
    entries = client.get("/api/v1/audit").json()["entries"]
    done = [(each["action"], each["target"], each["before"], each["after"]) for each in entries if each["outcome"] == "DONE"]
    assert done == [
        ("setting.delete", ROLL_OFF_DAYS, {"value": 7}, {"value": None}),
        ("setting.set", ROLL_OFF_DAYS, {"value": None}, {"value": 7}),
    ]


@pytest.fixture
def esb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Esb]:
    with commands(tmp_path, monkeypatch) as esb:
        yield esb


def test_settings_on_the_command_line(esb: Esb) -> None:
    assert "history.keep_days is 9" in esb("settings", "set", KEEP_DAYS, "9").out
    rows = [json.loads(line) for line in esb("settings", "list", "--json").out.splitlines()]
    assert {each["name"]: each["value"] for each in rows}[KEEP_DAYS] == 9
    assert "history.keep_days is none (default)" in esb("settings", "reset", KEEP_DAYS).out
    refused = esb("settings", "set", KEEP_DAYS, "many", code=1)
    assert "expected a whole number" in refused.err
