"""The cost of a process, read from /proc."""

import os
import re
from collections import Counter
from pathlib import Path

_TICK = 1.0 / os.sysconf("SC_CLK_TCK")


def cpu_seconds(pid: int, *, with_children: bool = False) -> float:
    """Return the user and system time of a process so far.

    With its living children where asked: PostgreSQL's backends are children.
    """
    own = _cpu_seconds(pid)
    if not with_children:
        return own
    return own + sum(cpu_seconds(child, with_children=True) for child in children(pid))


def _cpu_seconds(pid: int) -> float:
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return 0.0
    return (int(fields[11]) + int(fields[12])) * _TICK


def children(pid: int) -> list[int]:
    """Return the living children of a process."""
    try:
        return [
            int(child)
            for task in Path(f"/proc/{pid}/task").iterdir()
            for child in (task / "children").read_text().split()
        ]
    except (FileNotFoundError, ProcessLookupError):
        return []


def resident_bytes(pid: int) -> int:
    """Return the present memory of a process."""
    return _status(pid, "VmRSS")


def peak_bytes(pid: int) -> int:
    """Return the largest memory that a process has had."""
    return _status(pid, "VmHWM")


def shared_bytes(pid: int, other: int) -> int:
    """Return the bytes of a process's memory in pages of files that the other maps too."""
    theirs = _mapped(other)
    return sum(size for name, size in _mapped(pid).items() if name in theirs)


def _mapped(pid: int) -> Counter[str]:
    """Return resident bytes by file."""
    found: Counter[str] = Counter()
    for area in re.split(
        r"^(?=[0-9a-f]+-[0-9a-f]+ )", Path(f"/proc/{pid}/smaps").read_text(), flags=re.MULTILINE
    ):
        head, _, figures = area.partition("\n")
        rss, dirty = (
            re.search(rf"^{name}:\s+(\d+) kB", figures, re.MULTILINE)
            for name in ("Rss", "Anonymous")
        )
        if "/" in head and rss and dirty:
            found[head[head.index("/") :]] += (int(rss[1]) - int(dirty[1])) * 1024
    return found


def _status(pid: int, name: str) -> int:
    found = re.search(
        rf"^{name}:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE
    )
    return int(found[1]) * 1024 if found else 0
