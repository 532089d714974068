"""A real HTTP server for tests.

The server answers as the test configures it, slowly if need be, and records every request.
"""

import ssl
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


@dataclass(frozen=True)
class Request:
    """A request that arrived; headers have lower-case names."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes


@dataclass(frozen=True)
class Reply:
    """An answer; a byte is sent every `pause` seconds if `pause` is not 0."""

    status: int = 200
    body: bytes = b"{}"
    headers: Mapping[str, str] = field(default_factory=dict)
    pause: float = 0.0


@dataclass
class WebServer:
    """A server whose function `answer` decides each reply; `asked` holds all requests."""

    answer: Callable[[Request], Reply] = lambda _: Reply()
    asked: list[Request] = field(default_factory=list)
    port: int = 0

    @contextmanager
    def running(self, certificate: Path | None = None, key: Path | None = None) -> Iterator[None]:
        """Listen while the block runs; with a certificate, speak TLS."""
        server = ThreadingHTTPServer(("127.0.0.1", self.port), self._handler())
        server.daemon_threads = True
        if certificate is not None:
            context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
            context.load_cert_chain(certificate, key)
            server.socket = context.wrap_socket(server.socket, server_side=True)
        self.port = server.server_address[1]
        thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        try:
            yield
        finally:
            server.shutdown()
            server.server_close()
            thread.join(10)

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        mine = self

        class Handler(BaseHTTPRequestHandler):
            def _do(self) -> None:
                length = int(self.headers.get("content-length", 0))
                headers = {name.lower(): value for name, value in self.headers.items()}
                request = Request(self.command, self.path, headers, self.rfile.read(length))
                mine.asked.append(request)
                self._reply(mine.answer(request))

            def _reply(self, reply: Reply) -> None:
                lines = [
                    f"HTTP/1.1 {reply.status} -",
                    f"Content-Length: {len(reply.body)}",
                    "Connection: close",
                ]
                lines += [f"{name}: {value}" for name, value in reply.headers.items()]
                said = "\r\n".join(lines).encode() + b"\r\n\r\n" + reply.body
                pieces = [said] if not reply.pause else [said[i : i + 1] for i in range(len(said))]
                try:
                    for piece in pieces:
                        time.sleep(reply.pause)
                        self.wfile.write(piece)
                except OSError:
                    self.close_connection = True  # the client hung up: its deadline was over

            do_GET = do_POST = do_PATCH = _do  # noqa: N815 - the library's names

            def log_message(self, *_: object) -> None:
                """Log no request."""

        return Handler
