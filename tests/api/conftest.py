"""The application on real servers, and a key of every kind."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.api.office import Office, opened


@pytest.fixture
def office(database: str, tmp_path: Path) -> Iterator[Office]:
    """Open the application over an empty database with our schema."""
    with opened(database, tmp_path) as office:
        yield office
