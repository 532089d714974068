"""`python -m insa_anomaly` is the command `insa-anomaly`."""

from insa_anomaly.cli import main

main()
