"""An MQTT broker on loopback with a single user: mosquitto, or amqtt as the last resort."""

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
    UserAccount,
    account_may,
    private_folder,
    service_account,
    write_private,
)
from insa_anomaly.adapters.embedded.process import Tools, accepts, free_port, running, untaken
from insa_anomaly.errors import ServiceError


@dataclass(frozen=True)
class EmbeddedBroker:
    """A running broker and the user it admits."""

    host: str
    port: int
    user: str
    password: str = field(repr=False)
    pid: int


@contextmanager
def broker(folder: Path, tools: Tools) -> Iterator[EmbeddedBroker]:
    """Run the best MQTT broker available here: mosquitto, else amqtt. Raises ServiceError."""
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
) -> Iterator[EmbeddedBroker]:
    """Run mosquitto on 127.0.0.1 with a single user, `insa`.

    Sessions and queues live in `folder`, so a second run there continues them. `settings/load` are
    further lines of its configuration. Raises ServiceError.
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
        yield EmbeddedBroker("127.0.0.1", port, "insa", password, process.pid)


def _account_for(program: str) -> UserAccount | None:
    """Return a lesser account under root, unless that cannot reach the program.

    A program unpacked under root's home is such a case.
    """
    account = service_account()
    return account if account is None or account_may(account, "-x", Path(program)) else None


def _mosquitto_conf(folder: Path, port: int, settings: Mapping[str, str]) -> str:
    """Return a configuration without a queue limit, and with the daemon's limit of packet size."""
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
        # root means "change no account": we chose the account. By default, root would become
        # nobody, which cannot write here.
        "user": "root",
        **settings,
    }
    return "".join(f"{name} {value}\n" for name, value in lines.items())


def _mosquitto_hash(password: str) -> str:
    """Return Mosquitto's own hash, PBKDF2 with SHA-512, at few rounds.

    Few rounds are enough, as the password is random and long.
    """
    rounds, salt = 101, secrets.token_bytes(12)
    digest = hashlib.pbkdf2_hmac("sha512", password.encode(), salt, rounds, 64)
    return f"$7${rounds}${base64.b64encode(salt).decode()}${base64.b64encode(digest).decode()}"


@contextmanager
def amqtt(
    folder: Path, port: int | None = None, password: str | None = None
) -> Iterator[EmbeddedBroker]:
    """Run amqtt on 127.0.0.1 with a single user, `insa`: the last resort without mosquitto.

    It speaks MQTT 3.1.1 only, holds all its state in memory and delivers retained messages to
    subscribers they are not for. It may lose the messages of a publisher that disconnects at once,
    although it has acknowledged them. Raises ServiceError.
    """
    if importlib.util.find_spec("amqtt") is None:
        raise ServiceError(
            "there is no MQTT broker to start: install Debian's mosquitto or"
            " insa-anomaly[embedded], or configure a broker"
        )
    folder = private_folder(folder)
    port, password = untaken(port or free_port()), password or secrets.token_urlsafe(24)
    write_private(folder / "passwords", f"insa:{_argon2_hash(password)}\n")
    write_private(folder / "amqtt.yaml", json.dumps(_amqtt_conf(folder, port)))  # YAML reads JSON
    argv = [sys.executable, "-m", "amqtt.scripts.broker_script", "-c", str(folder / "amqtt.yaml")]
    ready = partial(accepts, socket.AF_INET, ("127.0.0.1", port))
    with running("amqtt", argv, folder / "amqtt.log", ready) as process:
        yield EmbeddedBroker("127.0.0.1", port, "insa", password, process.pid)


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
    """Return the hash that amqtt reads, at the least cost.

    The password is random and long, and every connection pays the cost.
    """
    # Comes with the extra `embedded` only.
    from pwdlib.hashers.argon2 import Argon2Hasher  # noqa: PLC0415

    return Argon2Hasher(time_cost=1, memory_cost=64, parallelism=1).hash(password)
