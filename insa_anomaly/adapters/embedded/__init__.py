"""Starts the servers the product needs where none is configured, and returns their addresses: PostgreSQL, Valkey, an MQTT broker.

Every server is a context manager over a folder of its own, is ready when the block begins and gone when it ends. A child never outlives
its parent, not even one that is killed: the kernel sends it a signal then (`spawn`). Nothing listens beyond this machine, folders are 0700,
and no password stands in an argument.

PostgreSQL refuses to run as root, so under root it and mosquitto run as an account of their own, which is given the data folder alone.
"""

from insa_anomaly.adapters.embedded.cache import valkey
from insa_anomaly.adapters.embedded.database import (
    Installation,
    postgres,
    postgres_installations,
    running_postgres,
)
from insa_anomaly.adapters.embedded.mqtt import Listener, amqtt, broker, mosquitto
from insa_anomaly.adapters.embedded.process import Tools, free_port, spawn, stop

__all__ = [
    "Installation",
    "Listener",
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
