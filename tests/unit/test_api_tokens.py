"""Tokens as people make them: over REST, on the command line, and the first one of a server."""

import datetime
import json
import os
import ssl
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import jwt
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from running import ESB, Esb, commands


@pytest.fixture
def esb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Esb]:
    with commands(tmp_path, monkeypatch) as esb:
        yield esb


@contextmanager
def serving(folder: Path, *options: str) -> Iterator[tuple[str, str]]:
    """``(the address, what it says of tokens)`` of a server; it must end in good order."""
    command = [ESB, "--data", str(folder), "serve", "--port", "0", *options]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    first = process.stdout.readline()
    if " on " not in first:
        raise AssertionError(process.communicate(timeout=60))
    try:
        yield first.split(" on ")[1].split()[0], process.stdout.readline()
    finally:
        process.terminate()
        _, errors = process.communicate(timeout=60)
    assert (process.returncode, errors) == (0, "")


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token.strip()}"}


def test_tokens_are_made_listed_and_revoked_by_command(esb: Esb) -> None:
    made = esb("tokens", "create", "shop", "--role", "publisher:orders.*", "--role", "viewer", "--expires", "90d")
    assert made.out.startswith("esb_")
    assert "not shown again" in made.err
    told = json.loads(esb("--tenant", "acme", "tokens", "create", "x", "--role", "admin", "--connections", "3", "--json").out)
    assert (told["tenant_id"], told["connections"], told["expires_at"], told["status"]) == ("acme", 3, None, "active")
    listed = [json.loads(line) for line in esb("tokens", "list", "--json").out.splitlines()]
    assert [(each["principal"], each["roles"]) for each in listed] == [
        ("shop", ["publisher:orders.*", "viewer"]),
        ("x", ["admin"]),
    ]
    assert made.out.strip().split("_", 2)[2] not in esb("tokens", "list", "--json").out
    assert "secret" not in json.dumps(listed)
    esb("tokens", "revoke", told["token_id"], code=2)  # asks first
    esb("tokens", "revoke", told["token_id"], "--yes")
    assert "already" in esb("tokens", "revoke", told["token_id"], "--yes", code=1).err
    assert "revoked" in esb("--tenant", "acme", "tokens", "list").out
    actions = [json.loads(line)["action"] for line in esb("audit", "list", "--json", "--outcome", "DONE").out.splitlines()]
    assert actions == ["token.revoke", "token.create", "token.create"]


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("--role", "root"), "accepted: admin, operator"),
        (("--role", "viewer", "--expires", "2001-01-01"), "a time to come"),
        (("--role", "viewer", "--expires", "soon"), "--expires"),
    ],
)
def test_tokens_that_make_no_sense_are_told_of(esb: Esb, arguments: tuple[str, ...], told: str) -> None:
    assert told in esb("tokens", "create", "x", *arguments, code=1).err


def test_a_server_that_asks_hands_the_first_token_over_in_a_private_file(tmp_path: Path) -> None:
    with serving(tmp_path) as (url, told):
        assert told.strip().endswith(str(tmp_path / "admin.token"))
        assert (tmp_path / "admin.token").stat().st_mode & 0o777 == 0o600
        admin = bearer((tmp_path / "admin.token").read_text())
        with httpx.Client(base_url=url) as http:
            assert http.get("/api/v1/streams").status_code == 401
            assert http.get("/api/v1/tokens/self", headers=admin).json()["roles"] == ["admin"]
            new = {"principal": "shop", "roles": ["publisher:orders"], "expires_at": "2999-01-01", "description": "of the shop"}
            created = http.post("/api/v1/tokens", json=new, headers=admin)
            assert (created.status_code, created.headers["cache-control"]) == (201, "no-store")
            shop = bearer(created.json()["token"])
            assert http.get("/api/v1/tokens/self", headers=shop).json()["principal"] == "shop"
            assert http.delete(f"/api/v1/tokens/{created.json()['token_id']}", headers=admin).is_success
            assert http.get("/api/v1/tokens/self", headers=shop).status_code == 401
            listed = http.get("/api/v1/tokens", headers=admin).json()["tokens"]
            assert [(each["principal"], each["status"]) for each in listed] == [("admin", "active"), ("shop", "revoked")]
            assert http.post("/api/v1/tokens", json=new | {"roles": ["king"]}, headers=admin).status_code == 400
            first = http.get("/api/v1/audit", headers=admin).json()["entries"][-1]
            assert (first["action"], first["actor"]) == ("token.create", "esb serve")
    with serving(tmp_path, "--auth", "required") as (url, told):  # the same token is still good, and no other is made
        assert told.strip().endswith(str(tmp_path / "admin.token"))
        assert httpx.get(f"{url}/api/v1/streams").status_code == 401
        assert len(httpx.get(f"{url}/api/v1/tokens", headers=admin).json()["tokens"]) == 2


def test_a_token_that_counts_no_more_is_not_said_to_be_in_the_file(tmp_path: Path) -> None:
    with serving(tmp_path) as (url, _):
        admin = bearer((tmp_path / "admin.token").read_text())
        token_id = httpx.get(f"{url}/api/v1/tokens/self", headers=admin).json()["token_id"]
        assert httpx.delete(f"{url}/api/v1/tokens/{token_id}", headers=admin).is_success
    with serving(tmp_path) as (url, told):
        assert "`esb tokens create` makes tokens" in told
        assert httpx.get(f"{url}/api/v1/streams", headers=admin).status_code == 401


