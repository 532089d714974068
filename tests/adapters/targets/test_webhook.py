"""Webhooks: signed, bounded in time and bytes, and no way into the plant's own network."""

import ipaddress
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from insa_anomaly.adapters.targets.exchange import Exchange, Network, allowed, reachable
from insa_anomaly.adapters.targets.webhook import Webhook, signature
from insa_anomaly.core.notification.alert import Alert, delivery_id
from insa_anomaly.errors import ConfigError, TargetAway, TargetRefused
from tests.adapters.web_server import Reply, WebServer
from tests.core.alerts import DAY_ZERO, an_alert

HERE: list[Network] = [ipaddress.ip_network("127.0.0.0/8")]
ALERT = an_alert(1)
ID = delivery_id("webhook:scada", ALERT)
SECRET = "a word"  # noqa: S105 - of a test


@pytest.fixture
def server() -> Iterator[WebServer]:
    """Yield a receiver."""
    server = WebServer()
    with server.running():
        yield server


def no_secret() -> None:
    """Return no secret: the delivery is not signed."""


def webhook(
    server: WebServer, networks: list[Network] | None = None, deadline: float = 3.0
) -> Webhook:
    """Build the webhook that reaches the receiver."""
    exchange = Exchange(HERE if networks is None else networks, deadline)
    return Webhook(
        f"http://127.0.0.1:{server.port}/hook?a=b",
        exchange,
        lambda: SECRET,
        lambda: DAY_ZERO,
        lambda _: "https://g/d",
    )


def deliver(way: Webhook, alert: Alert = ALERT) -> None:
    """Deliver an alert."""
    way.deliver(ID, alert, DAY_ZERO)


