"""Addresses as the directory compares them, and which account names can be.

An account's id is its address in lower case (NFC), the domain as A-labels without a final dot. It becomes a folder name
and a log-in name, so ``account_id`` refuses what a path, a log or a header could read otherwise; look-ups of such
addresses simply find nobody.
"""

from __future__ import annotations

import unicodedata

from filterd.accounts.errors import BadAccount

MAX_LOCAL = 64  # octets, RFC 5321 4.5.3.1.1
MAX_DOMAIN = 255  # octets, RFC 5321 4.5.3.1.2
_ATOM = frozenset("abcdefghijklmnopqrstuvwxyz0123456789!#$%&'*+-/=?^_`{|}~.")  # RFC 5322 3.2.3, and the dot
_NOT_IN_PATHS = frozenset("/%")


def split(address: str) -> tuple[str, str]:
    """(local part without quotes, domain) as written; the domain is "" when there is none."""
    local, at, domain = address.rpartition("@")
    if not at:
        local, domain = address, ""
    if len(local) >= 2 and local[0] == local[-1] == '"':
        local = _unquoted(local[1:-1])
    return local, domain


def _unquoted(text: str) -> str:
    """RFC 5321 4.1.2: in a quoted string a backslash makes the next character plain."""
    out, escaped = [], False
    for ch in text:
        if ch == "\\" and not escaped:
            escaped = True
        else:
            out.append(ch)
            escaped = False
    return "".join(out)


def fold_local(local: str) -> str:
    """Local parts of ours are compared without case (RFC 5321 2.4 leaves it to us) and in NFC (RFC 6532 3.1)."""
    return unicodedata.normalize("NFC", local).lower()


def fold_domain(domain: str) -> str:
    """Lower-case A-labels without the final dot; a domain that has no such form stays as it is, in lower case."""
    name = domain.rstrip(".").lower()
    if name.isascii():
        return name
    try:
        return name.encode("idna").decode("ascii")
    except UnicodeError:
        return name


def fold(address: str) -> str:
    local, domain = split(address)
    return f"{fold_local(local)}@{fold_domain(domain)}"


def account_id(address: str, subaddress: str) -> str:
    """The id of an account to be made. Raises BadAccount with the reason."""
    local, domain = split(address.strip())
    local, domain = fold_local(local), fold_domain(domain)
    if not domain or not local:
        raise BadAccount(f'"{address}" is not an address such as ann@example.org')
    if len(local.encode()) > MAX_LOCAL or len(domain) > MAX_DOMAIN:
        raise BadAccount(f'"{address}" is too long')
    if local.startswith(".") or local.endswith(".") or ".." in local:
        raise BadAccount(f'"{local}": dots stand between other characters')
    odd = [ch for ch in local if not _fits(ch)]
    if odd:
        raise BadAccount(f'"{local}": an account name cannot contain {odd[0]!r}')
    if subaddress and subaddress in local:
        raise BadAccount(f'"{local}": "{subaddress}" separates a name from its detail (accounts.subaddress)')
    return f"{local}@{domain}"


def _fits(ch: str) -> bool:
    if ch.isascii():
        return ch in _ATOM and ch not in _NOT_IN_PATHS
    return (
        unicodedata.category(ch)[0] in "LMN"
    )  # letters, marks, digits (RFC 6531 allows more, paths and logs do not)
