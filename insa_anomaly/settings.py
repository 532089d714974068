"""The configuration: `config.yaml` and `INSA_*` variables become one frozen `Settings`. Nothing else reads files or the environment.

A variable beats the file: `INSA_BROKER__HOST` is `broker.host`. Secrets are never settings but files that settings name.
"""

import json
import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from ipaddress import ip_network
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

import yaml
from pydantic import AfterValidator, BeforeValidator, Field, PlainValidator, ValidationError
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
)

from insa_anomaly.core.device.detector import DeviceParameters
from insa_anomaly.core.learning.parameters import Parameters
from insa_anomaly.core.notification.alert import Severity
from insa_anomaly.core.notification.cadence import Patience
from insa_anomaly.core.notification.routing import Route
from insa_anomaly.core.operations.model_health import Limits
from insa_anomaly.core.reading.topics import Acceptance, Subscription
from insa_anomaly.core.scoring.episodes import Policy
from insa_anomaly.errors import ConfigError

SYSTEM_CONFIG = Path("/etc/insa-anomaly/config.yaml")
_PREFIX, _BETWEEN = "INSA_", "__"
_CREDENTIAL = "secret_"  # what systemd puts before the names of files of a folder; the units' `LoadCredential=secret:`
_LEVEL = re.compile(r"\{device_id\}|\{metric_name\}|\+|[^+#{}\0]+")
_NAMED = re.compile(r"(?<=://)[^/\s]*@")  # before the host of an address
_WORD = re.compile(r"(password\s*=\s*)('(\\.|[^'\\])*'|(\\.|[^\s\\])+)")  # among PostgreSQL's
_PARAMETER = re.compile(r"(password=)([^&\s]*)")  # after the path of an address
_TREE_BYTES = 256 * 1024 // 100  # of memory for a tree of a model


def _auto_or(kind: Callable[[Any], float], least: float, most: float) -> PlainValidator:
    """Allows the word auto, and numbers within these bounds."""

    def check(value: object) -> float | str:
        allowed = f"'auto', or a number from {least} to {most}"
        if value == "auto":
            return "auto"
        try:
            number = kind(value)
        except (TypeError, ValueError):
            raise ValueError(allowed) from None
        if not least <= number <= most or (isinstance(value, float) and number != value):
            raise ValueError(allowed)
        return number

    return PlainValidator(check)


def _usable(subscription: Subscription) -> Subscription:
    *levels, last = subscription.topic.split("/")
    if not all(_LEVEL.fullmatch(level) for level in levels) or not (
        last == "#" or _LEVEL.fullmatch(last)
    ):
        raise ValueError(
            "a level of a topic is a word, {device_id}, {metric_name}, + or, as the last one, #"
        )
    return subscription


def _listed(value: object) -> object:
    """A list as it stands in a variable: JSON."""
    return json.loads(value) if isinstance(value, str) else value


def _some(subscriptions: tuple[Subscription, ...]) -> tuple[Subscription, ...]:
    if not subscriptions:
        raise ValueError("at least one is needed")
    return subscriptions


def _sheltered(scheduler: str) -> str:
    """Dask unpickles what it is sent, so whoever can write to it can run programs."""
    parts = urlsplit(scheduler)
    if parts.scheme != "tls" and not (
        parts.scheme == "tcp" and parts.hostname in {"127.0.0.1", "::1", "localhost"}
    ):
        raise ValueError("tls://host:port, or tcp://127.0.0.1:port: Dask runs what it is sent")
    return scheduler


Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Nonnegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Share = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(gt=0)]
Port = Annotated[int, Field(ge=1, le=65535)]
Filled = Annotated[str, Field(min_length=1)]


def _severity(word: str) -> str:
    if word.upper() not in Severity.__members__:
        raise ValueError("info, warning or critical")
    return word


def _network(word: str) -> str:
    ip_network(word)
    return word


def _web_address(url: str) -> str:
    parts = urlsplit(url)
    if parts.scheme not in {"http", "https"} or not parts.hostname or "@" in parts.netloc:
        raise ValueError("http(s)://host/path, without a name or password in it")
    return url


WebAddress = Annotated[str, AfterValidator(_web_address)]


def _redis_address(url: str) -> str:
    parts = urlsplit(url)
    try:
        usable = parts.scheme in {"redis", "rediss", "unix"} and (
            parts.port is None or parts.scheme != "unix"
        )
    except ValueError:  # what stands for the port is none
        usable = False
    if not usable:
        raise ValueError("redis://host:port/0, rediss:// with TLS, or unix:///path")
    return url


