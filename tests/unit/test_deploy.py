"""Files under deploy/ beside the code that they speak of: options, ports, paths, names of variables, times. Those for Kubernetes
have tests of their own."""

import json
import os
import re
import stat
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from configparser import RawConfigParser
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import yaml
from deploying import (
    COMPOSE,
    CONTAINER,
    DEPLOY,
    DOCKERFILE,
    EXAMPLES,
    HEALTHCHECK,
    NODE_CONTAINER,
    NODE_POD,
    POD,
    ROOT,
    SERVICES,
    UNIT,
    options_of,
    tool,
)
from running import ESB, served

import event_streaming_bus
from event_streaming_bus.access.model import Role
from event_streaming_bus.access.permissions import allows
from event_streaming_bus.api import metrics
from event_streaming_bus.api.server import _DRAIN_S, check_reach
from event_streaming_bus.errors import InvalidInputError
from event_streaming_bus.flows.supervisor import STOP_TIMEOUT_S
from event_streaming_bus.store.database import postgres_place
from event_streaming_bus.store.log.kafka_settings import parse_url
from event_streaming_bus.store.server_calls import SERVER_FILE

STARTS = {
    "Dockerfile": json.loads(re.findall(r"^CMD (.*)$", DOCKERFILE, re.M)[-1]),
    "compose": SERVICES["bus"]["command"],
    "compose, second node": SERVICES["bus-2"]["command"],
    "kubernetes": CONTAINER["args"],
    "kubernetes, several nodes": NODE_CONTAINER["args"],
    "systemd": re.findall(r"^ExecStart=/opt/\S+/esb (.*)$", UNIT, re.M)[0].split(),
}
SHORTEST_STOP_S = _DRAIN_S + STOP_TIMEOUT_S + 10


# --- how the server is started ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("place", STARTS)
def test_the_server_understands_how_it_is_started(place: str) -> None:
    assert STARTS[place][0] == "serve"
    options = options_of(STARTS[place])
    assert (options["port"], options["auth"]) == (8080, "required")
    if place == "Dockerfile":  # alone it says nothing of the network that it is in, so it is refused
        with pytest.raises(InvalidInputError, match="--allow-remote if the network is closed"):
            check_reach(options["host"], options["allow_remote"])
    else:
        check_reach(options["host"], options["allow_remote"])


def test_there_is_time_for_an_orderly_stop() -> None:
    seconds = [
        *(int(SERVICES[name]["stop_grace_period"].removesuffix("s")) for name in ("bus", "bus-2")),
        POD["terminationGracePeriodSeconds"],
        NODE_POD["terminationGracePeriodSeconds"],
        int(re.findall(r"^TimeoutStopSec=(\d+)$", UNIT, re.M)[0]),
    ]
    assert min(seconds) >= SHORTEST_STOP_S


def test_variables_are_those_that_the_code_reads() -> None:
    text = "".join(path.read_text("utf-8") for path in files() if path.suffix != ".json")
    named = set(re.findall(r"\bESB_[A-Z_]+\b", text))
    code = "".join(path.read_text("utf-8") for name in ("event_streaming_bus", "api", "flows", "store") for path in sources(name))
    assert {"ESB_DATA", "ESB_MASTER_KEY", "ESB_HISTORY_DAYS", "ESB_DATABASE", "ESB_ADVERTISE", "ESB_AUDIT_KEY_FILE"} <= named
    assert {name for name in named if f'"{name}"' not in code} == set()


def files() -> Iterator[Path]:
    for folder in ("docker", "kubernetes", "systemd"):
        yield from (path for path in (DEPLOY / folder).rglob("*") if path.is_file())
    yield DEPLOY / "compose.yaml"


def sources(folder: str) -> Iterator[Path]:
    return (ROOT / folder).rglob("*.py")


# --- the image --------------------------------------------------------------------------------------------------------


