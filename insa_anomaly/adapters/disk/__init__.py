"""Files on disk: the log, the states, alerts, models, the reserve, backups."""
