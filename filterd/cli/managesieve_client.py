"""The ManageSieve client behind ``filterd sieve --server``: the only importer of sievelib.

Passwords go over TLS only; a self-signed server is trusted by its certificate (``ca``), never blindly.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from sievelib import managesieve

T = TypeVar("T")


class RemoteError(Exception):
    """``temporary``: the server could not be reached, or the connection broke; else it refused, and the text says why."""

    def __init__(self, text: str, temporary: bool) -> None:
        super().__init__(text)
        self.temporary = temporary


@dataclass(frozen=True, slots=True)
class Server:
    host: str
    port: int
    user: str
    password: str
    ca: str = ""  # PEM file to trust besides the system's; "" = the system's only


class RemoteScripts:
    """One logged-in session. All methods raise RemoteError."""

    def __init__(self, server: Server) -> None:
        if server.ca:
            os.environ["SSL_CERT_FILE"] = server.ca  # sievelib makes its own context, which reads this
        self._client = managesieve.Client(server.host, server.port)
        connected = self._call(
            lambda: self._client.connect(server.user, server.password, starttls=True, authmech="PLAIN")
        )
        if not connected:
            raise RemoteError(
                f"{server.host} refused the log-in of {server.user}{self._why()}", temporary=False
            )

    def list(self) -> list[tuple[str, bool]]:
        """(name, active) of every script."""
        found = self._call(self._client.listscripts)
        if found is None:
            raise RemoteError(f"the list was refused{self._why()}", temporary=False)
        active, others = found
        names = [(name, False) for name in others if name]
        return sorted([*names, (active, True)] if active else names)

    def get(self, name: str) -> str:
        text = self._call(lambda: self._client.getscript(name))
        if text is None:
            raise RemoteError(f'there is no script "{name}"{self._why()}', temporary=False)
        return f"{text}\n" if text else ""  # sievelib drops the last line end

    def put(self, name: str, text: str) -> None:
        self._must(lambda: self._client.putscript(name, text), f'"{name}" was refused')

    def activate(self, name: str) -> None:
        self._must(lambda: self._client.setactive(name), f'"{name}" was not activated')

    def delete(self, name: str) -> None:
        self._must(lambda: self._client.deletescript(name), f'"{name}" was not removed')

    def close(self) -> None:
        self._call(self._client.logout)

    def _must(self, step: Callable[[], bool], text: str) -> None:
        if not self._call(step):
            raise RemoteError(text + self._why(), temporary=False)

    def _call(self, step: Callable[[], T]) -> T:
        try:
            return step()
        except managesieve.Error as error:
            raise RemoteError(_told(str(error)), temporary=True) from error
        except OSError as error:
            raise RemoteError(str(error), temporary=True) from error

    def _why(self) -> str:
        message = bytes(self._client.errmsg or b"").decode("utf-8", "replace").strip()
        return f": {message}" if message else ""


def _told(text: str) -> str:
    """What the library says, and what to do about a certificate that nobody vouches for."""
    if "CERTIFICATE_VERIFY_FAILED" not in text:
        return text
    why = text.partition("certificate verify failed: ")[2].partition(" (_ssl")[0] or "it is not vouched for"
    return f"the server's certificate is not trusted ({why}); --ca FILE names it, or -c FILE for a server of this machine"
