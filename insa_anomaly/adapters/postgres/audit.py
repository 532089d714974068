"""The audit log: each change, with its user and origin. Rows can only be added and read."""

from insa_anomaly.adapters.postgres.pool import PooledTables
from insa_anomaly.adapters.postgres.text import document, storable
from insa_anomaly.ports.audit import Change


class PostgresAudit(PooledTables):
    """The table `audit_log`."""

    def write(self, change: Change) -> None:
        """Add a row; it is committed when this method returns.

        Raises DatabaseAway or DatabaseRefused; the caller must then not make the change.
        """
        before, after = (
            None if value is None else document(value) for value in (change.before, change.after)
        )
        who, origin, subject = map(storable, (change.who, change.origin, change.subject))
        self._change("audit", (who, origin, change.action, subject, before, after))
