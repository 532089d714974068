"""Targets of alerts: mail, webhooks, GitHub issues, each bounded in time."""
