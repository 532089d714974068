"""How our long-lived processes keep their memory."""

import ctypes

M_ARENA_MAX, ARENAS = -8, 2  # the first is mallopt's name for the second


def share_arenas() -> None:
    """Let glibc keep few arenas: by itself it makes one a thread, each of which holds on to what its thread once needed."""
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):  # other C libraries have none, and no arenas
        libc.mallopt(M_ARENA_MAX, ARENAS)
