"""A connection to PostgreSQL that reconnects by itself, answers in time, raises only our errors."""

import os
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeAlias

import psycopg
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from psycopg.pq import TransactionStatus
from psycopg.rows import TupleRow

from insa_anomaly.adapters.postgres import queries
from insa_anomaly.adapters.postgres.deadline import Deadline
from insa_anomaly.errors import DatabaseAway, DatabaseRefused, RowsRefused
from insa_anomaly.ports.closing import Closing

Session: TypeAlias = psycopg.Connection[TupleRow]

_DEFAULTS = {
    "application_name": "insa-anomaly",
    "connect_timeout": "3",
    "target_session_attrs": "read-write",
    "keepalives_idle": "5",
    "tcp_user_timeout": "10000",
}
# A failed connection carries no SQLSTATE; with these words in its message, waiting does not help.
_REFUSALS = (
    "authentication failed",
    "no password supplied",
    "pg_hba.conf",
    "does not exist",
    "permission denied",
)
OF_A_ROW = (psycopg.DataError, psycopg.IntegrityError)  # SQLSTATE classes 22 and 23
_REFUSED = (psycopg.ProgrammingError, psycopg.NotSupportedError)


class PostgresConnection(Closing):
    """A connection made when it is first needed and again after a loss; for a single thread.

    `dsn` is an address in libpq's form; settings that it leaves open are chosen so that a dead
    peer is noticed. `deadline` is the time in seconds for all that happens in a session.
    `prepare` is called with every new connection, before its first use. With `administer`, root
    connects to a Unix socket as the account that runs the server.
    """

    def __init__(
        self,
        dsn: str,
        deadline: float = 10.0,
        prepare: Callable[[Session], None] | None = None,
        *,
        administer: bool = False,
    ) -> None:
        self._conninfo = _complete(dsn)
        self._administer = administer
        self._deadline = Deadline(deadline)
        self._prepare = prepare
        self._set_up = queries.load()["set_up"]
        self._session: Session | None = None
        self._socket: socket.socket | None = None

    def close(self) -> None:
        """Close the connection and end the thread of its deadline."""
        self._discard()
        self._deadline.close()

    @contextmanager
    def session(self) -> Iterator[Session]:
        """Yield the live connection, in autocommit, for a block bounded by the deadline.

        Raises DatabaseAway (the same block may succeed later) or DatabaseRefused (it would be
        refused again). A block that fails in a transaction loses the connection, so that none of
        its work can reach the next block.
        """
        try:
            session, guarded = self._live()
            with self._deadline.guard(guarded):
                yield session
        except psycopg.Error as error:
            if isinstance(error, psycopg.errors.ReadOnlySqlTransaction):
                # The server became a standby: where the address names several servers, a new
                # connection finds the new primary.
                self._discard()
            raise _ours(error) from error
        finally:
            left = self._session
            if left is not None and left.info.transaction_status != TransactionStatus.IDLE:
                self._discard()

    def _live(self) -> tuple[Session, socket.socket]:
        if self._session is None or self._socket is None or self._session.closed:
            self._discard()
            self._session, self._socket = self._connected()
        return self._session, self._socket

    def _connected(self) -> tuple[Session, socket.socket]:
        with _account(self._conninfo if self._administer else None):
            session = psycopg.connect(self._conninfo, autocommit=True)
        # A duplicate: the driver closes its own socket as soon as it finds that dead, and the
        # file descriptor may then belong to another file.
        guarded = socket.socket(fileno=os.dup(session.fileno()))
        try:
            with self._deadline.guard(guarded):
                session.execute(self._set_up, {"deadline": f"{self._deadline.seconds:.3f}s"})
                if self._prepare is not None:
                    self._prepare(session)
        except BaseException:
            _close(session, guarded)
            raise
        return session, guarded

    def _discard(self) -> None:
        session, guarded = self._session, self._socket
        self._session = self._socket = None
        if session is not None and guarded is not None:
            _close(session, guarded)


@contextmanager
def session_of(dsn: str, deadline: float = 10.0, *, administer: bool = False) -> Iterator[Session]:
    """Yield the session of a connection that is made for this block alone."""
    with (
        PostgresConnection(dsn, deadline, administer=administer) as connection,
        connection.session() as session,
    ):
        yield session


def _close(session: Session, guarded: socket.socket) -> None:
    with suppress(OSError):  # the server may have closed the socket already
        guarded.shutdown(socket.SHUT_RDWR)
    guarded.close()
    session.close()


def _complete(dsn: str) -> str:
    given = {name: str(value) for name, value in _words(dsn).items() if value is not None}
    return make_conninfo("", **{**_DEFAULTS, **given})


def _words(dsn: str) -> dict[str, Any]:
    try:
        return conninfo_to_dict(dsn)
    except psycopg.Error:
        # Raised without the cause: the driver's message quotes the address and thus a password.
        raise DatabaseRefused("The address of the database cannot be understood") from None


def _ours(error: psycopg.Error) -> DatabaseAway | DatabaseRefused:
    words = " ".join(str(error).split()) or type(error).__name__
    if isinstance(error, OF_A_ROW):
        return RowsRefused(words)
    if isinstance(error, _REFUSED):
        return DatabaseRefused(words)
    if error.sqlstate is None and any(refusal in words for refusal in _REFUSALS):
        return DatabaseRefused(words)
    return DatabaseAway(words)


def as_role(dsn: str, role: str | None) -> str:
    """Return the connection string for a session with the rights of `role` alone; None: unchanged.

    The login must be a member of the role.
    """
    if role is None:
        return dsn
    options = str(conninfo_to_dict(dsn).get("options") or "")
    return make_conninfo(dsn, options=f"{options} -c role={role}".strip())


@contextmanager
def _account(dsn: str | None) -> Iterator[None]:
    """Run the block as the account that runs the server where root connects through a socket.

    PostgreSQL does not know root; the account that runs the server is its superuser. The switch
    covers only the making of a connection: that account may be unable to read Python's own files.
    """
    words = _words(dsn) if dsn and os.geteuid() == 0 else {}
    path = Path(f"{words.get('host')}/.s.PGSQL.{words.get('port') or 5432}")
    if words.get("user") or not path.is_absolute() or not path.exists():
        yield
        return
    os.seteuid(path.stat().st_uid)
    try:
        yield
    finally:
        os.seteuid(0)


def as_login(dsn: str, login: str) -> str:
    """Return the connection string for `login`, without a password: its own proof replaces that."""
    return make_conninfo("", **{**_words(dsn), "user": login, "password": None})


def with_password(dsn: str, password: str | None) -> str:
    """Return the connection string with the password in it, if there is a password."""
    return dsn if password is None else make_conninfo(dsn, password=password)
