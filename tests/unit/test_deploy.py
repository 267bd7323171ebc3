"""Files under deploy/ beside the code that they speak of: options, ports, paths, names of variables, times."""

import json
import os
import re
import shutil
import stat
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from configparser import RawConfigParser
from pathlib import Path
from typing import Any

import pytest
import yaml
from running import ESB, served

import event_streaming_bus
from event_streaming_bus.access.model import Role
from event_streaming_bus.access.permissions import allows
from event_streaming_bus.api import health, metrics
from event_streaming_bus.api.server import _DRAIN_S, check_reach
from event_streaming_bus.cli.main import cli
from event_streaming_bus.errors import InvalidInputError
from event_streaming_bus.flows.supervisor import STOP_TIMEOUT_S
from event_streaming_bus.store.server_calls import SERVER_FILE

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
DOCKERFILE = (DEPLOY / "docker/Dockerfile").read_text("utf-8")
COMPOSE: dict[str, Any] = yaml.safe_load((DEPLOY / "compose.yaml").read_text("utf-8"))
SERVICES: dict[str, Any] = COMPOSE["services"]
UNIT = (DEPLOY / "systemd/event-streaming-bus.service").read_text("utf-8")
MANIFESTS = {
    path.relative_to(DEPLOY / "kubernetes").as_posix(): yaml.safe_load(path.read_text("utf-8"))
    for path in sorted((DEPLOY / "kubernetes").rglob("*.yaml"))
}
POD = MANIFESTS["statefulset.yaml"]["spec"]["template"]["spec"]
(CONTAINER,) = POD["containers"]
HEALTHCHECK = DEPLOY / "docker/healthcheck.py"
STARTS = {
    "Dockerfile": json.loads(re.findall(r"^CMD (.*)$", DOCKERFILE, re.M)[-1]),
    "compose": SERVICES["bus"]["command"],
    "kubernetes": CONTAINER["args"],
    "systemd": re.findall(r"^ExecStart=/opt/\S+/esb (.*)$", UNIT, re.M)[0].split(),
}
SHORTEST_STOP_S = _DRAIN_S + STOP_TIMEOUT_S + 10


def options_of(words: list[str]) -> dict[str, Any]:
    """What ``esb serve`` makes of these arguments. Raises ``click.UsageError`` for one that it does not know."""
    command = cli.get_command(cli.make_context("esb", ["version"]), words[0])
    assert command is not None
    return command.make_context("serve", words[1:]).params


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
        int(SERVICES["bus"]["stop_grace_period"].removesuffix("s")),
        POD["terminationGracePeriodSeconds"],
        int(re.findall(r"^TimeoutStopSec=(\d+)$", UNIT, re.M)[0]),
    ]
    assert min(seconds) >= SHORTEST_STOP_S


def test_variables_are_those_that_the_code_reads() -> None:
    text = "".join(path.read_text("utf-8") for path in files() if path.suffix != ".json")
    named = set(re.findall(r"\bESB_[A-Z_]+\b", text))
    code = "".join(path.read_text("utf-8") for name in ("event_streaming_bus", "api", "flows", "store") for path in sources(name))
    assert {"ESB_DATA", "ESB_MASTER_KEY", "ESB_HISTORY_DAYS"} <= named
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
    script = service["command"][0].replace("/data", str(data)).replace("/handover", str(handover))
    environment = {**os.environ, "PATH": os.pathsep.join([str(ESB.parent), os.environ["PATH"]])}
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
    assert re.fullmatch(r"[a-z/-]+:v?\d+\.\d+\.\d+", service["image"])
    assert all(port.startswith("127.0.0.1:") for port in service.get("ports", []))
    assert "healthcheck" in service or name == "metrics-token"


def test_secrets_have_no_default() -> None:
    values = {name: value for service in SERVICES.values() for name, value in service.get("environment", {}).items()}
    secret = [name for name in values if re.search("PASSWORD|KEY|SECRET|TOKEN", name)]
    assert sorted(secret) == ["ESB_MASTER_KEY", "GF_SECURITY_ADMIN_PASSWORD"]
    assert all(re.fullmatch(r"\$\{[A-Z_]+:\?.+\}", values[name]) for name in secret)


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


