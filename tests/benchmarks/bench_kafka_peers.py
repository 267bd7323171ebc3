"""What the log on Kafka is measured beside, made when it is needed: Quix Streams in an environment of its own, installed with uv,
and Kafka Streams, fetched with Maven and compiled with javac. What cannot be had is left out, and one line says so."""

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Final

import kafka_broker

PEERS: Final = Path(__file__).with_name("peers")
_CACHE: Final = Path("~/.cache/esb/bench").expanduser()
_QUIX: Final = "quixstreams==3.28.1"
_ROCKSDB: Final = "org.rocksdb:rocksdbjni:10.1.3"
_PATIENCE_S: Final = 600


def _left_out(name: str, why: object) -> None:
    print(f"{name} is left out: {why}", file=sys.stderr)


def _run(command: list[str]) -> None:
    """Run it; ``OSError`` or ``subprocess.SubprocessError`` if that fails."""
    subprocess.run(command, check=True, timeout=_PATIENCE_S, stdout=subprocess.DEVNULL)


def quix_streams() -> list[str] | None:
    """The command that begins a program with Quix Streams; ``None`` if it cannot be installed."""
    python = _CACHE / "quix" / "bin" / "python"
    done = _CACHE / "quix" / _QUIX
    try:
        if not done.exists():
            uv = [sys.executable, "-m", "uv"]
            _run([*uv, "venv", "--quiet", "--clear", "--python", sys.executable, str(python.parent.parent)])
            _run([*uv, "pip", "install", "--quiet", "--python", str(python), _QUIX])
            done.touch()
    except (OSError, subprocess.SubprocessError) as error:
        return _left_out("Quix Streams", error)
    return [str(python), str(PEERS / "quix_sum.py")]


def kafka_streams() -> list[str] | None:
    """The command that begins ``TumblingSum``; ``None`` if Maven, the jars or a compiler are missing."""
    jars = kafka_broker.jars()
    assert jars is not None  # the broker runs from them
    (clients,) = jars.glob("kafka-clients-*.jar")
    version = clients.stem.removeprefix("kafka-clients-")
    folder = _CACHE / f"streams-{version}"
    path = f"{jars}/*:{folder}/*:{folder}"
    source = PEERS / "TumblingSum.java"
    try:
        for artifact in (f"org.apache.kafka:kafka-streams:{version}", _ROCKSDB):
            if not any(folder.glob(f"{artifact.split(':')[1]}-*.jar")):
                _run([_needed("mvn"), "-q", "-B", "dependency:copy", f"-Dartifact={artifact}", f"-DoutputDirectory={folder}"])
        _run([_needed("javac"), "-cp", path, "-d", str(folder), str(source)])
    except (OSError, subprocess.SubprocessError) as error:
        return _left_out("Kafka Streams", error)
    return ["java", "-Xmx768m", "-cp", path, "TumblingSum"]


def _needed(program: str) -> str:
    found = shutil.which(program)
    if found is None:
        raise FileNotFoundError(f"there is no {program}")
    return found
