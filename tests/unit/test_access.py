"""Who somebody is, what roles allow, and limits: without a server."""

import base64
import http.server
import json
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from event_streaming_bus.access import jwks
from event_streaming_bus.access.access_errors import (
    ForbiddenError,
    IdentityProviderError,
    LimitError,
    NotAuthenticatedError,
    TokenNotFoundError,
)
from event_streaming_bus.access.authenticator import token_of
from event_streaming_bus.access.limits import Limiter
from event_streaming_bus.access.model import Grant, Limits, Principal, Role, parse_grant
from event_streaming_bus.access.permissions import PERMISSIONS, allows, check_any, check_every, check_streams
from event_streaming_bus.access.settings import read_settings
from event_streaming_bus.access.signed_tokens import SignedTokens
from event_streaming_bus.access.tokens import TokenService
from event_streaming_bus.errors import BusError, InvalidInputError
from event_streaming_bus.store.storage import Storage, open_storage

SECRET = "s" * 40
ISSUER = "https://login.example.org/"


@pytest.fixture
def storage(tmp_path: Path) -> Iterator[Storage]:
    storage = open_storage(tmp_path / "data")
    yield storage
    storage.close()


@pytest.fixture
def tokens(storage: Storage) -> Iterator[TokenService]:
    service = TokenService(storage)
    yield service
    service.close()


def principal(*roles: str, tenant_id: str = "acme", **limits: Any) -> Principal:
    grants = tuple(map(parse_grant, roles))
    return Principal(
        principal_id="p", kind="token", token_id="tok_1", tenant_id=tenant_id, grants=grants, limits=Limits(**limits)
    )


# --- roles ------------------------------------------------------------------------------------------------------------


def test_grants_are_written_and_read() -> None:
    assert parse_grant("admin") == Grant(Role.ADMIN)
    assert str(parse_grant("Publisher: orders.*, returns")) == "publisher:orders.*,returns"
    assert parse_grant("publisher:orders.*").covers("orders.eu")
    assert not parse_grant("publisher:orders.*").covers("orders")
    assert not parse_grant("publisher:orders").covers("ORDERS")
    for_all = ("admin:orders", "delegate:orders", "monitor:orders")
    for wrong in ("root", "", "publisher:", "publisher:a b", "viewer:[a-z]", *for_all, "viewer:" + "x," * 60):
        with pytest.raises(InvalidInputError, match="roles"):
            parse_grant(wrong)


def test_roles_allow_what_the_table_says() -> None:
    assert all(allows(Role.ADMIN, permission) for permission in ("token:manage", "erasure:manage", "whatever:else"))
    assert [role.value for role in Role if allows(role, "event:publish")] == ["admin", "publisher"]
    assert [role.value for role in Role if allows(role, "group:consume")] == ["admin", "consumer"]
    assert [role.value for role in Role if allows(role, "stream:manage")] == ["admin", "operator"]
    assert [role.value for role in Role if allows(role, "token:manage")] == ["admin"]
    assert [role.value for role in Role if allows(role, "user:name")] == ["admin", "operator", "delegate"]
    assert [role.value for role in Role if allows(role, "saved-query:manage")] == ["admin", "operator"]
    assert not allows(Role.VIEWER, "audit:view")
    assert allows(Role.VIEWER, "projection:read")
    assert PERMISSIONS[Role.MONITOR] == {"monitoring:read"}


def test_patterns_bound_what_roles_allow() -> None:
    somebody = principal("publisher:orders*", "viewer:logs")
    check_streams(somebody, "event:publish", ["orders", "orders.eu"])
    check_any(somebody, "stream:read")
    for permission, streams in (("event:publish", ["orders", "logs"]), ("group:consume", ["orders"])):
        with pytest.raises(ForbiddenError, match=permission):
            check_streams(somebody, permission, streams)
    with pytest.raises(ForbiddenError, match="some streams only"):
        check_every(somebody, "history:query")
    with pytest.raises(ForbiddenError, match="its own: none"):
        check_any(principal(), "stream:read")


