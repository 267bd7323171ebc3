"""Projections over REST and on the command line."""

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from running import Esb, commands, served
from test_projections_support import TOTALS, place

from event_streaming_bus.store.storage import open_storage

URL = "/api/v1/projections"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("served")


@pytest.fixture(scope="module")
def client(folder: Path) -> Iterator[httpx.Client]:
    storage = open_storage(folder)
    with served(folder) as url, httpx.Client(base_url=url, timeout=30) as client:
        yield client
    storage.close()


def placed(folder: Path, *orders: tuple[str, Any]) -> int:
    return place(open_storage(folder), *orders)


def until(ask: Callable[[], Any], wanted: Any) -> None:
    for _ in range(200):
        if (told := ask()) == wanted:
            return
        time.sleep(0.05)
    raise AssertionError(told)


def test_a_projection_has_a_life_over_rest(client: httpx.Client, folder: Path) -> None:
    made = client.put(f"{URL}/totals", json={key: value for key, value in TOTALS.items() if key != "name"})
    assert (made.status_code, made.json()) == (200, {"name": "totals", "verdict": "new"})
    position = placed(folder, ("ann", 1.5), ("bob", 2.0), ("ann", 3.0))
    rows = client.get(f"{URL}/totals/rows", params={"position": position, "where": '{"orders": {"gt": 1}}'}).json()
    assert [(row["customer"], row["total"]) for row in rows["rows"]] == [("ann", 4.5)]
    assert rows["position"] >= position
    first = client.get(f"{URL}/totals/rows", params={"order": "-total", "limit": 1}).json()
    then = client.get(f"{URL}/totals/rows", params={"order": "-total", "limit": 1, "cursor": first["cursor"]}).json()
    assert [page["rows"][0]["customer"] for page in (first, then)] == ["ann", "bob"]
    asked = client.post(f"{URL}/totals/query", json={"sql": "SELECT sum(total) FROM totals"})
    assert asked.json()["rows"] == [[6.5]]
    assert client.post(f"{URL}/totals/wait", json={"position": position}).json()["position"] >= position
    (listed,) = client.get(URL).json()["projections"]
    assert (listed["name"], listed["state"], listed["events"]) == ("totals", "LIVE", 3)
    assert client.get(f"{URL}/totals").json()["definition"]["from"] == {"aggregate_types": ["Order"]}
    assert client.post(f"{URL}/totals/rebuild").status_code == 202
    until(lambda: client.get(f"{URL}/totals").json()["state"], "LIVE")
    assert client.post(f"{URL}/totals/pause").status_code == 200
    until(lambda: client.get(f"{URL}/totals").json()["state"], "PAUSED")
    assert client.post(f"{URL}/totals/resume").status_code == 200
    placed(folder, ("ann", None))
    until(lambda: client.get(f"{URL}/totals").json()["state"], "FAILED")
    assert client.post(f"{URL}/totals/resume", json={"skip_event": True}).status_code == 200
    until(lambda: client.get(f"{URL}/totals").json()["state"], "LIVE")
    (skipped,) = client.get(f"{URL}/totals/skipped").json()["events"]
    assert "payload.amount is null" in skipped["message"]
    assert client.delete(f"{URL}/totals").status_code == 200
    assert client.get(f"{URL}/totals").status_code == 404


def test_what_is_wrong_is_a_problem_document(client: httpx.Client) -> None:
    for method, path, body, status, told in (
        ("PUT", "x", {"table": {}}, 422, "table.columns"),
        ("PUT", "x", {"name": "y"}, 400, "name: expected 'x'"),
        ("GET", "none", None, 404, "There is no projection 'none'"),
        ("GET", "none/rows?where=[]", None, 400, "where: expected a JSON object"),
    ):
        answer = client.request(method, f"{URL}/{path}", json=body)
        assert (answer.status_code, answer.headers["content-type"]) == (status, "application/problem+json")
        assert told in answer.json()["detail"]
    client.put(f"{URL}/slow", json=TOTALS | {"name": "slow", "on_error": "skip"})
    late = client.post(f"{URL}/slow/wait", json={"position": 10**9, "timeout_s": 0.1})
    assert (late.status_code, late.json()["title"]) == (409, "ProjectionLag")
    refused = client.post(f"{URL}/slow/query", json={"sql": "DELETE FROM slow"})
    assert (refused.status_code, refused.json()["title"]) == (400, "Query")


