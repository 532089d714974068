"""Servers that are started where none is configured: PostgreSQL, Valkey, an MQTT broker.

Every server is a context manager that yields its address. It runs over a folder of its own, is
ready when the block begins and gone when it ends. A child never outlives its parent, even a parent
that is killed: the kernel then sends the child a signal (`spawn`). No server listens beyond this
machine, folders are 0700, and no password stands in an argument.

PostgreSQL refuses to run as root. Under root it and mosquitto therefore run as an account of their
own, which receives the data folder alone.
"""

from insa_anomaly.adapters.embedded.cache import valkey
from insa_anomaly.adapters.embedded.database import (
    Installation,
    postgres,
    postgres_installations,
    running_postgres,
)
from insa_anomaly.adapters.embedded.mqtt import EmbeddedBroker, amqtt, broker, mosquitto
from insa_anomaly.adapters.embedded.process import Tools, free_port, spawn, stop

__all__ = [
    "EmbeddedBroker",
    "Installation",
    "Tools",
    "amqtt",
    "broker",
    "free_port",
    "mosquitto",
    "postgres",
    "postgres_installations",
    "running_postgres",
    "spawn",
    "stop",
    "valkey",
]
