"""SCRAM with channel binding against GNU SASL's client, over real TLS; downgrades and the other protocols with our own."""

from __future__ import annotations

import base64
import datetime
import imaplib
import json
import poplib
import shutil
import smtplib
import ssl
import subprocess
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from tests.e2e.server import DOMAIN, INSECURE, PASSWORD, Server
from tests.saslclient import ScramClient
from tests.tlslab import Cert
from tests.tokenlab import Issuer

pytestmark = [pytest.mark.e2e, pytest.mark.peer]

LOGIN = f"ann@{DOMAIN}"


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with Server(people=("ann",), server="workers = 1", extra="[auth]\nchannel_binding = true\n") as running:
        yield running


def gsasl(server: Server, protocol: str, mechanism: str, password: str, *words: str) -> tuple[bool, str]:
    program = shutil.which("gsasl")
    if program is None:
        pytest.skip("gsasl is not installed")
    port = server.ports[{"imap": "imap", "smtp": "submission"}[protocol]]
    done = subprocess.run(
        [
            program, f"--{protocol}", "--starttls", "--mechanism", mechanism, "--authentication-id", LOGIN,
            "--authorization-id", "", "--password", password, "--connect", f"127.0.0.1:{port}", "--x509-ca-file=", *words,
        ],
        input=b"",
        capture_output=True,
        timeout=60,
        check=False,
    )  # fmt: skip
    text = (done.stdout + done.stderr).decode("utf-8", "replace")
    return done.returncode == 0 and "server trusted" in text, text


@pytest.mark.parametrize("protocol", ["imap", "smtp"])
@pytest.mark.parametrize("version", ["NORMAL", "NORMAL:-VERS-TLS1.3"])
def test_gsasl_binds_the_channel(server: Server, protocol: str, version: str) -> None:
    """tls-exporter over TLS 1.3, tls-unique over 1.2: both ends have them from their own TLS library."""
    good, text = gsasl(server, protocol, "SCRAM-SHA-256-PLUS", PASSWORD, "--priority", version)
    assert good, text
    assert (
        base64.b64encode(b"p=tls-" + (b"exporter" if version == "NORMAL" else b"unique"))[:12].decode()
        in text
    )


@pytest.mark.parametrize("protocol", ["imap", "smtp"])
def test_gsasl_without_binding(server: Server, protocol: str) -> None:
    good, text = gsasl(server, protocol, "SCRAM-SHA-256", PASSWORD, "--no-cb")
    assert good, text


@pytest.mark.parametrize("mechanism", ["SCRAM-SHA-256", "SCRAM-SHA-256-PLUS"])
def test_gsasl_with_a_wrong_password(server: Server, mechanism: str) -> None:
    good, text = gsasl(server, "imap", mechanism, "wrong", *([] if "PLUS" in mechanism else ["--no-cb"]))
    assert not good and "AUTHENTICATIONFAILED" in text, text


def encoded(data: bytes) -> str:
    return base64.b64encode(data).decode()


def test_scram_by_the_other_protocols(server: Server) -> None:
    client = ScramClient(LOGIN, PASSWORD)
    pop3 = poplib.POP3_SSL("127.0.0.1", server.ports["pop3s"], context=INSECURE, timeout=60)
    assert "SCRAM-SHA-256-PLUS" in pop3.capa()["SASL"]
    answer = pop3._shortcmd(f"AUTH SCRAM-SHA-256 {encoded(client.first())}")
    answer = pop3._shortcmd(encoded(client.final(base64.b64decode(answer[2:]))))
    assert client.believes(base64.b64decode(answer[2:]))
    assert pop3._shortcmd("").startswith(b"+OK")
    pop3.quit()
    smtp = smtplib.SMTP_SSL("127.0.0.1", server.ports["submissions"], "client.example", context=INSECURE)
    smtp.ehlo("client.example")
    code, text = smtp.docmd("AUTH", f"SCRAM-SHA-256 {encoded(client.first())}")
    code, text = smtp.docmd(encoded(client.final(base64.b64decode(text))))
    assert code == 334 and client.believes(base64.b64decode(text))
    assert smtp.docmd("")[0] == 235
    smtp.quit()


