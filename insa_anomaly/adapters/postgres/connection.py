"""One connection to PostgreSQL that comes back by itself, answers within its deadline, and raises only our errors."""

import os
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Self, TypeAlias

import psycopg
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from psycopg.pq import TransactionStatus
from psycopg.rows import TupleRow

from insa_anomaly.adapters.postgres import queries
from insa_anomaly.adapters.postgres.deadline import Deadline
from insa_anomaly.errors import DatabaseAway, DatabaseRefused, RowsRefused

Session: TypeAlias = psycopg.Connection[TupleRow]

_DEFAULTS = {
    "application_name": "insa-anomaly",
    "connect_timeout": "3",
    "target_session_attrs": "read-write",
    "keepalives_idle": "5",
    "tcp_user_timeout": "10000",
}
# A failed connection carries no SQLSTATE; these words of its message mean that waiting does not help.
_REFUSALS = (
    "authentication failed",
    "no password supplied",
    "pg_hba.conf",
    "does not exist",
    "permission denied",
)
OF_A_ROW = (psycopg.DataError, psycopg.IntegrityError)  # SQLSTATE classes 22 and 23
_REFUSED = (psycopg.ProgrammingError, psycopg.NotSupportedError)


class Connection:
    """A connection made when it is first needed, and again after it was lost. For one thread at a time.

    `dsn` is an address in libpq's form; what it leaves open is set so that a dead peer is noticed. `adapters/targets/deadline` is in seconds, for all
    that happens in one session. `prepare` is called with every new connection, before its first use. To `administer`, root comes to a
    socket as the account that runs the server.
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

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection and end the thread of its deadline."""
        self._discard()
        self._deadline.close()

    @contextmanager
    def session(self) -> Iterator[Session]:
        """The live connection, in autocommit, for a block bounded by the deadline.

        Raises DatabaseAway (the same may succeed later) or DatabaseRefused (it would be refused again). A block that fails in a
        transaction loses the connection, so that nothing of it can reach the next.
        """
        try:
            session, guarded = self._live()
            with self._deadline.guard(guarded):
                yield session
        except psycopg.Error as error:
            if isinstance(error, psycopg.errors.ReadOnlySqlTransaction):
                self._discard()  # the server became a standby: a new connection finds the one that takes over, where the address names it
            raise _ours(error) from error
        finally:
            if (
                self._session is not None
                and self._session.info.transaction_status != TransactionStatus.IDLE
            ):
                self._discard()

    def _live(self) -> tuple[Session, socket.socket]:
        if self._session is None or self._socket is None or self._session.closed:
            self._discard()
            self._session, self._socket = self._connected()
        return self._session, self._socket

    def _connected(self) -> tuple[Session, socket.socket]:
        with _account(self._conninfo if self._administer else None):
            session = psycopg.connect(self._conninfo, autocommit=True)
        # A duplicate: the driver closes its own as soon as it finds it dead, and the number may then name another file.
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


def _close(session: Session, guarded: socket.socket) -> None:
    with suppress(OSError):  # the server may have closed it already
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
        # Without its cause: the driver's message quotes the address, and that may hold a password.
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
    """The connection string for a session with the rights of this role alone, where there is one; the login must be a member of it."""
    if role is None:
        return dsn
    options = str(conninfo_to_dict(dsn).get("options") or "")
    return make_conninfo(dsn, options=f"{options} -c role={role}".strip())


@contextmanager
def _account(dsn: str | None) -> Iterator[None]:
    """Root over a socket is nobody to PostgreSQL; the account that runs the server is its superuser.

    Only while a connection is made: that account may not even read where Python lies.
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
    """The connection string for this login, which has a way of its own to prove who it is."""
    return make_conninfo("", **{**_words(dsn), "user": login, "password": None})


def with_password(dsn: str, password: str | None) -> str:
    """The connection string with the password in it, where there is one."""
    return dsn if password is None else make_conninfo(dsn, password=password)