def test_only_administrators_of_the_default_tenant_are_for_all() -> None:
    assert principal("admin", tenant_id="default").is_for_all_tenants
    assert not principal("admin").is_for_all_tenants
    assert not principal("operator", tenant_id="default").is_for_all_tenants


# --- API tokens -------------------------------------------------------------------------------------------------------


def test_a_token_tells_whose_it_is(tokens: TokenService, storage: Storage) -> None:
    token, record = tokens.create("shop", ["publisher:orders"], tenant_id="acme", created_by="anna", limits=Limits(connections=3))
    found = tokens.verify(token)
    assert (found.principal_id, found.tenant_id, found.token_id) == ("shop", "acme", record.token_id)
    assert (found.grants, found.limits.connections) == ((Grant(Role.PUBLISHER, ("orders",)),), 3)
    secret = token.split("_", 2)[2]
    assert len(base64.urlsafe_b64decode(secret + "=")) == 32
    kept = b"".join(path.read_bytes() for path in storage.folder.glob("tokens.db*"))
    assert record.token_id.encode() in kept
    assert secret.encode() not in kept
    assert (storage.folder / "tokens.db").stat().st_mode & 0o777 == 0o600


def test_tokens_that_do_not_count_are_refused(tokens: TokenService, storage: Storage) -> None:
    token, record = tokens.create("a", ["viewer"], created_by="x", expires_at_ms=time.time_ns() // 1_000_000 + 2000)
    tokens.verify(token)
    other, _ = tokens.create("b", ["viewer"], created_by="x")
    mixed = other.rsplit("_", 1)[0].split("_")[1]
    for wrong in ("esb_", "esb_x", "esb__", token[:-1], token + "x", f"esb_{mixed}_{token.split('_', 2)[2]}", "esb_\udc80_x"):
        with pytest.raises(NotAuthenticatedError, match="not valid"):
            tokens.verify(wrong)
    time.sleep(max(0.0, (record.expires_at_ms or 0) / 1000 - time.time()) + 0.01)
    with pytest.raises(NotAuthenticatedError, match="expired"):
        tokens.verify(token)
    elsewhere = TokenService(storage)  # as another process
    elsewhere.revoke(elsewhere.verify(other).token_id, None, by="x")
    elsewhere.close()
    with pytest.raises(NotAuthenticatedError, match="revoked"):
        tokens.verify(other)
    with pytest.raises(TokenNotFoundError, match="already"):
        tokens.revoke(tokens.tokens(None)[1].token_id, None, by="x")
    with pytest.raises(TokenNotFoundError):
        tokens.find(record.token_id, "another-tenant")


def test_the_last_use_is_noted(tokens: TokenService) -> None:
    _, record = tokens.create("a", ["viewer"], created_by="x")
    assert tokens.is_use_due(record.token_id)
    tokens.note_use(record.token_id, "10.0.0.1")
    assert not tokens.is_use_due(record.token_id)
    assert tokens.tokens("default")[0].last_address == "10.0.0.1"
    assert tokens.tokens("acme") == []


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"principal": ""}, "principal"),
        ({"principal": "a\nb"}, "principal"),
        ({"roles": []}, "roles"),
        ({"roles": ["root"]}, "accepted: admin"),
        ({"expires_at_ms": 1}, "expires_at"),
        ({"limits": Limits(requests_per_s=0)}, "requests_per_s"),
        ({"limits": Limits(connections=0)}, "connections"),
    ],
)
def test_tokens_that_make_no_sense_are_not_made(tokens: TokenService, given: dict[str, Any], told: str) -> None:
    with pytest.raises(InvalidInputError, match=told):
        tokens.create(**({"principal": "a", "roles": ["viewer"], "created_by": "x"} | given))


