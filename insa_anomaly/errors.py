"""What can break, one class each; the docstring is the message where none is given.

Bad input is not here: it is a value (`core.reading.parser.Rejected`).
"""


class InsaError(Exception):
    """Something in insa-anomaly broke."""

    def __init__(self, message: str = "") -> None:
        super().__init__(message or (type(self).__doc__ or "").strip())


class ConfigError(InsaError):
    """The configuration cannot be used."""


class BrokerAway(InsaError):
    """The MQTT broker is not connected."""


class BrokerRefused(InsaError):
    """The MQTT broker refuses us."""


class DatabaseAway(InsaError):
    """PostgreSQL does not answer; the same call may succeed later."""


class DatabaseTaken(DatabaseAway):
    """Another daemon with our client id records into this database."""


class DatabaseRefused(InsaError):
    """PostgreSQL answers and refuses; the same call would be refused again."""


class RowsRefused(DatabaseRefused):
    """PostgreSQL refuses what a row holds; without it the rest may be taken."""


class MigrationError(DatabaseRefused):
    """The database's schema and this version's migrations disagree."""


class LogBroken(InsaError):
    """The log of incoming messages cannot be written or read."""


class LogDamaged(LogBroken):
    """The log of incoming messages is there, and is not what was written."""


class LogFull(LogBroken):
    """The log of incoming messages has its full size; it has room again once what is in it is dealt with."""


class LogDead(LogBroken):
    """The device failed under the log of incoming messages, which must be opened anew before it is written again."""


class StateBroken(InsaError):
    """The file of states, results and outgoing events cannot be written or read."""


class StateUnwritable(StateBroken):
    """The disk does not take the states now; the same call may succeed later."""


class StateDamaged(StateBroken):
    """The file of states is there, and is not what was written."""


class AlertsBroken(InsaError):
    """The file of alerts cannot be written or read."""


class AlertsDamaged(AlertsBroken):
    """The file of alerts is there, and is not what was written."""


class CacheAway(InsaError):
    """Redis does not answer; nothing is lost by that, and the latest results are not shown."""


class TargetAway(InsaError):
    """Whoever is to hear of an alert cannot be reached; the same call may succeed later."""

    def __init__(self, message: str = "", retry_seconds: float | None = None) -> None:
        super().__init__(message)
        self.retry_seconds = retry_seconds


class TargetRefused(InsaError):
    """Whoever is to hear of an alert refuses it; it would be refused again."""


class DiskUnreadable(InsaError):
    """What is stored cannot be looked at."""


class ModelFileError(InsaError):
    """A model's files are missing, altered or of another version."""


class ModelStorageError(ModelFileError):
    """The disk does not give a model's files; the same call may succeed later."""


class TrainingError(InsaError):
    """A model cannot be trained on this data."""


class NotFound(InsaError):
    """There is no such thing."""


class Conflict(InsaError):
    """The thing is not in a state in which this can be done."""


class TooMany(InsaError):
    """There is no room for more of this now; the same may succeed later."""

    def __init__(self, message: str = "", retry_seconds: float = 1.0) -> None:
        super().__init__(message)
        self.retry_seconds = retry_seconds


class TooLarge(InsaError):
    """More than is taken at once; the same would be refused again."""


class NotEnoughData(TrainingError):
    """There are too few readings to train on."""


class ServiceError(InsaError):
    """An embedded service (PostgreSQL, Valkey, broker) cannot be started."""


class FileFormatError(InsaError):
    """A file of recorded readings cannot be understood."""


class PlotUnavailable(InsaError):
    """A picture needs plotly: install insa-anomaly with its extra `plot`."""


class BackupFailed(InsaError):
    """The backup could not be taken or restored."""


class InstallationFailed(InsaError):
    """The service could not be installed."""


class AddressInUse(InsaError):
    """The HTTP port is taken by another process."""


class DaemonSilent(InsaError):
    """The daemon does not answer its own admin port."""


class AlreadyRunning(InsaError):
    """Another daemon has our storage directory, or our client id."""
