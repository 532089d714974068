"""Bytes of a topic become readings, or are rejected with a reason."""
