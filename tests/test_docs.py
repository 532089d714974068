"""The contributors' pages name files and folders that exist, and link to files that exist."""

import re
from pathlib import Path

import pytest

from tests.conftest import ROOT

PAGES = sorted((ROOT / "docs").rglob("*.md"))
PACKAGE = ROOT / "insa_anomaly"


def exists(place: str) -> bool:
    """Return whether a place on a page is a file or folder of the package or of the repository."""
    return any(
        (root / name).exists()
        for root in (PACKAGE, ROOT)
        for name in (place, f"{place}.py", f"{place.rpartition('.')[0]}.py")
    )


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_place_that_a_page_names_exists(page: Path) -> None:
    """A file or folder in backticks is there."""
    places = set(re.findall(r"`([a-z_]+/[\w./]*)`", page.read_text(encoding="utf-8")))
    assert places
    assert not sorted(place for place in places if not exists(place.rstrip("/")))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_of_a_page_leads_somewhere(page: Path) -> None:
    """A relative link leads to a file."""
    links = re.findall(r"\]\(([^)#:]+)\)", page.read_text(encoding="utf-8"))
    assert not [link for link in links if not (page.parent / link).exists()]
