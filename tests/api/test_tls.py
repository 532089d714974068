"""The admin port with a certificate of its own."""

import ssl
import subprocess
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

import pytest

from insa_anomaly.api import app
from insa_anomaly.api.address import Certificate, is_loopback, listen
from insa_anomaly.errors import ConfigError
from insa_anomaly.settings.sections import HttpSettings
from tests.api.office import well


@pytest.fixture
def certificate(tmp_path: Path) -> Certificate:
    """Create a self-signed certificate for 127.0.0.1."""
    made = Certificate(tmp_path / "port.pem", tmp_path / "port.key")
    argv = [
        "openssl",
        "req",
        "-x509",
        "-newkey",
        "rsa:2048",
        "-nodes",
        "-days",
        "2",
        "-subj",
        "/CN=plant",
        "-addext",
        "subjectAltName=IP:127.0.0.1",
    ]
    subprocess.run(
        [*argv, "-keyout", str(made.key), "-out", str(made.certificate)],
        check=True,
        capture_output=True,
        timeout=60,
    )
    return made


def test_it_speaks_tls_and_nothing_else(certificate: Certificate) -> None:
    """The port speaks TLS only, to clients that trust the certificate, and refuses old versions.

    The answer demands TLS for all later requests.
    """
    trusting, old = (ssl.create_default_context(cafile=certificate.certificate) for _ in "12")
    with pytest.deprecated_call():
        old.maximum_version = ssl.TLSVersion.TLSv1_1
    application = app.create("1.2.3", well)
    with app.served(application, listen("127.0.0.1", 0), certificate) as port:
        place = f"127.0.0.1:{port}/healthz"
        with urlopen(f"https://{place}", context=trusting, timeout=10) as answer:
            assert (answer.status, answer.headers["strict-transport-security"]) == (
                200,
                "max-age=31536000",
            )
        for context in (ssl.create_default_context(), old):
            with pytest.raises(URLError):
                urlopen(f"https://{place}", context=context, timeout=10)
        with pytest.raises(OSError):  # noqa: PT011 - a closed connection or an empty answer
            urlopen(f"http://{place}", timeout=10)


def test_files_that_are_none_are_explained(tmp_path: Path) -> None:
    """Missing files are named before the port is served."""
    application = app.create("1.2.3", well)
    bound = listen("127.0.0.1", 0)
    missing = Certificate(tmp_path / "no.pem", tmp_path / "no.key")
    with pytest.raises(ConfigError, match=r"no\.pem"), app.served(application, bound, missing):
        pytest.fail("it is served")
    listen("127.0.0.1", 0).close()


def test_a_certificate_has_a_key() -> None:
    """A certificate without a key is a mistake."""
    with pytest.raises(ValueError, match="together"):
        HttpSettings(certificate_file=Path("port.pem"))


HOSTS = {
    "127.0.0.1": True,
    "127.9.9.9": True,
    "::1": True,
    "localhost": True,
    "0.0.0.0": False,  # noqa: S104
    "plant": False,
}


@pytest.mark.parametrize(("host", "expected"), HOSTS.items())
def test_what_only_this_machine_can_reach_is_loopback(host: str, expected: bool) -> None:
    """Only addresses that no other machine can reach are loopback."""
    assert is_loopback(host) is expected