def test_the_first_administrators_token_is_made_once(tokens: TokenService, storage: Storage) -> None:
    assert tokens.make_first_admin() is not None
    file = storage.folder / "admin.token"
    assert file.stat().st_mode & 0o777 == 0o600
    assert tokens.verify(file.read_text().strip()).is_for_all_tenants
    assert tokens.make_first_admin() is None
    assert tokens.admin_token() == file.read_text().strip()
    tokens.revoke(tokens.tokens(None)[0].token_id, None, by="x")
    assert tokens.admin_token() is None
    assert tokens.make_first_admin() is None


def test_of_services_that_start_at_once_one_makes_the_first_token(storage: Storage) -> None:
    services = [TokenService(storage) for _ in range(8)]
    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(lambda service: service.make_first_admin(), services))
    (record,) = filter(None, made)
    assert [each.token_id for each in services[0].tokens(None)] == [record.token_id]
    assert services[0].admin_token() is not None
    for service in services:
        service.close()


def test_a_first_token_that_was_handed_over_and_never_kept_is_made_again(tokens: TokenService, storage: Storage) -> None:
    left = storage.folder / "admin.token"  # by a process that was killed in between
    left.write_text("esb_x_y")
    left.chmod(0o600)
    assert tokens.admin_token() is None
    assert tokens.make_first_admin() is not None
    assert tokens.admin_token() == left.read_text().strip() != "esb_x_y"


@pytest.mark.parametrize(
    ("header", "token"),
    [("Bearer abc", "abc"), ("bearer  abc", "abc"), ("Basic " + base64.b64encode(b"user:a:b").decode(), "a:b")],
)
def test_the_token_is_found_in_its_header(header: str, token: str) -> None:
    assert token_of(header) == token


@pytest.mark.parametrize(
    "header", [None, "", "Bearer", "Bearer ", "Digest x", "Basic x", "Basic " + base64.b64encode(b"x").decode()]
)
def test_a_header_without_a_token_is_refused(header: str | None) -> None:
    with pytest.raises(NotAuthenticatedError, match="Bearer TOKEN"):
        token_of(header)


# --- signed tokens ----------------------------------------------------------------------------------------------------


def settings_file(folder: Path, **issuer: Any) -> Path:
    (folder / "secret").write_text(SECRET)
    given = {"issuer": ISSUER, "audience": "esb", "algorithms": ["HS256"], "key_file": str(folder / "secret")} | issuer
    path = folder / "access.yaml"
    path.write_text(json.dumps({"issuers": [{name: value for name, value in given.items() if value is not None}]}))
    return path


def signed(key: Any = SECRET, algorithm: str = "HS256", *, kid: str | None = None, **claims: Any) -> str:
    given = {"iss": ISSUER, "aud": "esb", "sub": "anna", "exp": time.time() + 60, "roles": ["viewer"]} | claims
    headers = {} if kid is None else {"kid": kid}
    return jwt.encode({name: value for name, value in given.items() if value is not None}, key, algorithm, headers)


def test_a_signed_token_tells_whose_it_is(tmp_path: Path) -> None:
    verify = SignedTokens(read_settings(settings_file(tmp_path))).verify
    found = verify(signed(roles=["viewer", "publisher:orders", "staff"], jti="t-1"))
    assert (found.principal_id, found.kind, found.token_id, found.tenant_id) == ("anna", "jwt", "jwt:t-1", "default")
    assert list(map(str, found.grants)) == ["viewer", "publisher:orders"]
    assert verify(signed(roles=None)).grants == ()


def test_groups_and_tenants_of_a_provider_are_mapped(tmp_path: Path) -> None:
    file = settings_file(
        tmp_path,
        roles_claim="groups",
        roles={"ops": ["operator", "viewer"], "shop": "publisher:orders"},
        tenant_claim="org",
        tenants=["acme"],
        principal_claim="email",
    )
    verify = SignedTokens(read_settings(file)).verify
    found = verify(signed(groups="ops admin", org="acme", email="anna@example.org"))
    assert (found.principal_id, found.tenant_id, list(map(str, found.grants))) == (
        "anna@example.org",
        "acme",
        ["operator", "viewer"],
    )
    for wrong in ({"org": "default"}, {"org": None}, {"org": ["acme"]}, {"email": None}, {"email": 7}):
        with pytest.raises(NotAuthenticatedError):
            verify(signed(**({"groups": "ops", "org": "acme", "email": "a"} | wrong)))


