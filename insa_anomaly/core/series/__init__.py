"""A single metric of a device: window, features, charts, rules, detector and its training."""
