"""The README as a list of commands: the text that a reader may copy into a shell, line by line."""

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
        """Commands of the block, a line each."""
        lines = [_COMMENT.sub("", line) for line in self.text.splitlines()]
        return [line for line in lines if line]


def text() -> str:
    """Return the whole README."""
    return (ROOT / "README.md").read_text(encoding="utf-8")


def blocks() -> list[Block]:
    """Return every block for a shell: marked as bash, or without a mark and begun by a program."""
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
    """Return every command within a sentence or a table: a program and at least one more word."""
    return [span for span in re.findall(r"`([^`\n]+)`", _BLOCK.sub("", text())) if is_command(span)]


def statements() -> list[str]:
    """Return the SQL statements that the README shows."""
    return [
        span
        for span in re.findall(r"`([^`\n]+)`", text())
        if span.startswith(("ALTER ", "CREATE ", "GRANT ", "SELECT "))
    ]


def is_command(line: str) -> bool:
    """Return whether the line begins with a listed program, or sets a variable for a program."""
    first, *more = _ASSIGNMENT.sub("", line).split(maxsplit=1)
    return first in PROGRAMS and bool(more)
