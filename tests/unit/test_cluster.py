"""The hosts of a cluster: addresses, which is this one, recovery partitions spread over them, and when workers are started."""

import shutil
import socket
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from running import Esb, commands

from event_streaming_bus.errors import ConfigError, InUseError, StorageError
from event_streaming_bus.flows.cluster import Address, Cluster, check_worker_ports, own_index, parse_cluster
from event_streaming_bus.flows.cluster_identity import difference
from event_streaming_bus.flows.cluster_leading import Leading, Standing
from event_streaming_bus.flows.cluster_messages import (
    Beat,
    Finish,
    Hello,
    Message,
    Phase,
    Prepare,
    Recovery,
    Start,
    decode,
    encode,
)
from event_streaming_bus.flows.cluster_recovery import (
    drop_unknown,
    is_complete,
    make_partitions,
    note_begun,
    read_recovery,
    trouble,
)
from event_streaming_bus.flows.supervisor import Patience


@pytest.fixture
def esb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Esb]:
    with commands(tmp_path, monkeypatch) as run:
        yield run


# --- addresses


def test_workers_listen_on_the_ports_after_their_supervisor() -> None:
    cluster = parse_cluster("10.0.0.1:2101, [FD00::2]:2101,sales-2.sales:3000", 2)
    assert cluster.hosts == (Address("10.0.0.1", 2101), Address("fd00::2", 2101), Address("sales-2.sales", 3000))
    assert cluster.worker_addresses() == [
        *("10.0.0.1:2102", "10.0.0.1:2103"),
        *("[fd00::2]:2102", "[fd00::2]:2103"),
        *("sales-2.sales:3001", "sales-2.sales:3002"),
    ]
    assert (cluster.workers, cluster.first_worker(2)) == (6, 4)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("10.0.0.1", "'10.0.0.1' is no address; expected HOST:PORT"),
        ("a:1,b:70000", "'b:70000' is no address"),
        ("a:1,b:0", "'b:0' is no address"),
        ("a:1,,b:1", "'' is no address"),
        ("fd00::2:2101,a:1", "'fd00::2:2101' is no address"),
        ("a:2101,b:2101,A:2101", "a:2101 is named twice"),
        ("a:2101,a:2102", "a:2101 and a:2102 overlap: a supervisor and its 1 worker"),
        ("a:2101", "expected 2 to 64 hosts, but 1 are named"),
        ("a:65535,b:1", "a:65535: the workers of a host use the ports after its own"),
    ],
)
def test_a_wrong_address_is_named(text: str, told: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_cluster(text)
    assert told in str(caught.value)


def find(text: str, process_id: int | None = None, environment: dict[str, str] | None = None, hostname: str = "me") -> int:
    return own_index(parse_cluster(text), process_id, environment=environment or {}, hostname=hostname)


def test_a_host_finds_its_place_by_number_by_name_or_by_address() -> None:
    elsewhere = "198.51.100.1:2101,198.51.100.2:2101"  # addresses that nobody has
    assert find(elsewhere, 1, {"ESB_PROCESS_ID": "0"}) == 1
    assert find(elsewhere, None, {"ESB_PROCESS_ID": "1"}) == 1
    pods = "sales-0.sales:2101,sales-1.sales:2101,sales-10.sales:2101"
    assert find(pods, hostname="sales-10") == 2
    assert find("198.51.100.1:2101,127.0.0.1:2101") == 1


@pytest.mark.parametrize(
    ("text", "process_id", "environment", "told"),
    [
        ("198.51.100.1:1,198.51.100.2:1", None, {}, "none of 198.51.100.1:1, 198.51.100.2:1 is an address of this machine (me)"),
        ("127.0.0.1:1,127.0.0.1:5", None, {}, "127.0.0.1:1 and 127.0.0.1:5 are all addresses of this machine"),
        ("a:1,b:1", 2, {}, "--process-id is 2, but the hosts of the cluster are 0 to 1"),
        ("a:1,b:1", None, {"ESB_PROCESS_ID": "two"}, "expected the number of a host, counted from 0, but it is 'two'"),
    ],
)
def test_a_host_that_is_not_in_the_list_is_told(
    text: str, process_id: int | None, environment: dict[str, str], told: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        find(text, process_id, environment)
    assert told in str(caught.value)


def test_a_port_in_use_is_told() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        cluster = Cluster((Address("127.0.0.1", port - 1), Address("198.51.100.1", 1)))
        with pytest.raises(
            InUseError, match=f"127.0.0.1:{port}, which a worker of this host needs, cannot be used: Address already"
        ):
            check_worker_ports(cluster, 0)


def test_what_differs_between_hosts_is_told_and_versions_first() -> None:
    own = {"version": "1", "plan": "a", "flow": "default/x"}
    assert difference(own, dict(own)) is None
    assert difference(own, {**own, "plan": "b"}) == "it has another plan of the flow (b), this host has a"
    assert difference(own, {**own, "plan": "b", "version": "2"}) == "it has version 2 of the bus, this host has 1"


@pytest.mark.parametrize(
    "message",
    [
        Hello(1, {"plan": "x"}),
        Beat(3, Phase.RUNNING, (0, 2), Recovery((1, 3), 4, True), "why", True),
        Prepare(4),
        Start(7, {"a": "proc_1"}, "{}"),
        Finish("no"),
    ],
)
def test_messages_come_through(message: Message) -> None:
    line = encode(message)
    assert line.endswith(b"\n")
    assert line.count(b"\n") == 1
    assert decode(line) == message


# --- recovery partitions


def test_each_host_makes_its_share_of_the_recovery_partitions(tmp_path: Path) -> None:
    found = []
    for index in range(3):
        make_partitions(tmp_path / str(index), 4, index, 3)
        make_partitions(tmp_path / str(index), 4, index, 3)  # again: as one that was killed on the way does
        found.append(read_recovery(tmp_path / str(index)))
    assert found == [Recovery((0, 3), 4), Recovery((1,), 4), Recovery((2,), 4)]
    assert is_complete(found)
    assert not is_complete(found[:2])
    assert trouble({str(i): each for i, each in enumerate(found[:2])}) is None  # nothing is lost: it may begin
    note_begun(tmp_path / "0")
    assert read_recovery(tmp_path / "0").begun


def test_what_a_flow_on_one_machine_left_has_begun(tmp_path: Path) -> None:
    make_partitions(tmp_path, 2, 0, 1)
    (tmp_path / "begun").unlink()
    assert read_recovery(tmp_path) == Recovery((0, 1), 2, True)
    assert read_recovery(tmp_path / "none") == Recovery()


def test_snapshots_of_processors_that_are_gone_are_dropped(tmp_path: Path) -> None:
    make_partitions(tmp_path, 1, 0, 1)
    with closing(sqlite3.connect(tmp_path / "part-0.sqlite3")) as db:
        for step in ("sales.kept:state", "sales.kept_too:state", "sales.gone:state"):
            db.execute("INSERT INTO snaps (step_id, state_key, snap_epoch, ser_change) VALUES (?, '1', 1, x'00')", (step,))
        db.commit()
        drop_unknown(tmp_path, "sales", ["kept", "kept_too"])
        found = {step for (step,) in db.execute("SELECT step_id FROM snaps")}
    assert found == {"sales.kept:state", "sales.kept_too:state"}


def test_a_file_that_is_not_the_partition_it_is_called_is_told(tmp_path: Path) -> None:
    make_partitions(tmp_path, 2, 0, 2)
    shutil.copy(tmp_path / "part-0.sqlite3", tmp_path / "part-1.sqlite3")
    with pytest.raises(StorageError, match=r"part-1.sqlite3 does not hold the recovery partition that its name says"):
        read_recovery(tmp_path)
    (tmp_path / "part-1.sqlite3").write_text("nothing of the kind, and long enough to be looked at" * 40)
    with pytest.raises(StorageError, match=r"part-1.sqlite3 cannot be read"):
        read_recovery(tmp_path)


@pytest.mark.parametrize(
    ("found", "told"),
    [
        (
            {"a": Recovery((0, 2), 4, True), "b": Recovery()},
            "no host has the recovery partition(s) 1, 3: a has 0, 2, b has none.",
        ),
        ({"a": Recovery((), 0, True), "b": Recovery()}, "no host has any recovery partition, though the flow has run"),
        ({"a": Recovery((0, 1), 2, True), "b": Recovery((1,), 2)}, "the recovery partition 1 is on a and b"),
        ({"a": Recovery((0,), 2, True), "b": Recovery((1,), 4)}, "of different beginnings of the flow"),
    ],
)
def test_state_that_is_lost_or_mixed_up_is_told(found: dict[str, Recovery], told: str) -> None:
    assert told in (trouble(found) or "")


# --- when workers are started

BOTH = (Recovery((0, 2), 4, True), Recovery((1, 3), 4, True))


def beat(index: int, generation: int = 0, phase: Phase = Phase.IDLE, **fields: Any) -> Beat:
    return Beat(generation, phase, (1 - index,), **{"recovery": BOTH[index], **fields})


@pytest.fixture
def leading() -> Leading:
    cluster = parse_cluster("a:1,b:1")
    return Leading(cluster, Patience(first_backoff_s=0, max_failures=3), 4)


def test_workers_are_started_once_no_host_has_any_and_all_see_each_other(leading: Leading) -> None:
    blind = Beat(0, Phase.IDLE, (), BOTH[1])
    assert leading.next_step({0: beat(0)}) is Standing.WAITING
    assert leading.next_step({0: beat(0), 1: blind}) is Standing.WAITING
    assert leading.next_step({0: beat(0), 1: beat(1, 6, Phase.RUNNING)}) is Standing.WAITING
    assert leading.next_step({0: beat(0), 1: beat(1, 6)}) == Start(7, {})  # another first host knows of the sixth
    assert leading.next_step({0: beat(0, 7, Phase.DONE), 1: beat(1, 7, Phase.DONE)}) is Standing.ALL_DONE


def test_partitions_are_made_before_the_first_start(leading: Leading) -> None:
    none = {0: beat(0, recovery=Recovery()), 1: beat(1, recovery=Recovery())}
    assert leading.next_step(none) == Prepare(4)
    leading.told(Prepare(4))
    assert leading.next_step(none) is Standing.WAITING
    halfway = {0: beat(0, recovery=Recovery((0, 2), 4)), 1: beat(1, recovery=Recovery())}
    assert not isinstance(leading.next_step(halfway), Finish)
    assert isinstance(leading.next_step({0: beat(0), 1: beat(1, recovery=Recovery())}), Finish)


def failed(leading: Leading, error: str | None, *, lost: bool = False) -> Any:
    """What is next after a generation that ended so."""
    start = leading.next_step({0: beat(0), 1: beat(1)})
    assert isinstance(start, Start)
    leading.told(start)
    consequence = "pyo3_runtime.PanicException: Send thread panic: Any { .. }"
    return leading.next_step(
        {0: beat(0, start.generation, error=consequence), 1: beat(1, start.generation, error=error, lost=lost)}
    )


def test_workers_that_always_fail_are_given_up_with_the_error_of_the_one_that_began(leading: Leading) -> None:
    assert isinstance(failed(leading, "it is broken"), Start)
    assert isinstance(failed(leading, "it is broken"), Start)
    assert failed(leading, "it is broken") == Finish("the workers failed 3 times in a row, last on b:1: it is broken")


def test_hosts_that_are_lost_are_waited_for_without_end(leading: Leading) -> None:
    for _ in range(10):
        assert isinstance(failed(leading, None, lost=True), Start)


# --- the command


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (
            ["--cluster", "a:1,b:1"],
            "all hosts need the same log, and the data folder is this host's alone; see ESB_DATA=kafka://",
        ),
        (["--process-id", "1"], "--process-id belongs to --cluster"),
    ],
)
def test_what_makes_no_cluster_is_told(esb: Esb, tmp_path: Path, words: list[str], told: str) -> None:
    file = tmp_path / "flow.yaml"
    file.write_text(
        "streams: [{name: a}, {name: b}]\n"
        "processors: [{processor_name: p, processor_type: FILTER, source_stream_id: a, target_stream_id: b,"
        " processing_logic: {filter_expression: 'true'}}]\n"
    )
    done = esb("run", str(file), *words, code=None)
    assert done.code in (1, 2)
    assert told in done.err
