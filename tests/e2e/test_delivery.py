"""Who gets what: LMTP replies, aliases, quota and limits; and what leaves: redirect, vacation, submission, bounces, privacy."""

from __future__ import annotations

import re
import socket
from collections.abc import Iterator
from email import message_from_bytes

import pytest

from tests.e2e.server import DOMAIN, Raw, Server, mail, wait_for

pytestmark = pytest.mark.e2e

SCRIPTS = {
    "bob": 'redirect "bob@elsewhere.example";',
    "carol": 'require ["vacation"]; vacation :days 3 :subject "Away" "I am on an island.";',
    "dora": 'require ["reject"]; if header :contains "subject" "no" { reject "Not for me."; }',
    "erik": 'require ["copy"]; redirect :copy "ann@home.example"; ',
}
FRIEND = "friend@elsewhere.example"
SETTINGS = f"""catch_all = "ann@{DOMAIN}"
aliases = {{ team = ["ann@{DOMAIN}", "dora@{DOMAIN}"], loop = "loop@{DOMAIN}", both = ["ann@{DOMAIN}", "{FRIEND}"] }}
[[domain]]
name = "strict.example"
"""
SMALL = 200_000


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with Server(
        people=("ann", "bob", "carol", "dora", "erik", "tiny"),
        scripts=SCRIPTS,
        domain=SETTINGS,
        quota={"tiny": SMALL},
        extra='[limits]\nmessage_size = "1 MiB"\nrecipients = 100\nconnections = { total = 500, per_ip = 200 }\n',
        server="workers = 2",
    ) as running:
        yield running


def subjects(server: Server, person: str, folder: str = "INBOX") -> list[str]:
    return [str(message_from_bytes(data)["subject"]) for data in server.read(person)[folder].values()]


# -- in -----------------------------------------------------------------------------------------------------------


def test_lmtp_answers_for_each_recipient(server: Server) -> None:
    with Raw(server.ports["lmtp"]) as raw:
        raw.reply()
        assert raw.ask("EHLO x\r\n")[0] >= 500  # RFC 2033 4.1
        assert raw.ask("LHLO front.example\r\n")[0] == 250
        raw.ask("MAIL FROM:<orders@shop.example>\r\n")
        assert raw.ask(f"RCPT TO:<ann@{DOMAIN}>\r\n")[0] == 250
        code, text = raw.ask("RCPT TO:<nobody@strict.example>\r\n")
        assert (code, text[4:9]) == (550, b"5.1.1")
        assert raw.ask(f"RCPT TO:<dora@{DOMAIN}>\r\n")[0] == 250
        assert raw.ask(f"RCPT TO:<tiny@{DOMAIN}>\r\n")[0] == 250
        assert raw.ask("DATA\r\n")[0] == 354
        raw.send(mail("no, by lmtp", "x" * 70 + "\n" + ("y" * 70 + "\n") * 4000) + b".\r\n")
        replies = [raw.reply() for _ in range(3)]
        assert replies[0][0] == 250
        assert replies[1][0] in (250, 550)  # a script's reject: its own refusal, or a DSN
        assert replies[2][0] in (452, 552) and b".2.2" in replies[2][1]
        assert raw.silent()
        assert raw.ask("DATA\r\n")[0] == 503
        raw.ask("MAIL FROM:<>\r\n")
        raw.ask("RCPT TO:<nobody@strict.example>\r\n")
        assert raw.ask("DATA\r\n")[0] in (503, 554)  # RFC 2033 4.2: no recipient, no 354
    assert "no, by lmtp" in subjects(server, "ann")


def test_unknown_is_550_5_1_1_and_catch_all_is_somebody(server: Server) -> None:
    with Raw(server.ports["smtp"]) as raw:
        raw.reply()
        raw.ask("EHLO client.example\r\n")
        raw.ask("MAIL FROM:<orders@shop.example>\r\n")
        code, text = raw.ask("RCPT TO:<nobody@strict.example>\r\n")
        assert (code, text[4:9]) == (550, b"5.1.1")
        for known in ("postmaster@strict.example", "POSTMASTER", f"who.ever@{DOMAIN}"):
            assert raw.ask(f"RCPT TO:<{known}>\r\n")[0] == 250
    server.send(mail("for whom"), f"who.ever@{DOMAIN}")
    found = [data for data in server.read("ann")["INBOX"].values() if b"Subject: for whom" in data]
    assert len(found) == 1 and f"X-Original-To: who.ever@{DOMAIN}".encode() in found[0]


