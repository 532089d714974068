"""Rights in the database: an owner of the tables, a group for each part of the daemon, a login.

The login is a member of every group.
"""

from psycopg import sql

from insa_anomaly.adapters.postgres import queries
from insa_anomaly.adapters.postgres.connection import Session, as_role, session_of
from insa_anomaly.adapters.postgres.schema import migrate

OWNER, INGEST, API, AUDIT, KEYS = "insa_owner", "insa_ingest", "insa_api", "insa_audit", "insa_keys"
GROUPS = (INGEST, API, AUDIT, KEYS)


def migrate_as_owner(dsn: str) -> list[str]:
    """Bring the schema up to date as the role that owns it, and grant the groups their rights.

    The groups get rights only if all of them exist. `dsn` is of a superuser, of the owner or of a
    member of the owner. Raises the errors of `migrate`.
    """
    with session_of(dsn, administer=True) as session:
        owner = _owner(session) or (OWNER if _exists(session, OWNER) else None)
    applied = migrate(as_role(dsn, owner), administer=True)
    with session_of(as_role(dsn, owner), administer=True) as session:
        if all(_exists(session, group) for group in GROUPS):
            session.execute(queries.load()["share_out"], GROUPS)
    return applied


def are_given(dsn: str, login: str) -> bool:
    """Return whether `create_roles` and `migrate_as_owner` have no work left in this database.

    Roles belong to the whole server, rights to a database. Raises DatabaseAway or DatabaseRefused.
    """
    named = {"owner": OWNER, "login": login, "groups": list(GROUPS), "ingest": INGEST}
    with session_of(dsn, administer=True) as session:
        if not all(_exists(session, name) for name in (OWNER, *GROUPS, login)):
            return False
        return session.execute(queries.load()["roles_are_given"], named).fetchone() == (True,)


def create_roles(dsn: str, login: str) -> list[str]:
    """Create the missing roles, make the login a member of the groups; return the names created.

    `dsn` is of a superuser. The login gets no password: the administrator chooses between peer
    authentication, a certificate and `ALTER ROLE`. Raises DatabaseAway or DatabaseRefused.
    """
    with session_of(dsn, administer=True) as session, session.transaction():
        made = [name for name in (OWNER, *GROUPS, login) if not _exists(session, name)]
        for name in made:
            kind = "LOGIN CONNECTION LIMIT 50" if name == login else "NOLOGIN"
            session.execute(sql.SQL(f"CREATE ROLE {{}} {kind}").format(sql.Identifier(name)))
        names = {
            "groups": sql.SQL(", ").join(map(sql.Identifier, GROUPS)),
            "login": sql.Identifier(login),
            "owner": sql.Identifier(OWNER),
        }
        session.execute(sql.SQL("GRANT {groups} TO {login}").format(**names))
        here = session.execute("SELECT current_schema(), current_database()").fetchone()
        schema, database = here or ("public", "")
        place = {"schema": sql.Identifier(schema), "database": sql.Identifier(database), **names}
        for statement in (
            "ALTER SCHEMA {schema} OWNER TO {owner}",
            "REVOKE ALL ON DATABASE {database} FROM PUBLIC",
            "GRANT CONNECT ON DATABASE {database} TO {owner}, {login}",
        ):
            session.execute(sql.SQL(statement).format(**place))
    return made


def _exists(session: Session, name: str) -> bool:
    found = session.execute("SELECT FROM pg_roles WHERE rolname = %s", (name,))
    return found.fetchone() is not None


def _owner(session: Session) -> str | None:
    """Return the owner of the schema's tables; None if the database has no schema yet."""
    row = session.execute(
        "SELECT tableowner FROM pg_tables"
        " WHERE tablename = 'schema_migrations' AND schemaname = current_schema()"
    ).fetchone()
    return None if row is None else str(row[0])
