"""The application on real servers, and a key of every kind."""

from collections.abc import Iterator

import pytest

from tests.api.office import Office, opened


@pytest.fixture
def office(database: str) -> Iterator[Office]:
    """The application over an empty database with our schema."""
    with opened(database) as office:
        yield office
