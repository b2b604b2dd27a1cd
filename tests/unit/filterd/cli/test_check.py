"""`filterd check` and `filterd dkim` from the outside, with a zone file for a DNS."""

from __future__ import annotations

import io
import os
import re
import sys
from pathlib import Path

import pytest

from filterd.__main__ import main

MAIL = b"From: a@good.example\nTo: b@x.example\nSubject: hi\nDate: Mon, 1 Jan 2024 00:00:00 +0000\n\nhello\n"


class Rig:
    def __init__(
        self, folder: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
    ) -> None:
        self.folder, self._monkeypatch, self._capfd = folder, monkeypatch, capfd
        self.zone = folder / "zone"
        self.zone.write_text(
            'good.example TXT "v=spf1 ip4:192.0.2.1 -all exp=why.good.example"\n'
            'why.good.example TXT "only 192.0.2.1 for %{d}"\n'
            "_dmarc.good.example TXT v=DMARC1; p=reject\n"
        )
        self.config = folder / "filterd.toml"
        self.config.write_text(
            f'[server]\nhostname = "mx.good.example"\ndata_dir = "{folder}/data"\n[[domain]]\nname = "good.example"\n'
        )

    def run(self, *arguments: str, stdin: bytes = b"", code: int = 0) -> str:
        self._monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin)))
        assert main(list(arguments)) == code
        return self._capfd.readouterr().out

    def publish(self, output: str) -> str:
        """Put the record that a command printed into the zone; its name."""
        match = re.search(r"^(\S+)\. IN TXT \( (.*) \)$", output, re.MULTILINE)
        assert match
        with self.zone.open("a") as file:
            file.write(f"{match[1]} TXT {match[2]}\n")
        return match[1]


