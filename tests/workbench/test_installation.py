"""The installation of the service: announced, carried out on demand, repeatable, removable."""

import os
import shutil
import subprocess
from pathlib import Path

import psycopg
import pytest
import yaml
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from typer.testing import CliRunner

from insa_anomaly.adapters.postgres import roles
from insa_anomaly.adapters.postgres.schema import is_up_to_date, migrate
from insa_anomaly.cli import cli
from insa_anomaly.commands.install import database_steps
from insa_anomaly.errors import DatabaseAway, DatabaseRefused, InstallationFailed
from insa_anomaly.settings.load import load
from insa_anomaly.workbench.installation import Site, install
from tests.conftest import Server

ROOT_ONLY = pytest.mark.skipif(
    os.geteuid() != 0, reason="only root can make accounts and give files away"
)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Return the root of a machine that has no account but root."""
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/passwd").write_text("root:x:0:0:root:/root:/bin/sh\n")
    (tmp_path / "etc/group").write_text("root:x:0:\n")
    return tmp_path


def said(*words: str) -> list[str]:
    """Run a command that succeeds; return the lines of its output."""
    done = CliRunner(env={"COLUMNS": "300"}).invoke(cli, words)
    assert done.exit_code == 0, done.output
    return done.output.splitlines()


def tree(root: Path) -> dict[str, tuple[int, bytes | None]]:
    """Return mode and content of everything below a folder."""
    return {
        str(path.relative_to(root)): (
            path.lstat().st_mode,
            path.read_bytes() if path.is_file() else None,
        )
        for path in sorted(root.rglob("*"))
    }


def test_nothing_is_done_unasked(root: Path) -> None:
    """Every step is announced and none is done without --apply."""
    before = tree(root)
    lines = said("install", "--root", str(root))
    assert lines[-1] == "nothing was changed; --apply does it"
    assert f"would make the folder {root}/var/lib/insa-iiot/ml_models, 0700" in lines
    assert tree(root) == before


def test_done_again_it_changes_nothing(root: Path) -> None:
    """The announced steps are done, and a second run has no step left.

    Settings and key belong to the plant from then on.
    """
    promised = said("install", "--root", str(root))[:-1]
    done = said("install", "--apply", "--root", str(root))
    assert [f"would {line}" for line in done[:-1]] == promised
    (root / "etc/insa-anomaly/config.yaml").write_text("broker: {host: plant}\n")
    if os.geteuid() == 0:
        assert said("install", "--root", str(root)) == ["there is nothing to do"]
    before = tree(root)
    assert said("install", "--apply", "--root", str(root))[-1] == "done"
    assert tree(root) == before


def test_the_modes_are_what_they_should_be(root: Path) -> None:
    """Secret and learnt files are the service's alone; read-only files cannot be written by it."""
    said("install", "--apply", "--root", str(root))
    names = (
        "etc/insa-anomaly", "etc/insa-anomaly/secrets", "etc/insa-anomaly/config.yaml",
        "var/lib/insa-anomaly", "var/lib/insa-anomaly/model.key", "var/lib/insa-iiot/ml_models",
        "etc/systemd/system/insa-anomaly.service",
    )  # fmt: skip
    modes = {name: oct((root / name).stat().st_mode & 0o777) for name in names}
    assert list(modes.values()) == ["0o750", "0o750", "0o640", "0o700", "0o600", "0o700", "0o644"]


@ROOT_ONLY
def test_the_account_owns_its_data_and_nothing_else(root: Path) -> None:
    """The account owns its data, and may read its configuration and its secrets."""
    said("install", "--apply", "--root", str(root))
    line = next(
        line
        for line in (root / "etc/passwd").read_text().splitlines()
        if line.startswith("insa-anomaly:")
    )
    uid, gid = (int(part) for part in line.split(":")[2:4])
    assert line.endswith(":/var/lib/insa-anomaly:/usr/sbin/nologin")
    names = (
        "var/lib/insa-anomaly", "var/lib/insa-anomaly/model.key", "etc/insa-anomaly",
        "etc/insa-anomaly/config.yaml", "etc/insa-anomaly/secrets",
        "etc/systemd/system/insa-anomaly.service",
    )  # fmt: skip
    found = {name: (root / name).stat() for name in names}
    owners = {name: (status.st_uid, status.st_gid) for name, status in found.items()}
    assert list(owners.values()) == [(uid, gid), (uid, gid), (0, gid), (0, gid), (0, gid), (0, 0)]


