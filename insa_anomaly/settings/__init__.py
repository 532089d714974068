"""The configuration: `config.yaml` and `INSA_*` variables become one frozen `Settings`."""
