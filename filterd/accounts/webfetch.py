"""One HTTP request with limits, for keys and answers of an OAuth server. Blocks: called in the pool.

Invariants: HTTPS with the system's authorities, plain HTTP only to this machine; no redirect is followed; an answer is read
up to ANSWER_MAX octets.
"""

from __future__ import annotations

import http.client
import ssl
from collections.abc import Mapping
from urllib.parse import urlsplit

ANSWER_MAX = 262_144
SECONDS = 8.0
LOOPBACK = ("localhost", "127.0.0.1", "::1")


class FetchFailed(Exception):
    """The text says why."""


def usable(url: str) -> bool:
    """Is it an address that ``fetch`` would ask?"""
    try:
        parts = urlsplit(url)
        host = parts.hostname or ""
        _ = parts.port
    except ValueError:
        return False
    return bool(host) and (parts.scheme == "https" or (parts.scheme == "http" and host in LOOPBACK))


def fetch(url: str, body: bytes | None = None, headers: Mapping[str, str] | None = None) -> bytes:
    """The answer's octets (200 only); a POST when there is a ``body``. Raises FetchFailed."""
    if not usable(url):
        raise FetchFailed("only https:// is asked")
    parts = urlsplit(url)
    host = parts.hostname or ""
    connection: http.client.HTTPConnection
    if parts.scheme == "https":
        connection = http.client.HTTPSConnection(
            host, parts.port, timeout=SECONDS, context=ssl.create_default_context()
        )
    else:
        connection = http.client.HTTPConnection(host, parts.port, timeout=SECONDS)
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    sent = {"Accept": "application/json", "Connection": "close", **(headers or {})}
    try:
        connection.request("POST" if body is not None else "GET", path, body, sent)
        answer = connection.getresponse()
        data = answer.read(ANSWER_MAX + 1)
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise FetchFailed(f"{host}: {type(error).__name__}") from error
    finally:
        connection.close()
    if answer.status != 200:
        raise FetchFailed(f"{host} answered {answer.status}")
    if len(data) > ANSWER_MAX:
        raise FetchFailed(f"{host} answered too much")
    return data
