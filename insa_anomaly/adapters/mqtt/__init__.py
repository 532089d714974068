"""MQTT, on paho: the daemon's connection, and two connections for the workbench."""

from insa_anomaly.adapters.mqtt.access import Access, Backoff, Terms, Tls
from insa_anomaly.adapters.mqtt.connection import MqttConnection
from insa_anomaly.adapters.mqtt.feeder import Feeder
from insa_anomaly.adapters.mqtt.listener import Listener

__all__ = ["Access", "Backoff", "Feeder", "Listener", "MqttConnection", "Terms", "Tls"]
