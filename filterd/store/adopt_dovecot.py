"""Reading Dovecot's Maildir: folders of both layouts, ``dovecot-uidlist``, ``dovecot-keywords``, ``subscriptions``.

Formats, as Dovecot 2.x writes them:

``dovecot-uidlist`` version 3: ``3 V<uidvalidity> N<next uid> G<mailbox guid>``, then a line a message: ``<uid> [<key><value> ...]
:<base name>`` with keys P (POP3 UIDL), O (POP3 order), G (GUID), W and S (sizes). Lines are appended between two rewritings,
so N may be too low. Version 1: ``1 <uidvalidity> <next uid>`` and ``<uid> <file name>``.
``dovecot-keywords``: ``<number> <name>`` a line; number 0 is the letter ``a`` of file names.
``subscriptions``: one name a line; version 2 begins with ``V<TAB>2`` and an empty line and has a TAB between levels.
Folder names are modified UTF-7, or UTF-8 where ``mail_location`` says ``:UTF-8``.

What is only in ``dovecot.index*`` is not read: keywords beyond 26 a mailbox, modseqs, private flags, METADATA.
"""

from __future__ import annotations

import os
import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field

from filterd.store import flags as fl
from filterd.store import names
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
from filterd.store.base import MAX_DEPTH, SEPARATOR, BadName
from filterd.store.folder import KEYWORDS_FILE, MAX_UID
from filterd.store.uidl import GUID, KEPT, ORDER, UIDL, Format, Names, default_uidl, is_uidl

UIDLIST, KEYWORDS, SUBSCRIPTIONS, UIDVALIDITY = (
    "dovecot-uidlist",
    "dovecot-keywords",
    "subscriptions",
    "dovecot-uidvalidity",
)
DEFAULT_FORMAT = "%08Xu%08Xv"
PARTS = ("cur", "new", "tmp")
LAYOUTS = ("auto", "maildir++", "fs")
MAX_FOLDERS = 20_000
_LOG_HEADER = struct.Struct("<BBHIIIIIQ")  # up to initial_modseq
_RECORD_OCTETS = 8  # of the transaction log: the smallest change takes so many
_REFUSED = (
    ("mdbox", ("mdbox", "storage/dovecot.map.index.log", "mdbox/storage")),
    ("sdbox", ("sdbox", "mailboxes/INBOX/dbox-Mails", "sdbox/mailboxes")),
)


@dataclass(frozen=True, slots=True)
class Options:
    """``control``: the CONTROL= of mail_location, "" for none; ``uidls``: pop3_uidl_format; ``utf8``: names are UTF-8."""

    layout: str = "auto"
    control: str = ""
    utf8: bool = False
    uidls: str = DEFAULT_FORMAT


def read(path: str, options: Options) -> Source:
    """Raises AdoptError."""
    _must_be_maildir(path)
    source = Source("dovecot", path)
    layout = options.layout if options.layout != "auto" else _layout_of(path)
    reader = _Reader(source, options, Format(options.uidls))
    for shown, parts, where in _folders(path, layout, options.utf8):
        reader.mailbox(shown, parts, where)
    source.floor = max(
        [_uidvalidity_mark(_control(path, options, "")), *(box.uidvalidity for box in source.mailboxes)]
    )
    source.subscriptions = _subscriptions(source, _control(path, options, ""), layout, options.utf8)
    _remarks(source, path)
    return source


def _must_be_maildir(path: str) -> None:
    for kind, signs in _REFUSED:
        if any(os.path.lexists(f"{path}/{sign}") for sign in signs):
            raise AdoptError(
                f"{path} is Dovecot's {kind}, which only Dovecot can read. Let it write a Maildir first, with UIDs and flags:\n"
                f"  doveadm backup -u USER maildir:NEWPATH       (doveadm sync, for what comes meanwhile)\n"
                f"and adopt NEWPATH."
            )
    if os.path.isdir(f"{path}/cur") or os.path.isdir(f"{path}/INBOX/cur"):
        return
    near = next((name for name in ("Maildir", "mail", "Mail") if os.path.isdir(f"{path}/{name}/cur")), "")
    hint = f'; did you mean "{path}/{near}"?' if near else " (no cur in it)"
    raise AdoptError(f"{path} is no Maildir{hint}")