def test_it_says_all_and_is_signed(server: WebServer) -> None:
    """The body is JSON with the whole event, and the headers are signed.

    With the secret, a receiver can verify the sender and the time, and recognise a repeated
    delivery.
    """
    deliver(webhook(server))
    deliver(webhook(server))
    first, again = server.asked
    said = msgspec.json.decode(first.body)
    assert (first.method, first.path, first.headers["content-type"]) == (
        "POST",
        "/hook?a=b",
        "application/json",
    )
    assert (said["kind"], said["severity"], said["device_id"], said["link"]) == (
        "opened",
        "warning",
        "press-1",
        "https://g/d",
    )
    assert said["event"] == ALERT.event
    seconds = str(DAY_ZERO // 1_000_000)
    assert (
        first.headers["x-insa-signature"]
        == f"t={seconds},v1={signature(SECRET, seconds, first.body)}"
    )
    assert (
        first.headers["x-insa-delivery"]
        == again.headers["x-insa-delivery"]
        == said["delivery_id"]
        == ID
    )
    assert signature(SECRET, seconds, first.body + b" ") not in first.headers["x-insa-signature"]


def test_a_signature_is_what_others_compute() -> None:
    """The signature equals that of `printf '1.{}' | openssl dgst -sha256 -hmac key`."""
    assert (
        signature("key", "1", b"{}")
        == "1ba6b8171186efc613e8bcc0cbdab2748f24984d7c5a84faa2637afa0e40d224"
    )


@pytest.mark.parametrize(
    ("status", "error"),
    [(400, TargetRefused), (413, TargetRefused), (422, TargetRefused)]
    + [(code, TargetAway) for code in (301, 302, 307, 308, 401, 403, 404, 410, 429, 500, 502, 503)],
)
def test_what_it_answers_decides(server: WebServer, status: int, error: type[Exception]) -> None:
    """An alert that a receiver will never accept is given up; any other answer is tried again.

    No redirect is followed.
    """
    server.answer = lambda _: Reply(
        status, headers={"Location": f"http://127.0.0.1:{server.port}/else", "Retry-After": "7"}
    )
    with pytest.raises(error, match=str(status)) as caught:
        deliver(webhook(server))
    assert len(server.asked) == 1
    assert error is TargetRefused or getattr(caught.value, "retry_seconds", None) == 7.0


def test_a_secret_that_cannot_be_read_is_waited_for(server: WebServer) -> None:
    """A delivery whose secret cannot be read is not sent unsigned."""

    def secret() -> str:
        raise ConfigError("the secret in /x cannot be read")

    with pytest.raises(TargetAway, match="cannot be read"):
        deliver(
            Webhook(f"http://127.0.0.1:{server.port}/", Exchange(HERE), secret, lambda: DAY_ZERO)
        )
    assert server.asked == []


@pytest.mark.parametrize("reply", [Reply(body=b"x" * 200, pause=0.05), Reply(pause=1.0)])
def test_a_receiver_that_is_slow_is_cut_off(server: WebServer, reply: Reply) -> None:
    """A receiver that sends a byte now and then gets no more time than the deadline."""
    server.answer = lambda _: reply
    began = time.monotonic()
    with pytest.raises(TargetAway):
        deliver(webhook(server, deadline=0.5))
    assert time.monotonic() - began < 2.0


def test_a_receiver_that_never_ends_is_cut_off(server: WebServer) -> None:
    """An answer of more than a few megabytes is cut off."""
    server.answer = lambda _: Reply(body=b"x" * (5 << 20))
    with pytest.raises(TargetAway, match="too long"):
        deliver(webhook(server))


def test_a_delivery_can_be_ended_from_outside(server: WebServer) -> None:
    """A stop of the daemon ends a delivery at once."""
    server.answer = lambda _: Reply(pause=5.0)
    way = webhook(server, deadline=30.0)
    threading.Timer(0.2, way.interrupt).start()
    began = time.monotonic()
    with pytest.raises(TargetAway):
        deliver(way)
    assert time.monotonic() - began < 3.0


def test_nobody_listens() -> None:
    """A receiver that is unreachable raises TargetAway."""
    with pytest.raises(TargetAway, match="refused"):
        deliver(Webhook("http://127.0.0.1:1/", Exchange(HERE), no_secret, lambda: DAY_ZERO))


def test_tls_is_verified(tmp_path: Path) -> None:
    """A receiver whose certificate is not trusted gets no delivery.

    The name in the certificate is checked, though the connection goes to an address.
    """
    certificate, key = tmp_path / "c.pem", tmp_path / "c.key"
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
        "-subj",
        "/CN=localhost",
    ]
    names = [
        "-addext",
        "subjectAltName=DNS:localhost",
        "-keyout",
        str(key),
        "-out",
        str(certificate),
    ]
    subprocess.run([*argv, *names], check=True, capture_output=True, timeout=60)
    server = WebServer()
    with server.running(certificate, key):
        url = f"https://localhost:{server.port}/"
        deliver(Webhook(url, Exchange(HERE, 3.0, certificate), no_secret, lambda: DAY_ZERO))
        assert len(server.asked) == 1
        assert server.asked[0].headers["host"] == f"localhost:{server.port}"
        with pytest.raises(TargetAway, match="CERTIFICATE_VERIFY_FAILED"):
            deliver(Webhook(url, Exchange(HERE, 3.0), no_secret, lambda: DAY_ZERO))
        with pytest.raises(TargetAway, match="certificate is not valid"):
            deliver(
                Webhook(
                    url.replace("localhost", "127.0.0.1"),
                    Exchange(HERE, 3.0, certificate),
                    no_secret,
                    lambda: DAY_ZERO,
                )
            )
        assert len(server.asked) == 1


