"""systemd's socket: datagrams on a path or an abstract name, dropped where no socket listens."""

import socket
from pathlib import Path

import pytest

from insa_anomaly.adapters.host.systemd import Notifier


@pytest.mark.parametrize("abstract", [True, False])
def test_words_arrive(short_path: Path, unique: str, abstract: bool) -> None:
    """Each word arrives as a datagram, under either kind of name."""
    address = f"@{unique}" if abstract else str(short_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(address.replace("@", "\0"))
        systemd.settimeout(5.0)
        notifier = Notifier(address)
        for word in ("READY=1", "WATCHDOG=1"):
            notifier.tell(word)
            assert systemd.recv(100) == word.encode()


def test_without_systemd_nothing_happens(tmp_path: Path) -> None:
    """A word is dropped where there is no socket's name, or no socket under it."""
    Notifier(None).tell("READY=1")
    Notifier(str(tmp_path / "nobody")).tell("READY=1")
