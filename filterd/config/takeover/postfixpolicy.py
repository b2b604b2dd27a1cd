"""Postfix's sizes, times, networks, filters and restrictions."""

from __future__ import annotations

import ipaddress
import os
import re
from collections.abc import Callable, Mapping
from types import MappingProxyType

from filterd.config.takeover.draft import Draft, Line, socket_text
from filterd.config.takeover.postfixmaps import words
from filterd.config.values import show_duration

Of = Callable[[str], str]
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}
LOOPBACK = tuple(map(ipaddress.ip_network, ("127.0.0.0/8", "::1/128", "::ffff:127.0.0.0/104")))
_ALWAYS = (
    "permit_mynetworks", "permit_sasl_authenticated", "reject_unauth_destination", "defer_unauth_destination", "permit",
    "reject_unlisted_recipient", "reject_unauth_pipelining", "permit_auth_destination", "reject_non_fqdn_recipient",
    "reject_authenticated_sender_login_mismatch", "reject_sender_login_mismatch", "reject_multi_recipient_bounce",
)  # fmt: skip


def seconds(text: str, unit: str) -> int | None:
    """Postfix's times: "5d", "30m", a number alone in ``unit``."""
    match = re.fullmatch(r"(\d+)([smhdw]?)", text.strip())
    return int(match[1]) * _UNITS[match[2] or unit] if match else None


def _time(key: str, unit: str, note: str = "") -> Callable[[Draft, Line, str, Of], None]:
    def handler(draft: Draft, line: Line, value: str, _: Of) -> None:
        found = seconds(value, unit)
        if found is None:
            draft.left(line, f"{value} is no time")
        else:
            draft.set(line, key, show_duration(found), note)

    return handler


def _message_size(draft: Draft, line: Line, value: str, _: Of) -> None:
    if not value.isdecimal() or value == "0":
        draft.left(line, "there is always a limit: limits.message_size")
    else:
        draft.set(line, "limits.message_size", int(value))


def _mailbox_size(draft: Draft, line: Line, value: str, _: Of) -> None:
    if value == "0":
        draft.set(line, "accounts.quota", 0, "no limit, as there; filterd's own would be 5 GiB an account")
    elif value.isdecimal():
        draft.set(
            line,
            "accounts.quota",
            int(value),
            "Postfix limits one mbox file, this is for all of an account's mail",
        )
    else:
        draft.left(line, f"{value} is no size")


def _recipients(draft: Draft, line: Line, value: str, _: Of) -> None:
    if value.isdecimal() and value != "0":
        draft.set(line, "limits.recipients", int(value))
    else:
        draft.left(line, f"{value} is no number of recipients")


def _per_client(draft: Draft, line: Line, value: str, _: Of) -> None:
    if value.isdecimal() and value != "0":
        draft.set(line, "limits.connections.per_ip", int(value))
    else:
        draft.left(line, "there is always a limit: limits.connections.per_ip")


def _subaddress(draft: Draft, line: Line, value: str, _: Of) -> None:
    if len(value) > 1:
        draft.set(line, "accounts.subaddress", value[0], f"one character; Postfix also takes {value[1:]}")
    else:
        draft.set(line, "accounts.subaddress", value)


def _retry(draft: Draft, line: Line, _: str, of: Of) -> None:
    first, last = (
        seconds(of("minimal_backoff_time") or "300", "s"),
        seconds(of("maximal_backoff_time") or "4000", "s"),
    )
    if first is None or last is None or first < 1:
        draft.left(line, "is no time")
        return
    steps = [first]
    while steps[-1] < last:
        steps.append(min(steps[-1] * 2, last))
    note = "Postfix doubles the age of the message; these are the same steps"
    draft.set(line, "queue.retry", [show_duration(step) for step in steps], note)