# ---------------------------------------------------------------------------- where it may go
INSIDE = [
    *(
        "127.0.0.1",
        "127.8.9.1",
        "0.0.0.1",
        "10.1.2.3",
        "172.16.0.1",
        "192.168.1.1",
        "169.254.169.254",
        "100.64.0.1",
        "224.0.0.1",
    ),
    *(
        "255.255.255.255",
        "::1",
        "::",
        "fe80::1",
        "fc00::1",
        "fd12::1",
        "ff02::1",
        "::ffff:127.0.0.1",
        "::ffff:169.254.169.254",
    ),
    *("64:ff9b::7f00:1", "64:ff9b::a9fe:a9fe", "2002:7f00:1::", "2002:a00:1::1", "2001:db8::1"),
    *("64:ff9b:1::a00:1", "64:ff9b:1:fffe::808:808", "::10.1.2.3", "::ffff:0:10.1.2.3"),
    *("fec0::1", "feff::1", "3fff::1", "3fff:fff::1", "5f00::1", "5f00:ffff::1"),
]


@pytest.mark.parametrize("word", INSIDE)
def test_what_is_inside_is_not_reached(word: str) -> None:
    """An address inside the plant is not reached, however it is written."""
    assert not allowed(ipaddress.ip_address(word), [])


@pytest.mark.parametrize(
    ("word", "networks"),
    [
        ("9.9.9.9", []),
        ("2620:fe::fe", []),
        ("64:ff9b::9.9.9.9", []),
        ("64:ff9b:1::a00:1", ["64:ff9b:1::/48"]),
        ("::ffff:0:10.1.2.3", ["10.0.0.0/8"]),
        ("10.1.2.3", ["10.0.0.0/8"]),
        ("fd12::1", ["fd12::/16"]),
    ],
)
def test_what_is_public_or_allowed_is_reached(word: str, networks: list[str]) -> None:
    """A plant names the networks of its receivers."""
    assert allowed(ipaddress.ip_address(word), [ipaddress.ip_network(one) for one in networks])


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1",
        "localhost",
        "127.1",
        "0x7f000001",
        "2130706433",
        "0177.0.0.1",
        "[::ffff:127.0.0.1]",
    ],
)
def test_no_spelling_of_this_machine_is_reached(server: WebServer, host: str) -> None:
    """The address that the resolver returns is checked, whichever way the host is spelled."""
    with pytest.raises(TargetAway, match=r"no public address|Name or service|resolution"):
        deliver(Webhook(f"http://{host}:{server.port}/", Exchange(), no_secret, lambda: DAY_ZERO))
    assert server.asked == []


def test_a_name_is_resolved_once(server: WebServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """The connection goes to the address that was checked.

    A name that is public when it is checked and local a moment later is therefore not reached.
    """
    answers = iter(["192.0.2.1", "127.0.0.1"])
    asked: list[str] = []
    real = socket.getaddrinfo

    def resolve(host: str, port: int, *more: object, **names: object) -> object:
        if host != "rebinding.test":
            return real(host, port, *more, **names)  # type: ignore[arg-type]
        asked.append(host)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (next(answers), port))]

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    monkeypatch.setattr(
        "insa_anomaly.adapters.targets.exchange.allowed",
        lambda address, _: str(address) == "192.0.2.1",
    )
    with pytest.raises(TargetAway):
        deliver(
            Webhook(
                f"http://rebinding.test:{server.port}/",
                Exchange((), 0.3),
                no_secret,
                lambda: DAY_ZERO,
            )
        )
    assert (asked, server.asked) == (["rebinding.test"], [])


def test_every_address_of_a_name_is_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    """A name is refused if any of its addresses is inside."""
    found = [
        (socket.AF_INET, socket.SOCK_STREAM, 6, "", (word, 80)) for word in ("9.9.9.9", "127.0.0.1")
    ]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: found)
    with pytest.raises(ValueError, match=r"127\.0\.0\.1 is no public address"):
        reachable("both.test", 80, [])


@pytest.mark.parametrize(
    "url",
    ["ftp://9.9.9.9/", "file:///etc/passwd", "http:///x", "http://user:pw@9.9.9.9/", "9.9.9.9"],
)
def test_other_kinds_of_addresses_are_not_asked(url: str) -> None:
    """Only http and https are spoken."""
    with pytest.raises(TargetAway):
        Exchange().send("GET", url, {})
