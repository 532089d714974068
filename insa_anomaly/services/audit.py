"""Who changes something, and the line that is written before it is changed."""

from typing import NamedTuple, Protocol

from insa_anomaly.ports import Change


class Audit(Protocol):
    """Where changes are written down before they are made."""

    def write(self, change: Change) -> None:
        """It is kept when this returns. Raises DatabaseAway or DatabaseRefused, and then nothing may be changed."""


class Author(NamedTuple):
    """Who changes something, and from where."""

    who: str
    origin: str

    def change(self, action: str, subject: str, before: object, after: object) -> Change:
        """What they are about to do."""
        return Change(self.who, self.origin, action, subject, before, after)