def test_the_image_is_of_this_version_and_runs_as_nobody_special() -> None:
    assert f"ARG VERSION={event_streaming_bus.__version__}\n" in DOCKERFILE
    assert re.findall(r"^USER (.*)$", DOCKERFILE, re.M) == ["10001:10001"]
    assert POD["securityContext"]["runAsUser"] == POD["securityContext"]["fsGroup"] == 10001
    assert "--require-hashes" in DOCKERFILE
    installs = re.findall(r"pip (?:--python \S+ )?(?:install|wheel) [^&\n]*", DOCKERFILE)
    assert len(installs) == 3
    assert all("--no-index" in line for line in installs)


def test_what_the_image_copies_is_there_and_reaches_the_builder() -> None:
    copied = [word for line in re.findall(r"^COPY (?!--from)(.*)$", DOCKERFILE, re.M) for word in line.split()[:-1]]
    assert all((ROOT / name).exists() for name in copied)
    ignore = (ROOT / ".dockerignore").read_text("utf-8").splitlines()
    assert "*" in ignore
    assert sorted(copied) == sorted(line[1:] for line in ignore if line.startswith("!"))


def test_the_health_check_knows_a_ready_server_from_none(tmp_path: Path) -> None:
    def check(file: Path) -> subprocess.CompletedProcess[str]:
        return subprocess.run([sys.executable, HEALTHCHECK, file], capture_output=True, text=True, timeout=30, check=False)

    assert f'Path("/data/{SERVER_FILE}")' in HEALTHCHECK.read_text("utf-8")
    data = tmp_path / "data"
    with served(data, "--auth", "required") as url:
        assert check(data / SERVER_FILE).returncode == 0
        make_token(data, tmp_path / "handover")
        token = (tmp_path / "handover/metrics.token").read_text("utf-8").strip()
        make_token(data, tmp_path / "handover")  # once is enough
        assert (tmp_path / "handover/metrics.token").read_text("utf-8").strip() == token
        request = urllib.request.Request(f"{url}/metrics", headers={"Authorization": f"Bearer {token}"})
        with urllib.request.urlopen(request, timeout=10) as answer:
            assert b"event_streaming_disk_bytes" in answer.read()
    gone = tmp_path / "gone.json"
    gone.write_text(json.dumps({"url": url}), "utf-8")
    for file, told in ((data / SERVER_FILE, "FileNotFoundError"), (gone, "refused")):
        done = check(file)
        assert done.returncode == 1
        assert told in done.stderr


def make_token(data: Path, handover: Path) -> None:
    """Run the command of the service ``metrics-token``, as it is, on other folders."""
    handover.mkdir(exist_ok=True)
    service = SERVICES["metrics-token"]
    script = service["command"][0].replace("/handover", str(handover))
    environment = {**os.environ, "ESB_DATA": str(data), "PATH": os.pathsep.join([str(ESB.parent), os.environ["PATH"]])}
    subprocess.run([*service["entrypoint"], script], env=environment, check=True, capture_output=True, timeout=60)
    assert stat.S_IMODE((handover / "metrics.token").stat().st_mode) & 0o004, "Prometheus is another user"


def test_the_role_of_prometheus_may_read_metrics() -> None:
    assert f"--role {Role.MONITOR.value}" in SERVICES["metrics-token"]["command"][0]
    assert allows(Role.MONITOR, "monitoring:read")


