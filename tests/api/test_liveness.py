"""The admin port: liveness, readiness, metrics and the position of every reader.

The port serves no other page, and no caller from outside.
"""

import json
import socket
from http.client import HTTPConnection
from threading import active_count
from time import monotonic
from urllib.error import HTTPError
from urllib.request import urlopen

import pytest
import uvicorn
from fastapi import FastAPI
from prometheus_client.parser import text_string_to_metric_families
from starlette.testclient import TestClient

from insa_anomaly.api import app, liveness
from insa_anomaly.api.address import listen
from insa_anomaly.errors import AddressInUse
from insa_anomaly.instrumentation.recorder import page_recorded
from insa_anomaly.ports.models import ModelAccuracy
from insa_anomaly.services.stream import Condition
from tests.api.office import well
from tests.conftest import wait_for

FIGURES = {"series": 3, "log_last": 7}


class Daemon:
    """A daemon with the parts that the application asks."""

    def __init__(self) -> None:
        self.troubles: list[str] = []
        self.client = TestClient(app.create("1.2.3", lambda: Condition(self.troubles, FIGURES)))


@pytest.fixture
def daemon() -> Daemon:
    """Return a daemon that works."""
    return Daemon()


def test_alive_means_that_it_answers(daemon: Daemon) -> None:
    """A daemon with troubles is alive: a restart would not cure them."""
    daemon.troubles = ["the database does not record"]
    answer = daemon.client.get("/healthz")
    assert (answer.status_code, answer.text) == (200, "ok\n")


def test_ready_means_that_all_of_the_job_is_done(daemon: Daemon) -> None:
    """A daemon that is not ready answers 503 with every reason, and 200 again once it is."""
    for troubles, status in (([], 200), (["no broker", "no database"], 503), ([], 200)):
        daemon.troubles = troubles
        answer = daemon.client.get("/readyz")
        assert answer.status_code == status
        assert answer.json() == {"ready": not troubles, "reasons": troubles}


def test_the_status_says_what_runs_and_where_every_reader_is(daemon: Daemon) -> None:
    """The status is always 200, because it is an answer and not a judgement."""
    assert daemon.client.get("/api/v1/status").json() == {
        "version": "1.2.3",
        "state": "running",
        "reasons": [],
        **FIGURES,
    }
    daemon.troubles = ["no broker"]
    answer = daemon.client.get("/api/v1/status")
    assert answer.status_code == 200
    assert (answer.json()["state"], answer.json()["reasons"]) == ("degraded", ["no broker"])


def test_metrics_are_prometheus_text(daemon: Daemon) -> None:
    """Metrics are named insa_ or process_, and count the events that happened."""
    found = {
        family.name: family
        for family in text_string_to_metric_families(daemon.client.get("/metrics").text)
    }
    assert found
    assert all(name.startswith(("insa_", "process_")) for name in found)
    before = found["insa_readings_recorded"].samples[0].value
    page_recorded(5)
    answer = daemon.client.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    [after] = [
        one
        for one in text_string_to_metric_families(answer.text)
        if one.name == "insa_readings_recorded"
    ]
    assert after.samples[0].value == before + 5


def test_the_figures_of_models_are_a_page_of_their_own() -> None:
    """Figures are listed by device and metric, under any name; unknown figures are left out."""
    known = [
        ModelAccuracy('a "b"\n\\', "temperature", 0.75, 0.0),
        ModelAccuracy("new", "x", None, None),
    ]
    application = FastAPI()
    application.router.routes.extend(liveness.models_router(lambda: known).routes)
    answer = TestClient(application).get("/metrics/models")
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    samples = [
        sample
        for family in text_string_to_metric_families(answer.text)
        for sample in family.samples
    ]
    labels = {"device_id": 'a "b"\n\\', "metric_name": "temperature"}
    assert [(one.name, one.labels, one.value) for one in samples] == [
        ("insa_model_accuracy", labels, 0.75),
        ("insa_model_false_positive_rate", labels, 0.0),
    ]


@pytest.mark.parametrize("path", ["/", "/docs", "/redoc", "/openapi.json", "/api/v1/models"])
def test_there_is_nothing_else(daemon: Daemon, path: str) -> None:
    """No page loads scripts from elsewhere, and no route exists before its time."""
    assert daemon.client.get(path).status_code == 404


def test_nothing_is_changed_through_it(daemon: Daemon) -> None:
    """The port has no password, so that no request changes any state."""
    for path in ("/healthz", "/readyz", "/metrics", "/api/v1/status"):
        assert daemon.client.post(path).status_code == 405


# ----------------------------------------------------------------------- on a loopback socket
def ask(port: int, path: str) -> tuple[int, str]:
    """Return the status and the body of an answer."""
    try:
        with urlopen(f"http://127.0.0.1:{port}{path}", timeout=10) as answer:
            return answer.status, answer.read().decode()
    except HTTPError as error:
        with error:
            return error.code, error.read().decode()


def test_it_is_served_while_the_block_runs(daemon: Daemon) -> None:
    """The port is served while the block runs, on the socket that was opened before.

    Afterwards the port is free and no thread is left.
    """
    before = active_count()
    bound = listen("127.0.0.1", 0)
    with app.served(app.create("1.2.3", lambda: Condition(["no broker"], FIGURES)), bound) as port:
        assert ask(port, "/healthz") == (200, "ok\n")
        status, body = ask(port, "/readyz")
        assert (status, json.loads(body)["reasons"]) == (503, ["no broker"])
    wait_for(lambda: active_count() <= before)
    listen("127.0.0.1", port).close()


def test_a_port_that_is_taken_is_explained() -> None:
    """The error names the address and a remedy."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(AddressInUse, match=rf"127\.0\.0\.1:{port}.*http\.port"):
            listen("127.0.0.1", port)


def test_an_address_that_is_not_ours_is_explained() -> None:
    """An address of another machine is explained like an address that is taken."""
    with pytest.raises(AddressInUse, match="192"):
        listen("192.0.2.1", 0)
    with pytest.raises(AddressInUse, match="no such host"):
        listen("no such host", 0)


def test_no_answer_waits_for_nagle(daemon: Daemon) -> None:
    """Nagle's delay of 40 ms does not occur on a persistent connection.

    Most of 20 answers take less than 35 ms.
    """
    del daemon
    with app.served(app.create("1.2.3", well), listen("127.0.0.1", 0)) as port:
        connection, slow = HTTPConnection("127.0.0.1", port, timeout=10), 0
        for _ in range(20):
            began = monotonic()
            connection.request("GET", "/healthz")
            connection.getresponse().read()
            slow += monotonic() - began > 0.035
        connection.close()
    assert slow < 10


def test_loopback_may_be_ipv6() -> None:
    """The port listens on ::1 where the machine has IPv6."""
    try:
        bound = listen("::1", 0)
    except AddressInUse:
        pytest.skip("this machine has no IPv6 loopback")
    with bound:
        assert bound.family is socket.AF_INET6


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_whoever_serves_no_more_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that dies is reported, and a server that is asked to end is not."""
    ends: list[str] = []
    with app.served(
        app.create("1.2.3", well), listen("127.0.0.1", 0), died=lambda: ends.append("died")
    ):
        pass
    assert ends == []

    def broken(server: uvicorn.Server, sockets: list[socket.socket]) -> None:
        del server, sockets
        raise OSError("no more files")

    monkeypatch.setattr(uvicorn.Server, "run", broken)
    with app.served(
        app.create("1.2.3", well), listen("127.0.0.1", 0), died=lambda: ends.append("died")
    ):
        wait_for(lambda: ends == ["died"])
