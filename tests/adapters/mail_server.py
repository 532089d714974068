"""A real SMTP server for tests, with STARTTLS and passwords.

A test can make the server refuse mail. The server stores all mail that it accepted.
"""

import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from email import message_from_bytes
from email.message import EmailMessage
from email.policy import default
from pathlib import Path
from typing import Any, cast

from aiosmtpd.controller import Controller
from aiosmtpd.smtp import SMTP, AuthResult, Envelope, LoginPassword, Session

from insa_anomaly.adapters import embedded

USER, PASSWORD = "insa", "s3cret"


@dataclass
class MailServer:
    """A server that replies `answer` to every message; `taken` holds the accepted messages."""

    answer: str = "250 OK"
    taken: list[EmailMessage] = field(default_factory=list)
    logins: list[str] = field(default_factory=list)
    encrypted: list[bool] = field(default_factory=list)
    port: int = 0

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:  # noqa: N802 - aiosmtpd's name
        """Handle a message that arrived; aiosmtpd calls this method."""
        del server
        if self.answer.startswith("250"):
            self.encrypted.append(session.ssl is not None)
            self.taken.append(message_from_bytes(cast("bytes", envelope.content), policy=default))
        return self.answer

    def authenticate(self, *words: Any) -> AuthResult:  # noqa: ANN401 - aiosmtpd hands over what it has
        """Admit a client that sends the right password."""
        login = cast("LoginPassword", words[-1])
        self.logins.append(login.login.decode())
        right = login.login == USER.encode() and login.password == PASSWORD.encode()
        return AuthResult(success=right, handled=False)

    @contextmanager
    def running(self, certificate: Path | None = None, key: Path | None = None) -> Iterator[None]:
        """Listen while the block runs; with a certificate, require TLS and a password."""
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH) if certificate else None
        if context is not None and certificate is not None:
            context.load_cert_chain(certificate, key)
        self.port = self.port or embedded.free_port()
        controller = Controller(
            self,
            hostname="127.0.0.1",
            port=self.port,
            tls_context=context,
            require_starttls=context is not None,
            authenticator=self.authenticate,
            auth_required=context is not None,
        )
        controller.start()
        try:
            yield
        finally:
            controller.stop()
