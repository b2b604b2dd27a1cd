"""Postfix's domains, aliases, recipients, next hops: whose mail is ours and where the rest goes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType
from urllib.parse import quote

from filterd.config.takeover.draft import Draft, Line, Target
from filterd.config.takeover.postfixmaps import (
    NotText,
    alias_file,
    entries,
    is_table,
    names,
    next_hop,
    told,
    words,
)

Of = Callable[[str], str]
Values = dict[str, tuple[str, Line]]
FIRST = (
    "mydestination",
    "virtual_mailbox_domains",
    "virtual_alias_domains",
    "relay_domains",
)  # read before all others
MAX_RECIPIENTS = 5_000


def local_domains(draft: Draft, values: Values, of: Of) -> None:
    """A [[domain]] for each domain that is named anywhere. mydestination counts without its line, as in Postfix."""
    given = dict(values)
    given.setdefault("mydestination", (of("mydestination"), Line("postconf's default", 0, "mydestination")))
    for parameter in FIRST:
        if parameter not in given:
            continue
        line, found = given[parameter][1], []
        for name in _names(draft, line, of(parameter)):
            if name.startswith("localhost") or name == "localdomain" or "." not in name:
                continue
            if name.startswith(".") or draft.domain(name) is None:
                draft.left(line, f"{name}: a domain stands with its name")
            else:
                found.append(name.lower())
        people = (
            "; users of the machine need accounts: `filterd account add`" if parameter == FIRST[0] else ""
        )
        draft.same(line, f"[[domain]] {', '.join(found)}{people}" if found else "names of this machine only")
        if parameter == "relay_domains":
            for name in found:
                draft.table("domain", name).settings.pop("relay", None)


def _names(draft: Draft, line: Line, text: str) -> Iterator[str]:
    for word in words(text):
        if word.startswith("/") or is_table(word):
            try:
                yield from names(word)
            except NotText as error:
                draft.left(line, str(error))
        elif not word.startswith("$"):
            yield word


def _at(name: str) -> Target:
    return "domain", name.lower()


def of_mydestination(draft: Draft, of: Of) -> list[str]:
    """Those of our domains whose people are local(8)'s."""
    listed = {word.lower() for word in words(of("mydestination"))}
    return [name for name in draft.domains() if name in listed] or draft.domains()[:1]


def _aliases(draft: Draft, line: Line, value: str, of: Of) -> None:
    for word in words(value):
        text = alias_file(word, "aliases")
        if text is None:
            draft.left(line, f"{word} is no file of aliases: `filterd config explain domain.alias_files`")
            continue
        for name in of_mydestination(draft, of):
            draft.add(line, "alias_files", [text], "", _at(name))
    if not words(value):
        draft.same(line, "no aliases")


def _virtual(draft: Draft, line: Line, value: str, _: Of) -> None:
    for word in words(value):
        text = alias_file(word, "")
        if text is None:
            draft.left(line, f"{word} is no file that can be read: write its aliases into [[domain]]")
            continue
        for name in draft.domains():
            draft.add(line, "alias_files", [text], "", _at(name))
    if not words(value):
        draft.same(line, "no aliases")


def _mailboxes(draft: Draft, line: Line, value: str, _: Of) -> None:
    for word in words(value):
        try:
            found = [name for name in names(word) if "@" in name]
        except NotText as error:
            draft.left(line, f"who has an account: {error}")
            continue
        draft.accounts += [name for name in found if not name.startswith("@") and name not in draft.accounts]
        for name in found:
            if name.startswith("@"):
                draft.left(line, f"{name}: a mailbox for everybody is domain.catch_all with an account")
        draft.same(line, f"{len(found)} accounts to make: they are listed at the end")
    if not words(value):
        draft.same(line, "no table")


def _catch_all(draft: Draft, line: Line, value: str, of: Of) -> None:
    if not value or "$" in value:
        draft.left(line, "an address for each unknown name is an alias_files pattern")
        return
    for name in of_mydestination(draft, of):
        draft.set(line, "catch_all", value if "@" in value else f"{value}@{name}", "", _at(name))


def _relayhost(draft: Draft, line: Line, value: str, of: Of) -> None:
    if not value:
        draft.same(line, "mail goes by MX")
        return
    hop = next_hop(value)
    if hop is None:
        draft.left(line, "is no next hop that queue.relay can name")
        return
    via, note = _with_login(draft, line, hop[0], value, of)
    draft.set(line, "queue.relay", via, "; ".join(filter(None, (hop[1], note))))


def _with_login(draft: Draft, line: Line, via: str, text: str, of: Of) -> tuple[str, str]:
    """The next hop with the name and password that the password table has for it."""
    if of("smtp_tls_wrappermode") == "yes":
        via = via.replace("smtp://", "smtps://")
    if of("smtp_sasl_auth_enable") != "yes" or not via.startswith("smtp"):
        return via, ""
    for word in words(of("smtp_sasl_password_maps")):
        try:
            for entry in entries(word):
                if entry.key.lower() in (
                    text.lower(),
                    text.lower().partition("]:")[0] + "]",
                    text.strip("[]").lower(),
                ):
                    user, colon, password = entry.value.partition(":")
                    if colon:
                        scheme, _, place = via.partition("://")
                        login = f"{quote(user, safe='')}:{quote(password, safe='')}"
                        return (
                            f"{scheme}://{login}@{place}",
                            "the password stands here: keep this file to yourself",
                        )
        except NotText as error:
            draft.left(line, f"its password: {error}")
    return via, "Postfix logs in there; no password was found for it"


