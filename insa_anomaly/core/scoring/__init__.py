"""Steps from members to episodes: forests, calibration, maturity."""
