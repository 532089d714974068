"""Certificates, backoff and model health, decided from values."""