def _networks(draft: Draft, line: Line, value: str, _: Of) -> None:
    wanted: list[object] = []
    for word in words(value):
        try:
            network = ipaddress.ip_network(word.replace("[", "").replace("]", ""), strict=False)
        except ValueError:
            draft.left(line, f"{word} is no network: server.relay_trusted holds addresses and networks")
            continue
        if network not in LOOPBACK:
            wanted.append(str(network))
    if wanted:
        draft.add(
            line, "server.relay_trusted", wanted, "they may send to any domain without a log-in, as there"
        )
    draft.same(line, "programs of this machine send by filterd-sendmail; with a log-in by submission")


def _trusted(key: str) -> Callable[[Draft, Line, str, Of], None]:
    def handler(draft: Draft, line: Line, value: str, _: Of) -> None:
        for word in words(value):
            try:
                network = str(ipaddress.ip_network(word.replace("[", "").replace("]", ""), strict=False))
            except ValueError:
                draft.left(line, f"{word} is no network")
            else:
                draft.add(line, key, [network])
        if not words(value):
            draft.same(line, "nobody")

    return handler


def _bind(draft: Draft, line: Line, value: str, _: Of) -> None:
    if value:
        draft.add(line, "queue.bind", [value.strip("[]")])
    else:
        draft.same(line, "the system's choice")


def _milters(draft: Draft, line: Line, value: str, of: Of) -> None:
    on_error = {"accept": "accept", "tempfail": "defer", "reject": "reject"}.get(of("milter_default_action"))
    for word in words(value):
        place, _, options = word.partition(",")
        note = ""
        if place.startswith(("unix:", "local:")) and not place.partition(":")[2].startswith("/"):
            place = f"unix:{os.path.join('/var/spool/postfix', place.partition(':')[2])}"
            note = "in Postfix's chroot"
        socket = socket_text(place.strip())
        if socket is None:
            draft.left(line, f"{word} is no place of a milter")
            continue
        if options.strip():
            note = "; ".join(filter(None, (note, f"without {options.strip()}")))
        name = next(
            (one for one in ("opendkim", "opendmarc", "rspamd", "clamav", "spamass") if one in place), ""
        )
        number = sum(table.head == "stage.milters" for table in draft.tables)
        if name in draft.names:
            draft.same(line, f"{place}: {name} is taken over as well; filterd does it itself")
            continue
        if any(
            table.settings["socket"].value == socket
            for table in draft.tables
            if table.head == "stage.milters"
        ):
            draft.same(line, f"{place} is there already")
            continue
        target = ("stage.milters", name or f"milter{number + 1}")
        if any(table.head == target[0] and table.name == target[1] for table in draft.tables):
            target = (target[0], f"{target[1]}{number + 1}")
        draft.set(line, "name", target[1], "", target)
        draft.set(line, "socket", socket, note, target)
        draft.set(
            line,
            "on_error",
            on_error or "defer",
            "" if on_error else "filterd knows no quarantine here",
            target,
        )
    if not words(value):
        draft.same(line, "no filters")


def _restrictions(draft: Draft, line: Line, value: str, _: Of) -> None:
    """The words that filterd's stages have a like for; each of the others is named."""
    rest = words(value)
    while rest:
        word = rest.pop(0)
        if word in _ALWAYS:
            continue
        if (
            word in ("reject_rbl_client", "reject_rhsbl_sender", "reject_rhsbl_client", "reject_rhsbl_helo")
            and rest
        ):
            _list(draft, line, word, rest.pop(0))
        elif word == "check_policy_service" and rest:
            _policy(draft, line, rest.pop(0))
        elif word.startswith("check_") or word in ("warn_if_reject", "sleep"):
            argument = rest.pop(0) if rest and word != "warn_if_reject" else ""
            draft.left(
                line, f"{word} {argument}".strip() + ": write it as a Sieve script (stage.sieve.before)"
            )
        else:
            draft.left(
                line,
                f"{word}: no such check; stage.spf, stage.dmarc, stage.dnsbl and stage.greylist are there",
            )
    draft.same(line, "our people and our domains: always so")


