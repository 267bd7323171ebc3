"""Projections at work: followed, waited for, asked, built anew, paused; by one process of several."""

import asyncio
import contextlib
import threading
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from test_projections_support import STORES, TOTALS, place, table

from event_streaming_bus.errors import InUseError, InvalidStateError
from event_streaming_bus.sourcing.projection_errors import (
    ProjectionConfigError,
    ProjectionFailedError,
    ProjectionLagError,
    ProjectionNotFoundError,
    ProjectionNotRunningError,
)
from event_streaming_bus.sourcing.projections import Projection, ProjectionService, Tables, projects
from event_streaming_bus.sourcing.projections.builds import Verdict
from event_streaming_bus.store.projections import ProjectionStore
from event_streaming_bus.store.recorded import RecordedEvent
from event_streaming_bus.store.storage import Storage, open_storage

DOUBLED = TOTALS | {
    "on": {"order.placed": [{"upsert": {"customer": "payload.customer", "orders": "row.orders + 1", "total": "row.total + 2"}}]}
}


@pytest.fixture
def storage(tmp_path: Path) -> Iterator[Storage]:
    storage = open_storage(tmp_path / "data")
    yield storage
    storage.close()


@pytest.fixture
async def service(storage: Storage) -> AsyncIterator[ProjectionService]:
    async with ProjectionService(storage) as service:
        yield service


@pytest.fixture(params=STORES)
def declared(request: pytest.FixtureRequest) -> dict[str, Any]:
    return TOTALS | {"store": request.param}


async def until(service: ProjectionService, state: str, name: str = "totals") -> dict[str, Any]:
    for _ in range(500):
        told = await service.describe(name)
        if told["state"] == state:
            return told
        await asyncio.sleep(0.02)
    raise AssertionError(f"it never was {state}: {told}")


async def total(service: ProjectionService, customer: str = "ann", **more: Any) -> Any:
    rows = (await service.rows("totals", where={"customer": customer}, **more))["rows"]
    return rows[0]["total"] if rows else None


def files(storage: Storage) -> list[str]:
    return sorted(path.name for path in storage.folder.glob("projections/default/*"))


# --- following --------------------------------------------------------------------------------------------------------


async def test_a_projection_catches_up_and_a_caller_reads_its_own_write(
    storage: Storage, service: ProjectionService, declared: dict[str, Any]
) -> None:
    place(storage, *[("ann", 1.0)] * 50)
    assert [tuple(each) for each in await service.apply(declared)] == [("totals", Verdict.NEW)]
    await service.wait_for("totals")
    for n in range(1, 6):
        position = place(storage, ("ann", 1.0))
        assert await total(service, position=position) == 50.0 + n
    told = await until(service, "LIVE")
    assert (told["position"], told["lag"], told["seconds_behind"]) == (told["head"], 0, 0.0)
    assert (told["events"], told["skipped"], told["failure"], told["rebuild"]) == (55, 0, None, None)


async def test_many_callers_can_wait_at_once(storage: Storage, service: ProjectionService) -> None:
    await service.apply(TOTALS)
    head = place(storage, ("ann", 1.0))
    waiting = [asyncio.create_task(service.wait_for("totals", head + 1, 10)) for _ in range(200)]
    await asyncio.sleep(0.1)
    assert not any(each.done() for each in waiting)
    assert set(await asyncio.gather(*waiting, asyncio.to_thread(place, storage, ("bob", 2.0)))) == {head + 1}


async def test_waiting_ends_with_a_clear_error(storage: Storage, service: ProjectionService) -> None:
    with pytest.raises(ProjectionNotFoundError, match="There is no projection 'totals'"):
        await service.wait_for("totals", 1, 0.1)
    await service.apply(TOTALS)
    head = place(storage, ("ann", 1.0))
    await service.wait_for("totals")
    with pytest.raises(ProjectionLagError, match=rf"not come to position {head + 5} within 0.1 s; it is at {head}"):
        await service.wait_for("totals", head + 5, 0.1)
    await service.pause("totals")
    with pytest.raises(ProjectionNotRunningError, match="is paused"):
        await service.wait_for("totals", head + 5, 5)


