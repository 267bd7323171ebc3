import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

REGISTER = """
POST /api/v1/schemas/enhanced
Content-Type: application/json
Authorization: Bearer {token}

{
    "schema_name": "user_profile_event",
    "schema_version": "2.0",
    "json_schema": {
        "type": "object",
        "properties": {
            "user_id": {"type": "string"},
            "profile_data": {
                "type": "object",
                "properties": {
                    "name": {"type": "string"},
                    "email": {"type": "string", "format": "email"},
                    "phone": {"type": "string"},
                    "preferences": {"type": "object"}
                },
                "required": ["name", "email"]
            },
            "timestamp": {"type": "string", "format": "date-time"}
        },
        "required": ["user_id", "profile_data", "timestamp"]
    },
    "event_type": "user.profile_updated",
    "compatibility_level": "BACKWARD",
    "evolution_strategy": "COMPATIBLE",
    "validation_rules": {
        "business_rules": [
            {
                "name": "valid_email_domain",
                "description": "Email must be from approved domains",
                "rule": "profile_data.email.endswith(('@company.com', '@partner.com'))"
            }
        ]
    },
    "is_active": true
}
"""
REGISTERED = """
{
    "schema_id": "sch_enhanced_789",
    "message": "Enhanced schema registered successfully"
}
"""
VALIDATE = """
POST /api/v1/schemas/sch_enhanced_789/validate
Content-Type: application/json
Authorization: Bearer {token}

{
    "user_id": "user_123",
    "profile_data": {
        "name": "John Doe",
        "email": "john.doe@company.com",
        "phone": "+1-555-0123",
        "preferences": {
            "notifications": true,
            "theme": "dark"
        }
    },
    "timestamp": "2025-01-26T10:30:00Z"
}
"""
VALIDATED = """
{
    "is_valid": true,
    "validation_errors": [],
    "schema_version": "2.0",
    "validation_time_ms": 5.2
}
"""


async def test_a_schema_is_registered_and_validates(
    client: httpx.AsyncClient, call: Callable[..., Awaitable[Any]], same_shape: Callable[[object, str], None]
) -> None:
    registered = await call(REGISTER)
    same_shape(registered, REGISTERED)
    assert registered["message"] == "Enhanced schema registered successfully"
    schema_id = registered["schema_id"]

    valid = await call(VALIDATE, sch_enhanced_789=schema_id)
    same_shape(valid, VALIDATED)
    assert (valid["is_valid"], valid["validation_errors"], valid["schema_version"]) == (True, [], "2.0")

    body = json.loads(VALIDATE.strip().split("\n\n")[1])
    body["profile_data"]["email"] = "john.doe@elsewhere.example"
    response = await client.post(f"/api/v1/schemas/{schema_id}/validate", json=body)
    assert response.json()["is_valid"] is False
    assert "valid_email_domain" in json.dumps(response.json()["validation_errors"])


async def test_sdk(data_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from event_streaming_bus import SchemaRegistryService

    # Initialize service
    schema_service = SchemaRegistryService()

    # Register schema with validation rules
    schema_config = {
        "schema_name": "order_event",
        "schema_version": "1.0",
        "json_schema": {
            "type": "object",
            "properties": {
                "order_id": {"type": "string"},
                "customer_id": {"type": "string"},
                "order_total": {"type": "number", "minimum": 0},
                "currency": {"type": "string", "enum": ["USD", "EUR", "GBP"]},
            },
            "required": ["order_id", "customer_id", "order_total"],
        },
        "event_type": "order.created",
        "validation_rules": {"business_rules": [{"name": "minimum_order_value", "rule": "order_total >= 10.0"}]},
    }

    schema_id = await schema_service.register_enhanced_schema(
        schema_config=schema_config, tenant_id="tenant_001", created_by="user_456"
    )

    # Validate event
    validation_result = await schema_service.validate_event(
        schema_id=schema_id,
        event_data={"order_id": "ord_123", "customer_id": "cust_456", "order_total": 25.99, "currency": "USD"},
        tenant_id="tenant_001",
    )

    print(f"Valid: {validation_result['is_valid']}")

    assert schema_id.startswith("sch_")
    assert capsys.readouterr().out == "Valid: True\n"
    assert validation_result["validation_errors"] == []
    assert validation_result["schema_version"] == "1.0"
    assert validation_result["validation_time_ms"] >= 0

    for wrong, named in [({"order_total": 9.99}, "minimum_order_value"), ({"currency": "XXX"}, "currency")]:
        event = {"order_id": "ord_123", "customer_id": "cust_456", "order_total": 25.99, "currency": "USD", **wrong}
        result = await schema_service.validate_event(schema_id=schema_id, event_data=event, tenant_id="tenant_001")
        assert result["is_valid"] is False
        assert named in json.dumps(result["validation_errors"])
