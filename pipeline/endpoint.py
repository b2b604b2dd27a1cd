"""Where a daemon listens: a unix socket or a TCP port, in every spelling people are used to.

``unix:PATH``, ``local:PATH`` (libmilter), ``/PATH``; ``inet:PORT@HOST`` (sendmail, libmilter), ``inet6:PORT@HOST``,
``inet:HOST:PORT`` (Postfix), ``tcp:HOST:PORT``, ``HOST:PORT``, ``[::1]:PORT``.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Endpoint:
    """``path`` of a unix socket, or ``host`` and ``port``."""

    host: str = ""
    port: int = 0
    path: str = ""

    @property
    def is_unix(self) -> bool:
        return bool(self.path)

    def __str__(self) -> str:
        if self.path:
            return f"unix:{self.path}"
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"


def parse(text: str, default_port: int = 0) -> Endpoint:
    """Raises ValueError with a text for the operator."""
    kind, colon, rest = text.partition(":")
    kind = kind.lower()
    if text.startswith("/"):
        return Endpoint(path=text)
    if colon and kind in ("unix", "local"):
        if not rest.startswith("/"):
            raise ValueError(f"{text!r}: the path of a socket begins with /")
        return Endpoint(path=rest)
    if not (colon and kind in ("inet", "inet6", "tcp")):
        rest = text
    port, at, host = rest.partition("@")
    if not at:
        host, colon, port = rest.rpartition(":")
        if not colon or rest.endswith("]"):
            host, port = rest, str(default_port)
    host = host.removeprefix("[").removesuffix("]")
    if host.isdigit():  # ``inet:8891`` is where a filter listens, but nowhere to connect to
        raise ValueError(f"{text!r} names no host: write inet:{host}@127.0.0.1")
    if not host or not port.isascii() or not port.isdigit() or not 0 < int(port) < 65536:
        raise ValueError(f"{text!r} is neither unix:PATH nor HOST:PORT nor inet:PORT@HOST")
    return Endpoint(host=host, port=int(port))