async def test_tenants_and_types_are_kept_apart(storage: Storage, service: ProjectionService) -> None:
    await service.apply(TOTALS)
    await service.apply(TOTALS, "other")
    place(storage, ("ann", 1.0))
    place(storage, ("ann", 7.0), tenant_id="other")
    await service.wait_for("totals")
    await service.wait_for("totals", tenant_id="other")
    assert await total(service) == 1.0
    assert (await service.rows("totals", "other"))["rows"][0]["total"] == 7.0
    assert [each["name"] for each in await service.list_projections("third")] == []


async def test_what_was_projected_is_there_after_a_restart(storage: Storage) -> None:
    async with ProjectionService(storage) as service:
        await service.apply(TOTALS)
        place(storage, ("ann", 1.0), ("ann", 2.0))
        await service.wait_for("totals")
    place(storage, ("ann", 4.0))
    async with ProjectionService(storage) as service:
        await service.wait_for("totals")
        assert await total(service) == 7.0
        assert (await service.describe("totals"))["events"] == 3


# --- failing ----------------------------------------------------------------------------------------------------------


async def test_an_event_that_fails_stops_its_projection_alone(storage: Storage, service: ProjectionService) -> None:
    await service.apply(TOTALS)
    await service.apply(TOTALS | {"name": "lenient", "on_error": "skip"})
    place(storage, ("ann", 1.0))
    bad = place(storage, ("ann", None))  # type: ignore[arg-type]
    last = place(storage, ("ann", 4.0))
    with pytest.raises(ProjectionFailedError, match=r"payload\.amount is null"):
        await service.wait_for("totals", last)
    told = await until(service, "FAILED")
    assert (told["failure"]["position"], told["failure"]["event_type"]) == (bad, "order.placed")
    assert (await total(service), told["position"]) == (1.0, bad - 1)
    await service.wait_for("lenient", last)
    told = await until(service, "LIVE", "lenient")
    assert (told["events"], told["skipped"], told["skipped_events"][0]["position"]) == (2, 1, bad)


async def test_a_failed_projection_goes_on_without_the_event_or_with_other_rules(
    storage: Storage, service: ProjectionService
) -> None:
    await service.apply(TOTALS)
    place(storage, ("ann", None), ("ann", 2.0))  # type: ignore[arg-type]
    await until(service, "FAILED")
    await service.resume("totals")
    await until(service, "FAILED")
    await service.resume("totals", skip_event=True)
    await service.wait_for("totals")
    assert await total(service) == 2.0
    with pytest.raises(InvalidStateError, match="none to skip"):
        await service.resume("totals", skip_event=True)
    place(storage, ("ann", None), ("ann", 4.0))  # type: ignore[arg-type]
    await until(service, "FAILED")
    assert [each.verdict for each in await service.apply(TOTALS | {"on_error": "skip"})] == [Verdict.CHANGED]
    await until(service, "LIVE")
    assert await total(service) == 6.0


async def test_whoever_sees_that_a_projection_has_failed_can_have_it_go_on(
    storage: Storage, service: ProjectionService, monkeypatch: pytest.MonkeyPatch
) -> None:
    put = ProjectionStore.put_progress

    def slowly(self: ProjectionStore, *what: Any, **how: Any) -> None:
        if how["failure"] is not None:
            time.sleep(0.3)
        put(self, *what, **how)

    monkeypatch.setattr(ProjectionStore, "put_progress", slowly)
    await service.apply(TOTALS)
    place(storage, ("ann", None), ("ann", 2.0))  # type: ignore[arg-type]
    await until(service, "FAILED")
    await service.resume("totals", skip_event=True)
    await service.wait_for("totals")
    assert await total(service) == 2.0


async def test_rows_of_events_that_are_gone_are_built_anew(storage: Storage, tmp_path: Path) -> None:
    async with ProjectionService(storage) as service:
        await service.apply(TOTALS)
        place(storage, ("ann", 1.0), ("ann", 1.0), ("ann", 1.0))
        await service.wait_for("totals")
    (tmp_path / "data" / "projections").rename(tmp_path / "kept")
    with contextlib.closing(open_storage(tmp_path / "other")) as restored:
        (tmp_path / "kept").rename(tmp_path / "other" / "projections")
        place(restored, ("ann", 5.0))
        async with ProjectionService(restored) as service:
            told = await until(service, "FAILED")
            assert "It has seen position 3, but the events end at 1" in told["failure"]["message"]
            await service.rebuild("totals")
            await until(service, "LIVE")
            assert await total(service) == 5.0


