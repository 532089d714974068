"""The database as a file and back, by PostgreSQL's own programs.

The programs receive a password in their environment, never in an argument.
"""

import subprocess
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from uuid import UUID

from psycopg.conninfo import conninfo_to_dict, make_conninfo

from insa_anomaly.adapters.postgres import queries
from insa_anomaly.adapters.postgres.connection import session_of
from insa_anomaly.errors import BackupFailed

HOURS = 24 * 3600.0  # a large database takes its time


def server_major(dsn: str) -> int:
    """Return the server's major version. Raises DatabaseAway or DatabaseRefused."""
    with session_of(dsn) as session:
        return session.info.server_version // 10_000


def is_empty(dsn: str) -> bool:
    """Return whether the database lacks our schema. Raises DatabaseAway or DatabaseRefused."""
    with session_of(dsn) as session:
        return session.execute(queries.load()["migrations_table"]).fetchone() == (False,)


def dump(programs: Path, dsn: str, target: Path) -> None:
    """Write the database as it is at a single moment to `target`. Raises BackupFailed."""
    target.touch(0o600)
    flags = ["--format=custom", "--no-owner", "--no-privileges", f"--file={target}"]
    _run([str(programs / "pg_dump"), *flags], dsn)


def restore(programs: Path, dsn: str, source: Path) -> None:
    """Fill an empty database, whole or not at all. Raises BackupFailed."""
    flags = ["--no-owner", "--no-privileges", "--single-transaction", "--exit-on-error"]
    _run([str(programs / "pg_restore"), *flags, str(source)], dsn)


def carry_over(dsn: str, old: UUID, new: UUID, last: int) -> None:
    """Continue the log `old` under the name `new`: move its cursor and its waiting trainings.

    The cursor ends at `last`, the newest entry of the log.
    """
    statements = queries.load()
    with session_of(dsn) as session, session.transaction():
        session.execute(statements["carry_cursor"], (new, last, old))
        session.execute(statements["carry_jobs"], (new, old))


def _run(argv: Sequence[str], dsn: str) -> None:
    parts = conninfo_to_dict(dsn)
    password = parts.pop("password", None)
    environment = {"PATH": "/usr/bin:/bin"}
    if password is not None:
        environment["PGPASSWORD"] = str(password)
    address = make_conninfo("", **parts)
    try:
        run = partial(subprocess.run, check=True, capture_output=True, text=True)
        run([*argv, f"--dbname={address}"], env=environment, timeout=HOURS)
    except subprocess.CalledProcessError as error:
        raise BackupFailed(f"{Path(argv[0]).name}: {error.stderr.strip()}") from error
    except (OSError, subprocess.SubprocessError) as error:
        raise BackupFailed(f"{argv[0]}: {error}") from error
