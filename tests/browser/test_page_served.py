"""How the page is served: what may be loaded, what is cached, who gets it. No browser is needed for this."""

import re
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any, Final

import httpx
import pytest

from event_streaming_bus.api.app import HEADERS
from event_streaming_bus.api.web_page import POLICY, Page

ROOT: Final = Path(__file__).parents[2]
WEB: Final = ROOT / "api" / "web"


PAGE: Final = Page(hosts=["here"], headers=HEADERS)


def asked(path: str, method: str = "GET", **headers: str) -> httpx.Response:
    """The page's answer; it never waits for anything."""
    sent: list[dict[str, Any]] = []

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    told = {"host": "here"} | {name.replace("_", "-"): value for name, value in headers.items()}
    scope = {"type": "http", "method": method, "path": path, "headers": [(n.encode(), v.encode()) for n, v in told.items()]}
    assert Page.takes(scope)
    with pytest.raises(StopIteration):
        PAGE(scope, None, send).send(None)
    start, body = sent
    return httpx.Response(start["status"], headers=start["headers"], content=body["body"])


def files_of(index: str) -> list[str]:
    return re.findall(r'(?:href|src)="(web/[^"]+)"', index)


def test_the_policy_lets_nothing_in_but_the_pages_own_files() -> None:
    answer = asked("/")
    assert answer.headers["content-security-policy"] == POLICY
    assert "unsafe" not in POLICY
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["referrer-policy"] == "no-referrer"
    assert not re.search(r"<script(?![^>]* src=)|<style|\son\w+=|\sstyle=", answer.text)
    assert not re.search(r'(?:href|src)="(?:https?:)?//', answer.text)


def test_no_file_names_another_host_or_makes_markup_of_text() -> None:
    for path in WEB.rglob("*"):
        if path.suffix in (".js", ".css", ".html"):
            text = path.read_text(encoding="utf-8")
            assert set(re.findall(r"https?://[^\s\"')]+", text)) <= {"http://www.w3.org/2000/svg"}, path
            assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function", text), path


def test_every_file_is_served_and_kept_for_good() -> None:
    names = files_of(asked("/").text)
    assert len(names) > 30
    assert {name.split("/", 2)[2] for name in names} | {"index.html"} == {
        path.relative_to(WEB).as_posix() for path in WEB.rglob("*") if path.is_file()
    }
    for name in names:
        answer = asked(f"/{name}")
        assert answer.status_code == 200
        assert "immutable" in answer.headers["cache-control"]
        assert answer.headers["content-type"].startswith(("text/css", "text/javascript", "image/svg+xml"))


def test_every_module_that_is_imported_is_there() -> None:
    for path in WEB.rglob("*.js"):
        for name in re.findall(r'(?:from|import\()\s*"(\.[^"]+)"', path.read_text(encoding="utf-8")):
            assert (path.parent / name).resolve().is_file(), (path, name)


def test_the_index_is_asked_for_again_and_not_sent_twice() -> None:
    answer = asked("/")
    assert answer.headers["cache-control"] == "no-cache"
    again = asked("/", if_none_match=answer.headers["etag"])
    assert (again.status_code, again.content) == (304, b"")


def test_files_are_compressed_for_who_can_read_that() -> None:
    plain = asked("/", accept_encoding="identity")
    assert "content-encoding" not in plain.headers
    packed = asked("/", accept_encoding="gzip, br")
    assert packed.headers["content-encoding"] == "gzip"
    assert packed.headers["vary"] == "Accept-Encoding"
    assert packed.text == plain.text
    assert int(packed.headers["content-length"]) < len(plain.content) == int(plain.headers["content-length"])
    assert packed.headers["etag"] != plain.headers["etag"]


@pytest.mark.parametrize("path", ["/web/", "/web/x/main.js", "/web/../app.py", "/web/..%2fapp.py", "/web/x/../../app.py"])
def test_what_is_no_file_of_the_page_is_a_problem(path: str) -> None:
    answer = asked(path)
    assert answer.status_code == 404
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.headers["content-security-policy"] == POLICY


def test_a_head_request_gets_no_body() -> None:
    answer = asked("/", "HEAD")
    assert (answer.status_code, answer.content) == (200, b"")


def test_another_host_is_refused() -> None:
    assert asked("/", host="elsewhere.example").status_code == 400


def test_other_requests_are_not_the_pages() -> None:
    for scope in (
        {"type": "http", "method": "POST", "path": "/"},
        {"type": "http", "method": "GET", "path": "/api/v1/streams"},
        {"type": "http", "method": "GET", "path": "/website"},
        {"type": "websocket", "path": "/"},
    ):
        assert not Page.takes(scope)


def test_the_files_are_in_the_wheel(tmp_path: Path) -> None:
    hatchling = Path(sys.executable).with_name("hatchling")
    if not hatchling.exists():
        pytest.skip("hatchling is not installed")
    command = [str(hatchling), "build", "--target", "wheel", "--directory", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    [wheel] = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as packed:
        names = set(packed.namelist())
    wanted = {f"event_streaming_bus/api/web/{path.relative_to(WEB).as_posix()}" for path in WEB.rglob("*") if path.is_file()}
    assert wanted <= names
