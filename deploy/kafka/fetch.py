#!/usr/bin/env python3
"""Fetch what it takes to run an Apache Kafka broker: the jars that jars.txt lists, into a folder. Java 17 or later runs them.

    python deploy/kafka/fetch.py [FOLDER]

FOLDER defaults to ESB_KAFKA_HOME, or ~/.cache/esb/kafka. What is there with the right checksum is not fetched again. They come
from the Maven repository whose base URL ESB_MAVEN_URL is; where it is not set, `mvn` fetches them from where it is set up to.
"""

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

LIST = Path(__file__).with_name("jars.txt")
_AT_ONCE = 4
_TRIES = 3
_TIMEOUT_S = 60
_MVN_TIMEOUT_S = 900
_POM = """<project xmlns="http://maven.apache.org/POM/4.0.0">
  <modelVersion>4.0.0</modelVersion>
  <groupId>esb</groupId><artifactId>kafka</artifactId><version>1</version>
  <dependencies>{}</dependencies>
</project>
"""
_DEPENDENCY = """
    <dependency>
      <groupId>{}</groupId><artifactId>{}</artifactId><version>{}</version>
      <exclusions><exclusion><groupId>*</groupId><artifactId>*</artifactId></exclusion></exclusions>
    </dependency>"""


def listed() -> "list[tuple[str, str]]":
    """``(sha256, path in the repository)`` of each jar."""
    lines = LIST.read_text("utf-8").splitlines()
    return [(digest, path) for digest, path in (line.split() for line in lines if line and not line.startswith("#"))]


def is_there(folder: Path, digest: str, path: str) -> bool:
    """Whether the folder has the jar, and it is the right one."""
    target = folder / Path(path).name
    return target.exists() and hashlib.sha256(target.read_bytes()).hexdigest() == digest


def keep(folder: Path, digest: str, path: str, data: bytes) -> None:
    """Put a jar into the folder; what has not the right checksum is never left there."""
    if (found := hashlib.sha256(data).hexdigest()) != digest:
        raise SystemExit(f"{path} is not the file that was expected: its SHA-256 is {found}, not {digest}.")
    with tempfile.NamedTemporaryFile(dir=folder, delete=False) as file:
        file.write(data)
    Path(file.name).chmod(0o644)
    Path(file.name).replace(folder / Path(path).name)


def download(base: str, path: str) -> bytes:
    """A file of the repository at ``base``."""
    url = f"{base.rstrip('/')}/{path}"
    for left in reversed(range(_TRIES)):
        try:
            with urllib.request.urlopen(url, timeout=_TIMEOUT_S) as answer:  # noqa: S310 - a checksum decides
                data: bytes = answer.read()
                return data
        except OSError as error:  # URLError is one
            if not left:
                raise SystemExit(f"{url} cannot be fetched: {error}.") from error
    raise AssertionError("unreachable")


def fetch_by_url(base: str, folder: Path, missing: "list[tuple[str, str]]") -> None:
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        list(pool.map(lambda jar: keep(folder, *jar, download(base, jar[1])), missing))


def fetch_by_mvn(folder: Path, missing: "list[tuple[str, str]]") -> None:
    mvn = shutil.which("mvn")
    if mvn is None:
        raise SystemExit("Set ESB_MAVEN_URL to the base URL of a Maven repository that has Apache Kafka, or install Maven (mvn).")
    with tempfile.TemporaryDirectory() as work:
        places = [path.split("/") for _, path in missing]
        wanted = "".join(_DEPENDENCY.format(".".join(parts[:-3]), parts[-3], parts[-2]) for parts in places)
        (Path(work) / "pom.xml").write_text(_POM.format(wanted), "utf-8")
        command = [mvn, "-B", "-q", "dependency:copy-dependencies", "-DoutputDirectory=jars"]
        if subprocess.run(command, cwd=work, check=False, timeout=_MVN_TIMEOUT_S).returncode != 0:  # noqa: S603
            raise SystemExit("mvn could not fetch the jars; what it says is above.")
        for digest, path in missing:
            keep(folder, digest, path, (Path(work) / "jars" / Path(path).name).read_bytes())


def main(arguments: "list[str]") -> None:
    if len(arguments) > 1 or arguments[:1] in (["-h"], ["--help"]):
        sys.exit(__doc__)
    home = os.environ.get("ESB_KAFKA_HOME") or "~/.cache/esb/kafka"
    folder = Path(arguments[0] if arguments else home).expanduser()
    folder.mkdir(parents=True, exist_ok=True)
    jars = listed()
    missing = [jar for jar in jars if not is_there(folder, *jar)]
    if missing and (base := os.environ.get("ESB_MAVEN_URL")):
        fetch_by_url(base, folder, missing)
    elif missing:
        fetch_by_mvn(folder, missing)
    print(f"{folder}: {len(missing)} jars fetched, {len(jars) - len(missing)} were there")  # noqa: T201 - its output


if __name__ == "__main__":
    main(sys.argv[1:])