def test_a_client_whose_offer_of_plus_was_taken_away_is_refused(server: Server) -> None:
    imap = imaplib.IMAP4_SSL("127.0.0.1", server.ports["imaps"], ssl_context=INSECURE, timeout=60)
    assert "AUTH=SCRAM-SHA-256-PLUS" in imap.capabilities
    client = ScramClient(LOGIN, PASSWORD, gs2="y,,")
    with pytest.raises(imaplib.IMAP4.error):
        imap.authenticate("SCRAM-SHA-256", lambda _: client.first())
    honest = ScramClient(LOGIN, PASSWORD)
    steps = iter(
        (lambda _: honest.first(), honest.final, lambda last: b"" if honest.believes(last) else b"x")
    )
    assert imap.authenticate("SCRAM-SHA-256", lambda challenge: next(steps)(challenge))[0] == "OK"
    imap.logout()


def test_before_tls_nothing_is_offered(server: Server) -> None:
    imap = imaplib.IMAP4("127.0.0.1", server.ports["imap"], timeout=60)
    assert not [word for word in imap.capabilities if word.startswith("AUTH=")]
    with pytest.raises(imaplib.IMAP4.error, match="PRIVACYREQUIRED"):
        imap.authenticate("SCRAM-SHA-256", lambda _: b"")
    imap.starttls(INSECURE)
    assert "AUTH=SCRAM-SHA-256" in imap.capability()[1][0].decode()
    imap.logout()


def certificate(folder: Path, address: str) -> tuple[Path, Path, Path]:
    """(authority, certificate with its key for ``address``, the same by an authority nobody knows)."""
    authority, other = (Cert(name, ca=True, now=time.time()) for name in ("people", "strangers"))
    for name, issuer in (("good", authority), ("bad", other)):
        key = ec.generate_private_key(ec.SECP256R1())
        now = datetime.datetime.now(datetime.UTC)
        made = (
            x509.CertificateBuilder()
            .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Ann")]))
            .issuer_name(issuer.subject)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(days=1))
            .not_valid_after(now + datetime.timedelta(days=30))
            .add_extension(x509.SubjectAlternativeName([x509.RFC822Name(address)]), critical=False)
            .sign(issuer.key, hashes.SHA256())
        )
        private = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        (folder / f"{name}.pem").write_bytes(private + made.public_bytes(serialization.Encoding.PEM))
    (folder / "ca.pem").write_bytes(Path(authority.files(folder)[0]).read_bytes())
    return folder / "ca.pem", folder / "good.pem", folder / "bad.pem"


def test_a_client_certificate_logs_in(tmp_path: Path) -> None:
    authority, good, bad = certificate(tmp_path, LOGIN)
    with Server(
        people=("ann",), server="workers = 1", extra=f'[tls]\nclient_ca = "{authority}"\n'
    ) as running:
        port = running.ports["imaps"]
        plain = imaplib.IMAP4_SSL("127.0.0.1", port, ssl_context=INSECURE, timeout=60)
        assert "AUTH=EXTERNAL" not in plain.capabilities and "AUTH=PLAIN" in plain.capabilities
        plain.logout()
        with_it = ssl.create_default_context()
        with_it.check_hostname, with_it.verify_mode = False, ssl.CERT_NONE
        with_it.load_cert_chain(good)
        imap = imaplib.IMAP4_SSL("127.0.0.1", port, ssl_context=with_it, timeout=60)
        assert "AUTH=EXTERNAL" in imap.capabilities
        with pytest.raises(imaplib.IMAP4.error):
            imap.authenticate("EXTERNAL", lambda _: b"bob@home.example")
        assert imap.authenticate("EXTERNAL", lambda _: b"")[0] == "OK"
        assert imap.select()[0] == "OK"
        imap.logout()
        smtp = smtplib.SMTP("127.0.0.1", running.ports["submission"], "client.example", timeout=60)
        smtp.starttls(context=with_it)
        smtp.ehlo("client.example")
        assert "EXTERNAL" in smtp.esmtp_features["auth"].split()
        assert smtp.docmd("AUTH", f"EXTERNAL {encoded(LOGIN.encode())}")[0] == 235
        smtp.quit()
        without_right = ssl.create_default_context()
        without_right.check_hostname, without_right.verify_mode = False, ssl.CERT_NONE
        without_right.load_cert_chain(bad)
        with pytest.raises((OSError, imaplib.IMAP4.error)):
            imaplib.IMAP4_SSL("127.0.0.1", port, ssl_context=without_right, timeout=60).noop()


def claims(person: str = "ann", **more: object) -> dict[str, object]:
    who = f"{person}@{DOMAIN}"
    return {"iss": "https://login.example", "aud": "mail", "exp": time.time() + 600, "email": who, **more}