def test_an_alias_to_several_and_to_elsewhere(server: Server) -> None:
    server.send(mail("to the team"), f"team@{DOMAIN}")
    assert "to the team" in subjects(server, "ann") and "to the team" in subjects(server, "dora")
    before = len(server.hop.arrivals)
    server.send(mail("to both"), f"both@{DOMAIN}")
    server.arrived(before + 1)
    assert "to both" in subjects(server, "ann")
    arrival = server.hop.arrivals[-1]
    assert arrival.recipients == ("friend@elsewhere.example",)
    assert re.fullmatch(rf"SRS0=[^=@]+=[^=@]+=shop\.example=orders@{DOMAIN}", arrival.reverse_path)


def test_one_person_by_two_ways_gets_one_copy(server: Server) -> None:
    with server.smtp() as smtp:
        smtp.mail("orders@shop.example")
        for way in ("ann", "Ann", "ann+list"):
            assert smtp.rcpt(f"{way}@{DOMAIN}")[0] == 250
        assert smtp.data(mail("three ways"))[0] == 250
    assert subjects(server, "ann").count("three ways") == 1


def test_a_subaddress_reaches_its_person(server: Server) -> None:
    server.send(mail("with detail"), f"ann+lists@{DOMAIN}")
    found = [data for data in server.read("ann")["INBOX"].values() if b"Subject: with detail" in data]
    assert len(found) == 1 and f"X-Original-To: ann+lists@{DOMAIN}".encode() in found[0]


def test_a_full_mailbox_is_refused_for_now_at_rcpt_and_after_data(server: Server) -> None:
    with server.smtp() as smtp:
        smtp.docmd("MAIL", f"FROM:<a@shop.example> SIZE={SMALL * 2}")
        code, text = smtp.rcpt(f"tiny@{DOMAIN}")
        assert code in (452, 552) and b".2.2" in text, text
        smtp.rset()
        smtp.mail("a@shop.example")
        assert smtp.rcpt(f"tiny@{DOMAIN}")[0] == 250
        code, text = smtp.data(mail("too much", ("z" * 70 + "\n") * 4000))
        assert code in (452, 552) and b".2.2" in text, text
        smtp.mail("a@shop.example")
        smtp.rcpt(f"tiny@{DOMAIN}")
        assert smtp.data(mail("fits"))[0] == 250
    assert subjects(server, "tiny") == ["fits"]


def test_limits_of_size_and_recipients(server: Server) -> None:
    with server.smtp() as smtp:
        assert smtp.esmtp_features["size"] == str(1 << 20)
        code, _ = smtp.docmd("MAIL", f"FROM:<a@shop.example> SIZE={(1 << 20) + 1}")
        assert code == 552
        smtp.mail("a@shop.example")
        smtp.rcpt(f"ann@{DOMAIN}")
        code, text = smtp.data(mail("huge", ("z" * 70 + "\n") * 16_000))
        assert code == 552, text
        smtp.mail("a@shop.example")
        codes = [smtp.rcpt(f"person{number}@{DOMAIN}")[0] for number in range(102)]
        assert codes[:100] == [250] * 100 and codes[100:] == [452, 452]
        smtp.rset()
        assert smtp.noop()[0] == 250
    assert "huge" not in subjects(server, "ann")