def _list(draft: Draft, line: Line, word: str, zone: str) -> None:
    if word in ("reject_rhsbl_client", "reject_rhsbl_helo"):
        draft.left(line, f"{word} {zone}: lists are asked for addresses and senders' domains")
        return
    name, _, codes = zone.partition("=")
    codes = codes.replace("[", "").replace("]", "").replace("..", "-")
    text = f"{'domain:' if word == 'reject_rhsbl_sender' else ''}{name}=1" + (f":{codes}" if codes else "")
    draft.add(line, "stage.dnsbl.lists", [text], "a list rejects by itself, as there")
    draft.set(line, "stage.dnsbl.reject_at", 1.0)


def _policy(draft: Draft, line: Line, place: str) -> None:
    if place.endswith(":10023") or "postgrey" in place:
        draft.set(line, "stage.greylist.enabled", True, "in place of postgrey")
    elif "spf" in place:
        draft.set(
            line,
            "stage.spf.fail",
            "reject",
            "as policyd-spf does; it also refuses forwarded mail: note is sane",
        )
    else:
        draft.left(
            line, f"check_policy_service {place}: programs cannot be asked; a milter can (stage.milters)"
        )


def _proxy(draft: Draft, line: Line, value: str, _: Of) -> None:
    if value == "haproxy":
        draft.add(line, "server.proxy_listeners", ["smtp"])
    else:
        draft.same(line, "no proxy")


def _banner(draft: Draft, line: Line, _: str, __: Of) -> None:
    draft.same(line, "the greeting is server.hostname and says no more")


def _spool(draft: Draft, line: Line, value: str, _: Of) -> None:
    if line.text.startswith("home_mailbox") and not value.endswith("/"):
        draft.left(line, "mbox files in homes: store.format and store.mbox.inbox (`filterd help mbox`)")
    else:
        draft.left(line, "mail is kept below server.data_dir; take what is there with `filterd store adopt`")


HANDLERS: Mapping[str, Callable[[Draft, Line, str, Of], None]] = MappingProxyType(
    {
        "message_size_limit": _message_size,
        "mailbox_size_limit": _mailbox_size,
        "virtual_mailbox_limit": lambda draft, line, _value, _of: draft.left(
            line, "limits one file of mail there: limits.message_size and accounts.quota"
        ),
        "smtpd_recipient_limit": _recipients,
        "smtpd_client_connection_count_limit": _per_client,
        "recipient_delimiter": _subaddress,
        "maximal_queue_lifetime": _time("queue.max_age", "d"),
        "delay_warning_time": _time("queue.warn_after", "h"),
        "minimal_backoff_time": _retry,
        "maximal_backoff_time": _retry,
        "mynetworks": _networks,
        "smtpd_authorized_xclient_hosts": _trusted("server.xclient_trusted"),
        "smtpd_authorized_xforward_hosts": _trusted("server.xforward_trusted"),
        "smtpd_upstream_proxy_protocol": _proxy,
        "smtp_bind_address": _bind,
        "smtp_bind_address6": _bind,
        "smtpd_milters": _milters,
        "non_smtpd_milters": _milters,
        "milter_default_action": lambda draft, line, _value, _of: draft.same(line, "told with smtpd_milters"),
        "smtpd_banner": _banner,
        "inet_interfaces": lambda draft, line, _value, _of: draft.same(line, "told with the doors (listen)"),
        "myorigin": lambda draft, line, _value, _of: draft.same(line, "filterd-sendmail takes server.hostname"),
        "home_mailbox": _spool,
        "mail_spool_directory": _spool,
        "virtual_mailbox_base": _spool,
        "virtual_mailbox_maps_base": _spool,
        **dict.fromkeys(
            (
                "smtpd_client_restrictions", "smtpd_helo_restrictions", "smtpd_sender_restrictions",
                "smtpd_recipient_restrictions", "smtpd_relay_restrictions", "smtpd_data_restrictions",
                "smtpd_end_of_data_restrictions", "smtpd_etrn_restrictions",
            ),
            _restrictions,
        ),
    }
)  # fmt: skip
