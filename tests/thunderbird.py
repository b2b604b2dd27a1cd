"""Debian's Thunderbird without a screen, told what to do by its own remote control (Marionette), with a profile of its own.

Its windows are not pressed: ``thunderbird.js`` makes the calls that they make, so what goes over the wire is Thunderbird's.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import time
from functools import partial
from pathlib import Path

import pytest

from filterd.workers import die_with
from tests import faultserver
from tests.e2e.server import DOMAIN, PASSWORD, Server, mail
from tests.recorder import DATE

PROGRAM = "/usr/lib/thunderbird/thunderbird-bin"
PRELUDE = Path(__file__).with_suffix(".js").read_text("utf-8")
START_SECONDS = 120.0
_SETTINGS: dict[str, object] = {
    "app.update.enabled": False,
    "datareporting.policy.dataSubmissionEnabled": False,
    "datareporting.policy.bypassNotification": True,
    "toolkit.telemetry.reportingpolicy.firstRun": False,
    "mail.provider.enabled": False,
    "mail.rights.version": 1,
    "mailnews.start_page.enabled": False,
    "mailnews.start_page_override.mstone": "ignore",
    "mail.shell.checkDefaultClient": False,
    "mail.winsearch.firstRunDone": True,
    "mail.biff.show_alert": False,
    "mail.biff.play_sound": False,
    "mail.imap.use_status_for_biff": True,
    "mailnews.database.global.indexer.enabled": False,
    "mailnews.confirm.moveFoldersToTrash": False,
    "mailnews.emptyTrash.dontAskAgain": True,
    "network.proxy.type": 0,
    "network.dns.disabled": False,
    "extensions.update.enabled": False,
    "services.settings.server": "data:,#remote-settings-dummy/v1",
    "mail.accountmanager.accounts": "account1,account2",
    "mail.accountmanager.defaultaccount": "account1",
    "mail.accountmanager.localfoldersserver": "server2",
    "mail.account.account1.identities": "id1",
    "mail.account.account1.server": "server1",
    "mail.account.account2.server": "server2",
    "mail.identity.id1.fullName": "Ann",
    "mail.identity.id1.useremail": f"ann@{DOMAIN}",
    "mail.identity.id1.valid": True,
    "mail.identity.id1.smtpServer": "smtp1",
    "mail.server.server1.type": "imap",
    "mail.server.server1.hostname": "127.0.0.1",
    "mail.server.server1.userName": f"ann@{DOMAIN}",
    "mail.server.server1.name": "ann",
    "mail.server.server1.authMethod": 3,
    "mail.server.server1.login_at_startup": False,
    "mail.server.server1.check_new_mail": False,
    "mail.server.server2.type": "none",
    "mail.server.server2.hostname": "Local Folders",
    "mail.server.server2.userName": "nobody",
    "mail.server.server2.name": "Local Folders",
    "mail.smtpservers": "smtp1",
    "mail.smtp.defaultserver": "smtp1",
    "mail.smtpserver.smtp1.hostname": "127.0.0.1",
    "mail.smtpserver.smtp1.username": f"ann@{DOMAIN}",
    "mail.smtpserver.smtp1.authMethod": 3,
    "mail.smtpserver.smtp1.try_ssl": 3,
}


class Refused(AssertionError):
    """A script ended with an error; the text is Thunderbird's."""


def version() -> str:
    """As it says, e.g. "140.5.0"; skips where it is not installed, or not asked for by FILTERD_THUNDERBIRD: it tells the server of
    moves when it likes, at times never, so that its day does not always end. The recorded one is replayed always
    (tests/e2e/test_recorded_clients.py)."""
    if not os.environ.get("FILTERD_THUNDERBIRD"):
        pytest.skip("FILTERD_THUNDERBIRD is not set: Thunderbird is not played live")
    if not Path(PROGRAM).exists():
        pytest.skip("thunderbird is not installed")
    done = subprocess.run([PROGRAM, "--version"], capture_output=True, text=True, timeout=60, check=True)
    return done.stdout.split()[-1]