def test_the_configuration_is_understood_and_the_manual_beside_it(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The short configuration sets the necessary settings; an instance clashes with no other.

    An instance has the folders of its unit.
    """
    monkeypatch.delenv("INSA_CONFIG", raising=False)
    instances = ("--instance", "press", "--instance", "paint")
    said("install", "--apply", "--root", str(root), *instances)
    folder = root / "etc/insa-anomaly"
    assert set(yaml.safe_load((folder / "config.yaml").read_text())) == {"broker", "database"}
    load(folder / "config.yaml")
    load(folder / "manual.yaml")
    press, paint = (load(folder / f"{name}.yaml")[0] for name in ("press", "paint"))
    unit = (root / "etc/systemd/system/insa-anomaly@.service").read_text()
    assert "StateDirectory=insa-anomaly/%i insa-iiot/ml_models/%i\n" in unit
    assert str(press.storage.directory) == "/var/lib/insa-anomaly/press"
    assert str(press.models.directory) == "/var/lib/insa-iiot/ml_models/press"
    assert (root / str(press.models.key_file).lstrip("/")).stat().st_mode & 0o777 == 0o600
    for one, other in zip(
        (press.broker.client_id, press.http.port),
        (paint.broker.client_id, paint.http.port),
        strict=True,
    ):
        assert one != other


def test_the_units_start_this_program_and_systemd_finds_nothing_wrong(root: Path) -> None:
    """The units start the program wherever it is installed."""
    program = root / "opt/elsewhere/bin/insa-anomaly"
    for path in (program, root / "bin/sh"):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("#!/bin/sh\n")
        path.chmod(0o755)
    inside = Path("/opt/elsewhere/bin/insa-anomaly")
    for step in install(Site(root, inside), []):
        if not step.done():
            step.do()
    unit = root / "etc/systemd/system/insa-anomaly.service"
    assert f"ExecStart={inside} run --config /etc/insa-anomaly/config.yaml" in unit.read_text()
    assert (root / "usr/local/bin/insa-anomaly").readlink() == inside
    if shutil.which("systemd-analyze") is None:
        pytest.skip("there is no systemd-analyze on this machine")
    for target in ("sysinit", "basic", "shutdown", "network-online", "multi-user"):
        unit.with_name(f"{target}.target").write_text("[Unit]\n")
    done = subprocess.run(
        ["systemd-analyze", "verify", f"--root={root}", unit.name],
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_the_data_outlives_the_program(root: Path) -> None:
    """Units and command are removed; data, settings, keys and the account stay.

    Uninstalling again has no step left.
    """
    said("install", "--apply", "--root", str(root))
    assert any("remove" in line for line in said("uninstall", "--root", str(root)))
    said("uninstall", "--apply", "--root", str(root))
    assert said("uninstall", "--root", str(root)) == ["there is nothing to do"]
    left = set(tree(root))
    assert {
        "var/lib/insa-anomaly/model.key",
        "etc/insa-anomaly/config.yaml",
        "etc/insa-anomaly/secrets",
    } <= left
    assert not [
        name
        for name in left
        if name.startswith(
            ("etc/systemd/system/insa", "usr/local/bin/insa", "usr/local/share/insa")
        )
    ]


def test_a_program_in_a_home_is_not_installed() -> None:
    """A program in a home is not installed, because the units hide homes and it would not start."""
    with pytest.raises(InstallationFailed, match="below /home.*below /opt"):
        install(Site(Path("/"), Path("/home/me/.venv/bin/insa-anomaly")), [])


def test_a_name_that_would_leave_its_folder_is_no_instance(root: Path) -> None:
    """A name that leaves its folder or is taken is no instance."""
    for name in ("../x", "a b", "", "config"):
        done = CliRunner().invoke(cli, ["install", "--root", str(root), "--instance", name])
        assert done.exit_code == 2


def test_a_database_of_the_plants_is_set_up(root: Path, own_postgres: Server[str]) -> None:
    """Roles and schema are set up, and new configurations name them without the administrator.

    A second run has no step left; an existing configuration is left alone.
    """
    url = own_postgres.address
    arguments = ("install", "--root", str(root), "--instance", "press", "--database", url)
    assert said(*arguments)[0].startswith(
        "would make the schema, roles of least privilege and the login insa-anomaly at "
    )
    assert said(*arguments, "--apply")[-1] == "done"
    for name in ("config", "press"):
        settings, _ = load(root / f"etc/insa-anomaly/{name}.yaml")
        assert settings.database.roles
        assert settings.database.url is not None
        words = conninfo_to_dict(settings.database.url)
        assert (words["user"], words.get("password")) == ("insa-anomaly", None)
        assert is_up_to_date(settings.database.url)
    if os.geteuid() == 0:
        assert said(*arguments) == ["there is nothing to do"]
    config = root / "etc/insa-anomaly/config.yaml"
    config.write_text("broker: {host: plant}\n")
    assert said(*arguments, "--apply")[-1].startswith(
        f"{config} was there before: see that it has database: {{"
    )
    assert config.read_text() == "broker: {host: plant}\n"


@ROOT_ONLY
def test_root_comes_to_a_servers_socket_as_the_account_that_runs_it(
    own_postgres: Server[str],
) -> None:
    """PostgreSQL admits its own account and not root; afterwards the process is root again."""
    words = conninfo_to_dict(own_postgres.address)
    url = make_conninfo(host=words["host"], dbname=words["dbname"])
    with psycopg.connect(own_postgres.address, autocommit=True) as session:
        [hba] = session.execute("SHOW hba_file").fetchone() or ("",)
        rules = Path(hba).read_text()
        account = Path(f"{words['host']}/.s.PGSQL.5432").owner()
        session.execute(f"CREATE ROLE {account} LOGIN SUPERUSER".encode())
        Path(hba).write_text("local all all peer\n")
        session.execute("SELECT pg_reload_conf()")
        try:
            [step] = database_steps(url)
            assert not step.done()
            step.do()
            assert step.done()
            with pytest.raises(psycopg.OperationalError, match="root"):
                psycopg.connect(url)
        finally:
            Path(hba).write_text(rules)
            session.execute("SELECT pg_reload_conf()")
    assert os.geteuid() == 0


def test_what_half_an_installation_left_is_made_good(own_postgres: Server[str]) -> None:
    """A schema without roles is completed, and so are roles that exist for another database."""
    url = own_postgres.address
    migrate(url)
    [step] = database_steps(url)
    assert not step.done()
    step.do()
    assert step.done()
    with psycopg.connect(url, autocommit=True) as session:
        session.execute("CREATE DATABASE other")
    [other] = database_steps(make_conninfo(url, dbname="other"))
    assert not other.done()
    other.do()
    assert other.done()
    roles.create_roles(url, "somebody")
    assert not roles.are_given(make_conninfo(url, dbname="other"), "nobody")


@pytest.mark.parametrize("address", ["postgres:s3cret@db/insa", "host=h nonsense=s3cret"])
def test_an_address_that_is_none_is_refused_and_not_shown(root: Path, address: str) -> None:
    """A refused address is not shown, because it may hold a password."""
    done = CliRunner().invoke(cli, ["install", "--root", str(root), "--database", address])
    assert isinstance(done.exception, DatabaseRefused)
    assert "s3cret" not in str(done.exception) + done.output


def test_a_database_that_is_not_there_is_said(root: Path) -> None:
    """An unreachable database is reported before any step is done."""
    done = CliRunner().invoke(
        cli, ["install", "--root", str(root), "--apply", "--database", "host=127.0.0.1 port=1"]
    )
    assert isinstance(done.exception, DatabaseAway)
    assert not (root / "etc/insa-anomaly").exists()
