"""From members to episodes: forests, calibration, maturity."""
