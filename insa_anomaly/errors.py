"""Errors, a class each; the docstring of a class is its default message.

Bad input is no error but a value (`core.reading.reading.Rejected`).
"""


class InsaError(Exception):
    """An operation of insa-anomaly failed."""

    def __init__(self, message: str = "") -> None:
        super().__init__(message or (type(self).__doc__ or "").strip())


class ParameterError(InsaError, ValueError):
    """A parameter is out of its bounds."""

    def __init__(self, name: str, value: object, allowed: str) -> None:
        super().__init__(f"{name} is {value!r}; it must be {allowed}")
        self.name = name
        self.value = value
        self.allowed = allowed


class ConfigError(InsaError):
    """The configuration cannot be used."""


class BrokerAway(InsaError):
    """The MQTT broker is not connected."""


class BrokerRefused(InsaError):
    """The MQTT broker refuses the connection."""


class DatabaseAway(InsaError):
    """PostgreSQL does not answer; the same call may succeed later."""


class DatabaseTaken(DatabaseAway):
    """Another daemon with the same client id records into this database."""


class DatabaseRefused(InsaError):
    """PostgreSQL answers and refuses; the same call would be refused again."""


class RowsRefused(DatabaseRefused):
    """PostgreSQL refuses the values of a row; without the row it may accept the rest."""


class MigrationError(DatabaseRefused):
    """The database's schema and this version's migrations disagree."""


class LogBroken(InsaError):
    """The log of incoming messages cannot be written or read."""


class LogDamaged(LogBroken):
    """The log of incoming messages exists, but its content is not as written."""


class LogFull(LogBroken):
    """The log of incoming messages is full; it has room again once its readers catch up."""


class LogDead(LogBroken):
    """The device failed under the log of incoming messages, which must be opened anew."""


class StateBroken(InsaError):
    """The file of states, results and outgoing events cannot be written or read."""


class StateUnwritable(StateBroken):
    """The disk does not accept the states now; the same call may succeed later."""


class StateDamaged(StateBroken):
    """The file of states exists, but its content is not as written."""


class AlertsBroken(InsaError):
    """The file of alerts cannot be written or read."""


class AlertsDamaged(AlertsBroken):
    """The file of alerts exists, but its content is not as written."""


class CacheAway(InsaError):
    """Redis does not answer; no data is lost, but the latest results are not shown."""


class TargetAway(InsaError):
    """The target of an alert cannot be reached; the same call may succeed later."""

    def __init__(self, message: str = "", retry_seconds: float | None = None) -> None:
        super().__init__(message)
        self.retry_seconds = retry_seconds


class TargetRefused(InsaError):
    """The target of an alert refuses the alert; the same call would be refused again."""


class DiskUnreadable(InsaError):
    """The files on disk cannot be inspected."""


class ModelFileError(InsaError):
    """A model's files are missing, altered or of another version."""


class ModelStorageError(ModelFileError):
    """The disk does not return a model's files; the same call may succeed later."""


class TrainingError(InsaError):
    """A model cannot be trained on this data."""


class NotFound(InsaError):
    """The requested object does not exist."""


class Conflict(InsaError):
    """The state of the object does not allow this operation."""


class TooMany(InsaError):
    """There is no room for another at the moment; the same call may succeed later."""

    def __init__(self, message: str = "", retry_seconds: float = 1.0) -> None:
        super().__init__(message)
        self.retry_seconds = retry_seconds


class TooLarge(InsaError):
    """The request exceeds a limit; the same request would be refused again."""


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
    """Another daemon uses the same storage directory or the same client id."""
