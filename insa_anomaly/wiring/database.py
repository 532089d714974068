"""The database: the configured database, else an embedded server."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from queue import Empty, SimpleQueue
from threading import Lock, Thread
from uuid import UUID

from insa_anomaly.adapters import embedded
from insa_anomaly.adapters.postgres import roles
from insa_anomaly.adapters.postgres.connection import as_role, with_password
from insa_anomaly.adapters.postgres.recorder import Claim, PostgresRecorder
from insa_anomaly.adapters.postgres.schema import migrate
from insa_anomaly.errors import AlreadyRunning, DatabaseAway, DatabaseTaken, InsaError
from insa_anomaly.instrumentation.recorder import database_away
from insa_anomaly.ports.recorder import Page
from insa_anomaly.settings.load import Settings
from insa_anomaly.settings.secrets import secret

START_SECONDS = 2.0  # a start waits for the database; readings are taken without it


@contextmanager
def database(settings: Settings) -> Iterator[str]:
    """Yield the connection string while the block runs.

    An embedded server lives as long as the block, unless another process runs it already.
    """
    address, data = settings.database, settings.storage.directory / "database"
    if address.url is not None:
        yield with_password(address.url, secret(address.password_file))
    elif (running := embedded.running_postgres(data)) is not None:
        yield running
    else:
        with embedded.postgres(data) as dsn:
            yield dsn


class UpToDate:
    """A recorder that migrates the schema when it first reaches the database."""

    def __init__(self, recorder: PostgresRecorder, dsn: str) -> None:
        self._recorder = recorder
        self._dsn = dsn
        self._migrated = False
        # The attempt of the start may still be under way when the record reader begins.
        self._lock = Lock()

    def cursor(self, log_id: UUID) -> int:
        """Return the recorder's cursor, after the migrations."""
        with self._lock:
            if not self._migrated:
                migrate(self._dsn)
                self._migrated = True
            return self._recorder.cursor(log_id)

    def record(self, page: Page) -> None:
        """Record a page."""
        with self._lock:
            self._recorder.record(page)

    def attempt(self, seconds: float) -> None:
        """Reach the database once.

        Raises DatabaseAway where that takes longer than `seconds`, or DatabaseRefused.
        """
        answers: SimpleQueue[InsaError | None] = SimpleQueue()
        Thread(target=self._try, args=(answers,), name="database", daemon=True).start()
        try:
            error = answers.get(timeout=seconds)
        except Empty:
            raise DatabaseAway(f"no answer within {seconds:.0f} s") from None
        if error is not None:
            raise error

    def _try(self, answers: "SimpleQueue[InsaError | None]") -> None:
        failure = None
        try:
            self.cursor(UUID(int=0))
        except InsaError as error:
            failure = error
        answers.put(failure)


@contextmanager
def recorder(dsn: str, settings: Settings, log_id: UUID) -> Iterator[UpToDate]:
    """Open a recorder while the block runs.

    A database that refuses ends the start with its reason, a database that is unreachable does not.
    Raises AlreadyRunning too.
    """
    claim = Claim(settings.broker.client_id, log_id)
    ingest = as_role(dsn, roles.INGEST if settings.database.roles else None)
    deadline, keep_days = settings.database.deadline, asdict(settings.retention)
    with PostgresRecorder(ingest, deadline, claim=claim, keep_days=keep_days) as inner:
        prepared = UpToDate(inner, dsn)
        try:
            prepared.attempt(START_SECONDS)
        except DatabaseTaken as error:
            raise AlreadyRunning(str(error)) from error
        except DatabaseAway as error:
            database_away(str(error), settings.record.first_retry)
        yield prepared
