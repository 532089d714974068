"""Changes for the audit log."""

import msgspec


class Change(msgspec.Struct, frozen=True):
    """A change for the audit log: author, origin, action, subject, and the values around it."""

    who: str
    origin: str
    action: str
    subject: str
    before: object = None
    after: object = None
