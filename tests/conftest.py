"""What every test stands on: no setting of this machine reaches a test."""

import os

import pytest
from hypothesis import HealthCheck, settings

from event_streaming_bus.store import patient_clock

# On a shared machine a test may be slow now and then; that is no finding about the code.
settings.register_profile("esb", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("esb")


@pytest.fixture(autouse=True)
def _no_settings_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in os.environ:
        if name.startswith("ESB_"):
            monkeypatch.delenv(name)


@pytest.fixture(autouse=True)
def _a_clock_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """A test that sets the clock back has the patient clock of the process disbelieve the right time for an hour."""
    monkeypatch.setattr(patient_clock, "_clock", patient_clock.PatientClock())