# --- building anew ----------------------------------------------------------------------------------------------------


async def test_a_changed_definition_is_built_beside_and_swapped_at_once(
    storage: Storage, service: ProjectionService, declared: dict[str, Any]
) -> None:
    await service.apply(declared)
    place(storage, *[("ann", 1.0)] * 3000)
    await service.wait_for("totals")
    assert [each.verdict for each in await service.apply(declared)] == [Verdict.UNCHANGED]
    assert [each.verdict for each in await service.apply(DOUBLED | {"store": declared["store"]})] == [Verdict.REBUILD]
    seen = []
    while (told := await service.describe("totals"))["state"] != "LIVE":
        assert told["state"] == "REBUILDING"
        position = place(storage, ("ann", 1.0))
        # While it is built anew, the old rows answer, and are kept up to date; then the new ones do. Nothing is in between.
        seen.append((await total(service, position=position)) / (3000 + len(seen) + 1))
    assert set(seen) <= {1.0, 2.0}
    assert seen == sorted(seen)
    assert await total(service, position=place(storage, ("ann", 1.0))) == 2.0 * (3000 + len(seen) + 1)
    for _ in range(100):
        if {name.split(".")[1] for name in files(storage)} == {"b2"}:
            break
        await asyncio.sleep(0.02)
    assert {name.split(".")[1] for name in files(storage)} == {"b2"}


async def test_the_old_rows_go_on_while_a_new_build_fails(storage: Storage, service: ProjectionService) -> None:
    await service.apply(TOTALS)
    place(storage, ("ann", 1.0))
    broken = {"order.placed": [{"upsert": {"customer": "payload.customer", "total": "payload.nothing + 1"}}]}
    await service.apply(TOTALS | {"on": broken})
    told = await until(service, "FAILED")
    assert "payload.nothing is null" in told["failure"]["message"]
    assert await total(service, position=place(storage, ("ann", 2.0))) == 3.0
    assert [each.verdict for each in await service.apply(TOTALS)] == [Verdict.CHANGED]
    assert await total(service, position=place(storage, ("ann", 4.0))) == 7.0
    await until(service, "LIVE")


async def test_rebuilding_makes_the_same_rows_again(storage: Storage, service: ProjectionService) -> None:
    await service.apply(TOTALS)
    place(storage, *[(f"c{i % 7}", float(i)) for i in range(500)])
    await service.wait_for("totals")
    before = await service.rows("totals")
    await service.rebuild("totals")
    await until(service, "LIVE")
    assert await service.rows("totals") == before
    assert (await service.describe("totals"))["events"] == 500


async def test_a_deleted_projection_leaves_nothing(storage: Storage, service: ProjectionService) -> None:
    await service.apply(TOTALS)
    place(storage, ("ann", 1.0))
    await service.wait_for("totals")
    await service.delete("totals")
    for _ in range(100):
        if not files(storage):
            break
        await asyncio.sleep(0.02)
    assert files(storage) == []
    with pytest.raises(ProjectionNotFoundError):
        await service.rows("totals")


async def test_a_file_that_is_lost_is_made_again(storage: Storage) -> None:
    async with ProjectionService(storage) as service:
        await service.apply(TOTALS)
        place(storage, ("ann", 1.0))
        await service.wait_for("totals")
    for path in storage.folder.glob("projections/default/*"):
        path.unlink()
    async with ProjectionService(storage) as service:
        await service.wait_for("totals")
        assert await total(service) == 1.0


# --- classes ----------------------------------------------------------------------------------------------------------


class Customers(Projection):
    table = table({"customer": "text", "n": "integer"}, ["customer"])
    step = 1

    @projects("order.placed")
    def placed(self, event: RecordedEvent, tables: Tables) -> None:
        row = tables.customers.get(customer=event.payload["customer"]) or {"n": 0}
        tables.customers.upsert(customer=event.payload["customer"], n=row["n"] + self.step)


