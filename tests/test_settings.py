"""`config.yaml` is the manual: all settings, with their true defaults; mistakes are explained in one line each."""

from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from insa_anomaly.errors import ConfigError
from insa_anomaly.settings import Settings, load, secret

MANUAL = Path(__file__).parent.parent / "config.yaml"


def plain(value: Any) -> Any:  # noqa: ANN401 - whatever a setting may be
    """The value as YAML would hold it."""
    if is_dataclass(value) and not isinstance(value, type):
        return plain(asdict(value))
    if isinstance(value, dict):
        return {key: plain(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(one) for one in value]
    return str(value) if isinstance(value, Path) else value


def written(folder: Path, text: str) -> Path:
    """A configuration file with this text."""
    path = folder / "config.yaml"
    path.write_text(text)
    return path


def test_the_manual_holds_every_setting_with_its_true_default() -> None:
    """Section by section, name by name, nothing more and nothing less."""
    defaults = {name: plain(getattr(Settings(), name)) for name in Settings.model_fields}
    assert yaml.safe_load(MANUAL.read_text()) == defaults


def test_every_setting_of_the_manual_says_why_or_names_itself() -> None:
    """Each section has a sentence beside its name."""
    sections = [line for line in MANUAL.read_text().splitlines() if line and not line.startswith((" ", "#"))]
    assert len(sections) == len(Settings.model_fields)
    assert all(" # " in line for line in sections)


def test_the_manual_loads_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """Loading the manual changes no default; `INSA_CONFIG` names it as well as an argument."""
    monkeypatch.setenv("INSA_CONFIG", str(MANUAL))
    settings, source = load()
    assert settings == Settings()
    assert source == str(MANUAL)


def test_a_part_of_a_section_leaves_the_rest(tmp_path: Path) -> None:
    """What is left out keeps its default."""
    settings, _ = load(written(tmp_path, "broker: {host: broker.plant}\nreadings: {max_age: null}\n"))
    assert (settings.broker.host, settings.broker.port) == ("broker.plant", 1883)
    assert (settings.readings.max_age, settings.readings.max_bytes) == (None, 262144)


def test_a_variable_beats_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`INSA_SECTION__KEY` wins, and leaves the other keys of the section alone."""
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
        ("readings: {subscriptions: [{format: xml}]}", ["readings.subscriptions.0.format", "'xml'", "'influx'"]),
        ("logging: {level: LOUD}", ["logging.level", "'LOUD'", "'WARNING'"]),
        ("record: {linger: .nan}", ["record.linger"]),
        ("broker: [1, 2", ["not YAML"]),
        ("- 1\n- 2", ["sections", "list"]),
    ],
)
def test_a_mistake_is_explained_in_one_line(tmp_path: Path, text: str, words: list[str]) -> None:
    """The file, the key, what stands there, and what is allowed."""
    path = written(tmp_path, text)
    with pytest.raises(ConfigError) as caught:
        load(path)
    (line,) = str(caught.value).splitlines()
    assert all(word in line for word in [str(path), *words])


def test_every_mistake_is_named(tmp_path: Path) -> None:
    """Two mistakes, two lines."""
    with pytest.raises(ConfigError) as caught:
        load(written(tmp_path, "broker: {port: 0}\nhttp: {port: -1}\n"))
    assert len(str(caught.value).splitlines()) == 2


def test_a_file_that_is_not_there_is_a_mistake(tmp_path: Path) -> None:
    """Named, not passed over."""
    with pytest.raises(ConfigError, match=r"absent\.yaml: cannot be read"):
        load(tmp_path / "absent.yaml")


def test_a_secret_comes_from_its_file(tmp_path: Path) -> None:
    """Without the end of the line; no file, no secret; a file that cannot be read is a mistake that names it."""
    (tmp_path / "password").write_text("s3cret\n")
    assert secret(tmp_path / "password") == "s3cret"
    assert secret(None) is None
    with pytest.raises(ConfigError, match="absent"):
        secret(tmp_path / "absent")
