"""The services of the daemon, which the command line and the API call alike."""
