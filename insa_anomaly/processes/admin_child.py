"""The child process of the admin port (`processes.admin`): its start, and the daemon's answers."""

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
from insa_anomaly.wiring.clock import clock

QUESTIONS, POSTS = 4, 8  # lines: what waits for the disk has its own
# Without rich, 3 MB, which structlog would load to colour tracebacks.
_PROGRAM = (
    "import sys; sys.modules['rich'] = None; from insa_anomaly.processes.admin import be; be()"
)


class Inherited(msgspec.Struct, frozen=True):
    """State that the child needs beside the settings; numbers are its file descriptors."""

    dsn: str
    instance: UUID  # the id of the log
    capacity: int  # series on the board
    windows: int
    port: int
    questions: list[int]
    posts: list[int]


@contextmanager
def listening(http: HttpSettings) -> Iterator[socket.socket]:
    """Hold the address of the admin port while the block runs.

    Raises AddressInUse, and ConfigError for a certificate that cannot be used.
    """
    shown = certificate(http)
    if shown is not None:
        shown.check()
    address.warn_unprotected(http.host, shown)
    with address.listen(http.host, http.port) as bound:
        yield bound


def certificate(http: HttpSettings) -> address.Certificate | None:
    """Return the port's certificate; None where the port does not speak TLS."""
    if not http.certificate_file or not http.key_file:
        return None
    return address.Certificate(http.certificate_file, credential(http.key_file))


class AdminPort:
    """The child process and the server that answers it; questions wait until the server is open."""

    def __init__(
        self,
        settings: Settings,
        dsn: str,
        daemon: DaemonParts,
        memory: SharedMemory,
        bound: socket.socket,
    ) -> None:
        """Prepare the child; `memory` holds the shared windows of the daemon's fleet."""
        self._dsn = dsn
        self._daemon = daemon
        self._memory = memory
        self._bound = bound
        self._desk: StreamServer | None = None
        self._opened = Event()
        self.process = AdminProcess(self._start, settings, clock)

    def open(self, desk: StreamServer) -> None:
        """Answer questions from now on."""
        self._desk = desk
        self._opened.set()

    def _answer(self, question: bytes) -> bytes:
        """Return the answer to a question, or empty bytes if the server does not open in time.

        The child has given up by then and takes empty bytes for no answer.
        """
        self._opened.wait(ANSWER_SECONDS)
        return b"" if self._desk is None else self._desk.answer(question)

    def _start(self, settings: Settings) -> "subprocess.Popen[bytes]":
        """Start the process.

        Settings go over its standard input, so that no argument has a secret. The process never
        outlives the daemon, nor holds the port longer.
        """
        questions, posts = AnsweringEnd(QUESTIONS), AnsweringEnd(POSTS)
        windows, bound = self._memory.descriptor, self._bound.fileno()
        given = [windows, bound, *questions.descriptors, *posts.descriptors]
        argv = [sys.executable, "-c", _PROGRAM, "the admin port"]
        stdin = subprocess.PIPE
        child = embedded.spawn(argv, death_signal=SIGKILL, stdin=stdin, cwd=None, pass_fds=given)
        instance, capacity = self._daemon.log.id, self._daemon.fleet.registry.capacity
        ends = {"questions": questions.descriptors, "posts": posts.descriptors}
        inherited = Inherited(self._dsn, instance, capacity, windows, bound, **ends)
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
    """Run the child process while the block runs."""
    port.process.begin()
    try:
        yield port.process
    finally:
        port.process.finish()
