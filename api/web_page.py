"""The page for people: the files in the folder ``web``, under ``/`` and ``/web/``.

They hold nothing but themselves, so whoever asks gets them without a token; what the page shows it asks the REST API for, as its
user. They are read once. The path of a file has the version of all files in it, so browsers keep a file for as long as they like,
and ask only for ``/`` again.
"""

import gzip
import hashlib
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple

from event_streaming_bus.api.hosts import check_host
from event_streaming_bus.api.problems import problem
from event_streaming_bus.errors import InvalidInputError

PREFIX: Final = "/web/"
POLICY: Final = (
    "default-src 'self'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; "
    "base-uri 'none'; frame-ancestors 'none'; form-action 'none'"
)
_FOLDER: Final = Path(__file__).parent / "web"
_INDEX: Final = "index.html"
_TYPES: Final = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
_KEPT: Final = "public, max-age=31536000, immutable"
_ASKED_AGAIN: Final = "no-cache"
_MIN_GZIP_BYTES: Final = 512


class _File(NamedTuple):
    """What is sent for a path: as it is, and compressed."""

    media_type: str
    body: bytes
    packed: bytes
    etag: str
    cache: str


class Page:
    """An ASGI application for requests that it ``takes``."""

    def __init__(self, *, hosts: Collection[str], headers: Mapping[str, str]) -> None:
        """``headers`` go with every answer; the policy of what a page may load is the page's own."""
        self._hosts = hosts
        told = {**headers, "Content-Security-Policy": POLICY}
        self._headers = [(name.lower().encode(), value.encode()) for name, value in told.items()]
        self._files = _files(_FOLDER)

    @staticmethod
    def takes(scope: Mapping[str, Any]) -> bool:
        """Whether a request is for the page."""
        if scope["type"] != "http" or scope["method"] not in ("GET", "HEAD"):
            return False
        path: str = scope["path"]
        return path == "/" or path.startswith(PREFIX)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Answer with the file, with 304 if the client has it, or with a problem document."""
        asked = {name.lower(): value.decode("latin-1") for name, value in scope["headers"]}
        try:
            check_host(asked.get(b"host", ""), self._hosts)
        except InvalidInputError as error:
            await self._refuse(send, scope, 400, "Bad Request", error.message)
            return
        file = self._files.get(scope["path"])
        if file is None:
            await self._refuse(send, scope, 404, "Not Found", "There is no such file of the page; reload it.")
            return
        is_packed = "gzip" in asked.get(b"accept-encoding", "") and len(file.packed) < len(file.body)
        etag = f'"{file.etag}{"-gzip" if is_packed else ""}"'
        told = {"ETag": etag, "Cache-Control": file.cache, "Vary": "Accept-Encoding"}
        if etag in asked.get(b"if-none-match", ""):
            await self._send(send, scope, 304, told, b"")
            return
        told |= {"Content-Type": file.media_type} | ({"Content-Encoding": "gzip"} if is_packed else {})
        await self._send(send, scope, 200, told, file.packed if is_packed else file.body)

    async def _refuse(self, send: Any, scope: Any, status: int, title: str, detail: str) -> None:
        answer = problem(status, title, detail, scope["path"])
        told = {"Content-Type": str(answer.media_type), "Cache-Control": "no-store"}
        await self._send(send, scope, status, told, answer.content)

    async def _send(self, send: Any, scope: Any, status: int, told: Mapping[str, str], body: bytes) -> None:
        headers = [*self._headers, *((name.lower().encode(), value.encode()) for name, value in told.items())]
        if status != 304:
            headers.append((b"content-length", str(len(body)).encode()))
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": b"" if scope["method"] == "HEAD" else body})


def _files(folder: Path) -> dict[str, _File]:
    """The files by path. In the index, ``{base}`` becomes the folder of the others, ``{preload}`` the list of modules, so that a
    browser asks for all of them at once and not for one after the other."""
    found = {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*")) if path.suffix in _TYPES}
    bodies = {name: path.read_bytes() for name, path in found.items()}
    whole = hashlib.sha256()
    for name, body in bodies.items():
        whole.update(f"{name}\0{len(body)}\0".encode() + body)
    base = f"{PREFIX.lstrip('/')}{whole.hexdigest()[:16]}/"
    modules = [name for name in bodies if name.endswith(".js") and name != "theme.js"]
    preload = "\n    ".join(f'<link rel="modulepreload" href="{base}{name}">' for name in modules)
    index = bodies.pop(_INDEX).decode().replace("{base}", base).replace("{preload}", preload).encode()
    files = {f"/{base}{name}": _file(name, body, _KEPT) for name, body in bodies.items()}
    return {"/": _file(_INDEX, index, _ASKED_AGAIN), **files}


def _file(name: str, body: bytes, cache: str) -> _File:
    packed = gzip.compress(body, mtime=0) if len(body) >= _MIN_GZIP_BYTES else body
    return _File(_TYPES[Path(name).suffix], body, packed, hashlib.sha256(body).hexdigest()[:24], cache)
