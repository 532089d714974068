"""The one place that knows every concrete class: settings become running parts, opened in order and closed in reverse.

It owns the clock, the signals and the child processes, too. One file for each thing that is put together: the daemon, the
database, training, replay, the demonstration.
"""
