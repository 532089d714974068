"""Bodies of the ports: MQTT, PostgreSQL, Redis, files."""