def test_access_tokens(tmp_path: Path) -> None:
    """imaplib with XOAUTH2, curl with OAUTHBEARER, smtplib by hand; refusals are told as JSON first."""
    issuer = Issuer()
    keys = tmp_path / "keys.json"
    keys.write_bytes(issuer.jwks())
    extra = f'[auth.oauth]\nissuer = "https://login.example"\naudience = "mail"\nkeys = "{keys}"\n'
    with Server(people=("ann", "bob"), server="workers = 1", extra=extra) as running:
        port = running.ports["imaps"]

        def xoauth2(login: str, token: str) -> bytes:
            return f"user={login}\x01auth=Bearer {token}\x01\x01".encode()

        imap = imaplib.IMAP4_SSL("127.0.0.1", port, ssl_context=INSECURE, timeout=60)
        assert {"AUTH=OAUTHBEARER", "AUTH=XOAUTH2"} <= set(imap.capabilities)
        told: list[bytes] = []
        steps = iter((xoauth2(LOGIN, issuer.token(claims("bob"))), b""))

        def answer(challenge: bytes) -> bytes:
            told.append(challenge)
            return next(steps)

        with pytest.raises(imaplib.IMAP4.error):
            imap.authenticate("XOAUTH2", answer)
        assert json.loads(told[1])["status"] == "401"
        good = issuer.token(claims(), "ES256")
        assert imap.authenticate("XOAUTH2", lambda _: xoauth2(LOGIN, good))[0] == "OK"
        assert imap.select()[0] == "OK"
        imap.logout()
        smtp = smtplib.SMTP_SSL("127.0.0.1", running.ports["submissions"], "client.example", context=INSECURE)
        smtp.ehlo("client.example")
        late = issuer.token(claims(exp=time.time() - 600))
        code, text = smtp.docmd("AUTH", f"OAUTHBEARER {encoded(bearer(late))}")
        assert code == 334 and json.loads(base64.b64decode(text))["status"] == "invalid_token"
        assert smtp.docmd("AQ==")[0] == 535
        assert smtp.docmd("AUTH", f"OAUTHBEARER {encoded(bearer(good))}")[0] == 235
        smtp.quit()
        curl = shutil.which("curl")
        if curl is not None:
            words = ["--insecure", "--silent", "--show-error", "--oauth2-bearer", good, "--user", LOGIN]
            done = subprocess.run(
                [curl, *words, "--request", "STATUS INBOX (UIDNEXT)", f"imaps://127.0.0.1:{port}/"],
                capture_output=True,
                timeout=60,
                check=False,
            )
            assert done.returncode == 0 and b"UIDNEXT" in done.stdout, done.stderr


def bearer(token: str) -> bytes:
    return f"n,a={LOGIN},\x01host=x\x01port=1\x01auth=Bearer {token}\x01\x01".encode()


class Introspection(BaseHTTPRequestHandler):
    """RFC 7662 for two tokens."""

    def do_POST(self) -> None:
        form = self.rfile.read(int(self.headers["Content-Length"])).decode()
        known = self.headers["Authorization"] == "Basic " + encoded(b"mail:secret")
        if "token=broken" in form:
            self.send_error(500)
            return
        active = known and "token=good" in form
        body = json.dumps({"active": True, "username": LOGIN} if active else {"active": False}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None: ...


def test_introspection() -> None:
    with ThreadingHTTPServer(("127.0.0.1", 0), Introspection) as asked:
        threading.Thread(target=asked.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{asked.server_address[1]}/introspect"
        extra = f'[auth.oauth]\nintrospection = "{url}"\nclient_id = "mail"\nclient_secret = ["secret"]\nclaim = "username"\n'
        try:
            with Server(people=("ann",), server="workers = 1", extra=extra) as running:
                smtp = smtplib.SMTP_SSL(
                    "127.0.0.1", running.ports["submissions"], "client.example", context=INSECURE
                )
                smtp.ehlo("client.example")
                assert smtp.docmd("AUTH", f"OAUTHBEARER {encoded(bearer('bad'))}")[0] == 334
                assert smtp.docmd("AQ==")[0] == 535
                assert smtp.docmd("AUTH", f"OAUTHBEARER {encoded(bearer('broken'))}")[0] == 454, (
                    "no answer is no no"
                )
                assert smtp.docmd("AUTH", f"OAUTHBEARER {encoded(bearer('good'))}")[0] == 235
                smtp.quit()
        finally:
            asked.shutdown()
