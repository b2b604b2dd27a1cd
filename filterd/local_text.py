"""What the commands and the server share about local delivery, without importing the server."""

from __future__ import annotations

DELIVER_SOCKET = "deliver"  # in data_dir/run: LMTP for the commands of this machine


def crlf(data: bytes) -> bytes:
    """Text of a command's standard input as it goes over SMTP: CRLF line ends, a final one too."""
    if data.count(b"\r\n") != data.count(b"\n") or data.count(b"\r") != data.count(b"\n"):
        data = data.replace(b"\r\n", b"\n").replace(b"\r", b"\n").replace(b"\n", b"\r\n")
    return data if data.endswith(b"\r\n") or not data else data + b"\r\n"