@pytest.mark.parametrize(
    ("claims", "told"),
    [
        ({"exp": time.time() - 3600}, "has expired"),
        ({"exp": None}, "lacks the claim exp"),
        ({"sub": None}, "lacks the claim sub"),
        ({"aud": "other"}, "another audience"),
        ({"aud": None}, "not valid"),
        ({"iss": "https://evil.example.org/"}, "issuer that is not accepted"),
        ({"iss": None}, "issuer that is not accepted"),
        ({"nbf": time.time() + 3600}, "time has not come"),
        ({"sub": "a\nb"}, "names nobody"),
    ],
)
def test_signed_tokens_that_do_not_count_are_refused(tmp_path: Path, claims: dict[str, Any], told: str) -> None:
    with pytest.raises(NotAuthenticatedError, match=told):
        SignedTokens(read_settings(settings_file(tmp_path))).verify(signed(**claims))


def test_a_token_cannot_choose_how_it_is_verified(tmp_path: Path) -> None:
    key = ed25519.Ed25519PrivateKey.generate()
    public = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    (tmp_path / "public.pem").write_bytes(public)
    file = settings_file(tmp_path, algorithms=["EdDSA"], key_file=str(tmp_path / "public.pem"))
    verify = SignedTokens(read_settings(file)).verify
    assert verify(signed(key, "EdDSA")).principal_id == "anna"
    unsigned = signed(key, "EdDSA").rsplit(".", 1)[0] + "."
    body = signed(None, "none")
    # The public key taken for a secret: with a library that let the token choose, everybody could sign.
    head, payload, _ = signed(SECRET, "HS256").split(".")
    import hashlib
    import hmac

    forged = hmac.digest(public.strip(), f"{head}.{payload}".encode(), hashlib.sha256)
    confused = f"{head}.{payload}.{base64.urlsafe_b64encode(forged).decode().rstrip('=')}"
    for wrong in (unsigned, body, confused, signed(), "a.b.c", "x" * 20_000, ""):
        with pytest.raises(NotAuthenticatedError):
            verify(wrong)


@pytest.mark.parametrize(
    ("issuer", "told"),
    [
        ({"algorithms": ["HS256", "RS256"]}, "of one kind"),
        ({"algorithms": ["none"]}, "of one kind"),
        ({"algorithms": []}, "of one kind"),
        ({"key_file": None}, "one of jwks_url and key_file"),
        ({"key_file": None, "jwks_url": "http://login.example.org/keys", "algorithms": ["RS256"]}, "https://"),
        ({"key_file": None, "jwks_url": "file:///etc/passwd", "algorithms": ["RS256"]}, "https://"),
        ({"key_file": None, "jwks_url": "https://x/keys"}, "cannot be secrets"),
        ({"tenant_claim": "org"}, "tenants"),
        ({"audience": ""}, "audience"),
        ({"roles": {"x": "root"}}, r"roles\.x"),
        ({"colour": "red"}, "colour"),
    ],
)
def test_an_access_file_that_is_not_safe_is_refused(tmp_path: Path, issuer: dict[str, Any], told: str) -> None:
    with pytest.raises(InvalidInputError, match=told):
        read_settings(settings_file(tmp_path, **issuer))


def test_a_weak_secret_is_refused(tmp_path: Path) -> None:
    file = settings_file(tmp_path)
    (tmp_path / "secret").write_text("short")
    with pytest.raises(InvalidInputError, match="a secret needs 32"):
        SignedTokens(read_settings(file))


# --- keys that a provider publishes -----------------------------------------------------------------------------------


