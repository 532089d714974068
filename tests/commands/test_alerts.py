"""`insa-anomaly alerts`: lists waiting alerts and dead letters, and tries a dead letter again."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from insa_anomaly.adapters.disk.alerts import AlertFile
from insa_anomaly.cli import cli
from insa_anomaly.core.notification.routing import Dispatch
from insa_anomaly.errors import Conflict, NotFound
from tests.core.alerts import DAY_ZERO, an_alert


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """Write a plant with a mail server, a waiting alert and two dead letters.

    The target of a dead letter is no longer configured.
    """
    with AlertFile(tmp_path / "alerts.db") as file:
        file.keep(
            Dispatch(
                sent=[("mail", an_alert(1)), ("mail", an_alert(2)), ("webhook:gone", an_alert(3))]
            ),
            [],
            DAY_ZERO,
        )
        for target in ("mail", "webhook:gone"):
            one = file.next(target, DAY_ZERO)
            assert one is not None
            file.give_up(one, "552 too large", DAY_ZERO)
    path = tmp_path / "config.yaml"
    mail = {"host": "mail.plant.test", "recipients": ["shift@plant.test"]}
    path.write_text(json.dumps({"storage": {"directory": str(tmp_path)}, "mail": mail}))
    return path


def asked(config: Path, *words: str) -> Result:
    """Return the answer of the command."""
    return CliRunner().invoke(cli, ["alerts", *words, "--config", str(config)])


def test_what_waits_and_what_was_given_up_is_listed(config: Path) -> None:
    """Waiting alerts and dead letters are listed, for programs with the whole event."""
    assert asked(config).output.splitlines() == [
        (
            "waiting  2  mail  since 2024-10-04T00:00Z, tried 0 times  press-1/pressure: opened: "
            "9, expected 5 (4 to 6)"
        ),
        (
            "dead  1  mail  given up 2024-10-04T00:00Z: 552 too large  press-1/pressure: opened: "
            "9, expected 5 (4 to 6)"
        ),
        (
            "dead  3  webhook:gone  given up 2024-10-04T00:00Z: 552 too large  press-1/pressure: "
            "opened: 9, expected 5 (4 to 6)"
        ),
    ]
    said = json.loads(asked(config, "--json").output)
    assert [one["number"] for one in said["dead"]] == [1, 3]
    assert said["waiting"][0]["alert"]["event"]["value"] == 9.0


def test_a_dead_letter_waits_again(config: Path) -> None:
    """A dead letter waits again once, and is no dead letter any more."""
    assert asked(config, "--retry", "1").output == "1 waits for mail again\n"
    assert [line.split()[:3] for line in asked(config).output.splitlines()] == [
        ["waiting", "2", "mail"],
        ["waiting", "4", "mail"],
        ["dead", "3", "webhook:gone"],
    ]


def test_what_cannot_be_tried_again_says_why(config: Path) -> None:
    """An unknown number and a target that is no longer configured are refused with the reason."""
    assert isinstance(asked(config, "--retry", "9").exception, NotFound)
    refused = asked(config, "--retry", "3").exception
    assert isinstance(refused, Conflict)
    assert str(refused) == "webhook:gone is in the configuration no more"


def test_where_there_never_was_an_alert_nothing_is_made(tmp_path: Path) -> None:
    """A listing without any alert creates no file."""
    config = tmp_path / "config.yaml"
    config.write_text(json.dumps({"storage": {"directory": str(tmp_path)}}))
    assert asked(config).output == "no alert waits, and none was given up\n"
    assert list(tmp_path.iterdir()) == [config]
