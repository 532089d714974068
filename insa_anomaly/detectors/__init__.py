"""Detectors in a few calls: a model with its window, for a metric or a device."""
