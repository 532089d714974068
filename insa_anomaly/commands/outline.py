"""The outline of a daemon: a sentence for each part, to be read before the daemon runs."""

from collections.abc import Iterator

from insa_anomaly.settings.load import Settings
from insa_anomaly.settings.secrets import without_secret
from insa_anomaly.settings.sections import HttpSettings


def outline(settings: Settings) -> Iterator[str]:
    """Yield the sentences, in the order in which a reading meets the parts."""
    yield _reads(settings)
    yield _keeps(settings)
    yield _records(settings)
    yield _learns(settings)
    yield _tells(settings)
    if settings.redis.url:
        yield f"shows the latest results in {without_secret(settings.redis.url)}"
    yield _answers(settings.http)
    if settings.health.hour is not None:
        yield f"checks all models once a day, from {settings.health.hour:02}:00 UTC on"


def _reads(settings: Settings) -> str:
    broker = settings.broker
    topics = ", ".join(subscription.topic for subscription in settings.readings.subscriptions)
    tls = "with TLS" if broker.tls or broker.ca_file else "without TLS"
    user = f", as user {broker.username}" if broker.username else ""
    return (
        f"reads {topics} from {broker.host}:{broker.port} {tls}, as client {broker.client_id}{user}"
    )


def _keeps(settings: Settings) -> str:
    storage = settings.storage
    return (
        f"keeps what comes until it is recorded, {storage.log_bytes / 2**30:.1f} GiB of it at "
        f"the most, in {storage.directory}"
    )


def _records(settings: Settings) -> str:
    database, keep = settings.database, settings.retention
    own = f"an embedded PostgreSQL in {settings.storage.directory / 'database'}"
    into = (
        own
        if database.url is None
        else f"PostgreSQL at {without_secret(database.url)}{', by roles' if database.roles else ''}"
    )
    return f"records into {into}: readings {_for(keep.telemetry)}, anomalies {_for(keep.anomalies)}"


def _for(days: float | None) -> str:
    return "for ever" if days is None else f"for {days:g} days"


def _learns(settings: Settings) -> str:
    detection, models = settings.detection, settings.models
    when = (
        f"after {detection.first_fit_readings} readings over "
        f"{detection.first_fit_seconds / 60:g} minutes, and daily after that"
    )
    learns = (
        f"learns a series {when}"
        if settings.training.automatic
        else "learns only what it is asked to"
    )
    sealed = "encrypted" if models.encryption_key_file else "not encrypted"
    return (
        f"{learns}; {settings.most_series} series at the most, their models {sealed} in "
        f"{models.directory}"
    )


def _tells(settings: Settings) -> str:
    targets = [f"mail to {', '.join(settings.mail.recipients)}"] if settings.mail.host else []
    targets += [webhook.target for webhook in settings.alerts.webhooks]
    targets += [f"issues of {settings.github.repository}"] if settings.github.repository else []
    alerts = (
        f"alerts by {'; '.join(targets)}"
        if targets
        else "alerts nobody (mail, alerts.webhooks and github are not set)"
    )
    return f"tells on insa/iiot/ml/anomaly/<device>, {alerts}"


def _answers(http: HttpSettings) -> str:
    if not http.enabled:
        return "answers no requests (http.enabled)"
    return (
        f"answers on {'https' if http.certificate_file else 'http'}://{http.host}:{http.port}, "
        "whoever has a key"
    )
