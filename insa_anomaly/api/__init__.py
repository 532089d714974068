"""Thin routes over the services."""