def _transport(draft: Draft, line: Line, value: str, of: Of) -> None:
    for at, entry in told(draft, line, value):
        _route(draft, at, entry.key, entry.value, of)


def _route(draft: Draft, at: Line, who: str, value: str, of: Of) -> None:
    if value.strip() in ("local:", "virtual:", "local", "virtual"):
        draft.same(at, "its people are accounts here")
        return
    hop = next_hop(value)
    if hop is None:
        draft.left(at, "no next hop: error:, discard: and programs have no like here")
        return
    via, note = _with_login(draft, at, hop[0], value.partition(":")[2] or value, of)
    note = "; ".join(filter(None, (hop[1], note)))
    if who.lower() in draft.domains():
        draft.set(at, "relay", via, note, _at(who))
    elif who == "*":
        draft.set(at, "queue.relay", via, note)
    elif who.endswith("@") or (who.startswith("@") and "." not in who):
        draft.left(at, "a name in every domain has no like here")
    else:
        target = ("queue.route", f"to {who.lower()}")
        draft.set(at, "recipients", [who.lower().lstrip("@")], "", target)
        draft.set(at, "via", via, note, target)


def _by_sender(draft: Draft, line: Line, value: str, of: Of) -> None:
    for at, entry in told(draft, line, value):
        hop = next_hop(entry.value)
        if hop is None:
            draft.left(at, "no next hop")
            continue
        target = ("queue.route", f"from {entry.key.lower()}")
        via, note = _with_login(draft, at, hop[0], entry.value, of)
        draft.set(at, "senders", [entry.key.lower().lstrip("@")], "", target)
        draft.set(at, "via", via, "; ".join(filter(None, (hop[1], note))), target)


def _store_behind(draft: Draft, line: Line, value: str, of: Of) -> None:
    """mailbox_transport, virtual_transport, local_transport."""
    hop = next_hop(value)
    if value in ("", "virtual", "local", "local:$myhostname") or value.startswith("local"):
        draft.same(line, "people's mailboxes are here")
    elif "dovecot" in draft.names:
        draft.same(line, "Dovecot is taken over as well: people's mailboxes are here")
    elif hop is None or not hop[0].startswith("lmtp"):
        draft.left(
            line, "a program that stores mail: filterd stores it, or domain.relay names an LMTP server"
        )
    else:
        parameter = "virtual_mailbox_domains" if line.text.startswith("virtual") else "mydestination"
        listed = {word.lower() for word in words(of(parameter)) if not is_table(word)}
        found = [name for name in draft.domains() if name in listed]
        note = "the mailboxes stay where they are; without this line they are here"
        for name in found:
            draft.set(line, "relay", hop[0], note, _at(name))
        if not found:
            draft.left(line, f"{parameter} names no domain: domain.relay says whose mailboxes are there")


def remaining(draft: Draft, values: Values, of: Of) -> None:
    """What can be said only when all is read: which aliases come first; domains that are relayed, and for whom."""
    for one in draft.tables:
        files = one.settings.get("alias_files")
        if files is not None and isinstance(files.value, list):  # virtual(5) comes before local(8)
            files.value.sort(key=lambda text: str(text).startswith("aliases:"))
    if "relay_domains" not in values:
        return
    line = values["relay_domains"][1]
    ours = {word.lower() for one in FIRST[:3] for word in words(of(one))}
    for name in [word.lower() for word in _names(draft, line, of("relay_domains"))]:
        table = next((one for one in draft.tables if (one.head, one.name) == _at(name)), None)
        if table is None or name in ours:
            continue
        if "relay" not in table.settings and name in draft.asked:
            draft.left(line, f"{name} is relayed by MX there; its mail is kept here, as you asked for")
            continue
        if "relay" not in table.settings:
            draft.left(
                line, f"{name} is relayed by MX, and domain.relay needs the host: its mail would be kept here"
            )
            draft.tables.remove(table)
            continue
        for word in words(of("relay_recipient_maps")):
            try:
                people = [key for key in names(word) if key.lower().rpartition("@")[2] == name]
            except NotText as error:
                draft.left(line, f"recipients of {name}: {error}")
                continue
            if len(people) > MAX_RECIPIENTS:
                draft.left(
                    line, f"recipients of {name}: write the {len(people)} of {word} into a file, one a line"
                )
            elif people:
                wanted = ["any"] if f"@{name}" in people else list(people)
                draft.add(line, "recipients", list(wanted), "", _at(name))


HANDLERS: Mapping[str, Callable[[Draft, Line, str, Of], None]] = MappingProxyType(
    {
        "alias_maps": _aliases,
        "virtual_alias_maps": _virtual,
        "virtual_maps": _virtual,
        "virtual_mailbox_maps": _mailboxes,
        "luser_relay": _catch_all,
        "relayhost": _relayhost,
        "transport_maps": _transport,
        "sender_dependent_relayhost_maps": _by_sender,
        "mailbox_transport": _store_behind,
        "virtual_transport": _store_behind,
        "local_transport": _store_behind,
        "relay_recipient_maps": lambda draft, line, _value, _of: draft.same(line, "told with relay_domains"),
    }
)