def _layout_of(path: str) -> str:
    """Folders without a dot that have a cur are Dovecot's layout ``fs``."""
    for entry in os.scandir(path):
        if entry.is_dir(follow_symlinks=False) and not entry.name.startswith(".") and entry.name not in PARTS:
            if any(os.path.isdir(f"{top}/cur") for top, _ in _walk(entry.path, 0)):
                return "fs"
    return "maildir++"


def _walk(path: str, depth: int) -> Iterator[tuple[str, int]]:
    """Directories that may be folders, never through a link."""
    yield path, depth
    if depth < 2 * MAX_DEPTH:
        for entry in sorted(os.scandir(path), key=lambda item: item.name):
            if (
                entry.is_dir(follow_symlinks=False)
                and entry.name not in PARTS
                and not entry.name.startswith(".")
            ):
                yield from _walk(entry.path, depth + 1)


def _folders(path: str, layout: str, utf8: bool) -> Iterator[tuple[str, list[str], str]]:
    """(as spelled below ``path``, parts of the name, directory), INBOX first."""
    root_is_inbox = os.path.isdir(f"{path}/cur")
    if root_is_inbox:
        yield "", [names.INBOX], path
    for count, (shown, parts) in enumerate(_fs_folders(path) if layout == "fs" else _dot_folders(path)):
        if count >= MAX_FOLDERS:
            raise AdoptError(f"{path} has more than {MAX_FOLDERS} folders")
        if not root_is_inbox and parts[0].upper() == names.INBOX:
            parts = [names.INBOX, *parts[1:]]
        yield shown, [_decoded(part, utf8) for part in parts], f"{path}/{shown}"


def _fs_folders(path: str) -> Iterator[tuple[str, list[str]]]:
    for where, depth in _walk(path, 0):
        if depth and os.path.isdir(f"{where}/cur"):
            shown = os.path.relpath(where, path)
            yield shown, shown.split("/")


def _dot_folders(path: str) -> Iterator[tuple[str, list[str]]]:
    for entry in sorted(os.scandir(path), key=lambda item: item.name):
        if (
            entry.name.startswith(".")
            and entry.name not in (".filterd",)
            and entry.is_dir(follow_symlinks=False)
        ):
            if os.path.isdir(f"{entry.path}/cur"):
                yield entry.name, entry.name[1:].split(".")


def _decoded(part: str, utf8: bool) -> str:
    if utf8:
        return part
    found = names.decode_component(part)
    return part if found is None else found


def _control(path: str, options: Options, shown: str) -> str:
    """Where the control files of a folder are."""
    root = options.control or path
    return f"{root}/{shown}" if shown else root


# -- one mailbox --------------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class UidList:
    """A ``dovecot-uidlist``. ``fields``: base -> key -> value, for the keys of ``uidl.KEPT``."""

    uidvalidity: int = 0
    nextuid: int = 1
    guid: str = ""
    uids: dict[str, int] = field(default_factory=dict)
    fields: dict[str, dict[str, str]] = field(default_factory=dict)
    faults: int = 0


def parse_uidlist(data: bytes) -> UidList:
    """Lenient: lines that cannot be are counted in ``faults``; a heading that cannot be leaves uidvalidity 0."""
    lines = text_lines(data)
    found = UidList()
    heading = lines[0].split(" ") if lines else [""]
    if heading[0] == "3":
        for word in heading[1:]:
            if word[:1] == "V":
                found.uidvalidity = _number(word[1:])
            elif word[:1] == "N":
                found.nextuid = max(1, _number(word[1:]))
            elif word[:1] == "G" and re.fullmatch("[0-9a-f]{32}", word[1:]):
                found.guid = word[1:]
    elif heading[0] == "1" and len(heading) >= 3:
        found.uidvalidity, found.nextuid = _number(heading[1]), max(1, _number(heading[2]))
    used: set[int] = set()
    for line in lines[1:]:
        uid_text, _, rest = line.partition(" ")
        uid = _number(uid_text)
        more: dict[str, str] = {}
        if heading[0] == "3":
            head, colon, rest = _split_record(rest)
            more = {word[0]: word[1:] for word in head.split(" ") if word[:1] in KEPT and len(word) > 1}
            rest = rest if colon else ""
        base = base_of(rest)
        if not uid or not base or "/" in base or uid in used or base in found.uids:
            found.faults += 1
            continue
        used.add(uid)
        found.uids[base] = uid
        if more:
            found.fields[base] = more
    return found


