"""Alerts by mail, on a real mail server: encrypted, with a password.

However the server behaves, a delivery is bounded in time.
"""

import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest

from insa_anomaly.adapters.targets.mail import Mail, SmtpAccount
from insa_anomaly.core.notification.alert import delivery_id
from insa_anomaly.errors import ConfigError, TargetAway, TargetRefused
from tests.adapters.mail_server import PASSWORD, USER, MailServer
from tests.core.alerts import DAY_ZERO, an_alert

ALERT = an_alert(1)
ID = delivery_id("mail", ALERT)


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Create a certificate for localhost, and its key."""
    folder = tmp_path_factory.mktemp("tls")
    made = folder / "mail.pem", folder / "mail.key"
    argv = [
        "openssl",
        "req",
        "-x509",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:P-256",
        "-nodes",
        "-days",
        "2",
    ]
    names = [
        "-subj",
        "/CN=localhost",
        "-addext",
        "subjectAltName=DNS:localhost",
        "-keyout",
        str(made[1]),
        "-out",
        str(made[0]),
    ]
    subprocess.run([*argv, *names], check=True, capture_output=True, timeout=60)
    return made


@pytest.fixture
def server() -> Iterator[MailServer]:
    """Yield a relay that accepts mail from any client."""
    server = MailServer()
    with server.running():
        yield server


@pytest.fixture
def secure(certificate: tuple[Path, Path]) -> Iterator[MailServer]:
    """Yield a server that requires TLS and a password."""
    server = MailServer()
    with server.running(*certificate):
        yield server


def post(port: int, **changes: object) -> SmtpAccount:
    """Describe the way to a server on this port."""
    usual = SmtpAccount(
        "localhost",
        port,
        "none",
        "insa@plant.test",
        ("shift@plant.test", "office@plant.test"),
        deadline=3.0,
    )
    return replace(usual, **changes)  # type: ignore[arg-type]


def deliver(way: SmtpAccount, text: str = ALERT.text) -> None:
    """Deliver a mail."""
    Mail(way, lambda _: "https://grafana/d/x").deliver(
        ID, msgspec.structs.replace(ALERT, text=text), DAY_ZERO
    )


def test_a_mail_says_it_all(server: MailServer) -> None:
    """A mail has sender, recipients, subject, the whole text and a link.

    A repeated mail has the same id, and all mails of a cause form a single conversation.
    """
    deliver(post(server.port))
    deliver(post(server.port))
    first, again = server.taken
    assert (first["From"], first["To"]) == (
        "insa@plant.test",
        "shift@plant.test, office@plant.test",
    )
    assert first["Subject"] == "[WARNING] press-1/pressure: opened: 9, expected 5 (4 to 6)"
    assert first["Message-ID"] == again["Message-ID"] == f"<{ID}@insa-anomaly.invalid>"
    assert first["References"] == again["References"] is not None
    assert first["Auto-Submitted"] == "auto-generated"
    text = first.get_content()
    assert all(word in text for word in ("press-1", "pressure", "expected", "https://grafana/d/x"))


def test_a_mail_is_encrypted_and_the_password_right(
    secure: MailServer, certificate: tuple[Path, Path]
) -> None:
    """A mail goes by STARTTLS to a server whose certificate is trusted.

    The password is read for each delivery, because it may have changed.
    """
    asked: list[int] = []

    def password() -> str:
        asked.append(1)
        return PASSWORD

    way = post(
        secure.port, security="starttls", ca_file=certificate[0], username=USER, password=password
    )
    deliver(way)
    deliver(way)
    assert (secure.encrypted, secure.logins, len(asked)) == ([True, True], [USER, USER], 2)


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"security": "starttls"}, "CERTIFICATE_VERIFY_FAILED"),  # not trusted
        (
            {"security": "starttls", "host": "127.0.0.1", "trust": True},
            "certificate is not valid for '127.0.0.1'",
        ),
        ({"security": "starttls", "trust": True}, "530|Authentication required|refused"),  # no name
        (
            {"security": "starttls", "trust": True, "username": USER, "password": lambda: "wrong"},
            "535|[Aa]uthentication",
        ),
        ({"security": "none"}, "530|STARTTLS|refused"),  # in the clear
    ],
)
def test_a_server_that_is_not_satisfied_is_tried_again(
    secure: MailServer, certificate: tuple[Path, Path], changes: dict[str, object], why: str
) -> None:
    """A delivery that fails for its configuration is tried again; the error states the reason."""
    said = {
        "ca_file" if name == "trust" else name: certificate[0] if name == "trust" else one
        for name, one in changes.items()
    }
    way = post(secure.port, **said)
    with pytest.raises(TargetAway, match=why):
        deliver(way)
    assert secure.taken == []


def test_a_server_can_be_tried_out(secure: MailServer, certificate: tuple[Path, Path]) -> None:
    """Trying out a server sends no mail."""
    way = post(
        secure.port,
        security="starttls",
        ca_file=certificate[0],
        username=USER,
        password=lambda: PASSWORD,
    )
    Mail(way).try_out()
    with pytest.raises(TargetAway, match="535"):
        Mail(replace(way, password=lambda: "wrong")).try_out()
    assert (secure.taken, secure.logins) == ([], [USER] * len(secure.logins))


def test_no_password_goes_to_a_server_without_tls(server: MailServer) -> None:
    """A server that offers no STARTTLS receives no password and no mail."""
    with pytest.raises(TargetAway, match="STARTTLS"):
        deliver(post(server.port, security="starttls", username=USER, password=lambda: PASSWORD))
    assert (server.taken, server.logins) == ([], [])


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        ("451 try later", TargetAway),
        ("421 busy", TargetAway),
        ("554 no such thing", TargetRefused),
        ("552 too large", TargetRefused),
    ],
)
def test_what_a_server_answers_decides(
    server: MailServer, answer: str, error: type[Exception]
) -> None:
    """The reply code decides whether a mail is tried again or given up."""
    server.answer = answer
    with pytest.raises(error, match=answer[4:]):
        deliver(post(server.port))


def test_a_password_that_cannot_be_read_is_waited_for(
    secure: MailServer, certificate: tuple[Path, Path]
) -> None:
    """A delivery without a readable password is tried again: the file may return."""

    def password() -> str:
        raise ConfigError("the secret in /x cannot be read")

    with pytest.raises(TargetAway, match="cannot be read"):
        deliver(
            post(
                secure.port,
                security="starttls",
                ca_file=certificate[0],
                username=USER,
                password=password,
            )
        )


def test_nobody_listens() -> None:
    """A server that is unreachable raises TargetAway."""
    with pytest.raises(TargetAway, match="refused"):
        deliver(post(1))


@pytest.mark.parametrize(
    "text", ["x\r\nBcc: all@plant.test", "x\n\nbody", "\x00\u202e", "Größe ≥ 5 °C", "x" * 10_000]
)
def test_what_a_device_calls_itself_writes_no_header(server: MailServer, text: str) -> None:
    """Text of a device neither adds a header nor breaks the mail."""
    deliver(post(server.port), text)
    (mail,) = server.taken
    assert mail["Bcc"] is None
    assert mail["Subject"].startswith("[WARNING] press-1/pressure")
    assert len(mail["Subject"]) <= 150


@contextmanager
def listening(say: bytes, pause: float) -> Iterator[int]:
    """Serve `say` byte by byte, with pauses, and yield the port."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        done = threading.Event()

        def serve() -> None:
            connection, _ = listener.accept()
            with connection:
                for byte in say:
                    if done.wait(pause):
                        return
                    try:
                        connection.sendall(bytes([byte]))
                    except OSError:
                        return
                done.wait(30)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield listener.getsockname()[1]
        done.set()
        thread.join(10)


@pytest.mark.parametrize(("say", "pause"), [(b"", 1.0), (b"220-" + b"x" * 1000, 0.05)])
def test_a_server_that_is_slow_is_cut_off(say: bytes, pause: float) -> None:
    """A server that is silent, or sends single bytes for ever, is cut off at the deadline."""
    with listening(say, pause) as port:
        began = time.monotonic()
        with pytest.raises(TargetAway):
            deliver(post(port, deadline=0.5))
        assert time.monotonic() - began < 2.0


def test_a_delivery_can_be_ended_from_outside() -> None:
    """A stop of the daemon ends a delivery at once."""
    with listening(b"", 1.0) as port:
        mail = Mail(post(port, deadline=30.0))
        threading.Timer(0.3, mail.interrupt).start()
        began = time.monotonic()
        with pytest.raises(TargetAway):
            mail.deliver(ID, ALERT, DAY_ZERO)
        assert time.monotonic() - began < 5.0
