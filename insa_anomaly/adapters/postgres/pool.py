"""A few connections for many threads.

The connection used last is taken first, so that a quiet daemon opens a single connection.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from queue import Empty, LifoQueue
from typing import Any

from insa_anomaly.adapters.postgres import queries
from insa_anomaly.adapters.postgres.connection import PostgresConnection, Session
from insa_anomaly.errors import DatabaseAway
from insa_anomaly.ports.anomalies import PageCursor
from insa_anomaly.ports.closing import Closing


class Pool(Closing):
    """Connections for any thread, each made when it is first needed.

    `deadline` is in seconds and holds for the wait for a connection and for each session.
    """

    def __init__(self, dsn: str, deadline: float = 10.0, size: int = 4) -> None:
        self._dsn = dsn
        self._deadline = deadline
        self._connections = [PostgresConnection(dsn, deadline) for _ in range(size)]
        self._free: LifoQueue[PostgresConnection] = LifoQueue()
        for connection in self._connections:
            self._free.put(connection)

    def close(self) -> None:
        """Close all connections; a connection in use is closed once it comes back or fails."""
        connections, self._connections = self._connections, []
        until = time.monotonic() + self._deadline
        for _ in connections:
            with suppress(Empty):
                self._free.get(timeout=max(0.0, until - time.monotonic()))
        for connection in connections:
            connection.close()

    def apart(self) -> PostgresConnection:
        """Return a new connection that the caller owns, for state that outlives a statement."""
        return PostgresConnection(self._dsn, self._deadline)

    @contextmanager
    def session(self) -> Iterator[Session]:
        """Yield a live connection, in autocommit, for this block alone.

        Raises DatabaseAway or DatabaseRefused.
        """
        if not self._connections:
            raise DatabaseAway("The connections to the database are closed")
        try:
            connection = self._free.get(timeout=self._deadline)
        except Empty:
            raise DatabaseAway("Every connection to the database is busy") from None
        try:
            with connection.session() as session:
                yield session
        finally:
            self._free.put(connection)


class PooledTables:
    """Tables behind a pool, read and changed by named queries. Any thread may call.

    Any call may raise DatabaseAway or DatabaseRefused.
    """

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._statements = queries.load()

    def _rows(self, name: str, values: Any = ()) -> list[Any]:  # noqa: ANN401 - of any query
        with self._pool.session() as session:
            return session.execute(self._statements[name], values, prepare=False).fetchall()

    def _page(
        self, name: str, wanted: dict[str, Any], after: PageCursor | None, most: int
    ) -> list[Any]:
        """Return the newest `most` rows that are wanted, or the `most` after a place."""
        time, last_id = after or (None, None)
        place = {"after_time": time, "after_id": last_id, "most": most}
        return self._rows(name, {**wanted, **place})

    def _change(self, name: str, values: Any = ()) -> int:  # noqa: ANN401
        """Return the number of changed rows."""
        with self._pool.session() as session:
            return session.execute(self._statements[name], values, prepare=False).rowcount
