"""Alerts, put together: targets, couriers, dispatcher and silence monitor."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from datetime import datetime
from functools import partial
from ipaddress import ip_network
from typing import NamedTuple

from insa_anomaly.adapters.targets.exchange import Exchange
from insa_anomaly.adapters.targets.github import GitHub, Repository
from insa_anomaly.adapters.targets.mail import Mail, SmtpAccount
from insa_anomaly.adapters.targets.webhook import Webhook
from insa_anomaly.core.notification.alert import MODEL_KINDS, linked
from insa_anomaly.core.notification.alert import Alert as CoreAlert
from insa_anomaly.core.notification.routing import Route, Target
from insa_anomaly.core.operations.backoff import BackoffPolicy
from insa_anomaly.errors import AlertsBroken
from insa_anomaly.instrumentation.alerts import alert_targets_known
from insa_anomaly.ports.state import Outgoing, State
from insa_anomaly.ports.targets import AlertTarget
from insa_anomaly.runtime.alerting import courier
from insa_anomaly.runtime.alerting.courier import Courier
from insa_anomaly.runtime.alerting.dispatcher import AlertDispatcher
from insa_anomaly.runtime.alerting.silence import SilenceMonitor
from insa_anomaly.runtime.fleet.registry import Registry
from insa_anomaly.runtime.publish import EventPublisher
from insa_anomaly.settings.load import Settings
from insa_anomaly.settings.secrets import secret
from insa_anomaly.settings.sections import WebhookSettings
from insa_anomaly.wiring import storage
from insa_anomaly.wiring.clock import clock

# An issue tracker may be in the plant: its address is the operator's word.
_EVERYWHERE = ip_network("0.0.0.0/0"), ip_network("::/0")
Link = Callable[[CoreAlert], str]
_ISSUES = Route(kinds=MODEL_KINDS)


class AlertThreads(NamedTuple):
    """The dispatcher of alerts, and the silence monitor."""

    dispatcher: AlertDispatcher
    silence: SilenceMonitor


def opened(
    settings: Settings,
    state: State,
    registry: Registry,
    publisher: EventPublisher,
    listening: Callable[[], bool],
    *,
    stack: ExitStack,
) -> AlertThreads:
    """Open dispatcher and silence monitor; couriers run until `stack` is unwound."""
    store = stack.enter_context(storage.alerts(settings.storage.directory / storage.ALERTS))
    ways = dict(_ways(settings))
    alert_targets_known([target.name for target in ways])
    alerting, targets = settings.alerts, list(ways)
    pauses, keep = BackoffPolicy(alerting.first_retry, alerting.last_retry), alerting.keep_seconds
    couriers = [
        Courier(target.name, way, store, pauses, keep, clock=clock) for target, way in ways.items()
    ]
    dispatcher = AlertDispatcher(state, store, targets, couriers, alerting, clock=clock)

    def enqueue(events: list[Outgoing]) -> None:
        publisher.enqueue(events)
        dispatcher.notify(events)

    patience, known = settings.silence, registry.keys
    silence = SilenceMonitor(state, store, known, patience, listening, enqueue=enqueue, clock=clock)
    stack.callback(_save, silence)
    stack.enter_context(courier.running(couriers, clock))
    return AlertThreads(dispatcher, silence)


def _save(silence: SilenceMonitor) -> None:
    with suppress(AlertsBroken):  # it is learnt again
        silence.save()


def _ways(settings: Settings) -> Iterator[tuple[Target, AlertTarget]]:
    """Yield every configured target with its adapter."""
    routes, budget = settings.alerts.routes, settings.alerts.daily_budget
    link = partial(_link, settings.alerts.link or "")
    if settings.mail.host:
        yield Target("mail", routes, budget), _mail(settings, settings.mail.host, link)
    for webhook in settings.alerts.webhooks:
        yield Target(webhook.target, routes, budget), _webhook(settings, webhook, link)
    if settings.github.repository:
        target = Target("github", (_ISSUES,), budget, follows=True)
        yield target, _github(settings, settings.github.repository, link)


def try_out(settings: Settings) -> Iterator[tuple[str, Callable[[], None]]]:
    """Yield a harmless try of each target: it raises TargetAway or TargetRefused where it fails."""
    if settings.mail.host:
        yield "mail", _mail(settings, settings.mail.host).try_out
    if settings.github.repository:
        yield "github", _github(settings, settings.github.repository).try_out


def _nowhere(_: CoreAlert) -> str:
    return ""


def _mail(settings: Settings, host: str, link: Link = _nowhere) -> Mail:
    mail = settings.mail
    password, deadline = partial(secret, mail.password_file), settings.alerts.deadline
    post = SmtpAccount(
        host=host,
        port=mail.port,
        security=mail.security,
        sender=mail.sender,
        recipients=mail.recipients,
        username=mail.username,
        password=password,
        ca_file=mail.ca_file,
        deadline=deadline,
    )
    return Mail(post, link)


def _webhook(settings: Settings, webhook: WebhookSettings, link: Link) -> Webhook:
    networks = [ip_network(word) for word in settings.alerts.allowed_networks]
    exchange = Exchange(networks, settings.alerts.deadline)
    return Webhook(webhook.url, exchange, partial(secret, webhook.secret_file), clock.now, link)


def _github(settings: Settings, repository: str, link: Link = _nowhere) -> GitHub:
    github = settings.github
    exchange = Exchange(_EVERYWHERE, settings.alerts.deadline, github.ca_file)
    tracker = Repository(github.url, repository, partial(secret, github.token_file))
    return GitHub(tracker, exchange, clock.now, link)


def _link(template: str, alert: CoreAlert) -> str:
    try:
        at = datetime.fromisoformat(alert.timestamp).timestamp()
    except ValueError:
        at = clock.now() / 1e6
    return linked(template, alert, int(at * 1000))
