"""How the daemon begins the process of its admin port (`processes.admin`): what that inherits, and who answers its questions."""

import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from signal import SIGKILL
from threading import Event
from uuid import UUID

import msgspec

from insa_anomaly.adapters import embedded
from insa_anomaly.adapters.host.lines import AnsweringEnd
from insa_anomaly.adapters.host.shared_memory import SharedMemory
from insa_anomaly.api import address
from insa_anomaly.runtime.admin_process import AdminProcess
from insa_anomaly.runtime.daemon import DaemonParts
from insa_anomaly.services.stream import ANSWER_SECONDS, StreamServer
from insa_anomaly.settings.load import Settings
from insa_anomaly.settings.secrets import credential
from insa_anomaly.settings.sections import HttpSettings

QUESTIONS, POSTS = 4, 8  # lines: what waits for the disk has its own
# Without rich, which structlog loads where it can, 3 MB, to colour tracebacks that nobody sees here.
_PROGRAM = (
    "import sys; sys.modules['rich'] = None; from insa_anomaly.processes.admin import be; be()"
)


class Inherited(msgspec.Struct, frozen=True):
    """What the child must know beside the settings; numbers are its descriptors."""

    dsn: str
    instance: UUID  # the id of the log
    capacity: int  # series on the board
    windows: int
    port: int
    questions: list[int]
    posts: list[int]


@contextmanager
def listening(http: HttpSettings) -> Iterator[socket.socket]:
    """The address of the admin port, taken while the block runs. Raises AddressInUse, and ConfigError for a certificate of no use."""
    shown = certificate(http)
    if shown is not None:
        shown.check()
    address.warn_unprotected(http.host, shown)
    with address.listen(http.host, http.port) as bound:
        yield bound


def certificate(http: HttpSettings) -> address.Certificate | None:
    """The port's own; None where it speaks in the clear."""
    return (
        address.Certificate(http.certificate_file, credential(http.key_file))
        if http.certificate_file and http.key_file
        else None
    )


class AdminPort:
    """The process, and the desk that answers it; questions wait until that is open."""

    def __init__(
        self,
        settings: Settings,
        dsn: str,
        daemon: DaemonParts,
        memory: SharedMemory,
        bound: socket.socket,
    ) -> None:
        """`memory` holds the board of the daemon's fleet."""
        self._dsn = dsn
        self._daemon = daemon
        self._memory = memory
        self._bound = bound
        self._desk: StreamServer | None = None
        self._opened = Event()
        self.process = AdminProcess(self._start, settings)

    def open(self, desk: StreamServer) -> None:
        """Answer from now on."""
        self._desk = desk
        self._opened.set()

    def _answer(self, question: bytes) -> bytes:
        """Whoever asks has given up before this does; nothing is what nobody takes for an answer."""
        self._opened.wait(ANSWER_SECONDS)
        return b"" if self._desk is None else self._desk.answer(question)

    def _start(self, settings: Settings) -> "subprocess.Popen[bytes]":
        """What it must know goes over its standard input, so that no secret is in an argument. It never outlives us, nor holds the port."""
        questions, posts = AnsweringEnd(QUESTIONS), AnsweringEnd(POSTS)
        windows, bound = self._memory.descriptor, self._bound.fileno()
        given = [windows, bound, *questions.descriptors, *posts.descriptors]
        argv = [sys.executable, "-c", _PROGRAM, "the admin port"]
        child = embedded.spawn(
            argv, death_signal=SIGKILL, stdin=subprocess.PIPE, cwd=None, pass_fds=given
        )
        instance, capacity = self._daemon.log.id, self._daemon.fleet.registry.capacity
        inherited = Inherited(
            self._dsn, instance, capacity, windows, bound, questions.descriptors, posts.descriptors
        )
        assert child.stdin is not None  # noqa: S101 - it was asked for
        child.stdin.write(
            settings.model_dump_json().encode() + b"\n" + msgspec.json.encode(inherited) + b"\n"
        )
        child.stdin.flush()
        for end in (questions, posts):
            end.given_away()
            end.serve(self._answer)
        return child


@contextmanager
def begun(port: AdminPort) -> Iterator[AdminProcess]:
    """The process, while the block runs."""
    port.process.begin()
    try:
        yield port.process
    finally:
        port.process.finish()
