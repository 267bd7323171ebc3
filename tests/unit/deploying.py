"""The files under deploy/, read, and what the tests of them share."""

import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from event_streaming_bus.cli.main import cli

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
POD_LABELS = MANIFESTS["statefulset.yaml"]["spec"]["template"]["metadata"]["labels"]
FLOW = MANIFESTS["flow/statefulset.yaml"]["spec"]
(FLOW_CONTAINER,) = FLOW["template"]["spec"]["containers"]
NODES = MANIFESTS["nodes/statefulset.yaml"]["spec"]
NODE_POD = NODES["template"]["spec"]
(NODE_CONTAINER,) = NODE_POD["containers"]
UPGRADE = MANIFESTS["nodes/upgrade/job.yaml"]["spec"]["template"]
(UPGRADE_CONTAINER,) = UPGRADE["spec"]["containers"]
EXAMPLES = list((DEPLOY / "kubernetes").rglob("secret.env.example"))
HEALTHCHECK = DEPLOY / "docker/healthcheck.py"


def options_of(words: list[str]) -> dict[str, Any]:
    """What the command of ``esb`` makes of these arguments. Raises ``click.UsageError`` for one that it does not know."""
    command = cli.get_command(cli.make_context("esb", ["version"]), words[0])
    assert command is not None
    return command.make_context(words[0], words[1:]).params


def tool(*command: Any, folder: Path) -> str:
    if shutil.which(command[0]) is None:
        pytest.skip(f"{command[0]} is not installed")
    done = subprocess.run([str(word) for word in command], cwd=folder, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr
