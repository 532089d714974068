"""The files of an older version: schema, full log, outbox and models are taken up without a loss.

The folders in `kept/` hold the files as the version wrote them that each is named after. A version
that changes a format adds a folder (`keep_formats`).
"""

import shutil
from pathlib import Path

import psycopg
import pytest

from tests.acceptance.keep_formats import EVENTS, RECORDED, WAITING
from tests.acceptance.site import Site
from tests.conftest import wait_for

KEPT = sorted((Path(__file__).parent / "kept").iterdir())


@pytest.mark.parametrize("version", KEPT, ids=lambda path: path.name)
def test_what_an_older_version_left_is_taken_up(version: Path, site: Site) -> None:
    """Waiting readings are stored, every event is published, models serve, keys stay valid."""
    with psycopg.connect(site.database, autocommit=True) as session:
        session.execute((version / "schema.sql").read_bytes())
    storage = site.folder / "storage"
    shutil.copytree(version, storage, ignore=shutil.ignore_patterns("schema.sql"))
    storage.chmod(0o700)
    (storage / "model.key").chmod(0o600)
    site.put(
        "models", {"directory": str(storage / "ml_models"), "key_file": str(storage / "model.key")}
    )
    with site.listen() as heard:
        daemon = site.daemon()
        daemon.start()
        daemon.wait_idle()
        wait_for(lambda: len(heard.payloads) >= len(EVENTS), 30)
        assert heard.payloads[: len(EVENTS)] == EVENTS
        assert daemon.status()["series_with_model"] == 1
        assert site.stored() == RECORDED + WAITING
        assert site.query("SELECT id FROM api_keys") == [("k1",)]
        assert site.query("SELECT id, subject FROM audit_log WHERE action = 'a'") == [(1, "s")]
        assert daemon.metric("insa_readings_total") == WAITING
        assert daemon.terminate() == 0
    assert site.run("migrate").stdout == "the schema is up to date\n"
