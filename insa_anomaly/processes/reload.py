"""SIGHUP: the configuration is read again, checked whole, and what can change at run time changes at once; the rest is named."""

from collections.abc import Callable
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from threading import Event

from insa_anomaly import instrumentation
from insa_anomaly.errors import ConfigError
from insa_anomaly.runtime.step import Step
from insa_anomaly.settings.load import Settings, load

LIVE = frozenset(
    {
        *(
            "logging.level",
            "logging.form",
            "record.readings",
            "record.linger",
            "record.first_retry",
            "record.last_retry",
        ),
        *(
            "http.predictions_a_minute",
            "training.automatic",
            "training.devices",
            "training.retry_after",
            "training.waiting",
        ),
    }
)
TURN_SECONDS = 0.5


class Reload(Step):
    """Asked for by a signal, done by a thread. `adjust` is called with what is to be in force."""

    def __init__(self, current: Settings, source: str, adjust: Callable[[Settings], None]) -> None:
        """`source` is where the settings are from: a file, or the word defaults."""
        self._current = current
        self._adjust = adjust
        self._path = None if source == "defaults" else Path(source)
        self._asked = Event()

    def ask(self) -> None:
        """Soon; may be called from a signal handler."""
        self._asked.set()

    def step(self, _: float) -> float:
        """Do it where it was asked for; answers how long to wait for the next look."""
        if self._asked.is_set():
            self._asked.clear()
            self._reload()
        return TURN_SECONDS

    def _reload(self) -> None:
        """All of it or nothing: one mistake, and everything stays as it is."""
        try:
            new, _ = load(self._path)
        except ConfigError as error:
            instrumentation.settings_refused(str(error))
            return
        changed = differences(self._current, new)
        live, waiting = sorted(changed & LIVE), sorted(changed - LIVE)
        self._current = _merged(self._current, new, live)
        if live:
            self._adjust(self._current)
        instrumentation.settings_read(live, waiting)


def differences(one: Settings, other: Settings) -> set[str]:
    """Names of the settings that are not the same, as section.name."""
    return {
        f"{section}.{field.name}"
        for section in Settings.model_fields
        if is_dataclass(getattr(one, section))
        for field in fields(getattr(one, section))
        if getattr(getattr(one, section), field.name)
        != getattr(getattr(other, section), field.name)
    }


def _merged(current: Settings, new: Settings, live: list[str]) -> Settings:
    """What is in force now: the rest stays different until the next start, and is named again."""
    sections = {name: getattr(current, name) for name in Settings.model_fields}
    for name in live:
        section, _, key = name.partition(".")
        sections[section] = replace(sections[section], **{key: getattr(getattr(new, section), key)})
    return current.model_copy(update=sections)
