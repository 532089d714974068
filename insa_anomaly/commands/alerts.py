"""The command `alerts`: pending alerts and dead letters, and another attempt."""

from collections.abc import Sequence

import typer

from insa_anomaly.adapters.disk.alerts import AlertFile
from insa_anomaly.commands.options import Config, Json, as_json, load_for_use, option
from insa_anomaly.core.notification.alert import Alert
from insa_anomaly.core.notification.event import rfc3339
from insa_anomaly.errors import Conflict, NotFound
from insa_anomaly.ports.alerts import DeadAlert, PendingAlert
from insa_anomaly.settings.load import Settings
from insa_anomaly.wiring import storage
from insa_anomaly.wiring.alerts import _ways
from insa_anomaly.wiring.clock import clock


def letters(settings: Settings) -> tuple[list[PendingAlert], list[DeadAlert]]:
    """Return pending alerts and dead letters. Raises AlertsBroken."""
    path = settings.storage.directory / storage.ALERTS
    if not path.exists():
        return [], []
    with AlertFile(path) as file:
        return file.waiting(), file.dead()


def retry_letter(settings: Settings, number: int) -> DeadAlert:
    """Queue a dead letter for delivery by the running daemon or the next.

    Raises NotFound, Conflict or AlertsBroken.
    """
    one = next((one for one in letters(settings)[1] if one.number == number), None)
    if one is None:
        raise NotFound(f"there is no dead letter {number}")
    if one.alert is None:
        raise Conflict(f"the dead letter {number} cannot be read by this version")
    if one.target not in {target.name for target, _ in _ways(settings)}:
        raise Conflict(f"{one.target} is in the configuration no more")
    with AlertFile(settings.storage.directory / storage.ALERTS) as file:
        file.revive(one, clock.now())
    return one


def text(waiting: Sequence[PendingAlert], dead: Sequence[DeadAlert]) -> str:
    """Return a line for each pending alert, then for each dead letter, oldest first."""
    lines = [
        f"waiting  {one.number}  {one.target}  since {_minute(one.decided_at)}, tried "
        f"{one.attempts} times  {_about(one.alert)}"
        for one in waiting
    ]
    lines += [
        f"dead  {one.number}  {one.target}  given up {_minute(one.given_up_at)}: {one.reason}  "
        f"{_about(one.alert)}"
        for one in dead
    ]
    return "\n".join(lines) or "no alert waits, and none was given up"


def _minute(at: int) -> str:
    return f"{rfc3339(at)[:16]}Z"


def _about(alert: Alert | None) -> str:
    return "(of another version)" if alert is None else f"{alert.subject}: {alert.text}"


def alerts_command(
    config: Config = None,
    retry: int | None = option("Deliver this dead letter after all.", metavar="NUMBER"),
    *,
    json: Json = False,
) -> None:
    """List pending alerts, and alerts that were given up: the dead letters of thirty days."""
    settings, _ = load_for_use(config)
    if retry is not None:
        typer.echo(f"{retry} waits for {retry_letter(settings, retry).target} again")
        return
    waiting, dead = letters(settings)
    typer.echo(as_json({"waiting": waiting, "dead": dead}) if json else text(waiting, dead))