# --- compose ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SERVICES)
def test_containers_have_no_rights_that_they_do_not_need(name: str) -> None:
    service = SERVICES[name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert re.fullmatch(r"[a-z/-]+:v?\d+\.\d+\.\d+|postgres:\d+\.\d+-[a-z]+", service["image"])
    assert all(port.startswith("127.0.0.1:") for port in service.get("ports", []))
    assert "healthcheck" in service or name in ("metrics-token", "db-upgrade"), "these two end by themselves"


def test_secrets_have_no_default() -> None:
    values = {(name, value) for service in SERVICES.values() for name, value in service.get("environment", {}).items()}
    secret = {(name, value) for name, value in values if re.search("PASSWORD|KEY$|SECRET|TOKEN|DATABASE", name)}
    needed = {name for name, value in secret if re.fullmatch(r"\$\{[A-Z_]+:\?.+\}", value)}
    assert needed == {"ESB_MASTER_KEY", "GF_SECURITY_ADMIN_PASSWORD"}
    empty = {(name, value) for name, value in secret if name not in needed}
    assert empty == {(name, f"${{{name}:-}}") for name in ("ESB_DATABASE", "POSTGRES_PASSWORD")}, "they are for one profile only"


def test_mounted_files_are_there_and_lead_to_each_other() -> None:
    mounted = [volume.split(":") for service in SERVICES.values() for volume in service.get("volumes", [])]
    for source, _, *_ in mounted:
        assert (DEPLOY / source).is_file() if source.startswith(".") else source in COMPOSE["volumes"]
    targets = {target for _, target, *_ in mounted}
    prometheus = yaml.safe_load((DEPLOY / "docker/prometheus.yml").read_text("utf-8"))
    (job,) = prometheus["scrape_configs"]
    assert set(prometheus["rule_files"]) <= targets
    assert Path(job["authorization"]["credentials_file"]).parent.as_posix() in targets
    assert job["static_configs"] == [{"targets": ["bus:8080"]}]
    assert job["dns_sd_configs"] == [{"names": ["bus-2"], "type": "A", "port": 8080}]
    assert job["metrics_path"] in metrics.metrics.paths
    beside = yaml.safe_load((DEPLOY / "prometheus/prometheus.yml").read_text("utf-8"))["scrape_configs"][0]
    assert job["job_name"] == beside["job_name"], "the alerts go by it"
    assert job["scrape_protocols"] == beside["scrape_protocols"]
    (source,) = yaml.safe_load((DEPLOY / "docker/grafana/datasource.yaml").read_text("utf-8"))["datasources"]
    assert source["url"] == "http://prometheus:9090"
    (provider,) = yaml.safe_load((DEPLOY / "docker/grafana/dashboards.yaml").read_text("utf-8"))["providers"]
    assert any(target.startswith(provider["options"]["path"]) for target in targets)


def test_the_bus_makes_its_first_token_before_prometheus_gets_one() -> None:
    assert SERVICES["metrics-token"]["depends_on"] == {"bus": {"condition": "service_healthy"}}
    assert SERVICES["bus-2"]["depends_on"] == {"bus": {"condition": "service_healthy"}}


def test_nodes_start_after_their_database_was_upgraded_and_without_one_nothing_is_waited_for() -> None:
    upgrade = SERVICES["db-upgrade"]
    assert options_of(upgrade["command"]) == {}
    assert upgrade["restart"] == "no", "else `up` would wait for ever for what cannot succeed"
    assert upgrade["depends_on"] == {"postgres": {"condition": "service_healthy"}}
    waited_for = SERVICES["bus"]["depends_on"]
    assert waited_for["db-upgrade"] == {"condition": "service_completed_successfully", "required": False}
    assert all(SERVICES[name]["profiles"] and each["required"] is False for name, each in waited_for.items())
    profiles = {name: service["profiles"] for name, service in SERVICES.items() if "profiles" in service}
    assert profiles == {
        "kafka": ["kafka", "nodes"],
        **{name: ["nodes"] for name in ("postgres", "db-upgrade", "bus-2")},
    }


def test_the_nodes_of_compose_are_of_one_bus_and_reach_each_other() -> None:
    assert SERVICES["bus"]["environment"] == SERVICES["bus-2"]["environment"] == SERVICES["metrics-token"]["environment"]
    for name in ("bus", "bus-2"):
        options = options_of(SERVICES[name]["command"])
        assert options["advertise"] == f"http://{name}:{options['port']}"
        assert SERVICES[name]["restart"] == "unless-stopped", "a node that lost the lead ends, to be started again"
    folders = [volume for name in ("bus", "bus-2") for volume in SERVICES[name]["volumes"] if volume.endswith(":/data")]
    assert len(set(folders)) == 2, "a data folder is of one node"
    assert {"keys:/keys"} <= set(SERVICES["bus"]["volumes"]) & set(SERVICES["bus-2"]["volumes"])


def test_the_commands_at_the_top_of_compose_make_addresses_that_fit() -> None:
    text = (DEPLOY / "compose.yaml").read_text("utf-8").partition("\nname:")[0]
    data = re.findall(r"export ESB_DATA='(.*)'", text)
    assert {parse_url(url, "nowhere").folder for url in data} == {Path("/data")}
    (database,) = re.findall(r'export ESB_DATABASE="(.*)"', text)
    url = urlsplit(str(postgres_place(database).url))
    environment = SERVICES["postgres"]["environment"]
    assert (url.username, url.path) == (environment["POSTGRES_USER"], f"/{environment['POSTGRES_DB']}")
    assert (url.hostname, url.port) == ("postgres", 5432)
    (key,) = re.findall(r"export ESB_AUDIT_KEY_FILE=(\S+)", text)
    assert key.startswith("/keys/")
    assert re.search(r"install -d -o 10001 -g 10001 -m 0700 .*/keys", DOCKERFILE), "or the new volume would be root's"
    assert set(re.findall(r"--profile (\w+)", text)) == {"kafka", "nodes"}


def test_postgres_writes_only_where_it_may() -> None:
    service = SERVICES["postgres"]
    assert not service["user"].startswith("0")
    assert "ports" not in service
    assert "postgres:/var/lib/postgresql/data" in service["volumes"]
    assert {each.partition(":")[0] for each in service["tmpfs"]} == {"/tmp", "/var/run/postgresql"}
    assert service["healthcheck"]["test"][1] == "pg_isready"


# --- secrets, and systemd ---


def test_nobody_has_put_a_secret_into_the_repository() -> None:
    assert len(EXAMPLES) == 3
    for example in (*EXAMPLES, DEPLOY / "systemd/event-streaming-bus.env.example"):
        assert not re.search(r"^[A-Z_]+=", example.read_text("utf-8"), re.M)
    for example in EXAMPLES:
        assert "secret.env" in (example.parent / ".gitignore").read_text("utf-8").split()
    assert "audit.key" in (DEPLOY / "kubernetes/nodes/secret/.gitignore").read_text("utf-8").split()


def test_systemd_accepts_the_unit(tmp_path: Path) -> None:
    unit = tmp_path / "event-streaming-bus.service"
    unit.write_text(UNIT.replace("/opt/event-streaming-bus/bin/esb", str(ESB)), "utf-8")
    assert tool("systemd-analyze", "verify", "--man=no", unit, folder=tmp_path) == ""


def test_the_unit_is_closed_but_for_its_data_folder() -> None:
    parser = RawConfigParser(strict=False)  # SystemCallFilter= is there twice, as systemd wants it
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read_string(UNIT)
    service = parser["Service"]
    assert service["ProtectSystem"] == "strict"
    assert service["NoNewPrivileges"] == "yes"
    assert service["Environment"] == f"ESB_DATA=/var/lib/{service['StateDirectory']}"
    example = (DEPLOY / "systemd/event-streaming-bus.env.example").read_text("utf-8")
    offered = dict(re.findall(r"^#([A-Z_]+)=(.*)$", example, re.M))
    assert parse_url(offered["ESB_DATA"], "nowhere").folder == Path("/var/lib", service["StateDirectory"])
    assert postgres_place(offered["ESB_DATABASE"])
    assert urlsplit(offered["ESB_ADVERTISE"]).port == options_of(STARTS["systemd"])["port"]
    sysusers = (DEPLOY / "systemd/event-streaming-bus.sysusers").read_text("utf-8").split()
    assert sysusers[1] == service["User"]


def test_a_node_that_lost_the_lead_starts_again_with_systemd() -> None:
    """It ends with exit code 1, or in order if it was elected and cannot lead."""
    assert re.findall(r"^Restart=(.*)$", UNIT, re.M) == ["always"]
    assert re.findall(r"^StartLimitIntervalSec=(.*)$", UNIT, re.M) == ["0"], "its database may be away for longer than any limit"