def test_binary_and_long_lines_by_chunking_and_eight_bit(server: Server) -> None:
    with Raw(server.ports["smtp"]) as raw:
        raw.reply()
        features = raw.ask("EHLO client.example\r\n")[1]
        for feature in (
            b"PIPELINING",
            b"SIZE",
            b"8BITMIME",
            b"SMTPUTF8",
            b"ENHANCEDSTATUSCODES",
            b"CHUNKING",
            b"STARTTLS",
        ):
            assert feature in features
        text = mail("in pieces", "höchst 8bit " * 200)
        raw.send(f"MAIL FROM:<a@shop.example> BODY=8BITMIME\r\nRCPT TO:<ann@{DOMAIN}>\r\n")
        raw.send(b"BDAT 10\r\n" + text[:10] + f"BDAT {len(text) - 10} LAST\r\n".encode() + text[10:])
        assert [raw.reply()[0] for _ in range(4)] == [250, 250, 250, 250]
    assert any(data.endswith(text) for data in server.read("ann")["INBOX"].values())


def test_dots_nul_and_bare_line_ends(server: Server) -> None:
    dots = mail("dots", "..\n.\n...x\n.end")
    server.send(dots, f"ann@{DOMAIN}")
    assert any(data.endswith(dots) for data in server.read("ann")["INBOX"].values())
    for bad in (b"bare\nlf", b"bare\rcr"):
        with Raw(server.ports["smtp"]) as raw:
            raw.reply()
            raw.ask("EHLO client.example\r\n")
            raw.ask("MAIL FROM:<a@shop.example>\r\n")
            raw.ask(f"RCPT TO:<ann@{DOMAIN}>\r\n")
            raw.ask("DATA\r\n")
            raw.send(b"Subject: bad\r\n\r\n" + bad + b"\r\n.\r\n")
            assert 500 <= raw.reply()[0] < 600
    assert "bad" not in subjects(server, "ann")


def test_forged_results_and_traces_are_taken_out(server: Server) -> None:
    data = mail("forged", "x", "a@shop.example").replace(
        b"Subject:",
        f"Authentication-Results: mx.{DOMAIN}; spf=pass smtp.mailfrom=bank.example\r\n"
        "X-Filterd-Trace: 00000-00000.1\r\nAuthentication-Results: other.example; spf=pass\r\nSubject:".encode(),
    )
    trace = server.send(data, f"ann@{DOMAIN}")
    found = next(data for data in server.read("ann")["INBOX"].values() if trace.encode() in data)
    assert found.count(f"Authentication-Results: mx.{DOMAIN}".encode()) == 1
    assert b"bank.example" not in found and b"00000-00000" not in found
    assert b"Authentication-Results: other.example; spf=pass" in found


def test_a_loop_ends(server: Server) -> None:
    with server.smtp() as smtp:
        smtp.mail("a@shop.example")
        smtp.rcpt(f"ann@{DOMAIN}")
        hops = b"".join(b"Received: from a by b; Mon, 1 Jan 2024 00:00:00 +0000\r\n" for _ in range(110))
        code, text = smtp.data(hops + mail("loop"))
        assert code == 554 and b"5.4.6" in text
        smtp.mail("a@shop.example")
        assert smtp.rcpt(f"loop@{DOMAIN}")[0] in (
            250,
            451,
            550,
        )  # an alias that names itself does not hang us
    server.send(mail("redirected at home"), f"erik@{DOMAIN}")
    wait_for(lambda: "redirected at home" in subjects(server, "ann"), 10, "the redirect inside the house")
    assert "redirected at home" in subjects(server, "erik")


# -- out ----------------------------------------------------------------------------------------------------------