class Thunderbird:
    """One run of the program; ``folder`` keeps the profile between runs. ``settings``: preferences besides."""

    def __init__(self, folder: Path, settings: dict[str, object]) -> None:
        version()
        self.folder = folder
        self.profile = folder / "profile"
        self.profile.mkdir(exist_ok=True, parents=True)
        self._port = int(faultserver.refused().rpartition(":")[2])
        wanted = {**_SETTINGS, "marionette.port": self._port, **settings}
        (self.profile / "user.js").write_text(
            "".join(
                f"user_pref({json.dumps(name)}, {json.dumps(value)});\n" for name, value in wanted.items()
            )
        )

    def __enter__(self) -> Thunderbird:
        home = self.folder / "home"
        home.mkdir(exist_ok=True)
        environment = {
            "HOME": str(home),
            "MOZ_HEADLESS": "1",
            "LC_ALL": "C.UTF-8",
            "TZ": "UTC",
            "TMPDIR": str(home),
            "MOZ_CRASHREPORTER_DISABLE": "1",
        }
        words = (PROGRAM, "--headless", "--no-remote", "--marionette", "--remote-allow-system-access")
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [*words, "--profile", str(self.profile)],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                env={"PATH": os.environ["PATH"], **environment}, preexec_fn=partial(die_with, os.getpid()),
            )  # fmt: skip
        self._calls = 0
        try:
            self._connect()
            wanted = {"unhandledPromptBehavior": "ignore"}
            self._call("WebDriver:NewSession", capabilities={"alwaysMatch": wanted})
            self._call("WebDriver:SetTimeouts", script=60_000)
            self._call("Marionette:SetContext", value="chrome")
            self('await until("the main window", () => msgWindow && main.document.readyState == "complete");')
            self("await trust(args[0], args[1]);", f"ann@{DOMAIN}", PASSWORD)
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        """As a person quits it: it logs out everywhere."""
        with contextlib.suppress(OSError, EOFError):
            self._call("Marionette:Quit", flags=["eAttemptQuit"])
        self._end()

    def _end(self) -> None:
        try:
            self._process.wait(40)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait(20)
        with contextlib.suppress(AttributeError):
            self._file.close()
            self._socket.close()

    def __call__(self, script: str, *args: object) -> object:
        """What the script returns, after ``thunderbird.js``; ``args`` are its arguments. Refused is its error."""
        whole = (
            "const resolve = arguments[arguments.length - 1], args = arguments;\n"
            f"(async () => {{ {PRELUDE}\n{script}\n }})()"
            ".then(value => resolve({value: value ?? null}), error => resolve({error: `${error}\\n${error?.stack}`}));"
        )
        words = {"script": whole, "args": list(args), "newSandbox": True, "sandbox": "system"}
        found = self._call("WebDriver:ExecuteAsyncScript", **words)["value"]
        if not found:
            asks = self._call("WebDriver:GetAlertText")["value"]
            self._call("WebDriver:DismissAlert")
            raise Refused(f"{script.strip()[:200]}: a dialogue opened: {asks}")
        if "error" in found:
            raise Refused(f"{script.strip()[:200]}: {found['error'][:600]}")
        return found["value"]

    # -- Marionette: "LENGTH:[type, id, error or name, value]" ------------------------------------------------
    def _connect(self) -> None:
        deadline = time.monotonic() + START_SECONDS
        while True:
            try:
                self._socket = socket.create_connection(("127.0.0.1", self._port), 5)
                break
            except OSError:
                if self._process.poll() is not None or time.monotonic() > deadline:
                    raise Refused(f"did not start: {(self.folder / 'log').read_text()[-1500:]}") from None
            time.sleep(0.1)
        self._socket.settimeout(90)
        self._file = self._socket.makefile("rb")
        self._receive()

    def _receive(self) -> list[dict[str, object]]:
        length = b""
        while (octet := self._file.read(1)) != b":":
            if not octet:
                raise EOFError
            length += octet
        found: list[dict[str, object]] = json.loads(self._file.read(int(length)))
        return found

    def _call(self, name: str, **parameters: object) -> dict[str, dict[str, str]]:
        self._calls += 1
        text = json.dumps([0, self._calls, name, parameters]).encode()
        self._socket.sendall(b"%d:%b" % (len(text), text))
        _, _, error, value = self._receive()
        if error:
            raise Refused(f"{error['error']}: {error['message']}")
        return value  # type: ignore[return-value]  # whatever the command has


def _greetings() -> bytes:
    """Two parts, both encoded, and names that are."""
    return (
        b"From: =?UTF-8?Q?J=C3=BCrgen?= <juergen@shop.example>\r\nTo: <someone@home.example>\r\n"
        b"Subject: =?UTF-8?B?R3LDvMOfZQ==?=\r\nDate: Thu, 01 Jan 2026 12:00:00 +0000\r\nMIME-Version: 1.0\r\n"
        b"Message-ID: <greetings@shop.example>\r\n"
        b'Content-Type: multipart/mixed; boundary="b"\r\n\r\n--b\r\nContent-Type: text/plain; charset=utf-8\r\n'
        b"Content-Transfer-Encoding: quoted-printable\r\n\r\nK=C3=BCsse aus K=C3=B6ln\r\n--b\r\n"
        b'Content-Type: application/octet-stream; name="data.bin"\r\nContent-Transfer-Encoding: base64\r\n'
        b'Content-Disposition: attachment; filename="data.bin"\r\n\r\nAAECAwQFBgc=\r\n--b--\r\n'
    )


def _large() -> bytes:
    lines = "".join(f"line {number}: {'x' * 60}\n" for number in range(1_200))
    return mail(
        "large", "the first line\n" + lines, "orders@shop.example", "Message-ID: <large@shop.example>"
    )


def fill(server: Server) -> None:
    """The account at the beginning of the day that is recorded."""
    with server.imap("ann") as imap:
        for data in (*(mail(f"message {number}") for number in range(6)), _greetings(), _large()):
            assert imap.append("INBOX", "", DATE, data)[0] == "OK"
