"""`ml_models` when an operator changes a model; at swaps, the record reader writes the table."""

from insa_anomaly.adapters.postgres.pool import PooledTables
from insa_anomaly.adapters.postgres.text import document
from insa_anomaly.ports.models import ModelRow


class PostgresCatalogue(PooledTables):
    """The table `ml_models`."""

    def put(self, row: ModelRow) -> None:
        """Write the row as it is now; an active row archives the active row before it.

        Raises DatabaseAway or DatabaseRefused.
        """
        with self._pool.session() as session, session.transaction():
            if row.status == "active":
                session.execute(self._statements["retire_model"], (*row.key, row.id))
            session.execute(self._statements["put_model"], (document(row),))