# --- Kubernetes -------------------------------------------------------------------------------------------------------


def test_probes_ask_for_what_there_is() -> None:
    paths = {probe: CONTAINER[probe]["httpGet"]["path"] for probe in ("startupProbe", "readinessProbe", "livenessProbe")}
    assert set(paths.values()) <= health.live.paths | health.ready.paths
    assert {paths["livenessProbe"]} == health.live.paths, "a slow disk is no reason to end the process"
    assert CONTAINER["ports"] == [{"name": "http", "containerPort": options_of(CONTAINER["args"])["port"]}]


def test_selectors_mean_the_one_pod() -> None:
    labels = MANIFESTS["statefulset.yaml"]["spec"]["template"]["metadata"]["labels"]
    assert MANIFESTS["statefulset.yaml"]["spec"]["replicas"] == 1
    assert MANIFESTS["service.yaml"]["spec"]["selector"] == labels
    for name, place in (
        ("statefulset.yaml", "selector"),
        ("pod-disruption-budget.yaml", "selector"),
        ("network-policy.yaml", "podSelector"),
        ("monitoring/network-policy.yaml", "podSelector"),
        ("monitoring/service-monitor.yaml", "selector"),
    ):
        assert MANIFESTS[name]["spec"][place] == {"matchLabels": labels}
    assert MANIFESTS["service.yaml"]["metadata"]["labels"] == labels, "the ServiceMonitor goes by it"
    job = yaml.safe_load((DEPLOY / "prometheus/prometheus.yml").read_text("utf-8"))["scrape_configs"][0]["job_name"]
    assert labels[MANIFESTS["monitoring/service-monitor.yaml"]["spec"]["jobLabel"]] == job


def test_every_manifest_is_listed() -> None:
    for folder in ("", "monitoring/"):
        there = {name for name in MANIFESTS if name.rpartition("/")[0] + "/" * bool(folder) == folder}
        assert {f"{folder}{name}" for name in MANIFESTS[f"{folder}kustomization.yaml"]["resources"]} == there - {
            f"{folder}kustomization.yaml"
        }


def test_nobody_has_put_a_secret_into_the_repository() -> None:
    assert not re.search(r"^[A-Z_]+=", (DEPLOY / "kubernetes/secret.env.example").read_text("utf-8"), re.M)
    assert not re.search(r"^[A-Z_]+=", (DEPLOY / "systemd/event-streaming-bus.env.example").read_text("utf-8"), re.M)
    assert "secret.env" in (DEPLOY / "kubernetes/.gitignore").read_text("utf-8").split()


# --- real tools, where they are ---------------------------------------------------------------------------------------


def tool(*command: Any, folder: Path) -> str:
    if shutil.which(command[0]) is None:
        pytest.skip(f"{command[0]} is not installed")
    done = subprocess.run([str(word) for word in command], cwd=folder, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def test_kustomize_builds_what_is_applied(tmp_path: Path) -> None:
    folder = tmp_path / "kubernetes"
    shutil.copytree(DEPLOY / "kubernetes", folder)
    (folder / "secret.env").write_text("ESB_MASTER_KEY=AAAA\n", "utf-8")
    built = list(yaml.safe_load_all(tool("kubectl", "kustomize", folder, folder=tmp_path)))
    assert {each["metadata"]["namespace"] for each in built} == {"event-streaming-bus"}
    (secret,) = [each for each in built if each["kind"] == "Secret"]
    (pod,) = [each["spec"]["template"]["spec"] for each in built if each["kind"] == "StatefulSet"]
    (reference,) = [env["valueFrom"]["secretKeyRef"] for env in pod["containers"][0]["env"] if "valueFrom" in env]
    assert reference["name"] == secret["metadata"]["name"]
    assert reference["key"] in secret["data"]


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
    sysusers = (DEPLOY / "systemd/event-streaming-bus.sysusers").read_text("utf-8").split()
    assert sysusers[1] == service["User"]