@pytest.fixture
def rig(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Rig:
    return Rig(tmp_path, monkeypatch, capfd)


def test_spf(rig: Rig) -> None:
    asked = ["check", "spf", "--helo", "h.example", "--mail-from", "a@good.example", "--zone", str(rig.zone)]
    out = rig.run(*asked, "--ip", "192.0.2.9", "--hostname", "mx.us.example")
    assert out.startswith("Authentication-Results: mx.us.example; spf=fail (good.example does not allow")
    assert "smtp.mailfrom=a@good.example" in out.splitlines()[0]
    assert "the domain explains: only 192.0.2.1 for good.example" in out
    assert " spf=pass " in rig.run(*asked, "--ip", "::ffff:192.0.2.1").splitlines()[0]
    null = ["--helo", "good.example", "--mail-from", "<>", "--ip", "192.0.2.1"]
    assert "spf=pass" in rig.run("check", "spf", *null, "--zone", str(rig.zone))


@pytest.mark.parametrize("algorithm", ["rsa-sha256", "ed25519-sha256"])
@pytest.mark.parametrize("newline", [b"\n", b"\r\n"])
def test_a_key_is_made_signs_and_verifies(rig: Rig, algorithm: str, newline: bytes) -> None:
    pem = str(rig.folder / "k.pem")
    made = [
        "dkim",
        "keygen",
        "--domain",
        "good.example",
        "--selector",
        "s1",
        "--algorithm",
        algorithm,
        "--out",
        pem,
    ]
    assert rig.publish(rig.run(*made)) == "s1._domainkey.good.example"
    assert os.stat(pem).st_mode & 0o777 == 0o600
    rig.run(*made, code=2)  # never over a key that is there
    message = MAIL.replace(b"\n", newline)
    sign = [
        "dkim",
        "sign",
        "--key",
        pem,
        "--domain",
        "good.example",
        "--selector",
        "s1",
        "--algorithm",
        algorithm,
    ]
    signed = rig.run(*sign, stdin=message).encode()
    assert signed.endswith(message)
    assert (b"\r\n" in signed) == (newline == b"\r\n")
    file = rig.folder / "signed.eml"
    file.write_bytes(signed)
    asked = ["--zone", str(rig.zone), str(file)]
    out = rig.run("check", "dkim", *asked)
    assert re.match(r"Authentication-Results: \S+; dkim=pass \(\d+-bit key\) header.d=good.example", out)
    assert "arc=none" in rig.run("check", "arc", *asked)
    out = rig.run(
        "check", "dmarc", "--ip", "192.0.2.9", "--helo", "x.example", "--mail-from", "a@good.example", *asked
    )
    assert "spf=fail" in out and "dmarc=pass (p=reject dis=none) header.from=good.example" in out
    file.write_bytes(signed.replace(b"hello", b"hallo"))
    assert "dkim=fail" in rig.run("check", "dkim", *asked)
    assert "dmarc=fail" in rig.run("check", "dmarc", *asked)
    wrong = "ed25519-sha256" if algorithm.startswith("rsa") else "rsa-sha256"
    rig.run(*sign[:-1], wrong, stdin=message, code=2)


def test_rotation(rig: Rig) -> None:
    config, dns = ["-c", str(rig.config)], ["--zone", str(rig.zone)]
    rig.run("dkim", "show", *config, *dns, code=1)
    first = rig.run("dkim", "rotate", *config, *dns)  # makes the first key
    assert "not in the DNS" in rig.run("dkim", "rotate", *config, *dns, code=75)
    name = rig.publish(first)
    selector = name.partition(".")[0]
    assert f"{selector} signs for good.example" in rig.run("dkim", "rotate", *config, *dns)
    shown = rig.run("dkim", "show", *config, *dns)
    assert f"{selector}  rsa-sha256 2048 bits  signs  published" in shown
    second = rig.run("dkim", "rotate", "good.example", *config, *dns)
    assert "does not sign" in rig.run("dkim", "show", *config, *dns)
    other = rig.publish(second).partition(".")[0]
    done = rig.run("dkim", "rotate", "good.example", *config, *dns)
    assert f"{other} signs" in done and f"record of {selector} for a week" in done
    rig.publish(rig.run("dkim", "keygen", "--algorithm", "ed25519-sha256", *config))
    rig.run("dkim", "rotate", "--algorithm", "ed25519-sha256", *config, *dns)
    shown = rig.run("dkim", "show", *config, *dns)
    assert shown.count("  signs  published") == 2  # one of each kind
    rig.run("dkim", "keygen", "other.example", *config, code=2)


def test_opendkim_tables(rig: Rig) -> None:
    pem = rig.folder / "k.pem"
    rig.publish(rig.run("dkim", "keygen", "--domain", "good.example", "--selector", "s1", "--out", str(pem)))
    (rig.folder / "KeyTable").write_text(f"one good.example:s1:{pem}\n")
    (rig.folder / "SigningTable").write_text("*@good.example one\n")
    tables = [
        "--key-table",
        str(rig.folder / "KeyTable"),
        "--signing-table",
        f"refile:{rig.folder / 'SigningTable'}",
    ]
    signed = rig.run("dkim", "sign", *tables, stdin=MAIL)
    assert "s=s1;" in signed
    assert "dkim=pass" in rig.run("check", "dkim", "--zone", str(rig.zone), "-", stdin=signed.encode())
    rig.run("dkim", "sign", *tables, stdin=MAIL.replace(b"good", b"other"), code=1)


def test_wrong_use_is_told(rig: Rig) -> None:
    rig.run("check", "dkim", "/nonexistent", code=2)
    rig.run("check", "dkim", "--nameserver", "not a server:x", "-", code=2)
    rig.run("dkim", "sign", stdin=MAIL, code=2)
    rig.run(
        "dkim",
        "sign",
        "--key",
        "/nonexistent",
        "--domain",
        "a.example",
        "--selector",
        "s",
        stdin=MAIL,
        code=2,
    )


def test_dmarc_reports(rig: Rig) -> None:
    text = (
        "<feedback><report_metadata><org_name>Big</org_name><report_id>1</report_id></report_metadata>"
        "<policy_published><domain>good.example</domain><p>none</p></policy_published><record><row>"
        "<source_ip>192.0.2.9</source_ip><count>3</count><policy_evaluated><disposition>none</disposition>"
        "<dkim>fail</dkim><spf>fail</spf></policy_evaluated></row><identifiers><header_from>good.example</header_from>"
        "</identifiers></record></feedback>"
    )
    file = rig.folder / "report.xml"
    file.write_text(text)
    out = rig.run("dmarc", "reports", str(file))
    assert "good.example (p=none) seen by Big: 3 messages, 3 without a pass" in out
    assert "192.0.2.9" in out
    rig.run("dmarc", "reports", str(rig.zone), code=1)
    rig.run("dmarc", "reports", "-c", str(rig.config), code=1)  # none in our mail
    rig.run("dmarc", "send", "-c", str(rig.config), code=2)  # off
    assert "Nothing was reported" in rig.run("dmarc", "sent", "-c", str(rig.config))


def test_an_address_that_is_none_is_refused(rig: Rig) -> None:
    for method, file in (("spf", []), ("dmarc", ["-"])):
        rig.run("check", method, "--ip", "192.0.2", "--zone", str(rig.zone), *file, stdin=MAIL, code=2)
    out = rig.run(
        "check", "spf", "--ip", "fe80::1%eth0", "--mail-from", "a@x.example", "--zone", str(rig.zone)
    )
    assert "spf=none" in out


@pytest.mark.parametrize("domain", ["bad domain", "example", "a_/b.example", "-a.example", "a..example"])
def test_no_key_for_what_is_no_domain(rig: Rig, domain: str) -> None:
    pem = rig.folder / "none.pem"
    rig.run("dkim", "keygen", f"--domain={domain}", "--selector", "s1", "--out", str(pem), code=1)
    assert not pem.exists()


def test_the_record_of_an_international_domain_is_in_a_labels(rig: Rig) -> None:
    pem = rig.folder / "k.pem"
    made = rig.run("dkim", "keygen", "--domain", "bücher.example", "--selector", "s1", "--out", str(pem))
    assert made.startswith("s1._domainkey.xn--bcher-kva.example. ")


def test_opendkim_tables_as_opendkim_conf_names_them(rig: Rig) -> None:
    """``refile:`` stays in the value; what the server could not start with is a problem of the configuration."""
    pem = rig.folder / "s2.pem"
    rig.run("dkim", "keygen", "--domain", "x.example", "--selector", "s2", "--out", str(pem))
    keys, table = rig.folder / "KeyTable", rig.folder / "SigningTable"
    keys.write_text(f"one x.example:s2:{pem}\n")
    table.write_text("*@x.example one\n")
    with rig.config.open("a") as file:
        file.write(f'[dkim]\nkey_table = "{keys}"\nsigning_table = "refile:{table}"\n')
    assert "is fine" in rig.run("config", "check", "-c", str(rig.config))
    shown = rig.run("dkim", "show", "-c", str(rig.config), "--zone", str(rig.zone))
    assert "x.example  s2  rsa-sha256 2048 bits  by the tables" in shown
    table.write_text("*@x.example two\n")
    assert "no key is called two" in rig.run("config", "check", "-c", str(rig.config), code=1)
    table.write_text("*@x.example one\n")
    pem.write_text("no key\n")
    assert "neither a PEM key nor an Ed25519 seed" in rig.run(
        "config", "check", "-c", str(rig.config), code=1
    )
