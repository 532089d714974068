"""The reserve of disk space in memory."""


class MemoryReserve:
    """The port `Reserve`, which can be held while there is `room`."""

    def __init__(self) -> None:
        self.held = True
        self.room = True

    def hold(self) -> bool:
        """Hold the space if there is room."""
        self.held = self.held or self.room
        return self.held

    def release(self) -> None:
        """Release the space."""
        self.held = False
