"""Reload at SIGHUP: the configuration is read and checked whole.

Settings that can change at run time change at once; the others are named in the log.
"""

from collections.abc import Callable
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from threading import Event

from insa_anomaly.errors import ConfigError
from insa_anomaly.instrumentation.daemon import settings_read, settings_refused
from insa_anomaly.runtime.step import Step
from insa_anomaly.settings.load import Settings, load

_LIVE = {
    "logging": ("level", "form"),
    "record": ("readings", "linger", "first_retry", "last_retry"),
    "http": ("predictions_a_minute",),
    "training": ("automatic", "devices", "retry_after", "waiting"),
}
LIVE = frozenset(f"{section}.{name}" for section, names in _LIVE.items() for name in names)
TURN_SECONDS = 0.5


class Reload(Step):
    """A reload that a signal asks for and a thread does; `adjust` takes the settings in force."""

    def __init__(self, current: Settings, source: str, adjust: Callable[[Settings], None]) -> None:
        """Watch settings that come from `source`: a file, or the word defaults."""
        self._current = current
        self._adjust = adjust
        self._path = None if source == "defaults" else Path(source)
        self._asked = Event()

    def ask(self) -> None:
        """Ask for a reload soon; a signal handler may call this."""
        self._asked.set()

    def step(self, _: float) -> float:
        """Reload if a reload was asked for; return the seconds until the next look."""
        if self._asked.is_set():
            self._asked.clear()
            self._reload()
        return TURN_SECONDS

    def _reload(self) -> None:
        """Apply all new settings, or none of them if the configuration has a mistake."""
        try:
            new, _ = load(self._path)
        except ConfigError as error:
            settings_refused(str(error))
            return
        changed = differences(self._current, new)
        live, waiting = sorted(changed & LIVE), sorted(changed - LIVE)
        self._current = _merged(self._current, new, live)
        if live:
            self._adjust(self._current)
        settings_read(live, waiting)


def differences(one: Settings, other: Settings) -> set[str]:
    """Return the names of settings that differ, as section.name."""
    found = set()
    for section in Settings.model_fields:
        mine, theirs = getattr(one, section), getattr(other, section)
        if is_dataclass(mine):
            names = (field.name for field in fields(mine))
            differ = (name for name in names if getattr(mine, name) != getattr(theirs, name))
            found |= {f"{section}.{name}" for name in differ}
    return found


def _merged(current: Settings, new: Settings, live: list[str]) -> Settings:
    """Return the settings in force: only `live` sections come from the new configuration.

    The others stay different until the next start, and are named again.
    """
    sections = {name: getattr(current, name) for name in Settings.model_fields}
    for name in live:
        section, _, key = name.partition(".")
        sections[section] = replace(sections[section], **{key: getattr(getattr(new, section), key)})
    return current.model_copy(update=sections)
