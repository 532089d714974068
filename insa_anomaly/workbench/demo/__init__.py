"""The demonstration: a simulated plant with faults, and the score of the daemon on it."""
