"""Memory of long-lived processes."""

import ctypes

M_ARENA_MAX, ARENAS = -8, 2  # the first is mallopt's name for the second


def share_arenas() -> None:
    """Limit glibc's arenas.

    By default each thread gets an arena and holds the memory it once needed.
    """
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):  # other C libraries have none, and no arenas
        libc.mallopt(M_ARENA_MAX, ARENAS)
