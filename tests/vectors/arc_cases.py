"""ARC chains to be judged, made anew: each differs from a good one in just one thing, and is signed with that thing in it.

The signer below is written for these cases alone (straight from RFC 8617 and RFC 6376), so that it shares nothing with the
code under test but the RSA primitive. Groups and expectations follow RFC 8617: 4.1 (fields), 4.2 (sets), 5.1.1 (what a
seal covers), 5.2 (validation).
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from pipeline.adapters.crypto import PrivateKey, generate

Tags = list[tuple[str, str]]
HEADER = (
    "MIME-Version: 1.0\r\nDate: Thu, 14 Jan 2015 15:00:01 -0800\r\nFrom: John Q Doe <jqd@d1.example>\r\n"
    "To: arc@dmarc.example\r\nSubject: Example  1\r\n"
)
BODY = "Hey gang,\r\nThis is a test   message.\r\n--J.\r\n\r\n\r\n"
DOMAIN, SELECTOR = "example.org", "dummy"


@dataclass
class Hop:
    """The fields of one set before they are signed. ``None`` leaves a field out; ``twice`` names one that is doubled.

    ``ams`` and ``seal`` are edited tag lists; ``aar`` is the whole value; ``join`` writes a tag list.
    """

    instance: int
    aar: str | None = None
    ams: Tags | None = None
    seal: Tags | None = None
    twice: str = ""
    ams_text: Callable[[Tags], str] | None = None
    seal_text: Callable[[Tags], str] | None = None
    names: dict[str, str] = field(default_factory=dict)


def plain(tags: Tags) -> str:
    return "; ".join(f"{name}={value}" for name, value in tags)


def relaxed(name: str, value: str) -> str:
    squeezed = re.sub("[ \t]+", " ", value.replace("\r\n", "")).strip(" ")
    return f"{name.lower()}:{squeezed}\r\n"


def body_hash(body: str) -> str:
    lines = [re.sub("[ \t]+", " ", line).rstrip(" ") for line in body.split("\r\n")]
    while lines and not lines[-1]:
        lines.pop()
    return base64.b64encode(
        hashlib.sha256("".join(f"{line}\r\n" for line in lines).encode()).digest()
    ).decode()


class Maker:
    """Makes messages with chains. ``edit(hop)`` may change a hop before it is signed."""

    def __init__(self) -> None:
        self.key: PrivateKey = generate("rsa", 2048)

    def sign(self, text: str) -> str:
        return base64.b64encode(self.key.sign(hashlib.sha256(text.encode()).digest())).decode()

    def chain(self, hops: int, edit: Callable[[Hop], None] = lambda hop: None, header: str = HEADER) -> str:
        """The header with ``hops`` sets on top."""
        older = ""
        for instance in range(1, hops + 1):
            hop = Hop(instance)
            hop.aar = f"i={instance}; lists.example.org; spf=pass smtp.mfrom=jqd@d1.example"
            common = [("d", DOMAIN), ("i", str(instance)), ("s", SELECTOR), ("t", "12345")]
            hop.ams = [
                ("a", "rsa-sha256"), ("c", "relaxed/relaxed"), *common,
                ("h", "mime-version:date:from:to:subject"), ("bh", body_hash(BODY)), ("b", ""),
            ]  # fmt: skip
            status = "none" if instance == 1 else "pass"
            hop.seal = [("a", "rsa-sha256"), ("cv", status), *common, ("b", "")]
            edit(hop)
            made, covered = self._set(hop, older, header)
            header = made + header
            older = covered
        return header

    def _set(self, hop: Hop, older: str, header: str) -> tuple[str, str]:
        by_name: dict[str, str] = {}
        for one in _fields(header)[::-1]:  # the undermost of a name is signed first
            name, _, value = one.partition(":")
            by_name.setdefault(name.lower(), value.removesuffix("\r\n"))
        aar = None if hop.aar is None else f" {hop.aar}"
        ams = seal = None
        if hop.ams is not None:
            write = hop.ams_text or plain
            covered = "".join(
                relaxed(name, by_name[name])
                for name in dict(hop.ams).get("h", "").lower().replace(" ", "").split(":")
                if name in by_name
            )
            unsigned = f" {write(hop.ams)}"
            ams = self._fill(
                hop.ams, write, covered + relaxed("arc-message-signature", unsigned).removesuffix("\r\n")
            )
        parts = [("ARC-Authentication-Results", aar), ("ARC-Message-Signature", ams)]
        covered = older + "".join(relaxed(name, value) for name, value in parts if value is not None)
        if hop.seal is not None:
            write = hop.seal_text or plain
            start = "" if dict(hop.seal).get("cv") == "fail" else older
            own = covered if start else covered[len(older) :]
            unsigned = f" {write(hop.seal)}"
            seal = self._fill(hop.seal, write, own + relaxed("arc-seal", unsigned).removesuffix("\r\n"))
            covered += relaxed("arc-seal", seal)
        parts.insert(0, ("ARC-Seal", seal))
        out = ""
        for name, value in parts:
            if value is not None:
                line = f"{hop.names.get(name, name)}:{value}\r\n"
                out += line * (2 if hop.twice == name else 1)
        return out, covered

    def _fill(self, tags: Tags, write: Callable[[Tags], str], text: str) -> str:
        """The value with b= filled in: where the list has an empty one."""
        signature = self.sign(text)
        return " " + write(
            [(name, signature if name == "b" and not value else value) for name, value in tags]
        )


@dataclass(frozen=True)
class Case:
    name: str
    header: str
    body: str
    result: str


def _change(part: str, name: str, value: str | None, at: int = 0) -> Callable[[Hop], None]:
    """Set a tag of ``ams`` or ``seal`` (None removes it), in hop ``at`` (0 = every hop)."""

    def edit(hop: Hop) -> None:
        if at in (0, hop.instance):
            tags: Tags = getattr(hop, part)
            kept = [(n, v if n != name else value) for n, v in tags if n != name or value is not None]
            if value is not None and name not in dict(tags):
                kept.insert(0, (name, value))
            setattr(hop, part, kept)

    return edit


def _append(part: str, name: str, value: str) -> Callable[[Hop], None]:
    def edit(hop: Hop) -> None:
        getattr(hop, part).insert(0, (name, value))

    return edit


def _write(part: str, how: Callable[[Tags], str]) -> Callable[[Hop], None]:
    return lambda hop: setattr(hop, f"{part}_text", how)


def _drop(part: str, at: int) -> Callable[[Hop], None]:
    return lambda hop: setattr(hop, part, None) if hop.instance == at else None


def _twice(name: str, at: int) -> Callable[[Hop], None]:
    return lambda hop: setattr(hop, "twice", name) if hop.instance == at else None


def _aar(value: str, at: int = 1) -> Callable[[Hop], None]:
    return lambda hop: setattr(hop, "aar", value) if hop.instance == at else None


FORMS: dict[str, tuple[Callable[[Tags], str], str]] = {
    "blanks round semicolons": (lambda tags: " ; ".join(f"{n}={v}" for n, v in tags), "pass"),
    "blanks round equals": (lambda tags: "; ".join(f"{n} = {v}" for n, v in tags), "pass"),
    "no blanks": (lambda tags: ";".join(f"{n}={v}" for n, v in tags), "pass"),
    "a semicolon at the end": (lambda tags: plain(tags) + ";", "pass"),
    "folded": (lambda tags: ";\r\n\t".join(f"{n}={v}" for n, v in tags), "pass"),
    "in another order": (lambda tags: plain(tags[::-1]), "pass"),
    "names in capitals": (lambda tags: "; ".join(f"{n.upper()}={v}" for n, v in tags), "fail"),
    "an unknown tag": (lambda tags: "w=catparty; " + plain(tags), "pass"),
    "a tag that is a number": (lambda tags: "1=x; " + plain(tags), "fail"),
    "a tag without a value sign": (lambda tags: "x; " + plain(tags), "fail"),
    "two semicolons": (lambda tags: plain(tags).replace("; ", ";; ", 1), "fail"),
}  # fmt: skip

AMS_TAGS: list[tuple[str, str | None, str]] = [
    ("a", None, "fail"), ("a", "", "fail"), ("a", "rsa-sha1", "fail"), ("a", "poodle-sha256", "fail"),
    ("c", None, "pass"), ("c", "poodle/relaxed", "fail"),
    ("bh", None, "fail"), ("bh", "", "fail"), ("bh", body_hash("other"), "fail"), ("bh", "not base64!", "fail"),
    ("d", None, "fail"), ("d", "", "fail"), ("d", "no-key.example.org", "fail"), ("d", "org", "fail"),
    ("s", None, "fail"), ("s", "", "fail"), ("s", "absent", "fail"),
    ("h", None, "fail"), ("h", "", "pass"), ("h", "mime-version:date:from:to:subject:arc-seal", "fail"),
    ("h", "From:Date:SUBJECT", "pass"), ("h", "from : to : date", "pass"), ("h", "from:to:reply-to:x-none:x-none", "pass"),
    ("i", None, "fail"), ("i", "", "fail"), ("i", "0", "fail"), ("i", "51", "fail"), ("i", "2", "fail"),
    ("i", "one", "fail"),
    ("t", None, "pass"), ("t", "soon", "fail"), ("x", "12346", "fail"), ("b", "QUJD", "fail"), ("b", None, "fail"),
    ("v", "1", "pass"),
]  # fmt: skip
SEAL_TAGS: list[tuple[str, str | None, str]] = [
    ("a", None, "fail"), ("a", "", "fail"), ("a", "rsa-sha1", "fail"),
    ("cv", None, "fail"), ("cv", "", "fail"), ("cv", "maybe", "fail"), ("cv", "pass", "fail"), ("cv", "fail", "fail"),
    ("d", None, "fail"), ("d", "", "fail"), ("d", "no-key.example.org", "fail"),
    ("s", None, "fail"), ("s", "", "fail"), ("s", "absent", "fail"),
    ("i", None, "fail"), ("i", "", "fail"), ("i", "0", "fail"), ("i", "51", "fail"), ("i", "2", "fail"),
    ("t", None, "pass"), ("t", "soon", "fail"), ("h", "from", "fail"),
    ("b", "QUJD", "fail"), ("b", None, "fail"), ("b", "not base64!", "fail"),
]  # fmt: skip
DOUBLED = ("a", "b", "bh", "c", "d", "h", "i", "s", "t")
AARS: list[tuple[str, str]] = [
    ("lists.example.org; spf=pass", "fail"), ("i=; lists.example.org; spf=pass", "fail"),
    ("i=0; lists.example.org; spf=pass", "fail"), ("i=2; lists.example.org; spf=pass", "fail"),
    ("i=x; lists.example.org; spf=pass", "fail"), (" i = 1 ; lists.example.org; none", "pass"),
    ("i=1;", "pass"),
]  # fmt: skip


def cases(maker: Maker) -> Iterator[Case]:
    """All of them."""
    good = maker.chain

    def case(name: str, header: str, result: str, body: str = BODY) -> Case:
        return Case(name, header, body, result)

    yield case("no chain", HEADER, "none")
    for hops in (1, 2, 3, 5):
        yield case(f"a chain of {hops}", good(hops), "pass")
    yield case("fifty sets", good(50), "pass")
    yield case("fifty-one sets", good(51), "fail")
    yield case("body changed", good(1), "fail", BODY.replace("gang", "bang"))
    yield case(
        "blanks at line ends, empty lines at the end", good(1), "pass", BODY.replace(",", ", \t") + "\r\n"
    )
    yield case("a signed field changed", good(2).replace("Example  1", "Example 2"), "fail")
    yield case("blanks in a signed field", good(2).replace("Example  1", "Example \t 1"), "pass")
    yield case("an unsigned field added", good(2) + "X-Later: yes\r\n", "pass")
    yield case(
        "the first hop's body hash is not checked", good(2, _change("ams", "bh", body_hash("x"), 1)), "pass"
    )
    yield case("the last hop's body hash is", good(2, _change("ams", "bh", body_hash("x"), 2)), "fail")
    for part in ("ams", "seal"):
        for name, (how, result) in FORMS.items():
            yield case(f"{part}: {name}", good(1, _write(part, how)), result)
            yield case(f"{part} of both sets: {name}", good(2, _write(part, how)), result)
        for name, value, result in AMS_TAGS if part == "ams" else SEAL_TAGS:
            yield case(f"{part}: {name}={value}", good(1, _change(part, name, value)), result)
        for name in DOUBLED:
            if part == "ams" or name not in ("bh", "c", "h"):
                yield case(f"{part}: {name}= twice", good(1, _append(part, name, "1")), "fail")
    for name, value, result in (
        ("cv", "none", "fail"),
        ("cv", "fail", "fail"),
        ("d", "no-key.example.org", "fail"),
        ("t", None, "pass"),
    ):
        yield case(f"second seal: {name}={value}", good(2, _change("seal", name, value, 2)), result)
    yield case("first seal broken, second good", good(2, _change("seal", "b", "QUJD", 1)), "fail")
    for at in (1, 2):
        for part in ("aar", "ams", "seal"):
            yield case(f"set {at} without {part}", good(2, _drop(part, at)), "fail")
        for name in ("ARC-Authentication-Results", "ARC-Message-Signature", "ARC-Seal"):
            yield case(f"set {at} with two {name}", good(2, _twice(name, at)), "fail")
    for value, result in AARS:
        yield case(f"results {value!r}", good(1, _aar(value)), result)
    yield case("results changed after sealing", good(1).replace("spf=pass", "spf=fail"), "fail")
    yield case("first results changed after two seals", _last(good(2), "spf=pass", "spf=none"), "fail")
    yield case("a set taken out of the middle", _without(good(3), 2), "fail")
    yield case("the newest set taken away", _without(good(3), 3), "pass")
    yield case("the oldest set taken away", _without(good(3), 1), "fail")
    yield case("field names in another case", good(2).replace("ARC-Seal", "arc-SEAL"), "pass")
    yield case("sets in another order", _upside_down(good(3)), "pass")


def _last(text: str, old: str, new: str) -> str:
    head, _, tail = text.rpartition(old)
    return head + new + tail


def _fields(header: str) -> list[str]:
    out: list[str] = []
    for line in header.split("\r\n")[:-1]:
        if line[:1] in (" ", "\t"):
            out[-1] += line + "\r\n"
        else:
            out.append(line + "\r\n")
    return out


def _without(header: str, instance: int) -> str:
    return "".join(one for one in _fields(header) if not (one.startswith("ARC-") and f"i={instance};" in one))


def _upside_down(header: str) -> str:
    fields = _fields(header)
    arc = [one for one in fields if one.startswith("ARC-")]
    return "".join(arc[::-1] + [one for one in fields if not one.startswith("ARC-")])
