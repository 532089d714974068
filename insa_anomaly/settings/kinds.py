"""Types of single settings, with their bounds."""

from ipaddress import ip_network
from typing import Annotated
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field


def sheltered(scheduler: str) -> str:
    """Return the scheduler's address if strangers cannot write to it: Dask runs what it is sent."""
    parts = urlsplit(scheduler)
    if parts.scheme != "tls" and not (
        parts.scheme == "tcp" and parts.hostname in {"127.0.0.1", "::1", "localhost"}
    ):
        raise ValueError("tls://host:port, or tcp://127.0.0.1:port: Dask runs what it is sent")
    return scheduler


Port = Annotated[int, Field(ge=1, le=65535)]
Filled = Annotated[str, Field(min_length=1)]


def network(word: str) -> str:
    """Return the word if it names an IP network. Raises ValueError."""
    ip_network(word)
    return word


def _web_address(url: str) -> str:
    parts = urlsplit(url)
    if parts.scheme not in {"http", "https"} or not parts.hostname or "@" in parts.netloc:
        raise ValueError("http(s)://host/path, without a name or password in it")
    return url


WebAddress = Annotated[str, AfterValidator(_web_address)]


def redis_address(url: str) -> str:
    """Return the URL if it is an address of Redis. Raises ValueError."""
    parts = urlsplit(url)
    try:
        usable = parts.scheme in {"redis", "rediss", "unix"} and (
            parts.port is None or parts.scheme != "unix"
        )
    except ValueError:  # what stands for the port is none
        usable = False
    if not usable:
        raise ValueError("redis://host:port/0, rediss:// with TLS, or unix:///path")
    return url
