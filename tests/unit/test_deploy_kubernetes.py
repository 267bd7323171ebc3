"""Files under deploy/kubernetes beside the code that they speak of, and beside each other."""

import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml
from deploying import (
    CONTAINER,
    DEPLOY,
    FLOW,
    FLOW_CONTAINER,
    MANIFESTS,
    NODE_CONTAINER,
    NODE_POD,
    NODES,
    POD,
    POD_LABELS,
    SERVICES,
    UPGRADE,
    UPGRADE_CONTAINER,
    options_of,
    tool,
)

from event_streaming_bus.api import health
from event_streaming_bus.errors import StorageError
from event_streaming_bus.flows.cluster import own_index, parse_cluster
from event_streaming_bus.flows.cluster_duties import Timing
from event_streaming_bus.store.audit_key import find_signing_key
from event_streaming_bus.store.database import postgres_place
from event_streaming_bus.store.log.kafka_settings import parse_url

PROBES = ("startupProbe", "readinessProbe", "livenessProbe")


def test_probes_ask_for_what_there_is() -> None:
    paths = {probe: CONTAINER[probe]["httpGet"]["path"] for probe in PROBES}
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
    roots = [path.parent for path in (DEPLOY / "kubernetes").rglob("kustomization.yaml")]
    assert {root.name for root in roots} == {"kubernetes", "monitoring", "flow", "nodes", "secret", "upgrade"}
    for root in roots:
        listed = yaml.safe_load((root / "kustomization.yaml").read_text("utf-8")).get("resources", [])
        there = {path.name for path in root.glob("*.yaml")} - {"kustomization.yaml"}
        assert {name for name in listed if name.endswith(".yaml")} == there
        assert all((root / name / "kustomization.yaml").is_file() for name in listed if not name.endswith(".yaml"))


def test_the_pods_of_a_flow_find_their_places() -> None:
    options = options_of(FLOW_CONTAINER["args"])
    cluster = parse_cluster(options["cluster"], options["workers"])
    assert len(cluster.hosts) == FLOW["replicas"]
    name, service = MANIFESTS["flow/statefulset.yaml"]["metadata"]["name"], MANIFESTS["flow/service.yaml"]["metadata"]["name"]
    assert FLOW["serviceName"] == service
    for index, address in enumerate(cluster.hosts):
        assert address.host == f"{name}-{index}.{service}"
        assert own_index(cluster, environment={}, hostname=f"{name}-{index}") == index
    last = cluster.hosts[0].port + cluster.workers_per_host
    assert [port["containerPort"] for port in FLOW_CONTAINER["ports"]] == list(range(cluster.hosts[0].port, last + 1))
    policy = MANIFESTS["flow/network-policy.yaml"]["spec"]
    assert policy["ingress"][0]["ports"] == policy["egress"][0]["ports"] == [{"protocol": "TCP", "port": 2101, "endPort": last}]
    assert MANIFESTS["flow/service.yaml"]["spec"]["publishNotReadyAddresses"] is True


def test_the_pods_of_a_flow_keep_their_state_and_have_time_to_write_it() -> None:
    assert FLOW["podManagementPolicy"] == "Parallel"
    assert set(FLOW["persistentVolumeClaimRetentionPolicy"].values()) == {"Retain"}
    assert FLOW["template"]["spec"]["terminationGracePeriodSeconds"] >= Timing().stop_s + 20
    mounts = {mount["mountPath"]: mount["name"] for mount in FLOW_CONTAINER["volumeMounts"]}
    assert mounts["/data"] in {claim["metadata"]["name"] for claim in FLOW["volumeClaimTemplates"]}
    example = (DEPLOY / "kubernetes/flow/secret.env.example").read_text("utf-8")
    url = re.findall(r"^#ESB_DATA=(.*)$", example, re.M)[0]
    assert parse_url(url, "nowhere").folder == Path("/data")
    assert "readinessProbe" not in FLOW_CONTAINER
    for probe in ("startupProbe", "livenessProbe"):
        asked = FLOW_CONTAINER[probe]["httpGet"]
        assert (asked["path"], asked["port"]) == ("/live", FLOW_CONTAINER["ports"][0]["name"])


def test_selectors_of_a_flow_mean_its_pods_and_no_others() -> None:
    labels = FLOW["template"]["metadata"]["labels"]
    assert labels != POD_LABELS
    assert MANIFESTS["flow/service.yaml"]["spec"]["selector"] == labels
    policy = MANIFESTS["flow/network-policy.yaml"]["spec"]
    selectors = [
        FLOW["selector"],
        FLOW["template"]["spec"]["topologySpreadConstraints"][0]["labelSelector"],
        MANIFESTS["flow/pod-disruption-budget.yaml"]["spec"]["selector"],
        policy["podSelector"],
        policy["ingress"][0]["from"][0]["podSelector"],
        policy["egress"][0]["to"][0]["podSelector"],
    ]
    assert selectors == [{"matchLabels": labels}] * len(selectors)


