"""The outline of a daemon: its work as its settings define it, without any secret."""

import pytest

from insa_anomaly.commands.outline import outline
from insa_anomaly.settings.load import Settings
from insa_anomaly.settings.secrets import without_secret


def told(**sections: object) -> str:
    """Return the outline as a single text."""
    return "\n".join(outline(Settings.model_validate(sections)))


def test_the_defaults_are_told() -> None:
    """The outline has a sentence for each part."""
    text = told()
    assert [line.split()[0] for line in text.splitlines()] == [
        "reads",
        "keeps",
        "records",
        "learns",
        "tells",
        "answers",
        "checks",
    ]
    for word in (
        *(
            "insa/iiot/telemetry/{device_id}",
            "127.0.0.1:1883 without TLS",
            "/var/lib/insa-anomaly",
            "8.0 GiB",
            "embedded PostgreSQL",
        ),
        *(
            "for 90 days",
            "for 730 days",
            "500 readings over 60 minutes",
            "4096 series",
            "not encrypted",
            "alerts nobody",
        ),
        *("http://127.0.0.1:8787", "from 02:00 UTC"),
    ):
        assert word in text


@pytest.mark.parametrize(
    ("section", "setting", "value", "word"),
    [
        ("broker", "tls", True, "with TLS"),
        ("broker", "username", "insa", "as user insa"),
        (
            "readings",
            "subscriptions",
            [{"topic": "a/{device_id}"}, {"topic": "b/#"}],
            "reads a/{device_id}, b/# from",
        ),
        ("database", "url", "host=db dbname=insa", "PostgreSQL at host=db dbname=insa:"),
        ("retention", "telemetry", None, "readings for ever"),
        ("training", "automatic", False, "only what it is asked to"),
        ("models", "encryption_key_file", "key", "models encrypted"),
        ("detection", "n_estimators", 50, "8193 series"),
        (
            "alerts",
            "webhooks",
            [{"name": "scada", "url": "https://scada.plant/hook"}],
            "alerts by webhook:scada",
        ),
        ("github", "repository", "plant/line", "issues of plant/line"),
        ("redis", "url", "redis://127.0.0.1/0", "shows the latest results in redis://127.0.0.1/0"),
        ("http", "enabled", False, "answers no requests"),
    ],
)
def test_a_setting_shows(section: str, setting: str, value: object, word: str) -> None:
    """A setting shows in the outline only when it is set."""
    assert word not in told()
    assert word in told(**{section: {setting: value}})


def test_mail_is_told_with_who_gets_it() -> None:
    """The outline names all recipients of mail."""
    assert "alerts by mail to a@b, c@d" in told(mail={"host": "m", "recipients": ["a@b", "c@d"]})


def test_what_is_not_done_is_not_told() -> None:
    """The outline omits parts that are switched off."""
    assert "checks" not in told(health={"hour": None})


@pytest.mark.parametrize(
    ("address", "shown"),
    [
        ("redis://user:s3cret@host/0", "redis://***@host/0"),
        ("postgresql://u:s3cret@h/insa?x=1", "postgresql://***@h/insa?x=1"),
        ("postgresql://h/insa?password=s3cret&x=1", "postgresql://h/insa?password=***&x=1"),
        ("host=h password=s3cret user=u", "host=h password=*** user=u"),
        (r"host=h password='s3 \'cret' user=u", "host=h password=*** user=u"),
        ("host=h password = s3cret user=u", "host=h password = *** user=u"),
        ("host=h password=s3cret&more user=u", "host=h password=*** user=u"),
        (r"host=h password=s3\ cret user=u", "host=h password=*** user=u"),
        ("redis://user:s3@cret@host/0", "redis://***@host/0"),
        ("host=h user=u", "host=h user=u"),
    ],
)
def test_no_secret_is_shown(address: str, shown: str) -> None:
    """A secret is hidden wherever it stands in an address."""
    assert without_secret(address) == shown