def _split_record(rest: str) -> tuple[str, str, str]:
    """The fields and the name of a version 3 line: the name follows the first colon that begins a word."""
    if rest.startswith(":"):
        return "", ":", rest[1:]
    return rest.partition(" :")


def _number(text: str) -> int:
    """1..2^32-1, 0 for anything else."""
    value = int(text) if text.isascii() and text.isdigit() and len(text) <= 10 else 0
    return value if value <= MAX_UID else 0


def parse_keywords(data: bytes | None) -> list[str]:
    """By number; a number without a name is called as Dovecot calls it."""
    words: dict[int, str] = {}
    for line in text_lines(data or b""):
        number, _, word = line.partition(" ")
        if (
            number.isascii()
            and number.isdigit()
            and len(number) <= 3
            and word
            and word.isascii()
            and word.isprintable()
        ):
            words.setdefault(int(number), word)
    return [words.get(at, f"unknown-{at}") for at in range(max(words, default=-1) + 1)]


class _Reader:
    def __init__(self, source: Source, options: Options, form: Format) -> None:
        self.source = source
        self.options = options
        self.form = form
        self.taken: set[str] = set()
        self.uidlists: dict[str, UidList] = {}

    def mailbox(self, shown: str, parts: list[str], path: str) -> None:
        notes: list[str] = []
        name = fitting_name(parts, self.taken, notes)
        self.taken.add(name)
        control = _control(self.source.path, self.options, shown)
        data = read_control(f"{control}/{UIDLIST}")
        found = parse_uidlist(data) if data is not None else UidList()
        box = Mailbox(name, shown, path, found.uidvalidity, notes=notes, guid=found.guid)
        words = self._keywords(box, parse_keywords(read_control(f"{control}/{KEYWORDS}")))
        box.keywords = fitting_keywords(words, notes)
        box.modseq = _modseq_mark(path)
        box.messages = list_messages(path, notes, self.source.blocked)
        self._letters(box)
        if data is None:
            notes.append("it has no dovecot-uidlist: it gets a new UIDVALIDITY, clients fetch it again")
        elif not found.uidvalidity:
            notes.append(
                "its dovecot-uidlist has no UIDVALIDITY that can be: it gets a new one, clients fetch it again"
            )
        if found.faults:
            notes.append(
                f"{found.faults} lines of its dovecot-uidlist cannot be read; those messages get new UIDs"
            )
        if os.path.exists(f"{control}/dovecot-acl"):
            notes.append("its access rights (dovecot-acl) are not taken over")
        box.listed = found.uids
        box.nextuid = found.nextuid
        self._extras(box, found)
        self.source.mailboxes.append(box)

    def _keywords(self, box: Mailbox, words: list[str]) -> list[str]:
        """filterd may have been here before, and have named further letters."""
        ours = parse_keywords(read_control(f"{box.path}/{KEYWORDS_FILE}"))
        if ours[: len(words)] == words:
            return ours
        if words[: len(ours)] != ours:
            self.source.blocked.append(
                f"{box.path}: {KEYWORDS_FILE} and {KEYWORDS} disagree about flag letters; remove the one that is wrong"
            )
        return words

    def _letters(self, box: Mailbox) -> None:
        """Letters without a keyword would mean something as soon as there are more keywords: they go."""
        known = min(len(box.keywords), fl.LETTER_KEYWORDS)
        lost = 0
        for message in box.messages:
            clean = "".join(
                letter for letter in message.letters if not "a" <= letter <= "z" or ord(letter) - 97 < known
            )
            clean = (
                clean.replace("Z", "") if message.coding else clean
            )  # "Z": Dovecot's mark of a compressed file
            lost += len(clean) + message.letters.count("Z") < len(message.letters)
            message.letters = clean
        if lost:
            box.notes.append(
                f"{lost} messages have flag letters that dovecot-keywords does not name; they are left out"
            )

    def _extras(self, box: Mailbox, found: UidList) -> None:
        """UIDLs that are not what we would say anyway, GUIDs, POP3 order."""
        bad = order = 0
        for base, uid in found.uids.items():
            fields = dict(found.fields.get(base, {}))
            uidl = fields.pop(UIDL, "")
            if not uidl and box.name == names.INBOX:
                uidl = self.form(Names(uid, box.uidvalidity, base, fields.get(GUID, base)))
            if uidl and not is_uidl(uidl):
                bad, uidl = bad + 1, ""
            if uidl and uidl != default_uidl(uid, box.uidvalidity):
                fields[UIDL] = uidl
            order += ORDER in fields
            if fields:
                box.extras[base] = fields
        if bad:
            box.notes.append(
                f"{bad} POP3 UIDLs cannot be sent (1 to 70 visible ASCII characters); new ones are made"
            )
        if order:
            box.notes.append(f"{order} messages have a POP3 order of their own; POP3 shows them by UID")