def test_a_flow_has_no_more_rights_than_the_bus() -> None:
    assert FLOW_CONTAINER["securityContext"] == CONTAINER["securityContext"]
    assert FLOW["template"]["spec"]["securityContext"] == POD["securityContext"]
    assert FLOW["template"]["spec"]["automountServiceAccountToken"] is False
    images = [MANIFESTS[f"{folder}kustomization.yaml"]["images"] for folder in ("", "flow/", "nodes/", "nodes/upgrade/")]
    assert images == [images[0]] * len(images)


def test_nodes_reach_each_other_by_what_they_tell() -> None:
    options = options_of(NODE_CONTAINER["args"])
    service = MANIFESTS["nodes/node-service.yaml"]
    assert NODES["serviceName"] == service["metadata"]["name"]
    assert options["advertise"] == f"http://$(POD_NAME).{service['metadata']['name']}:{options['port']}"
    assert {"name": "POD_NAME", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}} in NODE_CONTAINER["env"]
    assert (service["spec"]["clusterIP"], service["spec"]["publishNotReadyAddresses"]) == ("None", True)
    assert NODE_CONTAINER["ports"] == [{"name": "http", "containerPort": options["port"]}]
    monitor = MANIFESTS["monitoring/service-monitor.yaml"]["spec"]["selector"]["matchLabels"]
    assert service["metadata"]["labels"] != monitor, "each pod is scraped by way of one Service"
    assert MANIFESTS["nodes/service.yaml"]["metadata"]["labels"] == monitor


def test_selectors_of_nodes_mean_all_of_them_and_nothing_else() -> None:
    labels = NODES["template"]["metadata"]["labels"]
    assert UPGRADE["metadata"]["labels"] != labels, "the Service would send it requests"
    policy = MANIFESTS["nodes/network-policy.yaml"]["spec"]
    for name in ("service.yaml", "node-service.yaml"):
        assert MANIFESTS[f"nodes/{name}"]["spec"]["selector"] == labels
    selectors = [
        NODES["selector"],
        NODE_POD["topologySpreadConstraints"][0]["labelSelector"],
        MANIFESTS["nodes/pod-disruption-budget.yaml"]["spec"]["selector"],
        policy["podSelector"],
        policy["ingress"][1]["from"][0]["podSelector"],
        policy["egress"][0]["to"][0]["podSelector"],
    ]
    assert selectors == [{"matchLabels": labels}] * len(selectors)
    assert MANIFESTS["nodes/upgrade/network-policy.yaml"]["spec"]["podSelector"]["matchLabels"] == UPGRADE["metadata"]["labels"]


def test_nodes_may_ask_each_other_kafka_and_postgresql() -> None:
    asked = {port["port"] for rule in MANIFESTS["nodes/network-policy.yaml"]["spec"]["egress"] for port in rule["ports"]}
    assert asked == {53, 8080, 9092, 5432}
    asked = {port["port"] for rule in MANIFESTS["nodes/upgrade/network-policy.yaml"]["spec"]["egress"] for port in rule["ports"]}
    assert asked == {53, 5432}
    asked = {port["port"] for rule in MANIFESTS["flow/network-policy.yaml"]["spec"]["egress"] for port in rule["ports"]}
    assert asked == {53, 2101, 9092, 5432}


def test_a_node_is_as_the_one_node_but_for_what_it_shares() -> None:
    assert NODE_POD["securityContext"] == POD["securityContext"]
    assert {probe: NODE_CONTAINER[probe] for probe in PROBES} == {probe: CONTAINER[probe] for probe in PROBES}
    for container in (NODE_CONTAINER, UPGRADE_CONTAINER, *NODE_POD["initContainers"]):
        assert container["securityContext"] == CONTAINER["securityContext"]
    assert NODE_POD["automountServiceAccountToken"] is UPGRADE["spec"]["automountServiceAccountToken"] is False
    assert NODE_POD["restartPolicy"] == "Always", "a node that lost the lead ends, to be started again"
    assert NODES["podManagementPolicy"] == "OrderedReady", "the first one makes the first token"
    assert NODES["replicas"] > MANIFESTS["nodes/pod-disruption-budget.yaml"]["spec"]["maxUnavailable"]
    assert MANIFESTS["nodes/service-account.yaml"] == MANIFESTS["service-account.yaml"]
    (claim,) = NODES["volumeClaimTemplates"]
    assert claim["spec"]["accessModes"] == ["ReadWriteOncePod"]


