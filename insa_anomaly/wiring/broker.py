"""The MQTT broker as configured, and the workbench's connections to it."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from secrets import token_hex

from insa_anomaly.adapters.mqtt import Access, Feeder, Tls
from insa_anomaly.errors import BrokerAway
from insa_anomaly.settings.secrets import credential, secret
from insa_anomaly.settings.sections import BrokerSettings

CONNECT_SECONDS = 10.0


def access(address: BrokerSettings) -> Access:
    """Return the broker's address with the password read from its file."""
    key = credential(address.key_file) if address.key_file else None
    encrypted = address.tls or address.ca_file
    tls = Tls(address.ca_file, address.certificate_file, key) if encrypted else None
    login = (address.client_id, address.username, secret(address.password_file))
    return Access(address.host, address.port, *login, tls=tls, keepalive=address.keepalive)


@contextmanager
def feeder(address: BrokerSettings, name: str) -> Iterator[Feeder]:
    """Open a connection for publishing, under a client id of its own.

    Raises BrokerAway or BrokerRefused.
    """
    client_id = f"{address.client_id}-{name}-{token_hex(4)}"
    publisher = Feeder(replace(access(address), client_id=client_id))
    try:
        if not publisher.open(CONNECT_SECONDS):
            at = f"{address.host}:{address.port}"
            raise BrokerAway(f"no MQTT broker answers at {at}: {publisher.trouble}")
        yield publisher
    finally:
        publisher.close()
