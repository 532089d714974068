"""The sections of config.yaml, a class each; core's own parameters are core's classes."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from insa_anomaly.core.bounds import Count, Nonnegative, Positive, Share, Significance
from insa_anomaly.core.device.detector import DeviceParameters
from insa_anomaly.core.learning.parameters import Parameters
from insa_anomaly.core.notification.routing import Route
from insa_anomaly.core.operations.model_health import Limits
from insa_anomaly.settings.kinds import Filled, Port, WebAddress, network, redis_address, sheltered


@dataclass(frozen=True)
class BrokerSettings:
    """The MQTT broker, and how the daemon presents itself.

    `reader: stock` reads with paho's own loop, which is slower. `canary` is the topic under which
    the daemon publishes to itself to prove that the broker delivers.
    """

    host: str = "127.0.0.1"
    port: Port = 1883
    client_id: Annotated[str, Field(min_length=1, max_length=200)] = "insa-anomaly"
    username: str | None = None
    password_file: Path | None = None
    keepalive: Annotated[int, Field(ge=5, le=120)] = 15
    session_expiry: Annotated[int, Field(ge=0, lt=0xFFFFFFFF)] = 604800
    reader: Literal["fast", "stock"] = "fast"
    canary: (
        Annotated[str, Field(min_length=1, max_length=200, pattern=r"^[^+#[:cntrl:]]+$")] | None
    ) = "insa/iiot/ml/canary"
    tls: bool = False
    ca_file: Path | None = None
    certificate_file: Path | None = None
    key_file: Path | None = None

    def __post_init__(self) -> None:
        """Raise ValueError for files that would not be used."""
        if self.certificate_file and not (self.tls or self.ca_file):
            raise ValueError("certificate_file needs TLS: set tls, or ca_file")
        if self.key_file and not self.certificate_file:
            raise ValueError("key_file belongs to a certificate_file")


@dataclass(frozen=True)
class IntakeSettings:
    """A write to disk serves many messages: it waits for `messages` of them, `seconds` at most.

    At most `waiting` messages of `waiting_bytes` stand between the broker and the disk; a message
    that finds no room for `patience` seconds goes back to the broker. `linger` seconds pass between
    two reads of a busy connection, so that a read takes many messages.
    """

    messages: Count = 500
    seconds: Positive = 0.008
    waiting: Count = 20_000
    waiting_bytes: Count = 64 << 20
    patience: Positive = 5.0
    linger: Annotated[float, Field(ge=0, le=1)] = 0.002


@dataclass(frozen=True)
class RecordSettings:
    """Readings a transaction, seconds it waits for more (`linger`), and pauses between attempts.

    For every reason of rejection, `letters_an_hour` of `letter_bytes_an_hour` dead letters are
    kept; beyond that a sample.
    """

    readings: Count = 10_000
    linger: Annotated[float, Field(ge=0, le=60)] = 0.1
    first_retry: Positive = 0.2
    last_retry: Positive = 10.0
    letters_an_hour: Count = 10_000
    letter_bytes_an_hour: Count = 64 << 20


@dataclass(frozen=True)
class TrainingSettings:
    """Whether series train themselves, and devices all their metrics together.

    `burst` trainings may start at once and then `a_minute`; each takes `deadline` seconds at most.
    `jobs` trainings asked for by hand may wait. Many trainings asked for at once are done by
    `processes` on this machine, or by the workers of a `dask_scheduler`.
    """

    automatic: bool = True
    devices: bool = True
    burst: Count = 5000
    a_minute: Positive = 50.0
    deadline: Positive = 300.0
    retry_after: Positive = 60.0
    waiting: Count = 20_000
    jobs: Count = 100
    processes: Annotated[int, Field(ge=1, le=64)] = 2
    dask_scheduler: Annotated[str, AfterValidator(sheltered)] | None = None


@dataclass(frozen=True)
class DevicesSettings:
    """How the metrics of a device are learnt together, where that differs from `detection`.

    Readings of different metrics within `tolerance` seconds of each other are a row; a row whose
    p-value is below `alpha` is anomalous.
    """

    tolerance: Nonnegative = 1.0
    alpha: Significance = DeviceParameters.alpha

    def parameters(self, detection: Parameters) -> DeviceParameters:
        """Return the parameters of devices: `detection` with an alpha of their own."""
        shared = {name: getattr(detection, name) for name in DeviceParameters.__dataclass_fields__}
        return DeviceParameters(**(shared | {"alpha": self.alpha}))


@dataclass(frozen=True)
class StorageSettings:
    """Where the log and the states are, and how often (seconds) states are checkpointed.

    The log grows to `log_bytes`. `reserve_bytes` of the disk are held back for the day on which it
    is full; while they cannot be held, intake takes no message.
    """

    directory: Path = Path("/var/lib/insa-anomaly")
    checkpoint_seconds: Positive = 10.0
    log_bytes: Annotated[int, Field(ge=1 << 20)] = 8 << 30
    reserve_bytes: Annotated[int, Field(ge=0)] = 64 << 20


@dataclass(frozen=True)
class DatabaseSettings:
    """PostgreSQL; without a `url` the embedded server (extra `embedded`) in the storage directory.

    With `roles` each part of the daemon has the rights of its group alone.
    """

    url: str | None = None
    password_file: Path | None = None
    deadline: Positive = 10.0
    roles: bool = False


@dataclass(frozen=True)
class RetentionSettings:
    """Days for which the database keeps its rows; None keeps them for ever.

    The audit log keeps two years at least.
    """

    telemetry: Positive | None = 90.0
    anomalies: Positive | None = 730.0
    dead_letters: Positive | None = 30.0
    audit: Annotated[float, Field(ge=731, allow_inf_nan=False)] | None = 731.0


@dataclass(frozen=True)
class RedisSettings:
    """Redis or Valkey; without a `url` the daemon works without it."""

    url: Annotated[str, AfterValidator(redis_address)] | None = None
    password_file: Path | None = None


@dataclass(frozen=True)
class HttpSettings:
    """The admin port; it speaks TLS with a certificate and its key (PEM files).

    It answers for its address and the names in `hosts`. A key has `predictions_a_minute`. A request
    must be complete within `request_seconds`.
    """

    enabled: bool = True
    host: str = "127.0.0.1"
    port: Annotated[int, Field(ge=0, le=65535)] = 8787
    hosts: tuple[Filled, ...] = ("localhost", "127.0.0.1", "::1")
    certificate_file: Path | None = None
    key_file: Path | None = None
    predictions_a_minute: Count = 100
    request_seconds: Annotated[float, Field(ge=1, le=600)] = 20.0

    def __post_init__(self) -> None:
        """Raise ValueError where only one of the two files is named."""
        if (self.certificate_file is None) != (self.key_file is None):
            raise ValueError("certificate_file and key_file are named together or not at all")


@dataclass(frozen=True)
class ModelsSettings:
    """Where models are, and the files with the keys that authenticate and seal them.

    `max_bytes` of memory for models limit the number of series.
    """

    directory: Path = Path("/var/lib/insa-iiot/ml_models")
    key_file: Path = Path("/var/lib/insa-anomaly/model.key")
    encryption_key_file: Path | None = None
    max_bytes: Annotated[int, Field(ge=1 << 20)] = 1 << 30


@dataclass(frozen=True)
class HealthSettings(Limits):
    """The daily health check: its `hour` (UTC) or None, its pause after a start, and its limits."""

    hour: Annotated[int, Field(ge=0, le=23)] | None = 2
    settle: Annotated[float, Field(ge=0, le=86_400)] = 300.0


@dataclass(frozen=True)
class SupervisionSettings:
    """Silent seconds after which a thread counts as stuck and the process ends, to be restarted."""

    stuck_seconds: Annotated[float, Field(ge=10, le=3600)] = 60.0


@dataclass(frozen=True)
class WebhookSettings:
    """A URL to which alerts are posted as JSON, signed with the secret in the file."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]{1,40}$")]
    url: WebAddress
    secret_file: Path | None = None

    @property
    def target(self) -> str:
        """Name by which routes choose this webhook."""
        return f"webhook:{self.name}"


