"""Grafana dashboards, made of the definitions that the code has."""