@dataclass(frozen=True)
class BrokerAddress:
    """The MQTT broker, and how we present ourselves.

    `reader: stock` reads with paho's own loop: slower, and nothing of ours in it. Under `canary`, a topic, we publish to ourselves.
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
        """Raises ValueError for files that would not be used."""
        if self.certificate_file and not (self.tls or self.ca_file):
            raise ValueError("certificate_file needs TLS: set tls, or ca_file")
        if self.key_file and not self.certificate_file:
            raise ValueError("key_file belongs to a certificate_file")


@dataclass(frozen=True)
class Grouping:
    """One write to disk serves many messages: it waits for `messages` of them or for `seconds`, whichever comes first.

    `waiting` messages of `waiting_bytes` at the most stand between the broker and the disk; one that finds no room for `patience`
    seconds goes back to the broker. `linger` seconds pass between two reads of a busy connection, so that one read takes many.
    """

    messages: Count = 500
    seconds: Positive = 0.008
    waiting: Count = 20_000
    waiting_bytes: Count = 64 << 20
    patience: Positive = 5.0
    linger: Annotated[float, Field(ge=0, le=1)] = 0.002


@dataclass(frozen=True)
class Paging:
    """How much goes into one transaction (`readings`), how long it waits for more (`linger` seconds), and the retry's pace.

    Of messages that hold no reading, for every reason, `letters_an_hour` of `letter_bytes_an_hour` are kept; beyond that a sample.
    """

    readings: Count = 10_000
    linger: Annotated[float, Field(ge=0, le=60)] = 0.1
    first_retry: Positive = 0.2
    last_retry: Positive = 10.0
    letters_an_hour: Count = 10_000
    letter_bytes_an_hour: Count = 64 << 20


@dataclass(frozen=True)
class Training:
    """Whether series train themselves, and devices all their metrics together.

    How many may start at once and how many a minute after that; seconds one may take. `jobs` are those asked for by hand that may wait.
    Where many are asked for at once, so many `processes` train them, or the workers of a `dask_scheduler`.
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
    dask_scheduler: Annotated[str, AfterValidator(_sheltered)] | None = None


@dataclass(frozen=True)
class Readings(Acceptance):
    """What a message may be, within bounds."""

    subscriptions: Annotated[
        tuple[Annotated[Subscription, AfterValidator(_usable)], ...],
        BeforeValidator(_listed),
        AfterValidator(_some),
    ] = (Subscription(),)
    max_age: Positive | None = Acceptance.max_age
    max_ahead: Nonnegative = Acceptance.max_ahead
    historical_after: Nonnegative = Acceptance.historical_after
    max_bytes: Annotated[int, Field(ge=1, le=1 << 28)] = Acceptance.max_bytes
    max_depth: Annotated[int, Field(ge=1, le=500)] = Acceptance.max_depth
    max_values: Count = Acceptance.max_values


@dataclass(frozen=True)
class Detection(Parameters):
    """How a series is learnt, within bounds."""

    n_estimators: Annotated[int, Field(ge=1, le=1000)] = Parameters.n_estimators
    contamination: Annotated[float | str, _auto_or(float, 1e-6, 0.5)] = Parameters.contamination
    max_samples: Annotated[int | str, _auto_or(int, 2, 256)] = Parameters.max_samples
    random_state: Annotated[int, Field(ge=0, lt=1 << 32)] = Parameters.random_state
    alpha: Annotated[float, Field(gt=0, le=0.1)] = Parameters.alpha
    gap_factor: Annotated[float, Field(gt=1, allow_inf_nan=False)] = Parameters.gap_factor
    first_fit_readings: Count = Parameters.first_fit_readings
    first_fit_seconds: Nonnegative = Parameters.first_fit_seconds
    first_fit_retry_readings: Count = Parameters.first_fit_retry_readings
    refit_readings_least: Count = Parameters.refit_readings_least
    refit_readings_most: Count = Parameters.refit_readings_most
    history_days: Positive = Parameters.history_days
    history_readings_least: Annotated[int, Field(ge=100)] = Parameters.history_readings_least
    history_readings_most: Annotated[int, Field(ge=100, le=1_000_000)] = (
        Parameters.history_readings_most
    )

    def __post_init__(self) -> None:
        """Raises ValueError where a lower bound is above its upper one."""
        for name in ("refit_readings", "history_readings"):
            if getattr(self, f"{name}_least") > getattr(self, f"{name}_most"):
                raise ValueError(f"{name}_least is more than {name}_most")


