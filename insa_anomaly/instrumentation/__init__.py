"""Events of the daemon by name: a single function logs and counts each, in the file of its part.

No other package touches a logger or a counter. `metrics` declares what is counted, `logger` sets up
the log. A device or a series is a field of a log line, never a label of a metric, except in the
figures of single models.
"""
