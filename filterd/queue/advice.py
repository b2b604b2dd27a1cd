"""What a remote answer means and what can be done about it, for ``filterd queue why`` and the operator.

Two tables, read from the top: texts that big hosts use, then enhanced codes (RFC 3463) and plain codes. The advice is for people
who run this server; it never goes to strangers.
"""

from __future__ import annotations

import re

TEXTS: tuple[tuple[str, str], ...] = (
    (
        "greylist|gr[ae]y-?list|try again (later|in)|retry (later|in)",
        "The other side greylists: the next try is usually taken. Nothing to do.",
    ),
    (
        r"spamhaus|\bdnsbl\b|\brbl\b|blacklist|block ?list|blocked using|barracuda|spamcop|sorbs",
        "Our address is on a block list. The answer names it: look the address up there, remove the "
        "cause, ask for removal.",
    ),
    (
        r"5\.7\.2[67]|dmarc",
        "DMARC of the From domain refused it. Forwarded mail: check that SRS and ARC are on. Own mail: "
        "check SPF and the DKIM key of the domain.",
    ),
    (
        r"\bspf\b|5\.7\.23",
        "SPF refused us. Put this server's address into the SPF record of the sender's domain; for "
        "forwarded mail switch SRS on.",
    ),
    (
        r"\bdkim\b|5\.7\.2[0-2]",
        "The DKIM signature was not accepted. Compare the published key with the one on disk (`filterd "
        "config check`).",
    ),
    (
        r"reverse (dns|lookup|hostname)|\bptr\b|rdns|5\.7\.25",
        "Our address has no matching reverse name (PTR). Ask the provider to set it to server.hostname.",
    ),
    (
        r"rate.?limit|too many (messages|connections|mails)|throttl|4\.7\.28|unusual rate",
        "We send more than the other side wants. It is tried again, more slowly.",
    ),
    (
        "relay(ing)? (access )?denied|not permitted to relay|unable to relay|relay not permitted",
        "That host does not feel responsible for the address. Check the MX record of the domain, or the "
        "queue.relay setting.",
    ),
    (
        r"authenticat|5\.7\.0 must|530 ",
        'The relay wants a log-in: queue.relay = "smtp://USER:PASSWORD@HOST:587".',
    ),
    (
        r"requiretls|5\.7\.30",
        "Its sender asks for proven TLS on the whole way (REQUIRETLS), which the next host does not have. The sender may send "
        "it without.",
    ),
    (
        r"\bdane|tlsa|mta-sts|4\.7\.5",
        "TLS with that host is not as its domain or queue.tls demands; it may be an attack or a mistake of theirs. `filterd probe "
        "smtp DOMAIN` shows it; queue.tls_policy can ask for less.",
    ),
    (
        r"certificate|starttls|\btls\b",
        "TLS with that host failed. `openssl s_client -starttls smtp -connect HOST:25` shows its side.",
    ),
    (
        "spam|unsolicited|content (rejected|refused)|message (looks like|was classified)",
        "It was taken for spam. Look at the message itself and at the reputation of our address and domain.",
    ),
    (
        "virus|malware|infected",
        "It was taken for malware. Nothing to retry: the sender has to look at it.",
    ),
    (
        "bounce|backscatter",
        "That host takes no notifications from us now.",
    ),
)
CODES: tuple[tuple[str, str], ...] = (
    ("X.1.1", "There is no such address: probably a typing error. The sender was told."),
    ("X.1.2", "The domain does not exist or cannot get mail: probably a typing error."),
    ("X.1.3", "The address is not written correctly."),
    ("X.1.6", "The mailbox moved and left no address."),
    ("X.1.8", "The sender's domain cannot be looked up: check its MX and A records."),
    ("X.1.10", "The domain says that it takes no mail (null MX)."),
    ("X.2.1", "The mailbox is switched off for now."),
    ("X.2.2", "The mailbox is full. It is tried again until the message is too old."),
    ("X.2.3", "The message is larger than that mailbox takes."),
    ("X.3.0", "The other side has a problem of its own. Nothing to do here."),
    ("X.3.1", "The other side's disk is full."),
    ("X.3.2", "The other side takes no mail at the moment."),
    ("X.3.4", "The message is larger than that host takes."),
    (
        "X.4.1",
        "The host does not answer. Check that we can open port 25 (many providers block it), and that "
        "the host is up.",
    ),
    (
        "X.4.2",
        "The connection broke. If it happens with every large message, look for an MTU problem on the way.",
    ),
    ("X.4.3", "The DNS did not answer: check dns.resolver, or the name servers of that domain."),
    ("X.4.4", "No address of a mail host could be found: check the MX record of the domain."),
    ("X.4.6", "The mail would come back to us: check the MX record, or add the domain to this server."),
    ("X.4.7", "It was tried for as long as queue.max_age says."),
    ("X.5.3", "Too many recipients at once; the rest is sent in a further transaction."),
    ("X.6.7", "That host does not take addresses with other than ASCII letters."),
    ("X.6.9", "That host does not take header fields with other than ASCII letters."),
    ("X.7.1", "A rule of the other side refused it; its text says which."),
    ("X.7.8", "The relay did not accept our password: check queue.relay."),
)
FALLBACK = {"4": "It is tried again by itself.", "5": "That is final; the sender was told."}


def advice(reply: str) -> str:
    """One or two sentences about a reply text such as ``550 5.1.1 no such user``; "" for none."""
    plain = reply.lower()
    if plain[:1] not in ("4", "5"):
        return ""
    enhanced = re.search(r"\b[45]\.(\d{1,3}\.\d{1,3})\b", plain[:60], re.A)
    code = f"X.{enhanced[1]}" if enhanced else ""
    if code not in ("X.1.1", "X.2.2", "X.4.1", "X.4.3"):
        for pattern, text in TEXTS:
            if re.search(pattern, plain[:1000]):
                return text
    for known, text in CODES:
        if known == code:
            return text
    return FALLBACK[plain[0]]
