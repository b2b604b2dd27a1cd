"""The sample mail of the demonstration: what a mailbox really gets, made anew at each run with today's dates.

Every sample says who hands it over (``ip``, ``helo``), in whose name, to whom, and where it is expected to end, so that the
story can check itself. All names are of the reserved kind (RFC 2606), all addresses of documentation (RFC 5737).
"""

from __future__ import annotations

import base64
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

DOMAIN = "demo.example"
PEOPLE = ("ann", "bob", "carol")
SENDER_DOMAIN = "shop.example"
SENDER_IP = "198.51.100.7"
LIST_IP = "198.51.100.20"
ROGUE_IP = "203.0.113.66"
SELECTOR = "s1"
GTUBE = "XJS*C4JDBQADN1.NSBN3*2IDNEN*GTUBE-STANDARD-ANTI-UBE-TEST-EMAIL*C.34X"
# The EICAR test string in two parts, so that no scanner on the way takes this file for an infected one.
EICAR = "X5O!P%@AP[4\\PZX54(P^)7CC)7}" + "$EICAR-STANDARD-ANTIVIRUS-TEST-FILE!$H+H*"

Sign = Callable[[bytes], bytes]


@dataclass(frozen=True, slots=True)
class Sample:
    """``expect`` is the folder of the first recipient, or "refused", or "sent on"."""

    title: str
    ip: str
    helo: str
    reverse_path: str
    recipients: tuple[str, ...]
    data: bytes
    expect: str


def zone(dkim_record: str, relay_host: str = "127.0.0.1") -> str:
    """The DNS that the demonstration's own name server answers from."""
    return "\n".join(
        (
            f"{SENDER_DOMAIN} TXT v=spf1 ip4:{SENDER_IP} -all",
            f"{SENDER_DOMAIN} MX 10 mx.{SENDER_DOMAIN}",
            f"mx.{SENDER_DOMAIN} A {SENDER_IP}",
            f"{SELECTOR}._domainkey.{SENDER_DOMAIN} TXT {dkim_record}",
            f"_dmarc.{SENDER_DOMAIN} TXT v=DMARC1; p=none",
            "lists.example TXT v=spf1 ip4:198.51.100.20 -all",
            "lists.example A 198.51.100.20",
            f"{DOMAIN} MX 10 mx.{DOMAIN}",
            f"{DOMAIN} TXT v=spf1 mx -all",
            f"mx.{DOMAIN} A 127.0.0.1",
            "elsewhere.example MX 10 mx.elsewhere.example",
            f"mx.elsewhere.example A {relay_host}",
        )
    )


def _message(sender: str, to: str, subject: str, body: str, minutes: int, *extra: str) -> bytes:
    date = format_datetime(datetime.now(UTC) - timedelta(minutes=minutes))
    name = base64.b32encode(subject.encode())[:12].decode().lower()
    fields = (
        f"From: {sender}",
        f"To: {to}",
        f"Subject: {subject}",
        f"Date: {date}",
        f"Message-ID: <{name}.{minutes}@{sender.rpartition('@')[2].rstrip('>')}>",
        "MIME-Version: 1.0",
        *extra,
    )
    if not any(field.lower().startswith("content-type:") for field in extra):
        fields = (*fields, "Content-Type: text/plain; charset=utf-8")
    return ("\r\n".join(fields) + "\r\n\r\n" + body.replace("\n", "\r\n") + "\r\n").encode()


def samples(sign: Sign) -> list[Sample]:
    """All of them, in the order of the story. ``sign`` puts a DKIM-Signature of shop.example on top."""
    ann, bob = f"ann@{DOMAIN}", f"bob@{DOMAIN}"
    shop = f"Shop <orders@{SENDER_DOMAIN}>"
    order = _message(
        shop,
        ann,
        "Your order 1042 is on its way",
        "Hello Ann,\n\nthe parcel left our house this morning.\n\nThe shop",
        50,
    )
    listmail = _message(
        "Rust Weekly <editor@lists.example>",
        "rust@lists.example",
        "[rust] This week: borrowed time",
        "Hello all,\n\nthis week's news ...",
        40,
        "List-Id: Rust news <rust.lists.example>",
        "Precedence: list",
    )
    spam = _message(
        "Best Offers <win@rogue.example>", ann, "You have won", f"Claim your prize now!\n\n{GTUBE}", 30
    )
    virus = _message(
        "Accounting <bills@rogue.example>",
        ann,
        "Invoice attached",
        "--frontier\nContent-Type: text/plain\n\nSee the attachment.\n\n--frontier\nContent-Type: application/octet-stream;"
        ' name="invoice.com"\nContent-Disposition: attachment; filename="invoice.com"\nContent-Transfer-Encoding: base64\n\n'
        + base64.b64encode(EICAR.encode()).decode()
        + "\n--frontier--",
        25,
        'Content-Type: multipart/mixed; boundary="frontier"',
    )
    signed = sign(order)
    broken = signed.replace(b"the parcel left our house", b"pay 900 euros to this account", 1).replace(
        b"Your order 1042", b"Your order 1043", 1
    )
    news = sign(
        _message(
            shop,
            bob,
            "Minutes of Monday",
            "Bob, the minutes are attached in spirit.",
            15,
            "User-Agent: DeskMail/9.1",
            "X-Originating-IP: [192.0.2.55]",
        )
    )
    return [
        Sample(
            "an order, signed and from the right host",
            SENDER_IP,
            "mx.shop.example",
            f"orders@{SENDER_DOMAIN}",
            (ann,),
            signed,
            "INBOX",
        ),
        Sample(
            "a mailing list",
            LIST_IP,
            "lists.example",
            "rust-bounces@lists.example",
            (ann, bob),
            listmail,
            "Lists/rust",
        ),
        Sample("spam (GTUBE)", ROGUE_IP, "rogue.example", "win@rogue.example", (ann,), spam, "Junk or INBOX"),
        Sample(
            "a virus (EICAR)",
            ROGUE_IP,
            "rogue.example",
            "bills@rogue.example",
            (ann,),
            virus,
            "refused or INBOX",
        ),
        Sample(
            "changed after signing",
            ROGUE_IP,
            "rogue.example",
            f"orders@{SENDER_DOMAIN}",
            (ann,),
            broken,
            "Junk",
        ),
        Sample(
            "forwarded by Bob's rule",
            SENDER_IP,
            "mx.shop.example",
            f"orders@{SENDER_DOMAIN}",
            (bob,),
            news,
            "sent on",
        ),
    ]


ANN_SCRIPT = """require ["fileinto", "mailbox", "variables", "imap4flags"];

# newsletters into a folder of their own
if header :matches "list-id" "*<*.lists.example>*" {
    fileinto :create "Lists/${2}";
    stop;
}
# what fails its sender's own checks is not worth reading first
if header :contains "Authentication-Results" ["dkim=fail", "spf=fail"] {
    fileinto "Junk";
    stop;
}
if header :is "X-Spam-Flag" "YES" {
    fileinto "Junk";
    stop;
}
if address :domain :is "from" "shop.example" {
    addflag "\\\\Flagged";
}
"""

BOB_SCRIPT = """require ["copy"];

# minutes also go to my other address
if header :contains "subject" "minutes" {
    redirect :copy "bob@elsewhere.example";
}
"""