@dataclass(frozen=True)
class Together:
    """How the metrics of a device are learnt together, where it is not as `Detection` says.

    Readings of different metrics within `tolerance` seconds of each other are a row; `alpha` is the line of rows.
    """

    tolerance: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 1.0
    alpha: Annotated[float, Field(gt=0, le=0.1)] = DeviceParameters.alpha

    def parameters(self, detection: Detection) -> DeviceParameters:
        """All of it."""
        shared = {name: getattr(detection, name) for name in DeviceParameters.__dataclass_fields__}
        return DeviceParameters(**(shared | {"alpha": self.alpha}))


@dataclass(frozen=True)
class Verdict(Policy):
    """When an episode opens, worsens and closes, within bounds."""

    merge_gap_readings: Count = Policy.merge_gap_readings
    worsen_step: Annotated[float, Field(gt=0, le=1)] = Policy.worsen_step
    false_alarms_per_day: Positive = Policy.false_alarms_per_day
    highest_threshold: Share = Policy.highest_threshold


@dataclass(frozen=True)
class Storage:
    """Where the log and the states are, and how often (seconds) states are checkpointed.

    The log grows to `log_bytes`. `reserve_bytes` of the disk are kept free for a bad day; while they cannot be, nothing is taken.
    """

    directory: Path = Path("/var/lib/insa-anomaly")
    checkpoint_seconds: Positive = 10.0
    log_bytes: Annotated[int, Field(ge=1 << 20)] = 8 << 30
    reserve_bytes: Annotated[int, Field(ge=0)] = 64 << 20


@dataclass(frozen=True)
class DatabaseAddress:
    """PostgreSQL. Without a `url` the embedded server of the extra `embedded` is used, in the storage directory.

    With `roles` each part of the daemon has the rights of its group alone.
    """

    url: str | None = None
    password_file: Path | None = None
    deadline: Positive = 10.0
    roles: bool = False


@dataclass(frozen=True)
class Retention:
    """Days for which the database keeps things; None: for ever. The audit log gives up nothing that is younger than two years."""

    telemetry: Positive | None = 90.0
    anomalies: Positive | None = 730.0
    dead_letters: Positive | None = 30.0
    audit: Annotated[float, Field(ge=731, allow_inf_nan=False)] | None = 731.0


@dataclass(frozen=True)
class RedisAddress:
    """Redis or Valkey; without a `url` there is none, and nothing else changes."""

    url: Annotated[str, AfterValidator(_redis_address)] | None = None
    password_file: Path | None = None


@dataclass(frozen=True)
class Http:
    """The admin port. With a certificate and its key (files in PEM) it speaks TLS. A key may have so many `predictions_a_minute`.

    A request must have come whole within `request_seconds`.
    """

    enabled: bool = True
    host: str = "127.0.0.1"
    port: Annotated[int, Field(ge=0, le=65535)] = 8787
    certificate_file: Path | None = None
    key_file: Path | None = None
    predictions_a_minute: Count = 100
    request_seconds: Annotated[float, Field(ge=1, le=600)] = 20.0

    def __post_init__(self) -> None:
        """Raises ValueError where one of the files is named without the other."""
        if (self.certificate_file is None) != (self.key_file is None):
            raise ValueError("certificate_file and key_file are named together or not at all")


@dataclass(frozen=True)
class ModelStorage:
    """Where models are, the files with the keys that authenticate and seal them, and the bytes of memory they get: it limits the series."""

    directory: Path = Path("/var/lib/insa-iiot/ml_models")
    key_file: Path = Path("/var/lib/insa-anomaly/model.key")
    encryption_key_file: Path | None = None
    max_bytes: Annotated[int, Field(ge=1 << 20)] = 1 << 30


@dataclass(frozen=True)
class Health(Limits):
    """The daily health check: at which `hour` (UTC), or None, how long after the start, and from where on something is the matter."""

    hour: Annotated[int, Field(ge=0, le=23)] | None = 2
    settle: Annotated[float, Field(ge=0, le=86_400)] = 300.0
    age_days: Positive = Limits.age_days
    accuracy: Share = Limits.accuracy
    accuracy_drop: Share = Limits.accuracy_drop
    false_positive_rate: Share = Limits.false_positive_rate
    latency: Positive = Limits.latency
    failures: Count = Limits.failures
    inactive_days: Annotated[float, Field(ge=1, allow_inf_nan=False)] = Limits.inactive_days


