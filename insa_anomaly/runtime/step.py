"""The contract of the daemon's threads: each repeats one step until the daemon ends."""

from typing import Protocol


class Step(Protocol):
    """Work that a thread of the daemon does in turns.

    The daemon runs every step in a thread of its own and never calls `step` twice at a time.
    """

    def step(self, timeout_s: float, /) -> float:
        """Do the work that is due; return the seconds until the next turn, 0 for at once.

        A step whose work arrives from elsewhere waits here for the first of it, `timeout_s` at
        most, and is woken by whichever thread brings it. Other steps do not wait, and ignore
        `timeout_s`. The begin of a turn is the thread's heartbeat: a turn that lasts longer than
        the limit of its thread (`Heartbeats`) ends the daemon, so the pause returned is a second
        or two at most. A failure outside (a full disk, an unreachable database) is logged, and
        the work is kept for a later turn. An exception that leaves a step ends the daemon.
        """

    def close(self) -> None:
        """End the wait of a turn under way, and admit no new work.

        Another thread calls this once, when the daemon stops and before the step's thread is
        joined. A step that holds up no turn has no need of it.
        """
        return