def test_redirect_leaves_with_srs_and_its_bounce_comes_home(server: Server) -> None:
    before = len(server.hop.arrivals)
    server.send(mail("sent on"), f"bob@{DOMAIN}")
    server.arrived(before + 1)
    arrival = server.hop.arrivals[-1]
    assert arrival.recipients == ("bob@elsewhere.example",)
    assert arrival.reverse_path.startswith("SRS0=") and arrival.reverse_path.endswith(f"@{DOMAIN}")
    assert arrival.data.endswith(mail("sent on"))
    assert b"X-Filterd-Trace" not in arrival.data and b"Return-Path" not in arrival.data
    assert "sent on" not in subjects(server, "bob")
    # the next hop's bounce goes through us to the first sender
    bounce = mail("Undelivered Mail", "It bounced.", "MAILER-DAEMON@elsewhere.example")
    server.send(bounce, arrival.reverse_path, sender="")
    server.arrived(before + 2)
    home = server.hop.arrivals[-1]
    assert home.recipients == ("orders@shop.example",) and home.reverse_path == ""
    assert home.data.endswith(bounce)
    with server.smtp() as smtp:  # not for mail that is no bounce, not for a forged one
        smtp.mail("spammer@shop.example")
        assert smtp.rcpt(arrival.reverse_path)[0] == 550
        smtp.rset()
        smtp.mail("")
        assert smtp.rcpt(arrival.reverse_path.replace("=orders@", "=victim@"))[0] in (550, 250)
    forged = arrival.reverse_path.replace("shop.example", "elsewhere.example")
    with Raw(server.ports["smtp"]) as raw:
        raw.reply()
        raw.ask("EHLO x\r\n")
        raw.ask("MAIL FROM:<>\r\n")
        code, _ = raw.ask(f"RCPT TO:<{forged}>\r\n")
        if code == 250:  # the catch-all took it: it must not leave
            raw.ask("DATA\r\n")
            raw.send(mail("forged bounce") + b".\r\n")
            raw.reply()
    assert len(server.hop.arrivals) == before + 2


def test_vacation_answers_once_and_never_a_machine(server: Server) -> None:
    before = len(server.hop.arrivals)
    person = mail("a question", "x", "reader@shop.example").replace(b"someone@", b"carol@")
    server.send(person, f"carol@{DOMAIN}", sender="reader@shop.example")
    server.arrived(before + 1)
    answer = server.hop.arrivals[-1]
    text = message_from_bytes(answer.data)
    assert answer.reverse_path == "" and answer.recipients == ("reader@shop.example",)
    assert text["subject"] == "Away" and text["auto-submitted"].startswith("auto-replied")
    assert b"island" in answer.data
    for extra in ("Precedence: list", "List-Id: <x.example>", "Auto-Submitted: auto-generated"):
        machine = mail("from a machine", "x", "robot@shop.example", extra).replace(b"someone@", b"carol@")
        server.send(machine, f"carol@{DOMAIN}", sender="robot@shop.example")
    server.send(mail("bounce").replace(b"someone@", b"carol@"), f"carol@{DOMAIN}", sender="")
    server.send(person.replace(b"a question", b"another"), f"carol@{DOMAIN}", sender="reader@shop.example")
    server.send(mail("to bcc", "x", "other@shop.example"), f"carol@{DOMAIN}", sender="other@shop.example")
    assert len(server.read("carol")["INBOX"]) == 7
    wait_for(lambda: b"queue" not in server.command("queue", "list").stdout or True, 1)
    assert len(server.hop.arrivals) == before + 1


def test_reject_at_the_door_and_for_one_of_several(server: Server) -> None:
    with server.smtp() as smtp:
        smtp.mail("orders@shop.example")
        smtp.rcpt(f"dora@{DOMAIN}")
        code, text = smtp.data(mail("no thanks"))
        assert code == 550 and b"Not for me" in text
        smtp.mail("orders@shop.example")
        assert smtp.rcpt(f"ann@{DOMAIN}")[0] == 250
        code, text = smtp.rcpt(f"dora@{DOMAIN}")  # her script may refuse: a message of her own
        assert (code, text[:5]) == (452, b"4.5.3")
        assert smtp.data(mail("no, but ann wants it"))[0] == 250
    assert "no, but ann wants it" in subjects(server, "ann")
    assert "no thanks" not in subjects(server, "dora")


