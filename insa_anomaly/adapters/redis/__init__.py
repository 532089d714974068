"""Redis: the latest results, and rate limits that several daemons share."""
