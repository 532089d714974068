"""An MQTT broker on loopback with one user: mosquitto, or amqtt as the last resort."""

import base64
import hashlib
import importlib.util
import json
import secrets
import socket
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from insa_anomaly.adapters.embedded.account import (
    Account,
    account_may,
    private_folder,
    service_account,
    write_private,
)
from insa_anomaly.adapters.embedded.process import Tools, accepts, free_port, running, untaken
from insa_anomaly.errors import ServiceError


@dataclass(frozen=True)
class Listener:
    """A broker that runs, and whom it lets in."""

    host: str
    port: int
    user: str
    password: str = field(repr=False)
    pid: int


@contextmanager
def broker(folder: Path, tools: Tools) -> Iterator[Listener]:
    """Run the best MQTT broker there is here: mosquitto, else amqtt. Raises ServiceError."""
    start = mosquitto(folder, tools) if tools.command("mosquitto") else amqtt(folder)
    with start as listener:
        yield listener


@contextmanager
def mosquitto(
    folder: Path,
    tools: Tools,
    port: int | None = None,
    password: str | None = None,
    settings: Mapping[str, str] | None = None,
) -> Iterator[Listener]:
    """Run mosquitto on 127.0.0.1 with one user, `insa`; sessions and queues live in `folder`, so a second run there continues them.

    `settings` are further lines of its configuration. Raises ServiceError.
    """
    command = tools.command("mosquitto")
    if command is None:
        raise ServiceError("there is no mosquitto to start: install Debian's mosquitto")
    account = _account_for(command[-1])
    folder = private_folder(folder, account)
    port, password = untaken(port or free_port()), password or secrets.token_urlsafe(24)
    write_private(folder / "passwords", f"insa:{_mosquitto_hash(password)}\n", account)
    write_private(folder / "mosquitto.conf", _mosquitto_conf(folder, port, settings or {}), account)
    argv = [*command, "-c", str(folder / "mosquitto.conf")]
    ready = partial(accepts, socket.AF_INET, ("127.0.0.1", port))
    with running("mosquitto", argv, folder / "mosquitto.log", ready, account=account) as process:
        yield Listener("127.0.0.1", port, "insa", password, process.pid)


def _account_for(program: str) -> Account | None:
    """Under root a lesser account, unless the program is where that cannot reach it, e.g. unpacked under root's home."""
    account = service_account()
    return account if account is None or account_may(account, "-x", Path(program)) else None


def _mosquitto_conf(folder: Path, port: int, settings: Mapping[str, str]) -> str:
    """Nothing is dropped by count, and no packet is larger than one the daemon takes."""
    lines = {
        "listener": f"{port} 127.0.0.1",
        "allow_anonymous": "false",
        "password_file": str(folder / "passwords"),
        "set_tcp_nodelay": "true",
        "persistence": "true",
        "persistence_location": f"{folder}/",
        "max_queued_messages": "0",
        "max_inflight_messages": "500",
        "max_packet_size": "262144",
        "log_dest": "stderr",
        "user": "root",  # means: change nothing, we chose the account; without it root becomes nobody, who cannot write here
        **settings,
    }
    return "".join(f"{name} {value}\n" for name, value in lines.items())


def _mosquitto_hash(password: str) -> str:
    """Mosquitto's own form, PBKDF2 with SHA-512; few rounds, as the password is random and long."""
    rounds, salt = 101, secrets.token_bytes(12)
    digest = hashlib.pbkdf2_hmac("sha512", password.encode(), salt, rounds, 64)
    return f"$7${rounds}${base64.b64encode(salt).decode()}${base64.b64encode(digest).decode()}"


@contextmanager
def amqtt(folder: Path, port: int | None = None, password: str | None = None) -> Iterator[Listener]:
    """Run amqtt on 127.0.0.1 with one user, `insa`: the last resort where there is no mosquitto.

    It speaks MQTT 3.1.1 only, keeps everything in memory, hands retained messages to subscribers they are not for, and may forget what a
    publisher sent that leaves at once, though it was acknowledged. Raises ServiceError.
    """
    if importlib.util.find_spec("amqtt") is None:
        raise ServiceError(
            "there is no MQTT broker to start: install Debian's mosquitto or insa-anomaly[embedded], or configure a broker"
        )
    folder = private_folder(folder)
    port, password = untaken(port or free_port()), password or secrets.token_urlsafe(24)
    write_private(folder / "passwords", f"insa:{_argon2_hash(password)}\n")
    write_private(folder / "amqtt.yaml", json.dumps(_amqtt_conf(folder, port)))  # YAML reads JSON
    argv = [sys.executable, "-m", "amqtt.scripts.broker_script", "-c", str(folder / "amqtt.yaml")]
    ready = partial(accepts, socket.AF_INET, ("127.0.0.1", port))
    with running("amqtt", argv, folder / "amqtt.log", ready) as process:
        yield Listener("127.0.0.1", port, "insa", password, process.pid)


def _amqtt_conf(folder: Path, port: int) -> dict[str, object]:
    return {
        "listeners": {"default": {"type": "tcp", "bind": f"127.0.0.1:{port}"}},
        "plugins": {
            "amqtt.plugins.authentication.FileAuthPlugin": {
                "password_file": str(folder / "passwords")
            }
        },
    }


def _argon2_hash(password: str) -> str:
    """What amqtt reads; at the least cost, as the password is random and long and every connection pays."""
    from pwdlib.hashers.argon2 import Argon2Hasher  # noqa: PLC0415 - comes with the extra `embedded` only

    return Argon2Hasher(time_cost=1, memory_cost=64, parallelism=1).hash(password)