def test_submission_leaves_without_a_word_about_the_client(server: Server) -> None:
    before = len(server.hop.arrivals)
    secret = (
        b"User-Agent: SecretMailer/9.1\r\nX-Mailer: SecretMailer\r\nX-Originating-IP: [192.0.2.55]\r\n"
        b"X-PHP-Script: www.secret.example/mail.php for 192.0.2.56\r\n"
    )
    own = mail("hello out there", "Kind regards", f"ann@{DOMAIN}")
    with server.submission("ann") as smtp:
        smtp.ehlo("secret-laptop.lan")
        refused = smtp.sendmail(f"ann@{DOMAIN}", ["friend@elsewhere.example", f"dora@{DOMAIN}"], secret + own)
        assert not refused
    server.arrived(before + 1)
    data = server.hop.arrivals[-1].data
    for word in (
        b"127.0.0.1",
        b"secret",
        b"SecretMailer",
        b"192.0.2.5",
        socket.gethostname().encode(),
    ):
        assert word.lower() not in data.lower(), (word, data)
    assert data.endswith(own) and server.hop.arrivals[-1].reverse_path == f"ann@{DOMAIN}"
    assert "hello out there" in subjects(server, "dora")
    assert b"hello out there" not in b"".join(server.read("ann")["INBOX"].values())


def test_a_submission_without_date_and_message_id_gets_them(server: Server) -> None:
    """RFC 6409 8: a submission server may add them; many receivers refuse mail without."""
    before = len(server.hop.arrivals)
    with server.submission("ann") as smtp:
        smtp.sendmail(f"ann@{DOMAIN}", ["friend@elsewhere.example"], b"Subject: bare\r\n\r\nx\r\n")
    server.arrived(before + 1)
    text = message_from_bytes(server.hop.arrivals[-1].data)
    assert text["date"] and text["message-id"].endswith(f"@mx.{DOMAIN}>")


def test_a_submission_to_a_stranger_of_ours_is_refused(server: Server) -> None:
    with server.submission("ann") as smtp:
        smtp.mail(f"ann@{DOMAIN}")
        assert smtp.rcpt("nobody@strict.example")[0] == 550
        assert smtp.rcpt("friend@elsewhere.example")[0] == 250


def test_queue_shows_and_explain_tells_the_way_out(server: Server) -> None:
    before = len(server.hop.arrivals)
    trace = server.send(mail("way out"), f"bob@{DOMAIN}")
    server.arrived(before + 1)

    def told() -> str:
        return server.command("explain", trace).stdout.decode()

    wait_for(lambda: " send " in told(), 5, "the attempt in the trace")
    assert "sent" in told() and "bob@elsewhere.example" in told() and "250" in told()


def test_explain_knows_a_place_without_its_domain(server: Server) -> None:
    trace = server.send(mail("which one"), f"ann@{DOMAIN}")
    uid = next(one for one, text in server.read("ann")["INBOX"].items() if b"which one" in text)
    for place in (f"ann/INBOX/{uid}", f"ann@{DOMAIN}/INBOX/{uid}"):
        done = server.command("explain", place)
        assert done.returncode == 0 and trace in done.stdout.decode(), (place, done.stderr)
    assert server.command("explain", f"nobody/INBOX/{uid}").returncode == 1


def test_a_dead_next_hop_delays_and_loses_nothing() -> None:
    """The hop is away: 250 all the same, the mail waits on disk across a kill and goes when the hop is back."""
    with Server(
        people=("ann",), extra='[queue]\nrelay = "smtp://127.0.0.1:1"\nretry = ["1s"]\n', server="workers = 1"
    ) as server:
        with server.submission("ann") as smtp:
            smtp.sendmail(
                f"ann@{DOMAIN}", ["friend@elsewhere.example"], mail("patience", "x", f"ann@{DOMAIN}")
            )
        wait_for(
            lambda: b"friend@elsewhere.example" in server.command("queue", "list").stdout,
            10,
            "the queue to show it",
        )
        server.kill()
        text = server.config.read_text().replace('127.0.0.1:1"', f'127.0.0.1:{server.hop.port}"')
        server.config.write_text(text)
        server.start()
        server.arrived(1, 20)
        assert server.hop.arrivals[0].recipients == ("friend@elsewhere.example",)
        wait_for(
            lambda: b"friend@elsewhere.example" not in server.command("queue", "list").stdout,
            10,
            "an empty queue",
        )
