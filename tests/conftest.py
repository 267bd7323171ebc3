"""What every test stands on: no setting of this machine reaches a test."""

import os

import pytest
from hypothesis import HealthCheck, settings

# On a shared machine a test may be slow now and then; that is no finding about the code.
settings.register_profile("esb", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("esb")


@pytest.fixture(autouse=True)
def _no_settings_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in os.environ:
        if name.startswith("ESB_"):
            monkeypatch.delenv(name)
