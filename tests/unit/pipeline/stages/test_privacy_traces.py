"""What leaves by submission, read as raw octets: mail of programs that put their name or their machine into odd places."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.edits import splice
from pipeline.envelope import Client, Profile
from pipeline.stages.privacy import PrivacySettings, strip
from pipeline.stages.privacy_client import Sender
from pipeline.stages.privacy_traces import MOST_NAMED, MOST_PLACES, Machine, content_ids, identifiers
from rules.mail.message import Message
from rules.mail.mime import walk
from tests.house import DOMAIN, House

ANN = f"ann@{DOMAIN}"
MACHINE = Client("10.77.5.9", 50_000, "annslaptop.lan", "p5b-77.dsl.isp.example", auth=ANN)
SIXTH = Client("2001:db8::77", 50_000, "[IPv6:2001:db8::77]", "v6-77.isp.example", auth=ANN)
HEAD = f"From: Ann <{ANN}>\nTo: x@far.example\nSubject: Hi\nDate: Mon, 23 Nov 2026 10:00:00 +0000\n"
TOLD = ("10.77.5.9", "annslaptop", "p5b-77", "2001:db8", "2001:0db8", "v6-77")
APPLE_CID = """\
Message-Id: <A1@annslaptop.lan>
Mime-Version: 1.0 (Mac OS X Mail 16.0 \\\\(3774.300.61.1.2\\\\))
X-Mailer: Apple Mail (2.3774.300.61.1.2)
Content-Type: multipart/related; boundary="Apple-Mail=_9C"

--Apple-Mail=_9C
Content-Type: text/html

<img src="cid:F0@annslaptop.lan">
--Apple-Mail=_9C
Content-Type: image/png; name="a.png"; x-unix-mode=0644
Content-Id: <F0@annslaptop.lan>
Content-Transfer-Encoding: base64

AAAA
--Apple-Mail=_9C--
"""
IOS = """\
Message-Id: <C6A1@here.example>
Mime-Version: 1.0 (1.0)
X-Mailer: iPhone Mail (21B101)
Content-Type: multipart/alternative;
	boundary=Apple-Mail-3F2A
Content-Transfer-Encoding: 7bit

--Apple-Mail-3F2A
Content-Type: text/plain

Hi
--Apple-Mail-3F2A--
"""
ALPINE = """\
Message-ID: <alpine.DEB.2.22.394.2311231000.4321@annslaptop.lan>
User-Agent: Alpine 2.22 (DEB 394 2020-01-19)
MIME-Version: 1.0
Content-Type: text/plain

Hi
"""
JAVAMAIL = """\
Message-ID: <1804.0.169.JavaMail.root@annslaptop.lan>
MIME-Version: 1.0
Content-Type: multipart/mixed; boundary="----=_Part_0_1806.169"

------=_Part_0_1806.169
Content-Type: text/plain

Hi
------=_Part_0_1806.169--
"""
SQUIRREL = """\
Message-ID: <50321.10.77.5.9.1690000.squirrel@www.here.example>
User-Agent: SquirrelMail/1.4.22
Content-Type: text/plain

Hi
"""
GNUS = """\
Message-ID: <87abc.fsf@annslaptop.lan>
User-Agent: Gnus/5.13 (Gnus v5.13) Emacs/29.1 (gnu/linux)
References: <87zz.fsf@annslaptop.lan>
Mail-Followup-To: x@far.example
Content-Type: text/plain

Hi
"""
EVOLUTION = """\
Message-ID: <abcdef.camel@here.example>
X-Evolution-Identity: 123
X-Evolution-Fcc: folder://local/Sent
User-Agent: Evolution 3.50.0
Content-Type: multipart/mixed; boundary="=-x+y"

--=-x+y
Content-Type: text/plain

Hi
--=-x+y--
"""
KMAIL = """\
Message-ID: <1234567.abcdef@annslaptop.lan>
X-KMail-Identity: 1
User-Agent: KMail/5.24
MIME-Version: 1.0
Content-Type: multipart/mixed; boundary="nextPart1234567.abcdef"; protocol="x"

--nextPart1234567.abcdef
Content-Type: text/plain

