"""The schema: numbered SQL files, each applied once, in order, in a transaction of its own."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from importlib import resources

from insa_anomaly.adapters.postgres import queries
from insa_anomaly.adapters.postgres.connection import Session, session_of
from insa_anomaly.errors import MigrationError

# Time to see whether any migration is pending. A frozen server must not hold the caller for as
# long as a migration may take.
LOOK_SECONDS = 10.0


@dataclass(frozen=True)
class Migration:
    """A step of the schema, as shipped."""

    version: int
    name: str
    statements: bytes

    @property
    def sha256(self) -> str:
        """Digest that distinguishes an applied migration from a file changed afterwards."""
        return sha256(self.statements).hexdigest()


def shipped() -> list[Migration]:
    """Return the migrations of this version, in order."""
    folder = resources.files(__package__).joinpath("sql")
    return [
        Migration(int(file.name[:4]), file.name.removesuffix(".sql"), file.read_bytes())
        for file in sorted(folder.iterdir(), key=lambda file: file.name)
        if file.name[:4].isdigit()
    ]


def migrate(
    dsn: str,
    deadline: float = 600.0,
    migrations: Sequence[Migration] | None = None,
    *,
    administer: bool = False,
) -> list[str]:
    """Bring the database to this version's schema; return the names of the migrations applied.

    Many processes may call it at once. Raises MigrationError (an applied file was changed, or the
    database is newer than the program), DatabaseAway, DatabaseRefused.
    """
    known = shipped() if migrations is None else list(migrations)
    statements = queries.load()
    with session_of(dsn, min(deadline, LOOK_SECONDS), administer=administer) as session:
        if not pending(known, _look(session, statements)):
            return []
    with session_of(dsn, deadline, administer=administer) as session:
        session.execute(
            b"SELECT set_config('lock_timeout', '0', false),"
            b" set_config('statement_timeout', '0', false)"
        )
        session.execute(statements["one_at_a_time"])
        done = pending(known, _applied(session, statements))
        for migration in done:
            _apply(session, statements, migration)
    return [migration.name for migration in done]


def is_up_to_date(dsn: str) -> bool:
    """Return whether no migration is pending, as an administrator sees the database.

    Raises MigrationError, DatabaseAway, DatabaseRefused.
    """
    with session_of(dsn, LOOK_SECONDS, administer=True) as session:
        return not pending(shipped(), _look(session, queries.load()))


def pending(known: Sequence[Migration], applied: Mapping[int, tuple[str, str]]) -> list[Migration]:
    """Return the migrations still to be applied. Raises MigrationError.

    `applied` holds name and sha256 by version.
    """
    by_version = {migration.version: migration for migration in known}
    for version, (name, digest) in applied.items():
        if version not in by_version:
            raise MigrationError(
                f"The database has migration {name}, which this version does not know:"
                " it was set up by a newer one"
            )
        if by_version[version].sha256 != digest:
            said = "was changed after it was applied to this database"
            raise MigrationError(f"Migration {name} {said}")
    return [migration for migration in known if migration.version not in applied]


def _look(session: Session, statements: Mapping[str, bytes]) -> dict[int, tuple[str, str]]:
    """Return name and sha256 of each applied migration, by version; change no table."""
    if session.execute(statements["migrations_table"]).fetchone() == (False,):
        return {}
    return {
        version: (name, digest)
        for version, name, digest in session.execute(statements["migrations"])
    }


def _applied(session: Session, statements: Mapping[str, bytes]) -> dict[int, tuple[str, str]]:
    if session.execute(statements["migrations_table"]).fetchone() == (False,):
        session.execute(statements["add_migrations_table"])
    return _look(session, statements)


def _apply(session: Session, statements: Mapping[str, bytes], migration: Migration) -> None:
    with session.transaction():
        session.execute(migration.statements)
        row = (migration.version, migration.name, migration.sha256)
        session.execute(statements["add_migration"], row)