def _modseq_mark(path: str) -> int:
    """Above every modseq that Dovecot gave out: what its log began with, and one for the smallest possible change since.

    0 when there is no log to be read: the caller takes a number that nobody has reached.
    """
    try:
        with open(f"{path}/dovecot.index.log", "rb") as file:
            head = file.read(_LOG_HEADER.size)
            size = os.fstat(file.fileno()).st_size
    except OSError:
        return 0
    if len(head) < _LOG_HEADER.size:
        return 0
    modseq = int(_LOG_HEADER.unpack(head)[8])
    return modseq + size // _RECORD_OCTETS + 1 if modseq < 2**48 else 0


# -- of the whole tree ----------------------------------------------------------------------------------------------------------


def _uidvalidity_mark(control: str) -> int:
    data = read_control(f"{control}/{UIDVALIDITY}") or b""
    text = data.strip().decode("ascii", "replace")
    return int(text, 16) if re.fullmatch("[0-9a-f]{8}", text) else 0


def parse_subscriptions(data: bytes, separator: str, utf8: bool) -> list[list[str]]:
    """The parts of each name, decoded."""
    lines = text_lines(data)
    if lines and lines[0].startswith("V\t2"):
        lines, separator = lines[1:], "\t"
    return [
        [_decoded(part, utf8) for part in line.rstrip("\r").split(separator)]
        for line in lines
        if line.strip()
    ]


def _subscriptions(source: Source, control: str, layout: str, utf8: bool) -> tuple[str, ...]:
    data = read_control(f"{control}/{SUBSCRIPTIONS}")
    if data is None:
        return ()
    return subscribed(source, parse_subscriptions(data, "/" if layout == "fs" else ".", utf8))


def subscribed(source: Source, found: list[list[str]]) -> tuple[str, ...]:
    """Names that can be; those of a namespace ``INBOX.`` without it, where the folder is known without it."""
    known = {box.name for box in source.mailboxes}
    out = set()
    bad = 0
    for parts in found:
        try:
            name = names.normalise(SEPARATOR.join(parts))
        except BadName:
            bad += 1
            continue
        short = name.removeprefix(names.INBOX + SEPARATOR)
        out.add(short if name not in known and short in known else name)
    if bad:
        source.notes.append(f"{bad} subscriptions are no names of mailboxes")
    return tuple(sorted(out, key=names.sort_key))


def linked_folders(path: str) -> list[str]:
    """Folders of others, or on other disks: adopting through a link might take mail twice, or another person's."""
    return [
        f"the folder {entry.name!r} is a link and is not followed"
        for entry in sorted(os.scandir(path), key=lambda item: item.name)
        if entry.is_symlink() and entry.name not in PARTS and os.path.isdir(f"{entry.path}/cur")
    ]


def _remarks(source: Source, path: str) -> None:
    """What lies beside the mail and is not taken over."""
    notes = source.notes
    notes += linked_folders(path)
    notes.append(
        "what is only in dovecot.index files is not read: keywords beyond 26 a mailbox, METADATA, the age of changes"
        " (CONDSTORE clients keep their state: modseqs go on above Dovecot's)"
    )
    for where in (path, os.path.dirname(path)):
        if os.path.lexists(f"{where}/.dovecot.sieve"):
            notes.append(f"the filter script {where}/.dovecot.sieve stays; store it with: filterd sieve put")
    if os.path.exists(f"{path}/maildirsize"):
        limit = (read_control(f"{path}/maildirsize") or b"").split(b"\n")[0].decode("ascii", "replace")
        notes.append(
            f"the quota in maildirsize ({limit}) is not taken over; set it with: filterd account add --quota"
        )
    if os.path.exists(f"{path}/dovecot-attributes"):
        notes.append("METADATA (dovecot-attributes) is not taken over")
