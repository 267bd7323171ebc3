"""Secrets of a running server are in nothing that it prints, answers, or keeps, but where they have to be."""

import base64
import os
import subprocess
from pathlib import Path

import httpx
import pytest
from running import ESB
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect
from websockets.typing import Subprotocol

from event_streaming_bus.errors import BusError, InvalidInputError
from event_streaming_bus.store.master_key import VARIABLE, find_master_key
from event_streaming_bus.store.storage import data_folder

MASTER = bytes(range(7, 39))


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


def test_a_server_tells_no_token_and_no_key_whatever_it_is_asked(tmp_path: Path) -> None:
    key = base64.b64encode(MASTER).decode()
    errors = tmp_path / "errors"
    with errors.open("wb") as file:
        server = subprocess.Popen(
            [ESB, "--data", str(tmp_path / "data"), "serve", "--port", "0"],
            env=os.environ | {VARIABLE: key, "PYTHONDEVMODE": "0"},
            stdout=subprocess.PIPE,
            stderr=file,
            text=True,
        )
        assert server.stdout is not None
        printed = server.stdout.readline()
        url = printed.split(" on ")[1].split()[0]
        answers = []
        try:
            admin = (tmp_path / "data" / "admin.token").read_text().strip()
            given = {"principal": "shop", "roles": ["viewer"]}
            made = httpx.post(f"{url}/api/v1/tokens", json=given, headers=bearer(admin)).json()
            shop, wrong = made["token"], "esb_tok_1_" + "W" * 43
            with httpx.Client(base_url=url) as http:
                for token in (admin, shop, wrong):
                    for method, path, body in (
                        ("GET", "/api/v1/tokens", None),
                        ("GET", "/api/v1/tokens/self", None),
                        ("GET", "/api/v1/audit", None),
                        ("POST", "/api/v1/streams", b"{"),
                        ("POST", "/api/v1/streams", b'{"name": "orders"}'),
                        ("POST", "/api/v1/history/query", b'{"sql": "SELECT getenv(\'ESB_MASTER_KEY\')"}'),
                        ("POST", "/api/v1/history/query", b'{"sql": "SELECT * FROM duckdb_settings()"}'),
                        ("GET", "/nowhere", None),
                        ("GET", "/metrics", None),
                        ("GET", "/openapi.json", None),
                        ("DELETE", "/api/v1/tokens/tok_none", None),
                    ):
                        answers.append(http.request(method, path, content=body, headers=bearer(token)))
            address = f"{url.replace('http', 'ws')}/ws/monitoring"
            with connect(address, subprotocols=[Subprotocol("bearer"), Subprotocol(shop)]) as told:
                frames = [str(told.recv(timeout=5))]
            with (
                pytest.raises(InvalidStatus) as refused,
                connect(address, subprotocols=[Subprotocol("bearer"), Subprotocol(wrong)]),
            ):
                pass
            frames += [str(refused.value), repr(refused.value.response.body)]
        finally:
            server.terminate()
            printed += server.communicate(timeout=60)[0]
    assert {answer.status_code for answer in answers} >= {200, 201, 400, 401, 403, 404}
    told_all = "".join(frames) + printed + errors.read_text() + "".join(answer.text + repr(answer.headers) for answer in answers)
    hidden = {name: token.split("_", 2)[2] for name, token in (("admin", admin), ("shop", shop))}
    for name, secret in (hidden | {"wrong": "W" * 43, "key": key, "key in hex": MASTER.hex()}).items():
        assert secret not in told_all, name
        for path in (tmp_path / "data").rglob("*"):
            if path.is_file() and path.name != "admin.token":
                assert secret.encode() not in path.read_bytes(), (name, path.name)
    assert not any(MASTER in path.read_bytes() for path in (tmp_path / "data").rglob("*") if path.is_file())


@pytest.mark.parametrize("text", ["c2VjcmV0LXZhbHVl", "secret-value!", "secret-value" * 9, "é-secret-value"])
def test_a_master_key_that_is_none_is_not_repeated(text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, text)
    with pytest.raises(InvalidInputError) as refused:
        find_master_key(tmp_path)
    assert text not in repr(refused.value) + str(refused.value) + repr(refused.value.details)
    assert "secret-value" not in str(refused.value)


def test_a_master_key_shows_nothing_of_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, base64.b64encode(MASTER).decode())
    key = find_master_key(tmp_path)
    shown = f"{key} {key!r} {key.check}"
    assert MASTER.hex() not in shown
    assert base64.b64encode(MASTER).decode() not in shown
    assert not [*tmp_path.iterdir()]  # it came from the environment, and goes nowhere else


@pytest.mark.parametrize(
    "url",
    [
        "kafka://u:pass-word-1@host",
        "kafka://host?sasl.password=pass-word-1&sasl.password=x",
        "kafka://host?nonsense=pass-word-1",
        "kafka://host?database=mysql://u:pass-word-1@h/n",
        "amqp://u:pass-word-1@host",
        "postgresql://u:pass-word-1@host/n",
    ],
)
def test_an_address_of_a_log_that_is_refused_is_told_without_what_may_be_secret(url: str) -> None:
    with pytest.raises(BusError) as refused:
        data_folder(url)
    assert "pass-word-1" not in str(refused.value) + repr(refused.value.details)
