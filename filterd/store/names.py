"""Mailbox names: what is a good one, and how it is spelled on disk.

Specification: RFC 3501 5.1.3 (modified UTF-7), RFC 9051 5.1, RFC 5198 (NFC). Complete: yes.

On disk (Maildir++): INBOX is the root, ``a/b`` is the directory ``.a.b``; each component in modified UTF-7 as Dovecot writes
it by default. A dot inside a component, which Maildir++ cannot say, is written in shifted form (``&AC4-``), and so is the
first letter of a top-level name that begins with ``filterd`` because our own files begin so. Reading is lenient: a directory
that is not modified UTF-7 is read as UTF-8. A name that would be a path of more than 255 octets is refused.

Invariant: ``decode_directory(encode_directory(n)) == n`` for each name that ``normalise`` lets pass.
"""

from __future__ import annotations

import base64
import binascii
import unicodedata

from filterd.store.base import MAX_DEPTH, MAX_NAME_OCTETS, SEPARATOR, BadName, NoSuchMailbox

INBOX = "INBOX"
RESERVED = "filterd"
MAX_DIRECTORY_OCTETS = 255  # NAME_MAX
# RFC 6154 2, as somebody may write them; \All and \Flagged are virtual mailboxes, which we do not have.
SPECIAL_USES = {use.lower(): use for use in ("\\Archive", "\\Drafts", "\\Junk", "\\Sent", "\\Trash")}


def normalise(name: str) -> str:
    """The one spelling of a mailbox name: NFC, INBOX in capitals. Raises BadName."""
    try:
        name = unicodedata.normalize("NFC", name)
        octets = len(name.encode())
    except UnicodeEncodeError:
        raise BadName("the mailbox name is not Unicode") from None
    if not name or octets > MAX_NAME_OCTETS:
        raise BadName(f"a mailbox name has 1 to {MAX_NAME_OCTETS} octets")
    parts = name.split(SEPARATOR)
    if len(parts) > MAX_DEPTH:
        raise BadName(f"mailboxes nest {MAX_DEPTH} deep at most")
    if not all(parts):
        raise BadName("a level of the mailbox name is empty")
    if any(ord(char) < 32 or 0x7F <= ord(char) < 0xA0 or char in "\u2028\u2029" for char in name):
        raise BadName("the mailbox name has control characters")
    if parts[0].upper() == INBOX and parts[0].isascii():
        parts[0] = INBOX
    name = SEPARATOR.join(parts)
    if len(encode_directory(name)) > MAX_DIRECTORY_OCTETS:
        raise BadName("the mailbox name is too long for the disk")
    return name


def parents(name: str) -> list[str]:
    """``a/b/c`` -> ``[a, a/b]``."""
    parts = name.split(SEPARATOR)
    return [SEPARATOR.join(parts[:count]) for count in range(1, len(parts))]


def sort_key(name: str) -> tuple[bool, str]:
    """INBOX first, then by name."""
    return (name != INBOX, name)


def encode_component(text: str, shift_first: bool = False) -> str:
    """Modified UTF-7; dots (and the first character, when asked) in shifted form."""
    out: list[str] = []
    run: list[str] = []

    def flush() -> None:
        if run:
            packed = base64.b64encode("".join(run).encode("utf-16-be")).rstrip(b"=").replace(b"/", b",")
            out.append("&" + packed.decode() + "-")
            run.clear()

    for at, char in enumerate(text):
        if not " " <= char <= "~" or char in "./" or (shift_first and at == 0):
            run.append(char)
            continue
        flush()
        out.append("&-" if char == "&" else char)
    flush()
    return "".join(out)


def decode_component(text: str) -> str | None:
    """None when it is not modified UTF-7 (needless shifts are taken)."""
    out: list[str] = []
    at = 0
    while (start := text.find("&", at)) >= 0:
        out.append(text[at:start])
        end = text.find("-", start)
        if end < 0:
            return None
        packed = text[start + 1 : end].replace(",", "/")
        try:
            raw = base64.b64decode(packed + "=" * (-len(packed) % 4), validate=True)
            out.append(raw.decode("utf-16-be") if packed else "&")
        except (binascii.Error, UnicodeDecodeError, ValueError):
            return None
        at = end + 1
    out.append(text[at:])
    whole = "".join(out)
    return whole if text.isascii() else None


def encode_directory(name: str) -> str:
    """The directory below the account's root, "" for INBOX."""
    if name == INBOX:
        return ""
    parts = name.split(SEPARATOR)
    first = encode_component(parts[0], shift_first=parts[0].startswith(RESERVED))
    return ".".join(["", first, *map(encode_component, parts[1:])])


def decode_directory(directory: str, any_name: bool = False) -> str | None:
    """The name of a folder found on disk; None when it cannot be one. ``any_name``: not a directory, ours cannot be meant."""
    if not directory.startswith(".") or (directory.startswith("." + RESERVED) and not any_name):
        return None
    parts = directory[1:].split(".")
    decoded = [decode_component(part) for part in parts]
    known = [part for part in decoded if part is not None]
    if len(known) < len(parts):
        known = parts  # not modified UTF-7: a program that writes UTF-8
    try:
        if any(SEPARATOR in part for part in known):
            return None
        return normalise(SEPARATOR.join(known))
    except BadName:
        return None


def normalise_known(mailbox: str) -> str:
    """For look-ups: a name that cannot be is a mailbox that is not there."""
    try:
        return normalise(mailbox)
    except BadName:
        raise NoSuchMailbox(f"no mailbox {mailbox!r}") from None
