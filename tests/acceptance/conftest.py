"""Sites for the acceptance tests, and models that many of them use."""

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from insa_anomaly.adapters.embedded import Tools
from tests.acceptance.daemon import command
from tests.acceptance.plant import machines
from tests.acceptance.site import COMMAND_SECONDS, Site, empty_database, opened
from tests.conftest import ROOT


@pytest.fixture
def site(short_path: Path, tools: Tools, postgres_dsn: str) -> Iterator[Site]:
    """Open a site for one test, without models."""
    with empty_database(postgres_dsn) as database, opened(short_path, tools, database) as site:
        yield site


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Train every series of the small plant; return the section `models` of a configuration."""
    folder = tmp_path_factory.mktemp("models")
    section = {"directory": str(folder / "ml_models"), "key_file": str(folder / "model.key")}
    config = folder / "config.yaml"
    config.write_text(json.dumps({"models": section}), encoding="utf-8")
    files = [str(machine.write_training(folder)) for machine in machines(0)]
    argv = [
        *command("train"),
        "--config",
        str(config),
        *[word for file in files for word in ("--csv", file)],
    ]
    done = subprocess.run(
        argv, check=False, capture_output=True, text=True, cwd=ROOT, timeout=COMMAND_SECONDS
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return section


@pytest.fixture
def trained(site: Site, models: dict[str, str]) -> Site:
    """Open a site for one test, with models for the small plant."""
    site.put("models", models)
    return site