def test_nodes_get_what_they_share_from_one_secret() -> None:
    (made,) = MANIFESTS["nodes/secret/kustomization.yaml"]["secretGenerator"]
    example = (DEPLOY / "kubernetes/nodes/secret/secret.env.example").read_text("utf-8")
    offered = dict(re.findall(r"^#([A-Z_]+)=(.*)$", example, re.M))
    assert parse_url(offered["ESB_DATA"], "nowhere").folder == Path("/data")
    assert "PASSWORD" not in str(postgres_place(offered["ESB_DATABASE"]))
    references = [env["valueFrom"]["secretKeyRef"] for env in NODE_CONTAINER["env"] if "secretKeyRef" in env.get("valueFrom", {})]
    assert {each["name"] for each in references} == {made["name"]}
    assert {each["key"] for each in references} == set(offered)
    (reference,) = [env["valueFrom"]["secretKeyRef"] for env in UPGRADE_CONTAINER["env"]]
    assert (reference["name"], reference["key"]) == (made["name"], "ESB_DATABASE")
    assert options_of(UPGRADE_CONTAINER["args"]) == {}
    assert ".".join(UPGRADE_CONTAINER["args"]) == ".".join(SERVICES["db-upgrade"]["command"])


def test_the_key_of_the_audit_is_taken_from_where_the_pod_puts_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file of a Secret can be read by its group, which the bus refuses; the copy cannot."""
    (copying,) = NODE_POD["initContainers"]
    mounted, keys = tmp_path / "secret", tmp_path / "keys"
    mounted.mkdir()
    keys.mkdir()
    (command,) = re.findall(
        r"openssl (genpkey .*) -out secret/audit.key", (DEPLOY / "kubernetes/nodes/kustomization.yaml").read_text()
    )
    tool("openssl", *command.split(), "-out", mounted / "audit.key", folder=tmp_path)
    (mounted / "audit.key").chmod(0o440)
    (path,) = [env["value"] for env in NODE_CONTAINER["env"] if env["name"] == "ESB_AUDIT_KEY_FILE"]
    monkeypatch.setenv("ESB_AUDIT_KEY_FILE", str(mounted / "audit.key"))
    with pytest.raises(StorageError, match="can be read by others"):
        find_signing_key(tmp_path, make=False)
    for _ in range(2):  # the containers of a pod may be started anew
        words = [re.sub(r"^/(secret|keys)/", f"{tmp_path}/\\1/", word) for word in copying["command"]]
        tool(*words, folder=tmp_path)
    monkeypatch.setenv("ESB_AUDIT_KEY_FILE", f"{tmp_path}{path}")
    assert find_signing_key(tmp_path, make=False) is not None


# --- with the real tool ---


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


def test_kustomize_builds_a_flow(tmp_path: Path) -> None:
    folder = tmp_path / "flow"
    shutil.copytree(DEPLOY / "kubernetes/flow", folder)
    (folder / "secret.env").write_text("ESB_DATA=kafka://kafka:9092?data=/data\n", "utf-8")
    (folder / "flow.yaml").write_text("processors: []\n", "utf-8")
    built = {each["kind"]: each for each in yaml.safe_load_all(tool("kubectl", "kustomize", folder, folder=tmp_path))}
    pod = built["StatefulSet"]["spec"]["template"]["spec"]
    assert pod["volumes"][0]["configMap"]["name"] == built["ConfigMap"]["metadata"]["name"] != "flow"
    assert pod["containers"][0]["env"][0]["valueFrom"]["secretKeyRef"]["name"] == built["Secret"]["metadata"]["name"]


def test_kustomize_builds_nodes_and_their_upgrade_with_one_secret(tmp_path: Path) -> None:
    folder = tmp_path / "nodes"
    shutil.copytree(DEPLOY / "kubernetes/nodes", folder)
    (folder / "secret/secret.env").write_text(
        "ESB_DATA=kafka://k:9092\nESB_DATABASE=postgresql://h/esb\nESB_MASTER_KEY=AAAA\n", "utf-8"
    )
    (folder / "secret/audit.key").write_text("a key\n", "utf-8")
    built = [each for root in (folder, folder / "upgrade") for each in built_by(root, tmp_path)]
    assert {each["metadata"]["namespace"] for each in built} == {"event-streaming-bus"}
    secrets = [each for each in built if each["kind"] == "Secret"]
    assert len(secrets) == 2
    assert secrets[0] == secrets[1]
    (pod,) = [each["spec"]["template"]["spec"] for each in built if each["kind"] == "StatefulSet"]
    (job,) = [each["spec"]["template"]["spec"] for each in built if each["kind"] == "Job"]
    named = [
        env["valueFrom"]["secretKeyRef"]
        for spec in (pod, job)
        for env in spec["containers"][0]["env"]
        if "valueFrom" in env and "secretKeyRef" in env["valueFrom"]
    ]
    assert {each["name"] for each in named} == {secrets[0]["metadata"]["name"]} == {pod["volumes"][0]["secret"]["secretName"]}
    assert {each["key"] for each in named} | {"audit.key"} == set(secrets[0]["data"])
    assert {container["image"] for spec in (pod, job) for container in spec["containers"]} == {SERVICES["bus"]["image"]}


def built_by(root: Path, folder: Path) -> list[dict[str, Any]]:
    """What ``kubectl apply --kustomize`` would send."""
    return list(yaml.safe_load_all(tool("kubectl", "kustomize", root, folder=folder)))
