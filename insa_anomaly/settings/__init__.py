"""The configuration: `config.yaml` and `INSA_*` variables become a frozen `Settings`."""
