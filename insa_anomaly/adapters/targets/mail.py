"""Alerts by mail: a message each over SMTP, with TLS and a password if the server needs them."""

import smtplib
import socket
import ssl
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from email.message import EmailMessage
from email.policy import SMTP
from email.utils import format_datetime
from pathlib import Path
from threading import Lock
from typing import Literal

from insa_anomaly.adapters.targets.deadline import bounded
from insa_anomaly.core.notification.alert import Alert, described
from insa_anomaly.core.notification.event import deterministic_id
from insa_anomaly.errors import InsaError, TargetAway, TargetRefused
from insa_anomaly.instrumentation.alerts import recipients_refused

_LONGEST_SUBJECT = 150
_DOMAIN = "insa-anomaly.invalid"  # of message ids, unique by the part before the @
# Codes of a final refusal; any other fault may be corrected.
_OF_THE_MESSAGE = {500, 501, 552, 553, 554}


@dataclass(frozen=True)
class SmtpAccount:
    """The server and its protocol, the sender and the recipients.

    `password` is called for each message.
    """

    host: str
    port: int
    security: Literal["starttls", "tls", "none"]
    sender: str
    recipients: tuple[str, ...]
    username: str | None = None
    password: Callable[[], str | None] = lambda: None
    ca_file: Path | None = None
    deadline: float = 10.0


class Mail:
    """The port `AlertTarget`. A delivery that exceeds the post's `deadline` seconds is cut off."""

    def __init__(self, post: SmtpAccount, link: Callable[[Alert], str] = lambda _: "") -> None:
        self._post = post
        self._link = link
        self._lock = Lock()
        self._session: smtplib.SMTP | None = None

    def deliver(self, delivery_id: str, alert: Alert, decided_at: int) -> None:
        """Send an alert. Raises TargetAway, TargetRefused."""
        with self._bounded() as session:
            message = self._message(delivery_id, alert, decided_at)
            refused = session.send_message(message, self._post.sender, list(self._post.recipients))
            if refused:
                recipients_refused(list(refused))
            with suppress(smtplib.SMTPException, OSError):
                session.quit()  # the message is accepted by now

    def try_out(self) -> None:
        """Log in without sending a message. Raises TargetAway."""
        with self._bounded() as session:
            session.noop()

    def interrupt(self) -> None:
        """End a delivery under way."""
        with self._lock:
            if self._session is not None and self._session.sock is not None:
                with suppress(OSError):
                    # On the raw socket: no closing handshake of TLS waits for the other side.
                    socket.socket.shutdown(self._session.sock, socket.SHUT_RDWR)

    @contextmanager
    def _bounded(self) -> Iterator[smtplib.SMTP]:
        """Yield a session, logged in, that no server can delay beyond the deadline.

        Raises TargetAway, TargetRefused.
        """
        try:
            with bounded(self._post.deadline, self.interrupt):
                yield self._logged_in()
        except (smtplib.SMTPSenderRefused, smtplib.SMTPDataError) as error:
            raise _refusal(error.smtp_code, error) from error
        except smtplib.SMTPRecipientsRefused as error:
            raise TargetAway(f"all recipients are refused: {error.recipients}") from error
        except (smtplib.SMTPException, OSError, ValueError, InsaError) as error:
            raise TargetAway(
                f"{self._post.host}:{self._post.port}: {error or type(error).__name__}"
            ) from error
        finally:
            with self._lock:
                session, self._session = self._session, None
            if session is not None:
                session.close()

    def _logged_in(self) -> smtplib.SMTP:
        post = self._post
        context = ssl.create_default_context(cafile=post.ca_file)
        session = (
            smtplib.SMTP_SSL(timeout=post.deadline, context=context)
            if post.security == "tls"
            else smtplib.SMTP(timeout=post.deadline)
        )
        with self._lock:
            self._session = session
        # Set by the constructor alone, which would connect before `interrupt` knows the session.
        session._host = post.host  # type: ignore[attr-defined]  # noqa: SLF001
        session.connect(post.host, post.port)
        if post.security == "starttls":
            # Raises if the server has no TLS: no password is sent in clear.
            session.starttls(context=context)
        if post.username is not None:
            session.login(post.username, post.password() or "")
        return session

    def _message(self, delivery_id: str, alert: Alert, decided_at: int) -> EmailMessage:
        message = EmailMessage(policy=SMTP)
        message["From"], message["To"] = self._post.sender, ", ".join(self._post.recipients)
        message["Subject"] = _line(f"[{alert.severity.name}] {alert.subject}: {alert.text}")
        message["Date"] = format_datetime(datetime.fromtimestamp(decided_at / 1e6, UTC))
        message["Message-ID"] = f"<{delivery_id}@{_DOMAIN}>"  # the same for a repeated delivery
        # All messages of a cause form a single conversation.
        message["References"] = f"<{deterministic_id('cause', alert.cause)}@{_DOMAIN}>"
        message["Auto-Submitted"] = "auto-generated"
        message.set_content(described(alert, self._link(alert)))
        return message


def _line(text: str) -> str:
    """Return a printable line: the names that devices choose must not write headers."""
    return "".join(character if character.isprintable() else " " for character in text)[
        :_LONGEST_SUBJECT
    ]


def _refusal(code: int, error: Exception) -> InsaError:
    return (
        TargetRefused(f"the mail server refuses the message: {error}")
        if code in _OF_THE_MESSAGE
        else TargetAway(str(error))
    )
