"""What leaves tells nothing about the client's address, host name and program: whole submissions, read as raw octets."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.edits import splice
from pipeline.envelope import Client, Profile
from pipeline.stages.privacy import PrivacySettings, strip
from pipeline.stages.privacy_client import BOUNDARIES, Sender
from rules.mail.message import Message
from tests.house import DOMAIN, House

ANN = f"ann@{DOMAIN}"
MACHINE = Client("10.77.5.9", 50_000, "annslaptop.lan", "p5b-77.dsl.isp.example", auth=ANN)
HEAD = f"From: Ann <{ANN}>\r\nTo: x@far.example\r\nSubject: Hi\r\nDate: Mon, 23 Nov 2026 10:00:00 +0000\r\n"

THUNDERBIRD = (
    "Message-ID: <6b0c5d4e-1@here.example>\r\nUser-Agent: Mozilla Thunderbird\r\nContent-Language: en-US\r\n"
    "X-Mozilla-Draft-Info: internal/draft; vcard=0\r\nX-Identity-Key: id1\r\nX-Account-Key: account7\r\nMIME-Version: 1.0\r\n"
    'Content-Type: multipart/alternative; boundary="------------0aB1c2D3"\r\n\r\n'
    "--------------0aB1c2D3\r\nContent-Type: text/plain; charset=UTF-8; format=flowed\r\n\r\nHi\r\n"
    "--------------0aB1c2D3\r\nContent-Type: text/html\r\n\r\n<p>Hi</p>\r\n--------------0aB1c2D3--\r\n"
)
OUTLOOK = (
    "Message-ID: <000001d9f3$0a1b2c3d$@here.example>\r\nX-Mailer: Microsoft Outlook 16.0\r\n"
    "X-MimeOLE: Produced By Microsoft MimeOLE\r\n"
    "Thread-Index: AdnzAA==\r\nX-MS-TNEF-Correlator:\r\nX-MS-Has-Attach: yes\r\nx-originating-ip: [10.77.5.9]\r\nX-OlkEid: 00\r\n"
    "Received: from annslaptop ([10.77.5.9]) by annslaptop.lan with Microsoft SMTP Server; Mon, 23 Nov 2026 09:59:00 +0000\r\n"
    'MIME-Version: 1.0\r\nContent-Type: multipart/mixed;\r\n\tboundary="----=_NextPart_000_0001_01D9F3.0A1B2C30"\r\n\r\n'
    "This is a multipart message.\r\n------=_NextPart_000_0001_01D9F3.0A1B2C30\r\n"
    'Content-Type: multipart/alternative;\r\n\tboundary="----=_NextPart_001_0002_01D9F3.0A1B2C30"\r\n\r\n\r\n'
    "------=_NextPart_001_0002_01D9F3.0A1B2C30\r\nContent-Type: text/plain\r\nX-Mailer: Microsoft Outlook 16.0\r\n\r\nHi\r\n"
    "------=_NextPart_001_0002_01D9F3.0A1B2C30--\r\n------=_NextPart_000_0001_01D9F3.0A1B2C30\r\n"
    "Content-Type: application/pdf; name=a.pdf\r\n\r\nx\r\n------=_NextPart_000_0001_01D9F3.0A1B2C30--\r\n"
)
MUTT = (
    "Message-ID: <ZWabc123@annslaptop.lan>\r\nReferences: <ZWaaa@annslaptop.lan> <else@theirs.local>\r\n"
    "In-Reply-To: <ZWaaa@annslaptop.lan>\r\nUser-Agent: Mutt/2.2.9 (2022-11-12)\r\nX-Operating-System: Linux annslaptop 6.1\r\n"
    "X-Url: http://annslaptop.lan/\r\nMIME-Version: 1.0\r\nContent-Type: text/plain; charset=us-ascii\r\n\r\nHi\r\n"
)
APPLE = (
    "Message-Id: <5D1C-4F@[10.77.5.9]>\r\nX-Mailer: Apple Mail (2.3731.700.6)\r\nX-Apple-Base-Url: x-msg://1/\r\n"
    "X-Universally-Unique-Identifier: A1\r\nX-Uniform-Type-Identifier: com.apple.mail-draft\r\n"
    "Mime-Version: 1.0 (Mac OS X Mail 16.0 \\(3731.700.6\\))\r\n"
    'Content-Type: multipart/mixed;\r\n boundary="Apple-Mail=_5D1C"\r\n\r\n'
    "\r\n--Apple-Mail=_5D1C\r\nContent-Type: text/plain\r\n\r\nHi\r\n--Apple-Mail=_5D1C\r\n"
    "Content-Disposition: inline;\r\n\tfilename=a.png\r\n"
    'Content-Type: image/png;\r\n\tx-unix-mode=0644;\r\n\tname="a.png"\r\n\r\nx\r\n'
    "--Apple-Mail=_5D1C\r\nContent-Type: message/rfc822\r\n\r\n"
    "Received: from annslaptop.lan (p5b-77.dsl.isp.example [10.77.5.9]) by mx; Mon, 23 Nov 2026 09:00:00 +0000\r\n"
    "Received: from mx.far.example by mx.isp.example; Mon, 23 Nov 2026 08:00:00 +0000\r\nSubject: theirs\r\n\r\nx\r\n"
    "--Apple-Mail=_5D1C--\r\n"
)
PHP = (
    "Message-ID: <abc@annslaptop.lan>\r\nX-PHP-Originating-Script: 33:contact.php\r\nX-Mailer: PHP/8.2.7\r\n"
    "X-PHP-Script: www.here.example/contact.php for 10.77.5.9\r\nX-Remote-Addr: 10.77.5.9\r\nX-Client: 10.77.5.9\r\n"
    "Received: by annslaptop.lan (Postfix, from userid 33) id 1234; Mon, 23 Nov 2026 09:59:59 +0000 (UTC)\r\n"
    "Content-Type: text/plain\r\n\r\nHi\r\n"
)
SECRETS = (
    b"10.77.5.9", b"annslaptop", b"p5b-77", b"isp.example (", b"thunderbird", b"mozilla", b"microsoft", b"outlook",
    b"olkeid", b"x-ms-", b"nextpart", b"mutt", b"linux", b"apple", b"mac os", b"x-unix-mode", b"php", b"x-mailer",
    b"user-agent", b"account7", b"postfix",
)  # fmt: skip


def leaves(text: str, client: Client = MACHINE, open_domain: str = "") -> bytes:
    """A submission as it is queued; ``open_domain``: whose people want no privacy."""
    house = House()
    house.reception._departure.open_domains = frozenset({open_domain})

    async def go() -> None:
        session = await house.session(Profile.SUBMISSION, ANN)
        session.client = client
        (reply,) = await house.send("x@far.example", sender=ANN, data=(HEAD + text).encode(), session=session)
        assert reply.code == 250

    asyncio.run(go())
    (out,) = house.spool.outgoing
    return out.data


def stripped(data: bytes) -> bytes:
    sender = Sender.of(MACHINE, frozenset())
    return splice(data, strip(Message(data), PrivacySettings(), sender=sender).splices)


@pytest.mark.parametrize(
    "text", [THUNDERBIRD, OUTLOOK, MUTT, APPLE, PHP], ids=["thunderbird", "outlook", "mutt", "apple", "php"]
)
def test_nothing_is_told(text: str) -> None:
    data = leaves(text)
    lower = data.lower()
    assert [word for word in SECRETS if word in lower] == []
    message = Message(data)
    before = Message((HEAD + text).encode())
    assert message.header.first(b"subject") == before.header.first(b"subject")
    assert len(message.root.children) == len(before.root.children)  # the structure holds
    assert data.rstrip().endswith((b"Hi", b"--"))


def test_a_domain_may_go_without() -> None:
    data = leaves(PHP, open_domain=DOMAIN)
    assert data.endswith(PHP.encode()) and b"from annslaptop.lan (p5b-77.dsl.isp.example [10.77.5.9])" in data
    assert b"10.77.5.9" not in leaves(PHP, open_domain="other.example")


def test_a_domain_may_go_without_for_what_it_sends_on() -> None:
    text = b"From: far@away.example\r\nX-Mailer: odd\r\n\r\nx\r\n"
    for domain, kept in ((DOMAIN, True), ("away.example", False)):
        house = House()
        house.reception._departure.open_domains = frozenset({domain})
        asyncio.run(house.send(f"away@{DOMAIN}", data=text))
        (out,) = house.spool.outgoing
        assert (b"X-Mailer" in out.data) is kept


def test_threads_of_ones_own_hold() -> None:
    data = leaves(MUTT)
    assert b"Message-ID: <ZWabc123@here.example>\r\n" in data
    assert b"References: <ZWaaa@here.example> <else@theirs.local>\r\n" in data  # other people's stay
    assert b"In-Reply-To: <ZWaaa@here.example>\r\n" in data


def test_threads_hold_where_the_session_does_not_name_the_machine() -> None:
    text = MUTT.replace("<else@theirs.local>", "<else@theirs.local> <else@localhost.localdomain>")
    data = leaves(text, Client("10.77.5.9", helo="localhost", auth=ANN))
    assert b"Message-ID: <ZWabc123@here.example>\r\n" in data
    assert b"<ZWaaa@here.example> <else@theirs.local> <else@localhost.localdomain>\r\n" in data
    anywhere = "Message-ID: <1@localhost.localdomain>\r\nReferences: <2@localhost.localdomain>\r\n\r\nHi\r\n"
    data = leaves(anywhere)
    assert b"<1@here.example>" in data and b"<2@localhost.localdomain>" in data


def test_the_id_of_what_is_sent_on_as_it_is_stays_its_authors() -> None:
    text = f"Message-ID: <1@theirs.local>\r\nResent-From: {ANN}\r\nResent-Message-ID: <2@mine.local>\r\n\r\nHi\r\n"
    data = leaves(text)
    assert b"\r\nMessage-ID: <1@theirs.local>\r\n" in data
    assert b"Resent-Message-ID: <2@here.example>\r\n" in data


def test_what_came_signed_is_not_rewritten() -> None:
    text = "DKIM-Signature: v=1; d=shop.example; h=Message-ID:From; bh=x; b=y\r\n" + APPLE
    data = leaves(text)
    assert data.endswith(APPLE.partition("\r\n\r\n")[2].encode())
    assert b"Message-Id: <5D1C-4F@[10.77.5.9]>\r\n" in data and b"X-Mailer" not in data


def test_an_account_without_a_domain_gives_none() -> None:
    assert Sender.of(Client("10.77.5.9", auth="ann"), frozenset()).domain == b""


def test_an_attached_message_keeps_what_is_not_about_this_machine() -> None:
    data = leaves(APPLE)
    assert b"Received: from mx.far.example by mx.isp.example;" in data
    assert b"Received: from hidden by hidden; Mon, 23 Nov 2026 09:00:00 +0000\r\n" in data


SIGNED = (
    "Message-ID: <1@here.example>\r\nMIME-Version: 1.0\r\n"
    'Content-Type: multipart/signed; micalg=pgp-sha256; protocol="application/pgp-signature"; boundary="Apple-Mail=_A"\r\n\r\n'
    '--Apple-Mail=_A\r\nContent-Type: multipart/mixed; boundary="Apple-Mail=_B"\r\nX-Mailer: inside\r\n\r\n--Apple-Mail=_B\r\n'
    "Content-Type: text/plain; x-unix-mode=0644\r\nX-Mailer: inside\r\n\r\nHi\r\n--Apple-Mail=_B--\r\n"
    "--Apple-Mail=_A\r\nContent-Type: application/pgp-signature\r\n\r\nx\r\n--Apple-Mail=_A--\r\n"
)


def test_what_the_author_signed_stays_octet_for_octet() -> None:
    body = SIGNED.partition("\r\n\r\n")[2].encode()
    assert leaves(SIGNED).endswith(body)


def test_a_boundary_is_not_renamed_to_what_is_there() -> None:
    text = (
        'MIME-Version: 1.0\r\nContent-Type: multipart/mixed; boundary="Apple-Mail=_A"\r\n\r\n'
        "--Apple-Mail=_A\r\nContent-Type: text/plain\r\n\r\n--part=_A\r\n--Apple-Mail=_A--\r\n"
    )
    assert b"--Apple-Mail=_A--" in leaves(text)


@pytest.mark.parametrize(
    "given", [b'="Next\\Part_1"', b"*=us-ascii''Next%50art_1", b'*0="Next"; boundary*1="Part_1"']
)
def test_a_boundary_that_the_header_does_not_spell_out_stays(given: bytes) -> None:
    data = (
        b"Content-Type: multipart/mixed; boundary" + given + b"\r\n\r\n"
        b"--NextPart_1\r\n\r\nHi\r\n--NextPart_1--\r\n"
    )
    assert len(Message(data).root.children) == 1
    assert stripped(data) == data


def test_no_boundary_of_too_many_is_looked_for() -> None:
    def nested(count: int) -> bytes:
        inner = b"".join(
            b'--bb\r\nContent-Type: multipart/mixed; boundary="NextPart%d"\r\n\r\n' % number
            for number in range(count)
        )
        return b'Content-Type: multipart/mixed; boundary="bb"\r\n\r\n' + inner

    assert b"NextPart" not in stripped(nested(BOUNDARIES - 1))
    assert stripped(nested(BOUNDARIES)) == nested(BOUNDARIES)  # each one is looked for in the whole text


def test_a_file_name_stays_whole() -> None:
    data = (
        b'Content-Type: a/b; x-mac-type="41"; name="a\\"; x-unix-mode=1.txt"; x-unix-mode=0644\r\n'
        b'Content-Disposition: attachment; filename="a; x-unix-mode=0644.txt"\r\n\r\nx\r\n'
    )
    assert stripped(data) == (
        b'Content-Type: a/b; name="a\\"; x-unix-mode=1.txt"\r\n'
        b'Content-Disposition: attachment; filename="a; x-unix-mode=0644.txt"\r\n\r\nx\r\n'
    )


@pytest.mark.parametrize(
    ("client", "names"),
    [
        (MACHINE, (b"10.77.5.9", b"annslaptop.lan", b"p5b-77.dsl.isp.example")),
        (Client("10.77.5.9", helo="[10.77.5.9]", auth=ANN), (b"10.77.5.9",)),
        (Client("2001:db8::9", helo="[IPv6:2001:db8::9]", auth=ANN), (b"2001:db8::9",)),
        (Client("127.0.0.1", helo="localhost", auth=ANN), ()),
        (Client("127.0.0.1", helo="here.example", auth=ANN), ()),
        (Client(None, helo="mx.here.example", auth=ANN), ()),
        (Client("10.77.5.9", helo="pc", name="unknown", auth=ANN), (b"10.77.5.9",)),
    ],
)
def test_whose_machine_it_is(client: Client, names: tuple[bytes, ...]) -> None:
    assert Sender.of(client, frozenset({DOMAIN})).names == names


def test_names_stand_for_themselves() -> None:
    data = (
        b"X-A: annslaptop.lander\r\nX-B: notannslaptop.lan\r\nX-C: annslaptop.lan.\r\nX-D: (AnnsLaptop.LAN)\r\n"
        b"Y: annslaptop.lan\r\n\r\n"
    )
    sender = Sender.of(MACHINE, frozenset())
    out = splice(data, strip(Message(data), PrivacySettings(), sender=sender).splices)
    assert out == b"X-A: annslaptop.lander\r\nX-B: notannslaptop.lan\r\nY: annslaptop.lan\r\n\r\n"
    kept = splice(data, strip(Message(data), PrivacySettings(client_ip="keep"), sender=sender).splices)
    assert kept == data


def test_what_goes_as_a_whole_takes_its_inside_along() -> None:
    data = (
        b'Content-Type: multipart/mixed; x-apple-a="Apple-Mail=_A"; boundary="Apple-Mail=_A"\r\nX-Mailer: Apple-Mail=_A\r\n\r\n'
        b"--Apple-Mail=_A\r\nX-Mailer: Apple-Mail=_A\r\n\r\nx\r\n--Apple-Mail=_A--\r\n"
    )
    out = splice(
        data, strip(Message(data), PrivacySettings(), sender=Sender.of(MACHINE, frozenset())).splices
    )
    assert (
        out
        == b'Content-Type: multipart/mixed; boundary="part=_A"\r\n\r\n--part=_A\r\n\r\nx\r\n--part=_A--\r\n'
    )


@pytest.mark.parametrize(
    "value", [b'"\\' * 40_000, b'\\"' * 40_000, b'"\\"' * 20_000, b';x-mac-a="' * 20_000]
)
def test_hostile_parameters_end(value: bytes) -> None:
    assert stripped(b"Content-Type: a/b; " + value + b"\r\n\r\n").endswith(
        b"\r\n\r\n"
    )  # linear, or this hangs


PIECES = st.sampled_from(
    [b"--Apple-Mail=_A", b"\r\n", b'Content-Type: multipart/mixed; boundary="Apple-Mail=_A"', b"Content-Type: message/rfc822", b"x",
     b"; x-unix-mode=1", b"Received: annslaptop.lan", b"X-Y: 10.77.5.9", b"Message-ID: <a@annslaptop.lan>", b" ", b"NextPart",
     b'Content-Type: multipart/signed; boundary="----=_NextPart_1"', b"------=_NextPart_1", b"--"]
)  # fmt: skip


@settings(deadline=None, max_examples=300)
@given(st.lists(PIECES, max_size=40).map(b"".join))
def test_any_pieces(data: bytes) -> None:
    sender = Sender.of(MACHINE, frozenset())
    out = splice(data, strip(Message(data), PrivacySettings(), submitted=b"id", sender=sender).splices)
    again = splice(out, strip(Message(out), PrivacySettings(), submitted=b"id", sender=sender).splices)
    assert len(out) <= len(data) + 200 * data.count(b"Received") and isinstance(again, bytes)
