"""The port answers for its own names alone, on every route."""

import http.client
import re
from http import HTTPStatus

import pytest
from fastapi.routing import APIRoute
from fastapi.testclient import TestClient

from insa_anomaly.api import app
from insa_anomaly.api.address import listen
from insa_anomaly.api.hosts import host_name
from insa_anomaly.services.stream import Condition
from tests.api.office import Office

HOSTS = ["localhost", "127.0.0.1", "::1", "Plant-Server.example"]


def well() -> Condition:
    """Return the condition of a daemon without troubles."""
    return Condition([], {})


def asked(port: int, host: str) -> int:
    """Return the status of a request over a connection, for this host."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request("GET", "/healthz", headers={"Host": host})
        return connection.getresponse().status
    finally:
        connection.close()


@pytest.mark.parametrize(
    "host",
    [
        *("localhost", "LOCALHOST:8787", "127.0.0.1:80", "[::1]", "[::1]:8787", "[0:0::1]:8787"),
        *("plant-server.example", "plant-server.example.:443"),
    ],
)
def test_its_own_names_are_answered(host: str) -> None:
    """Case, port, brackets and the dot of the root do not matter."""
    client = TestClient(app.create("1.2.3", well, hosts=HOSTS))
    assert client.get("/healthz", headers={"Host": host}).status_code == HTTPStatus.OK


@pytest.mark.parametrize(
    "host",
    [
        *("evil.example", "localhost.evil.example", "evil.example:8787", "127.0.0.1.evil.example"),
        *("", ":8787", "10.0.0.1", "[::2]", "[::1", "::1", "localhost:80:80", "a]b", "[::1]x"),
        *("localhost@evil.example", "localhost, evil.example"),
    ],
)
def test_another_host_is_refused_with_the_cure(host: str) -> None:
    """The answer names the setting, and repeats what came as text."""
    client = TestClient(app.create("1.2.3", well, hosts=HOSTS))
    refused = client.get("/healthz", headers={"Host": host})
    assert refused.status_code == HTTPStatus.MISDIRECTED_REQUEST
    assert "http.hosts" in refused.json()["detail"]
    assert refused.headers["content-security-policy"] == "default-src 'none'"


def test_every_route_refuses_it(office: Office) -> None:
    """No route, open or guarded, answers for another host, even with a key that may do all."""
    routes = [route for route in office.application.routes if isinstance(route, APIRoute)]
    assert len(routes) > 25
    for route in routes:
        path = re.sub(r"\{[^}]*\}", "1", route.path)
        headers = {"Host": "evil.example", "Authorization": f"Bearer {office.tokens['admin']}"}
        for method in route.methods or ():
            answer = office.client.request(method, path, headers=headers)
            assert answer.status_code == HTTPStatus.MISDIRECTED_REQUEST, (method, path)


def test_the_address_of_the_connection_is_answered() -> None:
    """A port on all addresses needs no list of its own addresses."""
    with app.served(app.create("1.2.3", well, hosts=["somewhere"]), listen("127.0.0.1", 0)) as port:
        assert asked(port, f"127.0.0.1:{port}") == HTTPStatus.OK
        assert asked(port, "localhost") == HTTPStatus.MISDIRECTED_REQUEST


def test_names_are_compared_as_addresses_where_they_are() -> None:
    """Different spellings of an address are the same address."""
    assert host_name("[0000:0:0:0:0:0:0:1]:1") == host_name("[::1]") == "::1"
