"""The configuration: `config.yaml` and `INSA_*` variables become a frozen `Settings`.

No other module reads the configuration file or the environment. A variable beats the file:
`INSA_BROKER__HOST` is `broker.host`. Secrets are never settings but files that settings name.
"""

import json
import os
from contextlib import suppress
from pathlib import Path
from typing import Any

import yaml
from pydantic import Field, ValidationError, field_validator
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
)

from insa_anomaly.core.learning.parameters import Parameters
from insa_anomaly.core.notification.cadence import Patience
from insa_anomaly.core.reading.topics import Acceptance
from insa_anomaly.core.scoring.episodes import Policy
from insa_anomaly.errors import ConfigError, ParameterError
from insa_anomaly.settings.secrets import SYSTEM_CONFIG, without_secret
from insa_anomaly.settings.sections import (
    AlertsSettings,
    BrokerSettings,
    DatabaseSettings,
    DevicesSettings,
    GithubSettings,
    HealthSettings,
    HttpSettings,
    IntakeSettings,
    LoggingSettings,
    MailSettings,
    ModelsSettings,
    RecordSettings,
    RedisSettings,
    RetentionSettings,
    StorageSettings,
    SupervisionSettings,
    TrainingSettings,
)

_PREFIX, _BETWEEN = "INSA_", "__"
_TREE_BYTES = 256 * 1024 // 100  # of memory for a tree of a model


class Settings(BaseSettings):
    """Every setting with its default; each part of the program takes its section."""

    model_config = SettingsConfigDict(
        env_prefix=_PREFIX,
        env_nested_delimiter=_BETWEEN,
        env_parse_none_str="null",
        extra="forbid",
        frozen=True,
        validate_default=True,
        nested_model_default_partial_update=True,
    )

    broker: BrokerSettings = Field(default_factory=BrokerSettings)
    readings: Acceptance = Field(default_factory=Acceptance)
    storage: StorageSettings = Field(default_factory=StorageSettings)
    intake: IntakeSettings = Field(default_factory=IntakeSettings)
    database: DatabaseSettings = Field(default_factory=DatabaseSettings)
    retention: RetentionSettings = Field(default_factory=RetentionSettings)
    record: RecordSettings = Field(default_factory=RecordSettings)
    redis: RedisSettings = Field(default_factory=RedisSettings)
    http: HttpSettings = Field(default_factory=HttpSettings)
    models: ModelsSettings = Field(default_factory=ModelsSettings)
    detection: Parameters = Field(default_factory=Parameters)
    devices: DevicesSettings = Field(default_factory=DevicesSettings)
    verdict: Policy = Field(default_factory=Policy)
    training: TrainingSettings = Field(default_factory=TrainingSettings)
    alerts: AlertsSettings = Field(default_factory=AlertsSettings)
    mail: MailSettings = Field(default_factory=MailSettings)
    github: GithubSettings = Field(default_factory=GithubSettings)
    silence: Patience = Field(default_factory=Patience)
    health: HealthSettings = Field(default_factory=HealthSettings)
    supervision: SupervisionSettings = Field(default_factory=SupervisionSettings)
    logging: LoggingSettings = Field(default_factory=LoggingSettings)

    @field_validator("*", mode="before")
    @classmethod
    def _lists_of_variables(cls, section: object) -> object:
        """Read the lists of a section that stand in variables, as JSON."""
        if not isinstance(section, dict):
            return section
        return {name: _listed(value) for name, value in section.items()}

    @property
    def most_series(self) -> int:
        """Number of series whose models fit into `models.max_bytes`."""
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
        """Let the environment beat the file, which `load` passes as arguments."""
        return env_settings, init_settings


def load(path: Path | None = None) -> tuple[Settings, str]:
    """Return the settings of a configuration file, and where they are from.

    Without a path, `INSA_CONFIG` names the file, else the system's file is read where it exists.
    Raises ConfigError with a line for each mistake: the file, the key, its value and the allowed
    values.
    """
    path = path or _usual_path()
    source = str(path) if path else "defaults"
    found = _read(path) if path else {}
    try:
        return Settings(**found), source
    except ValidationError as error:
        raise ConfigError(
            "\n".join(_explain(one, source) for one in error.errors(include_url=False))
        ) from error
    except SettingsError as error:
        raise ConfigError(f"a variable {_PREFIX}* is not JSON: {error}") from error


def _listed(value: object) -> object:
    if isinstance(value, str) and value.startswith("["):
        with suppress(json.JSONDecodeError):
            return json.loads(value)
    return value


def _usual_path() -> Path | None:
    named = os.environ.get("INSA_CONFIG")
    if named:
        return Path(named)
    return SYSTEM_CONFIG if SYSTEM_CONFIG.is_file() else None


def _read(path: Path) -> dict[str, Any]:
    try:
        found = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not YAML: {' '.join(str(error).split())}") from error
    if found is not None and not isinstance(found, dict):
        raise ConfigError(f"{path}: expected sections with settings, found {type(found).__name__}")
    # A section is None where all its keys are comments.
    return {name: section for name, section in (found or {}).items() if section is not None}


def _explain(error: Any, source: str) -> str:  # noqa: ANN401 - pydantic's own record
    key = ".".join(str(part) for part in error["loc"])
    source = _variable(error["loc"]) or source
    if error["type"] in ("extra_forbidden", "unexpected_keyword_argument"):
        return f"{source}: {key}: there is no such setting"
    cause = error.get("ctx", {}).get("error")
    if isinstance(cause, ParameterError):
        found = without_secret(repr(cause.value))
        return f"{source}: {key}.{cause.name}: {found} is not allowed: it must be {cause.allowed}"
    found = without_secret(repr(error["input"]))
    why = error["msg"].removeprefix("Value error, ")
    return f"{source}: {key}: {found} is not allowed: {why[0].lower()}{why[1:]}"


def _variable(place: tuple[str | int, ...]) -> str | None:
    """Return the name of the variable that holds a setting, or None."""
    for length in range(len(place), 0, -1):
        name = (_PREFIX + _BETWEEN.join(map(str, place[:length]))).upper()
        if any(variable.upper() == name for variable in os.environ):
            return name
    return None
