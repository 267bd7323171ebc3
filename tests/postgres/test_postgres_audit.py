"""The audit on PostgreSQL: as in a file."""

from collections.abc import Iterator

import pytest
from test_audit import *  # noqa: F403

from event_streaming_bus.audit.service import AuditService
from event_streaming_bus.store.storage import Storage


@pytest.fixture
def audit(storage: Storage) -> Iterator[AuditService]:
    audit = AuditService(storage)
    yield audit
    audit.close()
