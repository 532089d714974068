"""The cache in memory."""


class MemoryCache:
    """The port `Cache`, in which values never expire; `kept` holds them."""

    def __init__(self) -> None:
        self.kept: dict[str, bytes] = {}

    def get(self, name: str) -> bytes | None:
        """Return the stored value."""
        return self.kept.get(name)

    def put(self, name: str, value: bytes, seconds: int) -> None:
        """Store a value."""
        del seconds
        self.kept[name] = value
