"""Sites for the acceptance tests."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from insa_anomaly.adapters.embedded import Tools
from tests.acceptance.site import Site, opened


@pytest.fixture
def site(short_path: Path, tools: Tools, postgres_dsn: str) -> Iterator[Site]:
    """A site for one test."""
    with opened(short_path, tools, postgres_dsn) as site:
        yield site
