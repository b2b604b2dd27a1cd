"""What our HTTPS requests to strangers have in common: one time limit for all of it, and threads that hold up nobody.

A server that drips octets keeps every time limit of a single read, so the connection itself is ended when the time is over
(``ends_at``). Each request runs in a thread of its own (``in_thread``): slow servers of strangers take none from the shared pool
and hold up no shutdown.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

T = TypeVar("T")
CONNECT_SECONDS = 10.0  # each of the addresses
MAX_ADDRESSES = 4
NAT64 = ipaddress.IPv6Network("64:ff9b::/96")  # RFC 6052: an IPv4 address in its last 32 bits


def is_public(address: str) -> bool:
    """May an address that a stranger's DNS gives be asked? Not this machine, our own networks, or what leads there."""
    try:
        found = ipaddress.ip_address(address)
    except ValueError:
        return False
    inside: ipaddress.IPv4Address | None = None
    if isinstance(found, ipaddress.IPv6Address):
        if found in NAT64:
            inside = ipaddress.IPv4Address(int(found) & 0xFFFFFFFF)
        else:
            inside = found.ipv4_mapped or found.sixtofour or (found.teredo or (None, None))[1]
    if inside is not None and not is_public(str(inside)):
        return False
    return found.is_global and not found.is_multicast


def connect(addresses: Sequence[str], port: int, deadline: float, now: Callable[[], float]) -> socket.socket:
    """To the first that answers before ``deadline`` (of ``now``). Raises OSError."""
    last = OSError("no address answers")
    for address in addresses[:MAX_ADDRESSES]:
        left = deadline - now()
        if left <= 0:
            break
        try:
            return socket.create_connection((address, port), min(CONNECT_SECONDS, left))
        except OSError as error:
            last = error
    raise last


@contextlib.contextmanager
def ends_at(sock: socket.socket, seconds: float) -> Iterator[None]:
    """The connection is over then, whatever it is doing."""
    twin = sock.dup()

    def end() -> None:
        with contextlib.suppress(OSError):  # over already
            twin.shutdown(socket.SHUT_RDWR)

    timer = threading.Timer(max(0.0, seconds), end)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
        twin.close()


async def in_thread(name: str, work: Callable[[], T]) -> T:
    """What ``work`` returns or raises."""
    loop = asyncio.get_running_loop()
    done: asyncio.Future[T] = loop.create_future()

    def settle(result: list[T], error: Exception | None) -> None:
        if done.done():
            return
        if error is not None:
            done.set_exception(error)
        else:
            done.set_result(result[0])

    def run() -> None:
        result: list[T] = []
        problem: Exception | None = None
        try:
            result.append(work())
        except Exception as error:  # told to who waits for it
            problem = error
        with contextlib.suppress(RuntimeError):  # the loop has ended meanwhile
            loop.call_soon_threadsafe(settle, result, problem)

    threading.Thread(target=run, name=name, daemon=True).start()
    return await done
