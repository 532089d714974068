"""The fleet in memory: every series and device with its state and model."""
