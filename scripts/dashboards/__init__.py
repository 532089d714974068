"""Grafana dashboards, made of the definitions in the code."""
