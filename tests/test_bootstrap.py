"""The program scripts/bootstrap: a usable uv from any machine, or a clear line without it."""

import base64
import hashlib
import io
import json
import os
import platform
import shutil
import subprocess
import sys
import threading
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from tests.conftest import ROOT

VERSION = "9.9.9"
NAME = (
    f"uv-{VERSION}-py3-none-"
    f"manylinux_2_17_{platform.machine()}.manylinux2014_{platform.machine()}.whl"
)
PROGRAM = f"#!/bin/sh\necho uv {VERSION}\n"
PYPROJECT = '[tool.uv]\nrequired-version = ">=0.13"\n'
LOCK = """
[[package]]
name = "uv"
version = "{version}"
wheels = [
  {{ url = "{address}/other/uv-{version}-py3-none-win32.whl", hash = "sha256:00" }},
  {{ url = "{address}/files/{name}", hash = "sha256:{sha256}" }},
]
"""


@dataclass
class Mirror:
    """A package index on loopback: files by path, with media types, and received passwords."""

    server: ThreadingHTTPServer
    pages: dict[str, tuple[str, bytes]] = field(default_factory=dict)
    authorizations: list[str] = field(default_factory=list)

    @property
    def host(self) -> str:
        """Host and port of the index."""
        return f"127.0.0.1:{self.server.server_address[1]}"


@pytest.fixture
def mirror() -> Iterator[Mirror]:
    """Run an empty index that answers as long as the test runs."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            index.authorizations.append(self.headers.get("Authorization", ""))
            kind, content = index.pages.get(self.path, ("", b""))
            self.send_response(200 if kind else 404)
            self.send_header("Content-Type", kind)
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: object) -> None:
            """Log no request."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        index = Mirror(server)
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield index
        server.shutdown()
        thread.join()


@pytest.fixture(scope="module")
def wheel() -> bytes:
    """Return a wheel with a uv that prints its version."""
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        archive.writestr(f"uv-{VERSION}.data/scripts/uv", PROGRAM)
        archive.writestr(f"uv-{VERSION}.dist-info/METADATA", "")
    return content.getvalue()


@pytest.fixture
def clone(tmp_path: Path, mirror: Mirror, wheel: bytes) -> Path:
    """Make a clone whose uv.lock names the wheel, at the address of the index."""
    (tmp_path / "scripts").mkdir()
    shutil.copy(ROOT / "scripts" / "bootstrap", tmp_path / "scripts")
    (tmp_path / "pyproject.toml").write_text(PYPROJECT)
    lock = LOCK.format(
        version=VERSION,
        address=f"http://{mirror.host}",
        name=NAME,
        sha256=hashlib.sha256(wheel).hexdigest(),
    )
    (tmp_path / "uv.lock").write_text(lock)
    mirror.pages[f"/files/{NAME}"] = ("application/octet-stream", wheel)
    return tmp_path


