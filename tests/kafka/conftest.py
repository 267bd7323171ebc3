"""One broker for all tests here and those of the contract. Where its jars or Java are missing, one line says so."""

import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parent))

import kafka_broker

collect_ignore = []
if kafka_broker.jars() is None:
    needy = {path.name for kind in ("kafka", "migration") for path in Path(__file__).parent.glob(f"test_{kind}*.py")}
    needy -= {"test_kafka_settings.py"}
    collect_ignore = sorted(needy)


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A log of its own for each file of tests."""
    return kafka_broker.kafka_url(tmp_path_factory.mktemp("kafka"))
