"""The daemon with a log that is not synced before its messages are acknowledged.

`python -m tests.chaos.unsynced run ...`
"""

import sqlite3
from unittest.mock import patch

from insa_anomaly.adapters.disk.log import LogFile
from insa_anomaly.cli import main


def install() -> None:
    """Open every connection to the log with synchronous=NORMAL."""
    connect = LogFile._connect

    def lax(self: LogFile, synchronous: str = "FULL") -> sqlite3.Connection:
        del synchronous
        return connect(self, "NORMAL")

    patch.object(LogFile, "_connect", lax).start()


if __name__ == "__main__":
    install()
    main()
