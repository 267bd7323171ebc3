"""Who may browse streams and handle flows, where clients need a token."""

import warnings
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from litestar.exceptions import LitestarDeprecationWarning
from litestar.testing import TestClient

from event_streaming_bus.access.authenticator import Authenticator
from event_streaming_bus.api.access import Access
from event_streaming_bus.api.app import create_app
from event_streaming_bus.api.services import Services
from event_streaming_bus.store.storage import open_storage

API = "/api/v1"
FLOW = {
    "processors": [
        {
            "processor_name": "large",
            "processor_type": "FILTER",
            "source_stream_id": "orders",
            "target_stream_id": "secret",
            "processing_logic": {"filter_expression": "payload.n > 1"},
        }
    ]
}
Ask = Callable[[str, str, str, Any], int]


@pytest.fixture(scope="module")
def ask(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ask]:
    """The status that a role's request is answered with."""
    storage = open_storage(tmp_path_factory.mktemp("guarded"))
    services = Services(storage)
    access = Access(storage, Authenticator(services.tokens))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", LitestarDeprecationWarning)
        with TestClient(create_app(services, hosts=["*"], access=access)) as client:

            def status(role: str, method: str, path: str, body: Any) -> int:
                token, _ = services.tokens.create(role.partition(":")[0], [role], created_by="test")
                return client.request(
                    method, f"{API}/{path}", json=body, headers={"Authorization": f"Bearer {token}"}
                ).status_code

            for name in ("orders", "secret"):
                assert status("admin", "POST", "streams", {"name": name}) == 201
            yield status
    storage.close()


@pytest.mark.parametrize(
    ("role", "method", "path", "body", "status"),
    [
        ("consumer:orders", "GET", "streams/orders/events", None, 200),
        ("consumer:orders", "GET", "streams/secret/events", None, 403),
        ("publisher", "GET", "streams/orders/events", None, 403),
        ("viewer", "GET", "streams/orders/events", None, 200),
        ("viewer", "POST", "flows/validate", FLOW, 200),
        ("viewer", "POST", "flows/graph", FLOW, 200),
        ("viewer", "PUT", "flows/sales", FLOW, 403),
        ("publisher", "POST", "flows/plan", FLOW, 403),
        ("consumer:orders", "POST", "flows/dry-run", FLOW, 403),
        ("operator", "PUT", "flows/sales", FLOW, 201),
        ("viewer", "GET", "flows/sales", None, 200),
        ("viewer", "POST", "flows/sales/start", None, 403),
        ("viewer", "GET", "asyncapi.json", None, 200),
        ("consumer:orders", "GET", "asyncapi.json", None, 403),
        ("operator", "DELETE", "flows/sales", None, 200),
    ],
)
def test_roles_let_through_what_they_are_for(ask: Ask, role: str, method: str, path: str, body: Any, status: int) -> None:
    assert ask(role, method, path, body) == status
