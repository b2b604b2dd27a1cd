"""The same messages signed and verified by us and by OpenDKIM, both ways.

OpenDKIM runs in its test mode (`opendkim -t FILES`): no daemon, no DNS; keys come from a file (TestPublicKeys).
Known differences, on purpose: we refuse rsa-sha1, l= shorter than the body and unsigned second fields (tests/unit).
"""

from __future__ import annotations

import random
import re
import shutil
import subprocess
import time
from pathlib import Path

import pytest

from pipeline.adapters.crypto import PrivateKey, generate
from pipeline.adapters.dkimpy import second_opinion, sign
from pipeline.dkim.verify import Verification
from pipeline.zone import Zone
from rules.mail.header import scan

OPENDKIM = shutil.which("opendkim") or shutil.which("opendkim", path="/usr/sbin:/usr/local/sbin")
pytestmark = [
    pytest.mark.peer,
    pytest.mark.skipif(OPENDKIM is None, reason="opendkim is not installed"),
]
FORMS = ("relaxed/relaxed", "relaxed/simple", "simple/relaxed", "simple/simple")
MESSAGES = 40
_SIGNED = re.compile(
    rb"^opendkim: (\S+\.eml):\n(DKIM-Signature: .*?)(?=^opendkim: |\Z)", re.DOTALL | re.MULTILINE
)


def messages(seed: int, form: str) -> list[bytes]:
    """Messages with the blanks, folds, empty lines and octets that canonical forms are about.

    OpenDKIM's test mode writes one blank after the colon as the milter protocol once did: the simple form of a field
    can only be compared when the field has just that.
    """
    starts = [b" "] if form.startswith("simple") else [b"", b" ", b"\t"]
    chance = random.Random(seed)
    words = [b"alpha", b"beta", b"\xc3\xa4", b"=?utf-8?q?x?=", b"a.b", b"---", b"<x@y>"]
    blanks = [b" ", b"  ", b"\t", b" \t "]

    def line() -> bytes:
        parts = [chance.choice(words + blanks) for _ in range(chance.randrange(8))]
        return b"".join(parts)

    out = []
    for _ in range(MESSAGES):
        fields = [
            b"From: Ann <ann@example.org>",
            b"To:" + starts[0] + b"b@example.net",
            b"Date: Mon, 1 Jan 2024 00:00:00 +0000",
        ]
        for name in (b"Subject", b"Cc", b"References", b"X-Other"):
            if chance.random() < 0.7:
                value = line() + b"x"
                for _ in range(chance.randrange(3)):
                    value += b"\r\n" + chance.choice(blanks) + line() + b"y"
                fields.append(name + b":" + chance.choice(starts) + value.lstrip(b" \t"))
        chance.shuffle(fields)
        body = b"".join(line() + b"\r\n" for _ in range(chance.randrange(12)))
        body += b"\r\n" * chance.randrange(4)
        out.append(b"\r\n".join(fields) + b"\r\n\r\n" + body)
    return out


def opendkim(folder: Path, conf: str, files: list[Path]) -> bytes:
    path = folder / "opendkim.conf"
    path.write_text(
        conf + "Syslog no\nRequireSafeKeys no\nSocket inet:0@localhost\nInternalHosts 0.0.0.0/0\n"
    )
    names = ",".join(file.name for file in files)
    command = [str(OPENDKIM), "-x", str(path), "-t", names]
    return subprocess.run(command, cwd=folder, capture_output=True, timeout=60, check=False).stdout


def ours(message: bytes, zone: Zone) -> list[str]:
    block = scan(message)
    verification = Verification(block, time.time())
    for name in verification.wanted():
        verification.give(name, zone.lookup(name, "TXT"))
    if verification.needs_body():
        verification.feed(message[block.body_start :])
    return [result.result for result in verification.results()]


@pytest.fixture(scope="module", params=["rsa", "ed25519"])
def key(request: pytest.FixtureRequest) -> PrivateKey:
    return generate(request.param)


def published(key: PrivateKey) -> Zone:
    zone = Zone()
    zone.add("s1._domainkey.example.org", "TXT", key.record())
    return zone


@pytest.mark.parametrize("form", FORMS)
def test_opendkim_verifies_what_we_sign(key: PrivateKey, form: str, tmp_path: Path) -> None:
    (tmp_path / "keys").write_text(f"s1._domainkey.example.org {key.record()}\n")
    files = []
    for at, message in enumerate(messages(1, form)):
        signed = sign(message, "example.org", "s1", key, canonicalization=form) + message
        if at % 5 == 4:
            signed = signed.replace(b"ann@example.org", b"eve@example.org")
        files.append(tmp_path / f"{at}.eml")
        files[-1].write_bytes(signed)
    out = opendkim(tmp_path, f"Mode v\nTestPublicKeys {tmp_path / 'keys'}\n", files)
    for at, file in enumerate(files):
        expected = b"failed" if at % 5 == 4 else b"succeeded"
        said = re.search(rb"opendkim: %s: verification .*" % re.escape(file.name.encode()), out)
        if at % 5 == 4:
            assert said is None or expected in said[0], file.read_bytes()
        else:
            assert said is not None, file.read_bytes()
            assert expected in said[0], file.read_bytes()


@pytest.mark.parametrize("form", FORMS)
def test_we_verify_what_opendkim_signs(key: PrivateKey, form: str, tmp_path: Path) -> None:
    if key.kind == "ed25519" and form.startswith("simple"):
        pytest.skip(
            "OpenDKIM 2.11 makes Ed25519 signatures in simple header form that it cannot verify itself"
        )
    private = tmp_path / "key.pem"
    private.write_bytes(key.pem())
    private.chmod(0o600)
    plain = messages(2, form)
    files = [tmp_path / f"{at}.eml" for at in range(len(plain))]
    for file, message in zip(files, plain, strict=True):
        file.write_bytes(message)
    conf = f"Mode s\nDomain example.org\nSelector s1\nKeyFile {private}\nCanonicalization {form}\n"
    conf += f"SignatureAlgorithm {key.algorithm}\nOversignHeaders From,Subject\n"
    signed = {found[1].decode(): found[2] for found in _SIGNED.finditer(opendkim(tmp_path, conf, files))}
    assert len(signed) == len(files)
    zone = published(key)
    for file, message in zip(files, plain, strict=True):
        field = signed[file.name].rstrip(b"\r\n") + b"\r\n"
        whole = field + message
        assert ours(whole, zone) == ["pass"], whole
        assert ours(whole + b"x\r\n", zone) == ["fail"], whole
        assert ours(b"Subject: new\r\n" + whole, zone) == ["fail"], whole
        if key.kind == "rsa":
            assert second_opinion(whole, {"s1._domainkey.example.org": key.record()}), whole