async def test_a_class_is_run_and_built_anew_when_it_has_changed(storage: Storage) -> None:
    async with ProjectionService(storage) as service:
        await service.apply(Customers)
        place(storage, ("ann", 1.0), ("ann", 1.0))
        await service.wait_for("customers")
        assert (await service.rows("customers"))["rows"] == [{"customer": "ann", "n": 2}]

    class Changed(Customers):
        step = 10
        version = 2

    Changed.__module__, Changed.__qualname__ = Customers.__module__, Customers.__qualname__
    Changed.name = "customers"
    service = ProjectionService(storage)
    service.read(Changed)
    assert [each.verdict for each in await service.preview(Changed)] == [Verdict.REBUILD]
    async with service:  # what it was given has other code than what was declared
        for _ in range(500):
            if (rows := (await service.rows("customers"))["rows"]) == [{"customer": "ann", "n": 20}]:
                break
            assert rows == [{"customer": "ann", "n": 2}]
            await asyncio.sleep(0.02)
        await until(service, "LIVE", "customers")


async def test_only_classes_of_allowed_modules_are_imported(
    storage: Storage, service: ProjectionService, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "shop_views.py").write_text(
        "from event_streaming_bus.sourcing.projections import Projection, projects\n"
        "class Seen(Projection):\n"
        "    table = {'columns': {'customer': 'text'}, 'key': ['customer']}\n"
        "    @projects('order.placed')\n"
        "    def placed(self, event, tables):\n"
        "        tables.seen.upsert(customer=event.payload['customer'])\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    data = {"name": "seen", "class": "shop_views:Seen"}
    with pytest.raises(ProjectionConfigError, match="the module shop_views is not allowed"):
        await service.apply(data)
    monkeypatch.setenv("ESB_CUSTOM_MODULES", "shop_views")
    await service.apply(data)
    place(storage, ("ann", 1.0))
    await service.wait_for("seen")
    assert (await service.rows("seen"))["rows"] == [{"customer": "ann"}]
    with pytest.raises(ProjectionConfigError, match="cannot be imported"):
        await service.apply({"name": "seen", "class": "shop_views:Sein"})


# --- one process of several -------------------------------------------------------------------------------------------


async def test_one_runs_projections_and_others_read_and_take_over(
    storage: Storage, service: ProjectionService, declared: dict[str, Any]
) -> None:
    other = ProjectionService(storage)
    try:
        with pytest.raises(InUseError, match="Another process runs the projections"):
            other.start(must=True)
        await other.apply(declared)
        position = place(storage, ("ann", 1.0))
        assert await other.wait_for("totals", position) >= position
        assert (await other.describe("totals"))["state"] in ("LIVE", "CATCHING_UP")
        if declared["store"] == "sqlite":
            assert await total(other) == 1.0
        else:
            with pytest.raises(InUseError):
                await total(other)
        other.start()
        assert not other.is_owner
        await asyncio.to_thread(service.stop_running)
        assert await total(other, position=place(storage, ("ann", 2.0))) == 3.0
    finally:
        other.close()


async def test_without_a_runner_rows_can_be_read_but_not_waited_for(storage: Storage, declared: dict[str, Any]) -> None:
    service = ProjectionService(storage)
    await service.apply(declared)
    with pytest.raises(ProjectionNotRunningError, match="nobody has run it"):
        await service.rows("totals")
    position = place(storage, ("ann", 1.0))
    with pytest.raises(ProjectionNotRunningError, match="Nobody runs the projection totals"):
        await service.wait_for("totals", position, 5)
    service.start()
    await service.wait_for("totals", position)
    service.stop_running()
    assert (await service.describe("totals"))["state"] == "STOPPED"
    assert await total(service) == 1.0
    service.close()


async def test_pausing_stops_the_rows_and_resuming_moves_them_on(storage: Storage, service: ProjectionService) -> None:
    await service.apply(TOTALS)
    await service.wait_for("totals", place(storage, ("ann", 1.0)))
    await service.pause("totals")
    await until(service, "PAUSED")
    for _ in range(100):
        if not any(thread.name == "esb-projection-totals" for thread in threading.enumerate()):
            break
        await asyncio.sleep(0.02)
    position = place(storage, ("ann", 1.0))
    assert await total(service) == 1.0
    await service.resume("totals")
    await asyncio.sleep(0)
    assert await total(service, position=position) == 2.0