def _bootstrap(clone: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run the program with an empty PATH and a pip that finds no package."""
    environment = {"PATH": str(clone / "bin"), "PIP_NO_INDEX": "1", **variables}
    argv = [sys.executable, str(clone / "scripts" / "bootstrap")]
    return subprocess.run(
        argv, check=False, capture_output=True, text=True, env=environment, timeout=60
    )


def _got(done: subprocess.CompletedProcess[str]) -> str:
    """Return the version that the printed uv reports."""
    assert done.returncode == 0, done.stderr
    return subprocess.run(
        [done.stdout.strip(), "--version"], check=True, capture_output=True, text=True
    ).stdout


def _put_uv(folder: Path, answer: str) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "uv").write_text(f"#!/bin/sh\necho {answer}\n")
    (folder / "uv").chmod(0o755)
    return folder / "uv"


def test_it_is_fetched_once(clone: Path, mirror: Mirror) -> None:
    """The file at the address in uv.lock is stored in the ignored folder.

    The second run sends no request.
    """
    assert _got(_bootstrap(clone)) == f"uv {VERSION}\n"
    mirror.pages.clear()
    done = _bootstrap(clone)
    assert _got(done) == f"uv {VERSION}\n"
    assert done.stdout.strip() == str(clone / ".tools" / f"uv-{VERSION}" / "bin" / "uv")
    assert len(mirror.authorizations) == 1


def test_a_usable_uv_on_path_is_taken(clone: Path, mirror: Mirror) -> None:
    """A usable uv on PATH is used, and none is fetched."""
    uv = _put_uv(clone / "bin", "uv 0.14.0")
    assert _bootstrap(clone).stdout.strip() == str(uv)
    assert mirror.authorizations == []


def test_an_old_uv_on_path_is_left(clone: Path) -> None:
    """A uv on PATH that is too old for uv.lock is not used."""
    _put_uv(clone / "bin", "uv 0.4.30")
    assert _got(_bootstrap(clone)) == f"uv {VERSION}\n"


def test_the_uv_variable_is_obeyed_or_refused(clone: Path) -> None:
    """A uv named by the variable is used, or refused where it is not usable.

    No other uv is tried in its place.
    """
    uv = _put_uv(clone / "own", "uv 1.0")
    assert _bootstrap(clone, UV=str(uv)).stdout.strip() == str(uv)
    refused = _bootstrap(clone, UV="/bin/ls")
    assert refused.returncode == 1
    assert refused.stderr.startswith("bootstrap: UV is /bin/ls, which is no uv")


@pytest.mark.parametrize("variable", ["UV_DEFAULT_INDEX", "PIP_INDEX_URL"])
@pytest.mark.parametrize("form", ["json", "html"])
def test_a_mirror_is_honoured(
    clone: Path, mirror: Mirror, wheel: bytes, variable: str, form: str
) -> None:
    """A mirror supplies the file, whichever form its page has.

    Relative links and the password of its address work.
    """
    mirror.pages = {f"/deep/packages/{NAME}": ("application/octet-stream", wheel)}
    if form == "json":
        files = {
            "files": [
                {"url": f"http://{mirror.host}/x/uv-1-py3-none-any.whl"},
                {"url": f"../../packages/{NAME}#sha256=0"},
            ]
        }
        mirror.pages["/deep/simple/uv/"] = (
            "application/vnd.pypi.simple.v1+json",
            json.dumps(files).encode(),
        )
    else:
        page = f'<a href="x.whl">x</a> <a data-y="" href="../../packages/{NAME}#sha256=0">y</a>'
        mirror.pages["/deep/simple/uv/"] = ("text/html", page.encode())
    done = _bootstrap(clone, **{variable: f"http://me:s%40crt@{mirror.host}/deep/simple"})
    assert _got(done) == f"uv {VERSION}\n"
    assert mirror.authorizations[0] == f"Basic {base64.b64encode(b'me:s@crt').decode()}"


def test_another_file_is_refused(clone: Path, mirror: Mirror, wheel: bytes) -> None:
    """A file without the hash in uv.lock is never stored."""
    mirror.pages[f"/files/{NAME}"] = ("application/octet-stream", wheel + b"!")
    done = _bootstrap(clone)
    assert done.returncode == 1
    assert "is not the file that uv.lock names" in done.stderr
    assert not list(clone.glob(".tools/**/uv"))


@pytest.mark.parametrize(
    ("variables", "told"),
    [
        (
            {"UV_DEFAULT_INDEX": "http://127.0.0.1:9/simple"},
            "http://127.0.0.1:9/simple/uv/: [Errno 111] Connection refused",
        ),
        (
            {"UV_DEFAULT_INDEX": "http://me:secret@MIRROR/simple"},
            "http://MIRROR/simple/uv/: Not Found",
        ),
        ({"UV_DEFAULT_INDEX": "no address"}, "unknown url type"),
    ],
)
def test_failures_are_one_clear_line(
    clone: Path, mirror: Mirror, variables: dict[str, str], told: str
) -> None:
    """A failure prints a line with request, answer and cure, without traceback or password."""
    done = _bootstrap(
        clone, **{name: value.replace("MIRROR", mirror.host) for name, value in variables.items()}
    )
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("bootstrap: cannot get uv: ")
    assert told.replace("MIRROR", mirror.host) in done.stderr
    assert done.stderr.endswith("; install uv yourself and set UV to its path\n")
    assert "secret" not in done.stderr
    assert "Traceback" not in done.stderr


def test_a_machine_without_a_wheel_is_told(clone: Path) -> None:
    """A processor for which uv.lock has no file is reported."""
    lock = (clone / "uv.lock").read_text().replace(f"2_17_{platform.machine()}", "2_17_vax")
    (clone / "uv.lock").write_text(lock)
    assert "uv.lock names no file for Linux" in _bootstrap(clone).stderr


def test_what_is_there_is_not_asked_for() -> None:
    """The program deps requests no package when every server is present."""
    environment = {**os.environ, "http_proxy": "http://127.0.0.1:9"}
    argv = [sys.executable, str(ROOT / "scripts" / "deps"), "install", "mosquitto", "redis-server"]
    done = subprocess.run(
        argv, check=True, capture_output=True, text=True, env=environment, timeout=30
    )
    assert done.stdout + done.stderr == ""