Hi
--nextPart1234567.abcdef--
"""
SWIFT = """\
Message-ID: <abc@swift.generated>
X-Mailer: PHPMailer 6.8.0 (https://github.com/PHPMailer/PHPMailer)
X-Php-Originating-Script: 33:SimpleMailInvoker.php
MIME-Version: 1.0
Content-Type: multipart/alternative; boundary="_=_swift_1690_abc_=_"

--_=_swift_1690_abc_=_
Content-Type: text/plain

Hi
--_=_swift_1690_abc_=_--
"""
OUTLOOK = """\
Message-ID: <000001d9f3$0a1b2c3d$1234$@here.example>
From-x: y
Thread-Topic: Hi
X-Mailer: Microsoft Outlook 16.0
X-OriginatorOrg: here.example
X-Microsoft-Antispam: BCL:0;
x-ms-exchange-messagesentrepresentingtype: 1
X-MS-Exchange-Organization-AuthSource: annslaptop.lan
X-Microsoft-Original-Message-ID: <x@annslaptop>
x-tmn: [abc]
x-clientproxiedby: AM0PR (2603::1) to DB9 (2603::2)
MIME-Version: 1.0
Content-Type: multipart/related;
	boundary="----=_NextPart_000_0001_01D9F3.0A1B2C30";
	type="multipart/alternative"

------=_NextPart_000_0001_01D9F3.0A1B2C30
Content-Type: text/html

<img src="cid:image001.png@01D9F3.0A1B">
------=_NextPart_000_0001_01D9F3.0A1B2C30
Content-Type: image/png
Content-ID: <image001.png@01D9F3.0A1B>

x
------=_NextPart_000_0001_01D9F3.0A1B2C30--
"""
MDN = """\
Message-ID: <m@here.example>
User-Agent: Mozilla Thunderbird
MIME-Version: 1.0
References: <a@far.example>
Content-Type: multipart/report; report-type=disposition-notification; boundary="----------mdn1"

------------mdn1
Content-Type: text/plain

read
------------mdn1
Content-Type: message/disposition-notification; name="MDNPart2.txt"
Content-Disposition: inline

Reporting-UA: annslaptop.lan; Mozilla Thunderbird 115.4
Final-Recipient: rfc822;ann@here.example
Original-Message-ID: <a@far.example>
Disposition: manual-action/MDN-sent-manually; displayed

------------mdn1
Content-Type: text/rfc822-headers; name="MDNPart3.txt"

Received: from mx.far.example by annslaptop.lan; Mon, 23 Nov 2026 08:00:00 +0000
Subject: x

------------mdn1--
"""
ROUNDCUBE = """\
Received: from annslaptop (p5b-77.dsl.isp.example [10.77.5.9])
 by webmail.here.example
 with HTTP (HTTP/1.1 POST); Mon, 23 Nov 2026 10:00:00 +0000
Message-ID: <hash@here.example>
X-Sender: ann@here.example
User-Agent: Roundcube Webmail/1.6.5
X-Originating-IP: 10.77.5.9
MIME-Version: 1.0
Content-Type: text/plain

Hi
"""
K9 = """\
Message-ID: <F12@annslaptop.lan>
User-Agent: K-9 Mail for Android
X-K9mail-Identity: !l=5&o=0
In-Reply-To: <q@far.example>
MIME-Version: 1.0
Content-Type: multipart/mixed; boundary="----WK1"
Autocrypt: addr=ann@here.example; keydata=AA

------WK1
Content-Type: text/plain

Hi
------WK1--
"""
FOLDED_ODD = """\
MESSAGE-ID:
 <1@annslaptop.lan>
uSeR-aGeNt
 : Mutt/2.2
X-MaIlEr:
	PHP
	/8.2
x-PHP-originating-SCRIPT :33:a.php
RECEIVED: from annslaptop.lan
	([10.77.5.9]) by localhost; Mon, 23 Nov 2026 10:00:00 +0000
X-Odd-Thing: came from
	ANNSLAPTOP.lan today
Return-Path: <www-data@annslaptop.lan>
Authentication-Results: annslaptop.lan; auth=pass
Received-SPF: pass client-ip=10.77.5.9
X-Url: http://annslaptop.lan.
Content-Type: text/plain

Hi
"""
NESTED = """\
Message-ID: <m@here.example>
Content-Type: multipart/mixed; boundary=b

--b
Content-Type: multipart/digest; boundary=c

--c

RECEIVED: from x by annslaptop.lan; Mon, 23 Nov 2026 10:00:00 +0000
Subject: one

x
--c
Content-Type: message/rfc822

Received: from a ([10.77.5.9]) by b; Mon, 23 Nov 2026 10:00:00 +0000
Content-Type: multipart/mixed; boundary=d

--d
Content-Type: message/rfc822

Received: from
	annslaptop.lan
	by b; Mon, 23 Nov 2026 10:00:00 +0000
Subject: deep

x
--d--
--c--
--b
User-Agent
 : Thunderbird
Content-Type: message/global

Received: by annslaptop.lan; Mon, 23 Nov 2026 10:00:00 +0000

x
--b--
"""
V6 = """\
Message-ID: <x@[IPv6:2001:DB8:0:0:0:0:0:77]>
X-Foo: from 2001:0db8:0000:0000:0000:0000:0000:0077
Content-Type: message/rfc822

Received: from me ([IPv6:2001:DB8:0:0::77]) by b; Mon, 23 Nov 2026 10:00:00 +0000

x
"""
RESENT = """\
Resent-From: Ann <ann@here.example>
Resent-Message-ID: <r@annslaptop.lan>
Resent-User-Agent: Mutt/2
Resent-Date: Mon, 23 Nov 2026 10:00:00 +0000
Message-ID: <orig@far.example>
Content-Type: text/plain

Hi
"""
SHAPES = [
    (APPLE_CID, MACHINE, ("apple", "mac os", "unix-mode")),
    (IOS, MACHINE, ("iphone", "apple", "(1.0)")),
    (ALPINE, MACHINE, ("alpine", "deb.")),
    (JAVAMAIL, MACHINE, ("javamail",)),
    (SQUIRREL, MACHINE, ("squirrel",)),
    (GNUS, MACHINE, ("gnus", "emacs")),
    (EVOLUTION, MACHINE, ("evolution",)),
    (KMAIL, MACHINE, ("kmail", "nextpart")),
    (SWIFT, MACHINE, ("swift", "php")),
    (OUTLOOK, MACHINE, ("outlook", "x-ms", "microsoft", "nextpart", "originator", "x-tmn")),
    (MDN, MACHINE, ("thunderbird",)),
    (ROUNDCUBE, MACHINE, ("roundcube", "webmail")),
    (K9, MACHINE, ("k-9", "k9mail", "android")),
    (FOLDED_ODD, MACHINE, ("mutt", "php")),
    (NESTED, MACHINE, ("thunderbird",)),
    (V6, SIXTH, ()),
    (RESENT, MACHINE, ("mutt",)),
]


def leaves(text: str, client: Client = MACHINE) -> bytes:
    """A submission as it is queued."""
    house = House()

    async def go() -> None:
        session = await house.session(Profile.SUBMISSION, ANN)
        session.client = client
        data = (HEAD + text).replace("\n", "\r\n").encode()
        (reply,) = await house.send("x@far.example", sender=ANN, data=data, session=session)
        assert reply.code == 250

    asyncio.run(go())
    (out,) = house.spool.outgoing
    return out.data


def stripped(text: str) -> bytes:
    data = (HEAD + text).replace("\n", "\r\n").encode()
    sender = Sender.of(MACHINE, frozenset())
    return splice(data, strip(Message(data), PrivacySettings(), sender=sender).splices)


@pytest.mark.parametrize(
    ("text", "client", "programs"),
    SHAPES,
    ids=[
        "apple-cid",
        "ios",
        "alpine",
        "javamail",
        "squirrel",
        "gnus",
        "evolution",
        "kmail",
        "swift",
        "outlook",
        "mdn",
        "roundcube",
        "k9",
        "folded-odd",
        "nested",
        "v6",
        "resent",
    ],
)
def test_nothing_is_told(text: str, client: Client, programs: tuple[str, ...]) -> None:
    data = leaves(text, client)
    lower = data.lower()
    assert [word for word in (*TOLD, *programs) if word.lower().encode() in lower] == []
    message, before = Message(data), Message((HEAD + text).replace("\n", "\r\n").encode())
    assert len(message.root.children) == len(before.root.children)  # the structure holds
    assert message.header.first(b"subject") == b"Hi"


def test_the_picture_is_found_under_its_new_name() -> None:
    data = leaves(APPLE_CID)
    assert b'<img src="cid:F0@here.example">' in data and b"Content-Id: <F0@here.example>" in data


@pytest.mark.parametrize("coding", ["base64", "quoted-printable"])
def test_a_picture_whose_reference_is_coded_keeps_its_name(coding: str) -> None:
    body = (
        "PGltZyBzcmM9ImNpZDpGMEBhbm5zbGFwdG9wLmxhbiI+"
        if coding == "base64"
        else '<img src=3D"cid:F0@anns=\nlaptop.lan">'
    )
    text = APPLE_CID.replace(
        "Content-Type: text/html\n", f"Content-Type: text/html\nContent-Transfer-Encoding: {coding}\n"
    )
    data = leaves(text.replace('<img src="cid:F0@annslaptop.lan">', body))
    assert b"Content-Id: <F0@annslaptop.lan>" in data
    plain = leaves(text) if coding == "quoted-printable" else b""  # spelled out: both are renamed
    assert not plain or (b"cid:F0@here.example" in plain and b"Content-Id: <F0@here.example>" in plain)


def test_a_left_side_gets_the_same_digest_each_time_and_a_strangers_stays() -> None:
    first = Message(leaves(ALPINE)).header.first(b"message-id") or b""
    again = ALPINE.replace("2311231000.4321", "2311231001.1").replace(
        "User-Agent",
        "References: <alpine.DEB.2.22.394.2311231000.4321@annslaptop.lan> <alpine.LNX.9@far.example>\nUser-Agent",
    )
    references = Message(leaves(again)).header.first(b"references") or b""
    assert references == first + b" <alpine.LNX.9@far.example>" and first.endswith(b"@here.example>")


def test_an_attached_message_keeps_its_ids_and_programs() -> None:
    inner = "Message-ID: <alpine.X@annslaptop.lan>\nContent-ID: <F0@annslaptop.lan>\nUser-Agent: Theirs\n\ncid:F0@annslaptop.lan\n"
    data = leaves(
        APPLE_CID.replace(
            "--Apple-Mail=_9C--",
            f"--Apple-Mail=_9C\nContent-Type: message/rfc822\n\n{inner}--Apple-Mail=_9C--",
        )
    )
    assert inner.replace("\n", "\r\n").encode() in data and data.count(b"F0@here.example") == 2


def test_what_is_signed_is_not_touched() -> None:
    signed = MDN.replace("multipart/report; report-type=disposition-notification", "multipart/signed")
    assert b"Reporting-UA: annslaptop.lan" in stripped(signed)
    dkim = "DKIM-Signature: v=1; a=x; d=here.example; s=s; h=from; bh=x; b=x\n"
    assert b"Reporting-UA: annslaptop.lan" in stripped(dkim + MDN)


@pytest.mark.parametrize(
    ("value", "found"),
    [
        (b"from [IPv6:2001:DB8:0:0::77]", True),
        (b"2001:0db8:0000:0000:0000:0000:0000:0077.", True),
        (b"2001:db8::78", False),
        (b"12:30:59 :: a:b:c", False),
        (b":" * 5000, False),
    ],
)
def test_each_spelling_of_an_address(value: bytes, found: bool) -> None:
    assert Machine.of((b"2001:db8::77",)).search(value) is found


@settings(max_examples=200, deadline=None)
@given(
    st.lists(
        st.sampled_from(
            [
                b"Content-Type: message/disposition-notification\r\n", b"Reporting-UA: annslaptop.lan; x\r\n", b"\r\n", b"--b\r\n",
                b"Content-ID: <a@annslaptop.lan>\r\n", b"cid:a@annslaptop.lan\r\n",
                b"Content-Type: multipart/mixed; boundary=b\r\n",
                b"Content-Type: text/rfc822-headers\r\n", b"Received: by annslaptop.lan\r\n",
                b"Message-ID: <javamail.x@annslaptop.lan>\r\n",
                b"Content-Type: message/rfc822\r\n", b"User-Agent\r\n : x\r\n", b"--b--\r\n", b" <a@annslaptop.lan>\r\n",
            ]
        )
    )
)  # fmt: skip
def test_any_pieces(pieces: list[bytes]) -> None:
    data = b"".join(pieces)
    sender = Sender((b"annslaptop.lan",), b"here.example")
    out = splice(data, strip(Message(data), PrivacySettings(), sender=sender).splices)
    assert len(out) <= len(data) + 100 * len(pieces)


def test_identifiers_without_end_go_as_a_field() -> None:
    ids = b"<a@annslaptop.lan> " * (MOST_NAMED + 1)
    message = Message(
        b"From: a@b.example\r\nReferences: " + ids + b"\r\nIn-Reply-To: <a@annslaptop.lan>\r\n\r\n"
    )
    removed: dict[str, None] = {}
    cuts = list(identifiers(message, b"b.example", Machine.of((b"annslaptop.lan",)), removed))
    assert [message.data[cut.start : cut.end][:10] for cut in cuts] == [b"References", b"annslaptop"]


@pytest.mark.parametrize(
    "spelling",
    [
        "2001:db8:0:a0::77",
        "2001:0db8::00A0:0:0:0:77",
        "2001:db8:0:a0::0.0.0.119",
        "2001:DB8:0000:00a0:0:0:0.0.0.119",
    ],
)
def test_a_spelling_is_found_among_many_of_others(spelling: str) -> None:
    machine = Machine.of((b"2001:db8:0:a0::77",))
    others = b"2001:db8:0:a0::78 1:2:3:4:5:6:7:8 " * 1000
    assert machine.search(others + f"[IPv6:{spelling}].".encode() + others) and not machine.search(others)
    assert machine.is_host(f"[IPv6:{spelling}]".encode()) and not machine.is_host(b"[IPv6:2001:db8::77]")


def test_content_ids_in_too_many_places_keep_their_names() -> None:
    head = b"Content-Type: multipart/related; boundary=b\r\n\r\n--b\r\nContent-ID: <a@annslaptop.lan>\r\n\r\n"
    for count, cuts in ((5, 6), (MOST_PLACES, 0)):
        message = Message(head + b"cid:a@annslaptop.lan " * count)
        parts = list(walk(message.root))
        found = content_ids(message, parts, b"b.example", Machine.of((b"annslaptop.lan",)), {})
        assert len(list(found)) == cuts
