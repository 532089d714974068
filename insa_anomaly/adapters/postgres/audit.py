"""The audit log: each change, with its user and origin. Rows can only be added and read."""

from insa_anomaly.adapters.postgres import queries
from insa_anomaly.adapters.postgres.pool import Pool
from insa_anomaly.adapters.postgres.text import document, storable
from insa_anomaly.ports.audit import Change


class PostgresAudit:
    """The table `audit_log`. Any thread may call."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._statement = queries.load()["audit"]

    def write(self, change: Change) -> None:
        """Add a row; it is committed when this method returns.

        Raises DatabaseAway or DatabaseRefused; the caller must then not make the change.
        """
        before, after = (
            None if value is None else document(value) for value in (change.before, change.after)
        )
        row = (
            storable(change.who),
            storable(change.origin),
            change.action,
            storable(change.subject),
            before,
            after,
        )
        with self._pool.session() as session:
            session.execute(self._statement, row)
