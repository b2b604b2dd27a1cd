"""A mail filter made with pymilter, as people run them beside Postfix or Sendmail; filterd asks it unchanged.

    pip install 'filterd[pymilter]'                      (needs libmilter-dev and a C compiler)
    python examples/pymilter_filter.py unix:/run/filterd/example.sock

and in filterd.toml:

    [[stage.milters]]
    name = "example"
    socket = "unix:/run/filterd/example.sock"

It marks every message with X-Example, refuses what has "lottery" in its subject, holds back what has an .exe attached and
puts a line below text bodies. `filterd explain` shows what it said and how long it took.
"""

from __future__ import annotations

import sys

import Milter

FOOTER = b"\r\n-- \r\nSeen by the example filter.\r\n"


class Example(Milter.Base):
    """One SMTP session; pymilter makes an object of this for each."""

    def __init__(self) -> None:
        self.id = Milter.uniqueID()

    def envfrom(self, sender: str, *parameters: str) -> int:
        self.subject = ""
        self.plain = True
        self.body_text = b""
        return Milter.CONTINUE

    def header(self, name: str, value: str) -> int:
        if name.lower() == "subject":
            self.subject = value
        if name.lower() == "content-type":
            self.plain = value.strip().lower().startswith("text/plain")
        return Milter.CONTINUE

    def body(self, chunk: bytes) -> int:
        self.body_text += chunk
        return Milter.CONTINUE

    def eom(self) -> int:
        if "lottery" in self.subject.lower():
            self.setreply("550", "5.7.1", "We do not play")
            return Milter.REJECT
        self.addheader("X-Example", f"seen, {len(self.body_text)} octets")
        if b'.exe"' in self.body_text:
            self.quarantine("a program is attached")
        elif self.plain:
            self.replacebody(self.body_text + FOOTER)
        return Milter.CONTINUE


def main() -> None:
    where = sys.argv[1] if len(sys.argv) > 1 else "inet:8892@127.0.0.1"
    Milter.factory = Example
    Milter.set_flags(Milter.ADDHDRS + Milter.CHGBODY + Milter.QUARANTINE)
    Milter.runmilter("example", where, 60)


if __name__ == "__main__":
    main()