def test_on_a_terminal_the_page_is_one_step_away_and_nowhere_else_is_the_token_printed(tmp_path: Path) -> None:
    command = [ESB, "--data", str(tmp_path), "serve", "--port", "0"]
    ours, theirs = os.openpty()
    process = subprocess.Popen(command, stdout=theirs, stderr=subprocess.PIPE)
    os.close(theirs)
    with os.fdopen(ours, encoding="utf-8") as terminal:
        lines = [terminal.readline().strip() for _ in range(3)]
        token = (tmp_path / "admin.token").read_text().strip()
        url = lines[0].split(" on ")[1].split()[0]
        assert lines[2].endswith(f" {url}/#token={token}")
        assert token not in lines[0] + lines[1]
        process.terminate()
        assert process.communicate(timeout=60)[1] == b""
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    lines = [process.stdout.readline() for _ in range(2)]
    process.terminate()
    out, errors = process.communicate(timeout=60)
    assert (out, errors, token in "".join(lines)) == ("", "", False)


def test_with_auth_off_a_server_warns_and_is_open_but_not_to_pages_of_others(tmp_path: Path) -> None:
    with serving(tmp_path, "--auth", "off") as (url, told):
        assert told.startswith("WARNING: there is no login")
        assert not (tmp_path / "admin.token").exists()
        with httpx.Client(base_url=url) as http:
            assert http.post("/api/v1/streams", json={"name": "a"}).is_success
            for origin in ("https://evil.example.org", "null", "http://127.0.0.1:1"):
                answer = http.post("/api/v1/streams", json={"name": "b"}, headers={"Origin": origin})
                assert answer.status_code == 403, origin
            assert http.post("/api/v1/streams", json={"name": "b"}, headers={"Origin": url}).is_success
            assert http.get("/api/v1/tokens/self").json()["is_authenticated"] is False
            spoofed = {"X-Forwarded-For": "8.8.8.8"}
            http.delete("/api/v1/streams/b", headers=spoofed)
            entries: list[dict[str, Any]] = http.get("/api/v1/audit").json()["entries"]
            assert {entry["address"] for entry in entries} == {"127.0.0.1"}


def test_signed_tokens_are_accepted_as_the_access_file_says(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("k" * 32)
    (tmp_path / "access.yaml").write_text(
        f"issuers: [{{issuer: me, audience: esb, algorithms: [HS256], key_file: {tmp_path / 'secret'}, tenant_id: acme}}]"
    )
    claims = {"iss": "me", "aud": "esb", "sub": "anna", "roles": ["operator"]}
    end = datetime.datetime.now(datetime.UTC) + datetime.timedelta(minutes=5)
    token = jwt.encode(claims | {"exp": end}, "k" * 32, "HS256")
    with serving(tmp_path / "data", "--access", str(tmp_path / "access.yaml")) as (url, _):
        told = httpx.get(f"{url}/api/v1/tokens/self", headers=bearer(token)).json()
        assert (told["principal"], told["tenant_id"], told["kind"]) == ("anna", "acme", "jwt")
        assert httpx.get(f"{url}/api/v1/tokens/self", headers=bearer(token[:-2])).status_code == 401


def certificate(folder: Path) -> tuple[Path, Path]:
    """A certificate of this machine, signed by itself, and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    now = datetime.datetime.now(datetime.UTC)
    built = x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
    built = built.not_valid_before(now - datetime.timedelta(days=1)).not_valid_after(now + datetime.timedelta(days=1))
    built = built.add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
    built = built.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
    files = folder / "server.pem", folder / "server.key"
    files[0].write_bytes(built.sign(key, hashes.SHA256()).public_bytes(Encoding.PEM))
    files[1].write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    return files


def test_other_addresses_take_tls_and_then_always_ask(tmp_path: Path) -> None:
    chain, key = certificate(tmp_path)
    options = ("--host", "0.0.0.0", "--tls-certificate", str(chain), "--tls-key", str(key))
    with serving(tmp_path / "data", *options) as (url, told):
        assert url.startswith("https://0.0.0.0:")
        assert "clients need a token" in told
        address = url.replace("0.0.0.0", "localhost")
        trusting = ssl.create_default_context(cafile=str(chain))
        assert httpx.get(f"{address}/health", verify=trusting).is_success
        assert httpx.get(f"{address}/api/v1/streams", verify=trusting).status_code == 401


@pytest.mark.parametrize(
    ("options", "code", "told"),
    [
        (("--host", "0.0.0.0"), 1, "without TLS"),
        (("--host", "127.evil.example.org"), 1, "without TLS"),
        (("--host", "0.0.0.0", "--auth", "off", "--tls-certificate", "x", "--tls-key", "x"), 1, "others could reach"),
        (("--tls-key", "x"), 2, "go together"),
        (("--access", "none.yaml"), 1, "none.yaml cannot be read"),
    ],
)
def test_a_server_that_would_not_be_safe_does_not_start(esb: Esb, options: tuple[str, ...], code: int, told: str) -> None:
    assert told in esb("serve", "--port", "0", *options, code=code).err
