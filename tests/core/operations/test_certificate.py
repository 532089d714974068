"""Expiry of certificates: the same as OpenSSL reports, and none for noise."""

import ssl
import subprocess
from datetime import datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from insa_anomaly.core.operations.certificate import ends_of_pem, expires

KINDS = [
    ("2", "ec", "/CN=plant"),
    ("1000", "rsa:2048", "/C=DE/O=Werk/CN=плант"),
    ("12000", "ec", f"/CN={'x' * 60}"),  # ends after 2049
]


@pytest.fixture(scope="module", params=KINDS, ids=lambda kind: kind[0])
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a file with a key and a self-signed certificate."""
    folder = tmp_path_factory.mktemp("certificate")
    days, key, subject = request.param
    curve = ["-pkeyopt", "ec_paramgen_curve:P-256"] if key == "ec" else []
    argv = [
        "openssl",
        "req",
        "-x509",
        "-newkey",
        key,
        *curve,
        "-nodes",
        "-utf8",
        "-days",
        days,
        "-subj",
        subject,
    ]
    subprocess.run(
        [*argv, "-keyout", "key", "-out", "crt"],
        cwd=folder,
        check=True,
        capture_output=True,
        timeout=60,
    )
    both = folder / "both.pem"
    both.write_bytes((folder / "key").read_bytes() + (folder / "crt").read_bytes())
    return both


def test_the_end_is_what_openssl_says(made: Path) -> None:
    """The expiry equals OpenSSL's to the second, before and after 2050, even beside a key."""
    said = subprocess.run(
        ["openssl", "x509", "-enddate", "-noout", "-in", str(made)],
        check=True,
        capture_output=True,
        text=True,
        timeout=60,
    ).stdout
    end = datetime.strptime(
        said.strip().removeprefix("notAfter=").replace(" GMT", "+0000"), "%b %d %H:%M:%S %Y%z"
    )
    assert ends_of_pem(made.read_bytes()) == [round(end.timestamp() * 1e6)]


def test_law_every_cut_and_change_is_answered(made: Path) -> None:
    """A truncated or altered certificate has an expiry or None, and raises no error."""
    der = ssl.PEM_cert_to_DER_cert(
        made.read_text()[made.read_text().index("-----BEGIN CERTIFICATE") :]
    )
    assert expires(der) is not None
    assert all(expires(der[:length]) is None for length in range(80))
    for place in range(len(der)):
        expires(der[:place] + bytes([der[place] ^ 0xFF]) + der[place + 1 :])


@given(st.binary(max_size=200))
def test_law_noise_is_answered(noise: bytes) -> None:
    """Noise has an expiry or None, as DER and as a file, and raises no error."""
    assert expires(noise) is None or isinstance(expires(noise), int)
    assert ends_of_pem(noise) == []
    assert ends_of_pem(b"-----BEGIN CERTIFICATE-----\n" + noise + b"-----END CERTIFICATE-----") in (
        [],
        [expires(noise)],
    )
