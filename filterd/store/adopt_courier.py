"""Reading Courier-IMAP's Maildir++ and its files ``courierimapuiddb``, ``courierimapkeywords``, ``courierpop3dsizelist`` and so on.

Formats, as Courier-IMAP writes them:

``courierimapuiddb``: ``1 <uidvalidity> <next uid>``, then ``<uid> <base name>`` a line.
``courierimapkeywords/:list``: a keyword a line, an empty line, then ``<base name>:<number> <number> ...`` a line, numbers from 0.
Beside it newer words about single messages, one keyword a line: ``<base name>``, else ``.<n>.<base name>`` with the largest n.
``courierimapsubscribed`` (in the root): ``INBOX`` and ``INBOX.Folder.Sub`` a line.
``courierpop3dsizelist`` (in the root): ``/<version> <next> <uidv>``, then ``<file name> <size> <n>:<uidv>[:<0|1>]`` a line; the
UIDL is ``UID<n>-<uidv>``, ``UID<n>`` when uidv is 0, and the escaped base name when n is 0.

Keywords have no letters there. The 26 most used of a mailbox get the letters a to z, the further ones live in our index.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterable

from filterd.store import flags as fl
from filterd.store import names
from filterd.store.adopt_dovecot import linked_folders, parse_keywords, subscribed
from filterd.store.adopt_plan import (
    AdoptError,
    Mailbox,
    Source,
    base_of,
    fitting_keywords,
    fitting_name,
    list_messages,
    read_control,
    text_lines,
)
from filterd.store.folder import KEYWORDS_FILE, MAX_UID
from filterd.store.uidl import UIDL, is_uidl

UIDDB, KEYWORDS, SUBSCRIBED, SIZES = (
    "courierimapuiddb",
    "courierimapkeywords",
    "courierimapsubscribed",
    "courierpop3dsizelist",
)
_SIZE_LINE = re.compile(r"(.*) [0-9]+ ([0-9]{1,20}):([0-9]{1,20})(?::[01])?")
_UPDATE = re.compile(r"\.([1-9][0-9]{0,18})\.(.+)", re.DOTALL)
_ACLS = ("courierimapacl", "courierimaphieracl")


def read(path: str, utf8: bool = False) -> Source:
    """Raises AdoptError."""
    if not os.path.isdir(f"{path}/cur"):
        near = f"{path}/Maildir"
        hint = f'; did you mean "{near}"?' if os.path.isdir(f"{near}/cur") else " (no cur in it)"
        raise AdoptError(f"{path} is no Maildir{hint}")
    source = Source("courier", path)
    taken: set[str] = set()
    _mailbox(source, taken, "", [names.INBOX])
    for entry in sorted(os.scandir(path), key=lambda item: item.name):
        if (
            entry.name.startswith(".")
            and entry.is_dir(follow_symlinks=False)
            and os.path.isdir(f"{entry.path}/cur")
        ):
            parts = entry.name[1:].split(".")
            decoded = [part if utf8 else _decoded(part) for part in parts]
            _mailbox(source, taken, entry.name, decoded)
    source.floor = max(box.uidvalidity for box in source.mailboxes)
    _uidls(source, path)
    _subscriptions(source, path, utf8)
    _remarks(source, path)
    return source


def _decoded(part: str) -> str:
    found = names.decode_component(part)
    return part if found is None else found


def _mailbox(source: Source, taken: set[str], shown: str, parts: list[str]) -> None:
    notes: list[str] = []
    path = f"{source.path}/{shown}" if shown else source.path
    name = fitting_name(parts, taken, notes)
    taken.add(name)
    box = Mailbox(name, shown, path, notes=notes)
    data = read_control(f"{path}/{UIDDB}")
    if data is not None:
        box.uidvalidity, box.nextuid, box.listed = parse_uiddb(data)
    if not box.uidvalidity:
        reason = (
            "no courierimapuiddb" if data is None else "no UIDVALIDITY that can be in its courierimapuiddb"
        )
        notes.append(f"it has {reason}: it gets a new one, clients fetch it again")
    box.messages = list_messages(path, notes, source.blocked)
    _keywords(box, read_keywords(f"{path}/{KEYWORDS}"))
    ours = parse_keywords(read_control(f"{path}/{KEYWORDS_FILE}"))
    if ours and ours != list(box.keywords):
        source.blocked.append(
            f"{path}: {KEYWORDS_FILE} is of another use of this folder; remove it, and flag letters mean nothing any more"
        )
    if any(os.path.exists(f"{path}/{name}") for name in _ACLS):
        notes.append("its access rights are not taken over")
    source.mailboxes.append(box)


def parse_uiddb(data: bytes) -> tuple[int, int, dict[str, int]]:
    """(UIDVALIDITY or 0, next UID, base -> UID)."""
    lines = text_lines(data)
    heading = lines[0].split(" ") if lines else []
    if len(heading) < 3 or heading[0] != "1":
        return 0, 1, {}
    uids: dict[str, int] = {}
    used: set[int] = set()
    for line in lines[1:]:
        number, _, name = line.partition(" ")
        uid, base = _number(number), base_of(name)
        if uid and base and base not in uids and uid not in used:
            uids[base] = uid
            used.add(uid)
    return _number(heading[1]), max(1, _number(heading[2])), uids


def _number(text: str) -> int:
    value = int(text) if text.isascii() and text.isdigit() and len(text) <= 10 else 0
    return value if value <= MAX_UID else 0


# -- keywords -------------------------------------------------------------------------------------------------------------------


def read_keywords(path: str) -> dict[str, tuple[str, ...]]:
    """base -> keywords. Raises AdoptError."""
    found = parse_keyword_list(read_control(f"{path}/:list") or b"")
    try:
        entries = sorted(os.listdir(path))
    except (FileNotFoundError, NotADirectoryError):
        return found
    newest: dict[str, tuple[int, str]] = {}
    for entry in entries:
        if entry == ":list":
            continue
        match = _UPDATE.fullmatch(entry)
        if match is None and entry.startswith("."):
            continue
        # A plain name is newer than all numbered ones.
        base, age = (match[2], int(match[1])) if match else (entry, 10**19)
        if base not in newest or newest[base][0] < age:
            newest[base] = (age, entry)
    for base, (_, entry) in newest.items():
        data = read_control(f"{path}/{entry}")
        if data is not None:
            found[base] = tuple(_words(text_lines(data)))
    return found


def parse_keyword_list(data: bytes) -> dict[str, tuple[str, ...]]:
    lines = text_lines(data)
    end = lines.index("") if "" in lines else len(lines)
    words = lines[:end]
    found: dict[str, tuple[str, ...]] = {}
    for line in lines[end + 1 :]:
        base, _, numbers = line.partition(":")
        chosen = [
            int(text) for text in numbers.split() if text.isascii() and text.isdigit() and len(text) < 7
        ]
        found[base] = tuple(_words(words[number] for number in chosen if number < len(words)))
    return found


def _words(lines: Iterable[str]) -> list[str]:
    """What IMAP can say."""
    return [
        word
        for word in lines
        if word and word.isascii() and word.isprintable() and not set(word) & set(' (){%*"\\]')
    ]


def _keywords(box: Mailbox, found: dict[str, tuple[str, ...]]) -> None:
    """Numbers for the words, letters for the first 26. The order depends on the keyword files alone."""
    spelled: dict[str, str] = {}
    counts: Counter[str] = Counter()
    for words in found.values():
        for word in words:
            counts[word.lower()] += 1
            spelled.setdefault(word.lower(), word)
    order = sorted(counts, key=lambda low: (-counts[low], low))
    box.keywords = fitting_keywords([spelled[low] for low in order], box.notes)
    numbers = {word.lower(): at for at, word in enumerate(box.keywords)}
    for message in box.messages:
        own = {numbers[word.lower()] for word in found.get(message.base, ()) if word.lower() in numbers}
        letters = {letter for letter in message.letters if not letter.islower()}
        letters.update(chr(97 + at) for at in own if at < fl.LETTER_KEYWORDS)
        message.letters = "".join(sorted(letters))
        message.keywords = tuple(sorted(at for at in own if at >= fl.LETTER_KEYWORDS))


# -- of the whole tree ----------------------------------------------------------------------------------------------------------


def parse_sizes(data: bytes) -> dict[str, str]:
    """base -> UIDL."""
    lines = text_lines(data)
    if not lines or not re.match(r"/[23] [0-9]", lines[0]):
        return {}
    found: dict[str, str] = {}
    for line in lines[1:]:
        match = _SIZE_LINE.fullmatch(line)
        if match is None:
            continue
        base, number, uidv = base_of(match[1]), int(match[2]), int(match[3])
        if number:
            found[base] = f"UID{number}-{uidv}" if uidv else f"UID{number}"
        else:
            found[base] = "".join(
                chr(octet) if 0x21 <= octet <= 0x7E and octet not in b"'\"+" else f"+{octet:02X}"
                for octet in os.fsencode(base)
            )
    return found


def _uidls(source: Source, path: str) -> None:
    data = read_control(f"{path}/{SIZES}")
    if data is None:
        return
    inbox = source.mailboxes[0]
    bad = 0
    for base, uidl in parse_sizes(data).items():
        if is_uidl(uidl):
            inbox.extras[base] = {UIDL: uidl}
        else:
            bad += 1
    if bad:
        inbox.notes.append(
            f"{bad} POP3 UIDLs cannot be sent (1 to 70 visible ASCII characters); new ones are made"
        )


def _subscriptions(source: Source, path: str, utf8: bool) -> None:
    data = read_control(f"{path}/{SUBSCRIBED}")
    if data is not None:
        lines = [line.strip() for line in text_lines(data) if line.strip()]
        found = [[part if utf8 else _decoded(part) for part in line.split(".")] for line in lines]
        source.subscriptions = subscribed(source, found)


def _remarks(source: Source, path: str) -> None:
    notes = source.notes
    notes += linked_folders(path)
    if len(source.mailboxes) > 1:
        notes.append('Courier shows folders below "INBOX."; here they stand beside INBOX')
    for where in (path, os.path.dirname(path)):
        if os.path.exists(f"{where}/.mailfilter"):
            notes.append(f"the filter {where}/.mailfilter is maildrop's and is not converted")
    if os.path.exists(f"{path}/maildirsize"):
        limit = (read_control(f"{path}/maildirsize") or b"").split(b"\n")[0].decode("ascii", "replace")
        notes.append(
            f"the quota in maildirsize ({limit}) is not taken over; set it with: filterd account add --quota"
        )
    if any(
        os.path.lexists(f"{path}/{name}")
        for name in ("shared-maildirs", "shared-folders", "shared-timestamp")
    ):
        notes.append("shared folders of other accounts are not taken over")
