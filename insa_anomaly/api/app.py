"""The admin port: a FastAPI application served by uvicorn in a thread of the daemon."""

import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Thread
from time import monotonic, sleep

import uvicorn
from fastapi import FastAPI

from insa_anomaly.api import health
from insa_anomaly.errors import AddressInUse

START_SECONDS = 10.0


def create(version: str, troubles: Callable[[], list[str]], figures: Callable[[], dict[str, int]]) -> FastAPI:
    """The application; it knows the daemon only by these questions."""
    app = FastAPI(title="insa-anomaly", version=version, docs_url=None, redoc_url=None, openapi_url=None)
    app.include_router(health.router(version, troubles, figures))
    return app


def listen(host: str, port: int) -> socket.socket:
    """A socket bound to the address. Raises AddressInUse."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    bound = socket.socket(family, socket.SOCK_STREAM)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        bound.bind((host, port))
    except OSError as error:
        bound.close()
        message = f"the HTTP port {host}:{port} cannot be had ({error.strerror}): stop what holds it, or set http.port"
        raise AddressInUse(message) from error
    return bound


@contextmanager
def served(app: FastAPI, bound: socket.socket) -> Iterator[int]:
    """Serve the application on the socket while the block runs; gives the port."""
    server = uvicorn.Server(uvicorn.Config(app, log_config=None, access_log=False, lifespan="off", timeout_graceful_shutdown=2))
    thread = Thread(target=server.run, kwargs={"sockets": [bound]}, name="http", daemon=True)
    thread.start()
    deadline = monotonic() + START_SECONDS
    while not server.started and thread.is_alive() and monotonic() < deadline:
        sleep(0.01)
    try:
        yield bound.getsockname()[1]
    finally:
        server.should_exit = True
        thread.join(START_SECONDS)
        bound.close()
