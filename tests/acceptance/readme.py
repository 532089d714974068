"""The README as a list of commands: what a reader may copy into a shell, line by line."""

import re
from dataclasses import dataclass

from tests.conftest import ROOT

PROGRAMS = {
    *(
        "api",
        "apt",
        "apt-get",
        "cp",
        "createdb",
        "curl",
        "git",
        "insa-anomaly",
        "journalctl",
        "make",
        "mosquitto_passwd",
        "mosquitto_pub",
    ),
    *(
        "mosquitto_sub",
        "mv",
        "openssl",
        "pip",
        "promtool",
        "psql",
        "python3",
        "runuser",
        "sudo",
        "systemctl",
    ),
}
_BLOCK = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
_COMMENT = re.compile(r"\s+# .*|^#.*")
_ASSIGNMENT = re.compile(r"[A-Z_]+=\S+ ")


@dataclass(frozen=True)
class Block:
    """A block of shell: the heading above it, and its lines without comments."""

    heading: str
    text: str

    @property
    def lines(self) -> list[str]:
        """Its commands."""
        lines = [_COMMENT.sub("", line) for line in self.text.splitlines()]
        return [line for line in lines if line]


def text() -> str:
    """All of it."""
    return (ROOT / "README.md").read_text(encoding="utf-8")


def blocks() -> list[Block]:
    """Every block that is for a shell: bash by its own word, or begun by a program."""
    whole = text()
    found = []
    for match in _BLOCK.finditer(whole):
        language, body = match.groups()
        if language == "bash" or (language == "" and is_command(body)):
            found.append(
                Block(re.findall(r"^#+ (.*)$", whole[: match.start()], re.MULTILINE)[-1], body)
            )
    return found


def spans() -> list[str]:
    """Every command that stands within a sentence or a table: a program and at least a word more."""
    return [span for span in re.findall(r"`([^`\n]+)`", _BLOCK.sub("", text())) if is_command(span)]


def statements() -> list[str]:
    """What it says to PostgreSQL."""
    return [
        span
        for span in re.findall(r"`([^`\n]+)`", text())
        if span.startswith(("ALTER ", "CREATE ", "GRANT ", "SELECT "))
    ]


def is_command(line: str) -> bool:
    """Whether it begins with a program of the list, or sets a variable for one."""
    first, *more = _ASSIGNMENT.sub("", line).split(maxsplit=1)
    return first in PROGRAMS and bool(more)