class _Provider:
    """An identity provider that publishes keys over HTTP."""

    def __init__(self) -> None:
        self.keys: dict[str, rsa.RSAPrivateKey] = {}
        self.asked = 0
        self.url = ""

    def add(self, name: str) -> rsa.RSAPrivateKey:
        self.keys[name] = rsa.generate_private_key(65537, 2048)
        return self.keys[name]

    def published(self) -> bytes:
        self.asked += 1
        algorithm = jwt.get_algorithm_by_name("RS256")
        listed = [
            json.loads(algorithm.to_jwk(key.public_key())) | {"kid": name, "use": "sig", "alg": "RS256"}
            for name, key in self.keys.items()
        ]
        return json.dumps({"keys": listed}).encode()


@contextmanager
def _serving(provider: _Provider) -> Iterator[None]:
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if self.path == "/moved":
                self.send_response(302)
                self.send_header("Location", "/keys")
                self.end_headers()
                return
            body = provider.published()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *arguments: Any) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        provider.url = f"http://127.0.0.1:{server.server_port}/keys"
        try:
            yield
        finally:
            server.shutdown()
            thread.join()


def test_tokens_of_a_provider_are_verified_with_the_keys_that_it_publishes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    provider = _Provider()
    first, forged = provider.add("k1"), rsa.generate_private_key(65537, 2048)
    with _serving(provider):
        file = settings_file(tmp_path, algorithms=["RS256"], key_file=None, jwks_url=provider.url)
        verify = SignedTokens(read_settings(file)).verify
        assert verify(signed(first, "RS256", kid="k1")).kind == "oidc"
        assert verify(signed(first, "RS256")).principal_id == "anna"  # there is only one key
        with pytest.raises(NotAuthenticatedError, match="signature"):
            verify(signed(forged, "RS256", kid="k1"))
        second = provider.add("k2")
        for _ in range(3):  # keys that there are not make nobody ask the provider again and again
            with pytest.raises(NotAuthenticatedError, match="does not publish"):
                verify(signed(second, "RS256", kid="k2"))
        assert provider.asked == 1
        monkeypatch.setattr(jwks, "RETRY_S", 0.0)
        assert verify(signed(second, "RS256", kid="k2")).principal_id == "anna"
        del provider.keys["k1"]
        monkeypatch.setattr(jwks, "FRESH_S", 0.0)
        with pytest.raises(NotAuthenticatedError, match="does not publish"):
            verify(signed(first, "RS256", kid="k1"))
    assert verify(signed(second, "RS256", kid="k2")).principal_id == "anna"  # it is down, but its keys are not old
    monkeypatch.setattr(jwks, "STALE_S", 0.0)
    with pytest.raises(IdentityProviderError):
        verify(signed(second, "RS256", kid="k2"))


def test_keys_are_not_taken_from_where_a_redirect_leads(tmp_path: Path) -> None:
    provider = _Provider()
    key = provider.add("k1")
    with _serving(provider):
        keys = jwks.KeySet(provider.url.replace("/keys", "/moved"))
        with pytest.raises(IdentityProviderError):
            keys.find("k1")
    assert provider.asked == 0
    assert key is not None


# --- limits -----------------------------------------------------------------------------------------------------------


def test_requests_are_limited_and_come_back_with_time() -> None:
    limiter, somebody = Limiter(), principal("viewer", requests_per_s=20)
    for _ in range(20):
        with limiter.counted(somebody):
            pass
    with pytest.raises(LimitError) as raised, limiter.counted(somebody):
        pass
    assert raised.value.details["retry_after_s"] == 1
    time.sleep(0.12)
    with limiter.counted(somebody):
        pass
    with limiter.counted(principal("viewer")):  # no limits
        pass


def test_connections_are_limited_while_they_last() -> None:
    limiter, somebody = Limiter(), principal("viewer", connections=2)
    with (
        limiter.counted(somebody),
        limiter.counted(somebody),
        pytest.raises(BusError, match="2 connections"),
        limiter.counted(somebody),
    ):
        pass
    with limiter.counted(somebody):
        pass