@dataclass(frozen=True)
class Supervised:
    """After how many silent seconds a thread is stuck, which ends the process so that it is started anew."""

    stuck_seconds: Annotated[float, Field(ge=10, le=3600)] = 60.0


@dataclass(frozen=True)
class AlertRoute(Route):
    """What goes where, within bounds."""

    devices: Filled = Route.devices
    kinds: tuple[Filled, ...] = Route.kinds
    severity: Annotated[str, AfterValidator(_severity)] = Route.severity
    targets: tuple[Filled, ...] = Route.targets


@dataclass(frozen=True)
class WebhookAddress:
    """Alerts are posted to this `url` as JSON, signed with the secret in the file."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]{1,40}$")]
    url: WebAddress
    secret_file: Path | None = None

    @property
    def target(self) -> str:
        """What routes call it."""
        return f"webhook:{self.name}"


@dataclass(frozen=True)
class Alerting:
    """Who hears of what beside MQTT. Where no mail server, webhook or repository is set, nobody does."""

    routes: Annotated[tuple[AlertRoute, ...], BeforeValidator(_listed)] = (AlertRoute(),)
    webhooks: Annotated[tuple[WebhookAddress, ...], BeforeValidator(_listed)] = ()
    allowed_networks: Annotated[
        tuple[Annotated[str, AfterValidator(_network)], ...], BeforeValidator(_listed)
    ] = ()
    daily_budget: Annotated[int, Field(ge=2)] = 50
    summary_seconds: Positive = 3600.0
    keep_seconds: Positive = 86400.0
    critical_confidence: Share = 0.9
    deadline: Annotated[float, Field(gt=0, le=60)] = 10.0
    first_retry: Positive = 2.0
    last_retry: Positive = 900.0
    link: str | None = None

    def __post_init__(self) -> None:
        """Raises ValueError where two webhooks have one name."""
        if len({webhook.name for webhook in self.webhooks}) < len(self.webhooks):
            raise ValueError("two webhooks have the same name")


@dataclass(frozen=True)
class MailServer:
    """Alerts by mail; without a `host` there are none. `security` none is for a relay on this machine."""

    host: str | None = None
    port: Port = 587
    security: Literal["starttls", "tls", "none"] = "starttls"
    ca_file: Path | None = None
    username: str | None = None
    password_file: Path | None = None
    sender: Filled = "insa-anomaly@localhost"
    recipients: Annotated[tuple[Filled, ...], BeforeValidator(_listed)] = ()

    def __post_init__(self) -> None:
        """Raises ValueError for what would send nothing, or a password in the clear."""
        if self.host and not self.recipients:
            raise ValueError("recipients are missing")
        if self.username and self.security == "none":
            raise ValueError("a password is not sent without TLS: set security to starttls or tls")


@dataclass(frozen=True)
class IssueTracker:
    """Issues about models on GitHub, or what speaks its REST API; without a `repository` (owner/name) there are none."""

    repository: Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]+/[A-Za-z0-9_.-]+$")] | None = None
    token_file: Path | None = None
    url: WebAddress = "https://api.github.com"
    ca_file: Path | None = None


@dataclass(frozen=True)
class Silences(Patience):
    """When a device or the stream is silent, within bounds."""

    factor: Annotated[float, Field(gt=1, allow_inf_nan=False)] = Patience.factor
    pauses: Count = Patience.pauses
    spans: Positive = Patience.spans
    memory_seconds: Positive = Patience.memory_seconds
    device_seconds: Positive = Patience.device_seconds
    stream_seconds: Positive = Patience.stream_seconds
    stream_share: Annotated[float, Field(gt=0, le=1)] = Patience.stream_share


@dataclass(frozen=True)
class Logging:
    """`form` auto: lines for people on a terminal, JSON elsewhere."""

    level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    form: Literal["auto", "json", "console"] = "auto"


class Settings(BaseSettings):
    """Every setting with its default; the sections are what the parts take."""

    model_config = SettingsConfigDict(
        env_prefix=_PREFIX,
        env_nested_delimiter=_BETWEEN,
        env_parse_none_str="null",
        extra="forbid",
        frozen=True,
        validate_default=True,
        nested_model_default_partial_update=True,
    )

    broker: BrokerAddress = Field(default_factory=BrokerAddress)
    readings: Readings = Field(default_factory=Readings)
    storage: Storage = Field(default_factory=Storage)
    intake: Grouping = Field(default_factory=Grouping)
    database: DatabaseAddress = Field(default_factory=DatabaseAddress)
    retention: Retention = Field(default_factory=Retention)
    record: Paging = Field(default_factory=Paging)
    redis: RedisAddress = Field(default_factory=RedisAddress)
    http: Http = Field(default_factory=Http)
    models: ModelStorage = Field(default_factory=ModelStorage)
    detection: Detection = Field(default_factory=Detection)
    devices: Together = Field(default_factory=Together)
    verdict: Verdict = Field(default_factory=Verdict)
    training: Training = Field(default_factory=Training)
    alerts: Alerting = Field(default_factory=Alerting)
    mail: MailServer = Field(default_factory=MailServer)
    github: IssueTracker = Field(default_factory=IssueTracker)
    silence: Silences = Field(default_factory=Silences)
    health: Health = Field(default_factory=Health)
    supervision: Supervised = Field(default_factory=Supervised)
    logging: Logging = Field(default_factory=Logging)

    @property
    def most_series(self) -> int:
        """As many as their models' memory has room for."""
        return max(1, self.models.max_bytes // (_TREE_BYTES * self.detection.n_estimators))

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],  # noqa: ARG003 - pydantic's signature, here and below
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """What is given in the call is the file (see `load`); the environment beats it."""
        return env_settings, init_settings


