"""That the tests of the stores on PostgreSQL can run here."""

import postgres_server
import pytest


def test_there_is_a_server_for_the_tests_of_the_shared_stores() -> None:
    if postgres_server.programs() is None:
        pytest.skip("the stores on PostgreSQL are not tested: needs the programs initdb and postgres (Debian: postgresql)")
    assert postgres_server.shared_server().new_database().url.startswith("postgresql://")