def test_commands_ask_the_server_for_what_it_has_open(
    client: httpx.Client, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    client.put(f"{URL}/duck", json=TOTALS | {"name": "duck", "store": "duckdb", "on_error": "skip"})
    placed(folder, ("eve", 2.0))
    with commands(tmp_path, monkeypatch) as esb:
        to = ("--data", str(folder), "projections")
        statement = "SELECT total FROM duck WHERE customer = 'eve'"
        assert esb(*to, "sql", "duck", statement, "--csv").out == "total\n2.0\n"
        assert json.loads(esb(*to, "rows", "duck", "--where", "customer=eve", "--json").out)["orders"] == 1
        assert esb(*to, "rebuild", "duck").out.startswith("duck is built anew; `esb projections show duck`")
        assert "Another process runs the projections" in esb(*to, "run", "--until-end", code=1).err


@pytest.fixture
def esb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Esb]:
    """Runs a command in this process, in a folder of its own with ``totals.json`` and three orders."""
    with commands(tmp_path, monkeypatch) as run:
        Path("totals.json").write_text(json.dumps(TOTALS))
        place(open_storage(tmp_path / "esb-data"), ("ann", 1.0), ("bob", 2.0), ("ann", 3.0))
        yield run


def test_commands_bring_a_projection_up_to_date_where_nobody_runs_it(esb: Esb) -> None:
    assert esb("projections", "list").err.startswith("there are no projections yet")
    assert esb("projections", "apply", "totals.json", "--dry-run").out == "new        totals\n"
    assert esb("projections", "apply", "totals.json").out == "new        totals\n"
    assert esb("projections", "apply", "-", stdin=json.dumps(TOTALS)).out == "unchanged  totals\n"
    assert json.loads(esb("projections", "show", "totals").out)["state"] == "STOPPED"
    rows = [json.loads(line) for line in esb("projections", "rows", "totals", "--order=-total", "--json").out.splitlines()]
    assert [(row["customer"], row["total"]) for row in rows] == [("ann", 4.0), ("bob", 2.0)]
    assert esb("projections", "rows", "totals", "--limit", "1").err == "esb: there are more than 1 rows\n"
    place(open_storage(), ("bob", 5.0))
    assert esb("projections", "sql", "totals", "SELECT max(total) AS m FROM totals", "--json").out == '{"m":7.0}\n'
    assert esb("projections", "run", "--until-end").out == "totals  LIVE  4 events\n"
    changed = json.dumps(TOTALS | {"version": 2})
    assert esb("projections", "apply", "-", stdin=changed).out == "rebuild    totals\n"
    assert esb("projections", "rebuild", "totals").out == "totals is built anew, of 4 events\n"
    assert "STOPPED" in esb("projections", "list").out
    assert "Add --yes" in esb("projections", "delete", "totals", code=2).err
    assert esb("projections", "delete", "totals", "--yes").out == "totals is gone\n"
    assert esb("projections", "rows", "totals", code=1).err == "esb: There is no projection 'totals'.\n"


def test_commands_tell_of_failures(esb: Esb) -> None:
    place(open_storage(), ("ann", None))  # type: ignore[arg-type]
    broken = json.dumps(TOTALS).replace("row.orders", "row.order")
    assert "row.order: there is no column 'order' in totals" in esb("projections", "apply", "-", stdin=broken, code=1).err
    esb("projections", "apply", "totals.json")
    assert "payload.amount is null" in esb("projections", "rows", "totals", code=1).err
    assert esb("projections", "run", "--until-end", code=1).out == "totals  FAILED  3 events\n"
    assert json.loads(esb("projections", "show", "totals").out)["failure"]["event_type"] == "order.placed"
    esb("projections", "resume", "totals", "--skip-event")
    assert len(esb("projections", "rows", "totals", "--json").out.splitlines()) == 2
    assert "payload.amount is null" in esb("projections", "skipped", "totals").out
