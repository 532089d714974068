"""Alerts over HTTP: webhooks and GitHub issues."""
