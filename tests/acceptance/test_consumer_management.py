from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

CREATE = """
POST /api/v1/consumer-groups
Content-Type: application/json
Authorization: Bearer {token}

{
    "group_name": "notification_processors",
    "group_description": "Processes user notification events",
    "session_timeout_ms": 30000,
    "heartbeat_interval_ms": 3000,
    "max_poll_interval_ms": 300000,
    "partition_assignment_strategy": "range",
    "rebalance_timeout_ms": 60000
}
"""
CREATED = """
{
    "group_id": "grp_notifications_789",
    "message": "Consumer group created successfully"
}
"""
LAG = """
GET /api/v1/consumer-groups/grp_notifications_789/lag
Authorization: Bearer {token}
"""
LAG_ANSWER = """
{
    "group_id": "grp_notifications_789",
    "group_name": "notification_processors",
    "total_lag": 1247,
    "partition_lags": {},
    "consumption_rate": 85.3,
    "active_consumers": 3
}
"""
REBALANCE = """
POST /api/v1/consumer-groups/grp_notifications_789/rebalance
Authorization: Bearer {token}
"""


async def test_a_group_is_created_tells_its_lag_and_is_rebalanced(
    call: Callable[..., Awaitable[Any]], same_shape: Callable[[object, str], None]
) -> None:
    created = await call(CREATE)
    same_shape(created, CREATED)
    assert created["message"] == "Consumer group created successfully"
    group_id = created["group_id"]

    lag = await call(LAG, grp_notifications_789=group_id)
    same_shape(lag, LAG_ANSWER)
    assert (lag["group_id"], lag["group_name"]) == (group_id, "notification_processors")
    assert lag["total_lag"] == sum(lag["partition_lags"].values())
    assert lag["active_consumers"] == 0
    assert "last_rebalance" in lag

    rebalanced = await call(REBALANCE, grp_notifications_789=group_id)
    assert rebalanced == {"message": "Consumer group rebalance triggered successfully"}


async def test_sdk(data_folder: Path) -> None:
    from event_streaming_bus import ConsumerManagementService

    # Initialize service
    consumer_service = ConsumerManagementService()

    # Create consumer group
    group_config = {
        "group_name": "analytics_processors",
        "session_timeout_ms": 30000,
        "heartbeat_interval_ms": 3000,
        "partition_assignment_strategy": "range",
    }

    group_id = await consumer_service.create_consumer_group(group_config=group_config, tenant_id="tenant_001", user_id="user_456")

    # Monitor consumer lag
    lag_info = await consumer_service.get_consumer_lag(group_id=group_id, tenant_id="tenant_001")

    if lag_info["total_lag"] > 1000:
        # Trigger rebalance if lag is too high
        await consumer_service.trigger_rebalance(group_id=group_id, tenant_id="tenant_001")

    assert group_id.startswith("grp_")
    assert lag_info["total_lag"] == 0
    await consumer_service.trigger_rebalance(group_id=group_id, tenant_id="tenant_001")
