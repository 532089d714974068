"""The ports in memory, with the same promises as the real bodies, for tests and for builders."""