@dataclass(frozen=True)
class AlertsSettings:
    """Alerts beside MQTT, delivered where a mail server, webhook or repository is set."""

    routes: tuple[Route, ...] = (Route(),)
    webhooks: tuple[WebhookSettings, ...] = ()
    allowed_networks: tuple[Annotated[str, AfterValidator(network)], ...] = ()
    daily_budget: Annotated[int, Field(ge=2)] = 50
    summary_seconds: Positive = 3600.0
    keep_seconds: Positive = 86400.0
    critical_confidence: Share = 0.9
    deadline: Annotated[float, Field(gt=0, le=60)] = 10.0
    first_retry: Positive = 2.0
    last_retry: Positive = 900.0
    link: str | None = None

    def __post_init__(self) -> None:
        """Raise ValueError where two webhooks have the same name."""
        if len({webhook.name for webhook in self.webhooks}) < len(self.webhooks):
            raise ValueError("two webhooks have the same name")


@dataclass(frozen=True)
class MailSettings:
    """Alerts by mail, where a `host` is set. `security` none is for a relay on this machine."""

    host: str | None = None
    port: Port = 587
    security: Literal["starttls", "tls", "none"] = "starttls"
    ca_file: Path | None = None
    username: str | None = None
    password_file: Path | None = None
    sender: Filled = "insa-anomaly@localhost"
    recipients: tuple[Filled, ...] = ()

    def __post_init__(self) -> None:
        """Raise ValueError for settings that send no mail, or a password in the clear."""
        if self.host and not self.recipients:
            raise ValueError("recipients are missing")
        if self.username and self.security == "none":
            raise ValueError("a password is not sent without TLS: set security to starttls or tls")


@dataclass(frozen=True)
class GithubSettings:
    """Issues about models on GitHub or a server with its API, for a `repository` (owner/name)."""

    repository: Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]+/[A-Za-z0-9_.-]+$")] | None = None
    token_file: Path | None = None
    url: WebAddress = "https://api.github.com"
    ca_file: Path | None = None


@dataclass(frozen=True)
class LoggingSettings:
    """Level and form of the log; `form` auto prints lines on a terminal, JSON elsewhere."""

    level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    form: Literal["auto", "json", "console"] = "auto"
