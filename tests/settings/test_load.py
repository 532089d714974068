"""The manual `config.yaml`: all settings, with their true defaults; mistakes are a line each."""

import os
import re
from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from insa_anomaly.adapters.mqtt import Tls
from insa_anomaly.core.reading.topics import Subscription
from insa_anomaly.errors import ConfigError
from insa_anomaly.processes.reload import LIVE
from insa_anomaly.settings.load import Settings, load
from insa_anomaly.settings.secrets import credential, secret
from insa_anomaly.wiring.broker import access
from tests.conftest import ROOT

MANUAL = ROOT / "config.yaml"


def plain(value: Any) -> Any:  # noqa: ANN401 - any value of a setting
    """Return the value as YAML holds it."""
    if is_dataclass(value) and not isinstance(value, type):
        return plain(asdict(value))
    if isinstance(value, dict):
        return {key: plain(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(one) for one in value]
    return str(value) if isinstance(value, Path) else value


def written(folder: Path, text: str) -> Path:
    """Write a configuration file with this text."""
    path = folder / "config.yaml"
    path.write_text(text)
    return path


def test_the_manual_holds_every_setting_with_its_true_default() -> None:
    """The manual has exactly the settings with their defaults, section by section."""
    defaults = {name: plain(getattr(Settings(), name)) for name in Settings.model_fields}
    assert yaml.safe_load(MANUAL.read_text()) == defaults


def test_the_manual_says_of_every_setting_what_it_is() -> None:
    """A comment beside every setting explains it, and names the unit of seconds."""
    lines = [line for line in MANUAL.read_text().splitlines() if line and not line.startswith("#")]
    assert [line for line in lines if len(line.partition(" # ")[2].split()) < 2] == []
    assert [
        line
        for line in lines
        if "seconds:" in line and not re.search(r"# .*(seconds|wait|so long)", line)
    ] == []


def test_the_manual_says_what_changes_at_run_time() -> None:
    """The mark for changes at run time stands at exactly the settings that have them."""
    section, marked = "", set()
    for line in MANUAL.read_text().splitlines():
        section = line.partition(":")[0] if line[:1].isalpha() else section
        if line.startswith("  ") and line.endswith("(SIGHUP)"):
            marked.add(f"{section}.{line.strip().partition(':')[0]}")
    assert marked == LIVE


def test_no_variable_of_this_machine_is_in_the_tests() -> None:
    """No variable of this machine changes a setting, because it would change the tests."""
    assert [name for name in os.environ if name.upper().startswith("INSA_") and "__" in name] == []


def test_the_manual_loads_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """Loading the manual changes no default; `INSA_CONFIG` names it as well as an argument."""
    monkeypatch.setenv("INSA_CONFIG", str(MANUAL))
    settings, source = load()
    assert settings == Settings()
    assert source == str(MANUAL)


def test_a_part_of_a_section_leaves_the_rest(tmp_path: Path) -> None:
    """Settings that are left out keep their defaults."""
    settings, _ = load(
        written(tmp_path, "broker: {host: broker.plant}\nreadings: {max_age: null}\n")
    )
    assert (settings.broker.host, settings.broker.port) == ("broker.plant", 1883)
    assert (settings.readings.max_age, settings.readings.max_bytes) == (None, 262144)


def test_a_variable_beats_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A variable `INSA_SECTION__KEY` wins, and leaves the other keys of the section alone."""
    monkeypatch.setenv("INSA_BROKER__HOST", "from-the-environment")
    settings, _ = load(written(tmp_path, "broker: {host: from-the-file, port: 1999}\n"))
    assert (settings.broker.host, settings.broker.port) == ("from-the-environment", 1999)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("broker: {port: 99999}", ["broker.port", "99999", "65535"]),
        ("broker: {prot: 1}", ["broker.prot", "no such setting"]),
        ("brokr: {port: 1}", ["brokr", "no such setting"]),
        ("intake: {messages: many}", ["intake.messages", "'many'", "integer"]),
        (
            "readings: {subscriptions: [{format: xml}]}",
            ["readings.subscriptions.0.format", "'xml'", "'influx'"],
        ),
        ("logging: {level: LOUD}", ["logging.level", "'LOUD'", "'WARNING'"]),
        ("record: {linger: .nan}", ["record.linger"]),
        ("detection: {n_estimators: 0}", ["detection.n_estimators", "0", "1"]),
        (
            "detection: {max_samples: 500}",
            ["detection.max_samples", "500", "'auto', or a number from 2 to 256"],
        ),
        ("detection: {max_samples: 3.5}", ["detection.max_samples", "3.5"]),
        ("detection: {contamination: most}", ["detection.contamination", "'most'", "0.5"]),
        (
            "detection: {refit_readings_least: 900, refit_readings_most: 800}",
            ["detection", "refit_readings_least is more than"],
        ),
        ("verdict: {highest_threshold: 2}", ["verdict.highest_threshold", "2", "1"]),
        ("readings: {max_age: 0}", ["readings.max_age", "0"]),
        ("readings: {subscriptions: []}", ["readings.subscriptions", "[]", "at least one"]),
        (
            "readings: {subscriptions: [{topic: 'a/#/b'}]}",
            ["readings.subscriptions.0", "a/#/b", "as the last level, #"],
        ),
        (
            "readings: {subscriptions: [{topic: 'a/{device}'}]}",
            ["readings.subscriptions.0", "a/{device}", "{device_id}"],
        ),
        ("readings: {subscriptions: [{topic: ''}]}", ["readings.subscriptions.0", "{device_id}"]),
        ("mail: {host: mail.plant}", ["mail", "recipients are missing"]),
        ("mail: {host: m, recipients: [a], username: u, security: none}", ["mail", "without TLS"]),
        ("alerts: {routes: [{severity: loud}]}", ["alerts.routes.0.severity", "'loud'", "warning"]),
        (
            "alerts: {webhooks: [{name: 'a/b', url: 'http://h/'}]}",
            ["alerts.webhooks.0.name", "'a/b'"],
        ),
        (
            "alerts: {webhooks: [{name: a, url: 'ftp://h/'}]}",
            ["alerts.webhooks.0.url", "http(s)://host/path"],
        ),
        (
            "alerts: {webhooks: [{name: a, url: 'http://insa:s3cret@h/'}]}",
            ["alerts.webhooks.0.url", "***@h"],
        ),
        (
            "alerts: {webhooks: [{name: a, url: 'http://h/'}, {name: a, url: 'http://g/'}]}",
            ["alerts", "same name"],
        ),
        (
            "alerts: {allowed_networks: [10.0.0.1/8]}",
            ["alerts.allowed_networks.0", "10.0.0.1/8", "host bits"],
        ),
        ("alerts: {daily_budget: 1}", ["alerts.daily_budget", "1", "2"]),
        ("github: {repository: plant}", ["github.repository", "'plant'"]),
        ("silence: {factor: 1}", ["silence.factor", "1"]),
        ("database: postgresql://insa:s3cret@plant/insa", ["database", "***@plant", "dictionary"]),
        ("broker: [1, 2", ["not YAML"]),
        ("- 1\n- 2", ["sections", "list"]),
    ],
)
def test_a_mistake_is_explained_in_one_line(tmp_path: Path, text: str, words: list[str]) -> None:
    """The line has the file, the key, the value and the allowed values."""
    path = written(tmp_path, text)
    with pytest.raises(ConfigError) as caught:
        load(path)
    (line,) = str(caught.value).splitlines()
    assert all(word in line for word in [str(path), *words])
    assert "s3cret" not in line


@pytest.mark.parametrize(
    ("variable", "value", "words"),
    [
        ("INSA_BROKER__PORT", "many", ["broker.port", "'many'", "integer"]),
        ("INSA_BROKER__PROT", "1", ["broker.prot", "no such setting"]),
        ("INSA_DETECTION__ALPHA", "-1", ["detection.alpha", "'-1'", "greater than 0"]),
        ("INSA_BROKER", '{"port": 0}', ["broker.port", "0"]),
    ],
)
def test_a_mistake_in_a_variable_names_the_variable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variable: str, value: str, words: list[str]
) -> None:
    """The line names the variable, not the file."""
    monkeypatch.setenv(variable, value)
    path = written(tmp_path, "broker: {host: plant}")
    with pytest.raises(ConfigError) as caught:
        load(path)
    (line,) = str(caught.value).splitlines()
    assert line.startswith(f"{variable}: ")
    assert all(word in line for word in words)
    assert str(path) not in line


def test_a_variable_that_is_no_json_where_it_must_be_is_explained(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A whole section or a list must be JSON."""
    monkeypatch.setenv("INSA_READINGS__SUBSCRIPTIONS", "a/b")
    with pytest.raises(
        ConfigError,
        match="INSA_READINGS__SUBSCRIPTIONS: readings.subscriptions: 'a/b' is not allowed",
    ):
        load()
    monkeypatch.delenv("INSA_READINGS__SUBSCRIPTIONS")
    monkeypatch.setenv("INSA_READINGS", "a/b")
    with pytest.raises(ConfigError, match=r'INSA_\* .*"readings"'):
        load()


@pytest.mark.parametrize(
    ("variable", "value", "section", "key", "said"),
    [
        ("INSA_HTTP__PORT", "9000", "http", "port", 9000),
        ("insa_http__enabled", "false", "http", "enabled", False),
        ("INSA_READINGS__MAX_AGE", "null", "readings", "max_age", None),
        ("INSA_DETECTION__MAX_SAMPLES", "128", "detection", "max_samples", 128),
        ("INSA_DETECTION__CONTAMINATION", "auto", "detection", "contamination", "auto"),
        ("INSA_MODELS__DIRECTORY", "/m", "models", "directory", Path("/m")),
        (
            "INSA_READINGS__SUBSCRIPTIONS",
            '[{"topic": "a/{device_id}"}]',
            "readings",
            "subscriptions",
            (Subscription("a/{device_id}"),),
        ),
    ],
)
def test_every_kind_of_setting_can_be_a_variable(
    monkeypatch: pytest.MonkeyPatch,
    *,
    variable: str,
    value: str,
    section: str,
    key: str,
    said: object,
) -> None:
    """Numbers, truth values, null, paths and lists may be variables, in any case of letters."""
    monkeypatch.setenv(variable, value)
    assert getattr(getattr(load()[0], section), key) == said


def test_a_section_whose_keys_are_all_comments_is_its_defaults(tmp_path: Path) -> None:
    """A section whose keys are all commented out, or an empty file, has the defaults."""
    assert (
        load(written(tmp_path, "broker:\n  # host: plant\nhttp: {port: 9000}\n"))[0].broker
        == Settings().broker
    )
    assert load(written(tmp_path, ""))[0] == Settings()


def test_settings_reach_the_training_process_whole(tmp_path: Path) -> None:
    """Settings written as JSON and read again are equal."""
    settings, _ = load(
        written(
            tmp_path,
            "broker: {password_file: /p}\n"
            "readings: {max_age: null, subscriptions: [{topic: a, format: number}]}",
        )
    )
    assert Settings.model_validate_json(settings.model_dump_json()) == settings


def test_every_mistake_is_named(tmp_path: Path) -> None:
    """Two mistakes cause two lines."""
    with pytest.raises(ConfigError) as caught:
        load(written(tmp_path, "broker: {port: 0}\nhttp: {port: -1}\n"))
    assert len(str(caught.value).splitlines()) == 2


def test_a_file_that_is_not_there_is_a_mistake(tmp_path: Path) -> None:
    """A missing file is reported."""
    with pytest.raises(ConfigError, match=r"absent\.yaml: cannot be read"):
        load(tmp_path / "absent.yaml")


def test_a_secret_comes_from_its_file(tmp_path: Path) -> None:
    """A secret is the content of its file without the line end.

    Without a file there is no secret; an unreadable file is a mistake that names it.
    """
    (tmp_path / "password").write_text("s3cret\n")
    assert secret(tmp_path / "password") == "s3cret"
    assert secret(None) is None
    with pytest.raises(ConfigError, match="absent"):
        secret(tmp_path / "absent")


def test_a_secret_named_by_its_name_alone_is_what_systemd_hands_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A bare name is systemd's credential, or without systemd the file that it is made from.

    A path with folders is that path.
    """
    monkeypatch.delenv("CREDENTIALS_DIRECTORY", raising=False)
    assert credential(Path("broker-password")) == Path("/etc/insa-anomaly/secrets/broker-password")
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    (tmp_path / "secret_broker-password").write_text("s3cret\n")
    assert secret(Path("broker-password")) == "s3cret"
    assert credential(Path("secrets/broker-password")) == Path("secrets/broker-password")


@pytest.mark.parametrize(
    ("said", "why"),
    [
        ("broker: {certificate_file: /c}", "needs TLS"),
        ("broker: {tls: true, key_file: /k}", "belongs to a certificate_file"),
        ("http: {certificate_file: /c}", "together"),
        ("http: {key_file: /k}", "together"),
        ("http: {predictions_a_minute: 0}", "greater than 0"),
    ],
)
def test_files_for_tls_that_would_not_be_used_are_mistakes(
    tmp_path: Path, said: str, why: str
) -> None:
    """A TLS file that would not be used is a mistake, because its author expects protection."""
    with pytest.raises(ConfigError, match=why):
        load(written(tmp_path, said))


@pytest.mark.parametrize(
    "url",
    [
        "localhost:6379",
        "http://localhost:6379",
        "redis://localhost:many/0",
        "redis://localhost:99999/0",
    ],
)
def test_an_address_of_redis_is_one(tmp_path: Path, url: str) -> None:
    """An address of Redis is checked before the daemon starts, with a clear message."""
    with pytest.raises(ConfigError, match="redis://host:port/0"):
        load(written(tmp_path, f"redis: {{url: '{url}'}}"))


def test_the_broker_may_be_trusted_by_the_system(tmp_path: Path) -> None:
    """The setting `tls` alone trusts the authorities of the system, `ca_file` its own.

    Without both there is no TLS.
    """
    for said, expected in (
        ("{}", None),
        ("{tls: true}", Tls()),
        ("{ca_file: /ca.pem}", Tls(Path("/ca.pem"))),
    ):
        assert access(load(written(tmp_path, f"broker: {said}"))[0].broker).tls == expected
