"""All metrics of a device together: rows, features, detector and its training."""
