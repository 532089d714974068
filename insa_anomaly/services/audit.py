"""The author of a change, and the audit log that is written before the change is made."""

from typing import NamedTuple, Protocol

from insa_anomaly.ports.audit import Change


class Audit(Protocol):
    """The audit log, in which a change is recorded before it is made."""

    def write(self, change: Change) -> None:
        """Store the change durably.

        Raises DatabaseAway or DatabaseRefused; the change must not be made then.
        """


class Author(NamedTuple):
    """The author of a change, and the author's origin."""

    who: str
    origin: str

    def change(self, action: str, subject: str, before: object, after: object) -> Change:
        """Return the change that the author is about to make."""
        return Change(**self._asdict(), action=action, subject=subject, before=before, after=after)
