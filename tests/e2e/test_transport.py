"""The running server sends to hosts whose TLS is as the operator demands, keeps the mail from others, and says why."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from tests.e2e.server import DOMAIN, Server, mail, wait_for
from tests.tlslab import Cert, MailHost, listening

pytestmark = pytest.mark.e2e

ROOT = Cert("root", ca=True, now=time.time())
GOOD = Cert("mx.partner.test", ROOT, names=("mx.partner.test",), now=time.time())
ARGUMENT = ("queue", "list", "--ended", "--json")


def queued(server: Server) -> list[dict[str, object]]:
    return list(json.loads(server.command(*ARGUMENT).stdout))


@pytest.mark.parametrize("stripped", [False, True])
def test_what_the_operator_demands(tmp_path: Path, stripped: bool) -> None:
    host = MailHost(GOOD.context(tmp_path), stripped=stripped)
    with listening(host):
        extra = (
            f'[queue]\nrelay = "smtp://127.0.0.1:{host.port}"\ntls_ca = "{ROOT.files(tmp_path)[0]}"\ntls_reports = true\n'
            '[[queue.tls_policy]]\ndomain = "127.0.0.1"\ntls = "secure"\nnames = ["mx.partner.test"]\n'
        )
        with Server(people=("ann",), extra=extra) as server:
            with server.submission() as smtp:
                smtp.sendmail(f"ann@{DOMAIN}", ["bob@partner.test"], mail("to a partner"))
            wait_for(lambda: [item for item in queued(server) if item["attempts"]], 20, "the try")
            (item,) = queued(server)
            why = server.command("queue", "why", str(item["id"])).stdout.decode()
    if stripped:
        assert item["state"] == "queued" and not host.taken
        assert (
            "4.7.5" in why and "offers no STARTTLS (our configuration)" in why and "filterd probe" in why
        ), why
    else:
        assert item["state"] == "sent" and [secure for secure, _, _ in host.taken] == [True]
        assert (
            "* TLS TLSv1.3" in why
            and "the certificate is good for mx.partner.test (our configuration)" in why
        ), why