def load(path: Path | None = None) -> tuple[Settings, str]:
    """The settings of this file (default: `INSA_CONFIG`, else the system's where there is one) and where they are from.

    Raises ConfigError with one line a mistake: the file, the key, what stands there, and what is allowed.
    """
    path = path or _usual_path()
    source = str(path) if path else "defaults"
    said = _read(path) if path else {}
    try:
        return Settings(**said), source
    except ValidationError as error:
        raise ConfigError(
            "\n".join(_explain(one, source) for one in error.errors(include_url=False))
        ) from error
    except SettingsError as error:
        raise ConfigError(f"a variable {_PREFIX}* is not JSON: {error}") from error


def _usual_path() -> Path | None:
    named = os.environ.get("INSA_CONFIG")
    if named:
        return Path(named)
    return SYSTEM_CONFIG if SYSTEM_CONFIG.is_file() else None


def _read(path: Path) -> dict[str, Any]:
    try:
        said = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not YAML: {' '.join(str(error).split())}") from error
    if said is not None and not isinstance(said, dict):
        raise ConfigError(f"{path}: expected sections with settings, found {type(said).__name__}")
    return {
        name: section for name, section in (said or {}).items() if section is not None
    }  # all its keys may be comments


def _explain(error: Any, source: str) -> str:  # noqa: ANN401 - pydantic's own record
    key = ".".join(str(part) for part in error["loc"])
    source = _variable(error["loc"]) or source
    if error["type"] in ("extra_forbidden", "unexpected_keyword_argument"):
        return f"{source}: {key}: there is no such setting"
    said = without_secret(repr(error["input"]))
    why = error["msg"].removeprefix("Value error, ")
    return f"{source}: {key}: {said} is not allowed: {why[0].lower()}{why[1:]}"


def _variable(place: tuple[str | int, ...]) -> str | None:
    """The variable that says this setting, where one does."""
    for length in range(len(place), 0, -1):
        name = (_PREFIX + _BETWEEN.join(map(str, place[:length]))).upper()
        if any(variable.upper() == name for variable in os.environ):
            return name
    return None


def without_secret(address: str) -> str:
    """An address as it may be shown: `***` where a password, or a name with one, stands."""
    if "://" in address:
        return _PARAMETER.sub(r"\1***", _NAMED.sub("***@", address))
    return _WORD.sub(r"\1***", address)


def credential(path: Path) -> Path:
    """Where a secret file is: one named by its name alone is what systemd hands over, else it lies with the system's configuration."""
    if len(path.parts) != 1:
        return path
    handed = os.environ.get("CREDENTIALS_DIRECTORY")
    return (
        Path(handed) / f"{_CREDENTIAL}{path}" if handed else SYSTEM_CONFIG.parent / "secrets" / path
    )


def secret(path: Path | None) -> str | None:
    """The secret in a file, without the line end. Raises ConfigError."""
    if path is None:
        return None
    path = credential(path)
    try:
        return path.read_text(encoding="utf-8").rstrip("\r\n")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"the secret in {path} cannot be read: {error}") from error
