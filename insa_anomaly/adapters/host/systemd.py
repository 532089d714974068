"""Notifications to systemd: ready, alive, stopping. Without systemd no notification is sent."""

import socket
from contextlib import suppress


class Notifier:
    """Sender to the socket that `NOTIFY_SOCKET` names; None: no notification is sent."""

    def __init__(self, address: str | None) -> None:
        self._address = "\0" + address[1:] if address and address.startswith("@") else address

    def tell(self, word: str) -> None:
        """Send `READY=1`, `WATCHDOG=1`, `STOPPING=1` or `STATUS=...`.

        Never raises: a supervisor that does not listen is no reason to stop.
        """
        if self._address:
            with (
                suppress(OSError),
                socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as out,
            ):
                out.sendto(word.encode(), self._address)
