"""DKIM keys: make, show and change them; sign one message.

A key is made, its record published in the DNS, and then it signs: ``keygen`` (or the first ``rotate``) does the first step
and prints the record; ``rotate`` puts the key to work once the DNS has it. Run again later, ``rotate`` makes the next key.

Examples:
  filterd dkim keygen example.org                       a key in data_dir/dkim, and its DNS record
  filterd dkim rotate example.org                       the next step: make, wait for the DNS, or change over
  filterd dkim show                                     all keys, what signs, what the DNS says
  filterd dkim keygen --domain example.org --selector s1 --algorithm ed25519-sha256 --out s1.pem
  filterd dkim sign --key s1.pem --domain example.org --selector s1 < message > signed
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from filterd.cli import FOUND, OK, TRY_AGAIN, USAGE, CliError
from filterd.cli.check import add_resolver, resolver
from filterd.cli.options import add_config, add_json, load_config, print_json
from filterd.cli.ownership import hand_over

if TYPE_CHECKING:
    from filterd.config.schema import Config
    from pipeline.adapters.crypto import PrivateKey
    from pipeline.dkim.keyring import SigningKey
    from pipeline.ports import Resolver

ALGORITHMS = ("rsa-sha256", "ed25519-sha256")
FORMS = ("relaxed/relaxed", "relaxed/simple", "simple/relaxed", "simple/simple")
STRING = 250  # octets of one string of a TXT record: at most 255


def configure(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    keygen = actions.add_parser("keygen", help="make a key and print its DNS record")
    rotate = actions.add_parser("rotate", help="make the next key, or change over to it when the DNS has it")
    for one in (keygen, rotate):
        _add_domain(one)
        one.add_argument("--selector", default="", help="default: the year and a letter, such as 2026a")
        one.add_argument("--algorithm", default=ALGORITHMS[0], choices=ALGORITHMS)
        one.add_argument("--bits", type=int, default=2048, help="of an RSA key: 1024 to 4096")
        add_config(one)
    keygen.add_argument(
        "--out", default="", metavar="FILE", help="write the key here (needs no configuration)"
    )
    rotate.add_argument("--force", action="store_true", help="change over without asking the DNS")
    add_resolver(rotate)
    show = actions.add_parser("show", help="the keys, which of them sign, and whether the DNS has them")
    _add_domain(show)
    show.add_argument("--key", default="", metavar="PEM", help="only the DNS record of this key")
    show.add_argument("--offline", action="store_true", help="do not ask the DNS")
    add_resolver(show)
    add_config(show)
    add_json(show)
    sign = actions.add_parser("sign", help="sign a message from standard input")
    sign.add_argument("--key", default="", metavar="PEM")
    sign.add_argument("--domain", default="")
    sign.add_argument("--selector", default="")
    sign.add_argument("--algorithm", default="", choices=("", *ALGORITHMS), help="default: that of the key")
    sign.add_argument("--canonicalization", default=FORMS[0], choices=FORMS)
    sign.add_argument("--key-table", default="", metavar="FILE", help="OpenDKIM's KeyTable, instead of --key")
    sign.add_argument("--signing-table", default="", metavar="FILE", help="OpenDKIM's SigningTable")


def _add_domain(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("domain_", nargs="?", default="", metavar="DOMAIN")
    parser.add_argument("--domain", default="", help="the same, as an option")


def run(arguments: argparse.Namespace) -> int:
    from filterd.signing import SigningProblem

    try:
        match arguments.action:
            case "sign":
                return sign(arguments)
            case "show":
                return show(arguments)
            case "keygen":
                return keygen(arguments)
            case _:
                return rotate(arguments)
    except SigningProblem as problem:
        raise CliError(str(problem), FOUND) from None


# -- making and changing keys ------------------------------------------------------------------------------------------


def keygen(arguments: argparse.Namespace) -> int:
    from filterd import signing
    from pipeline.adapters.crypto import KeyProblem, generate

    kind = arguments.algorithm.partition("-")[0]
    if not arguments.out:
        config = load_config(arguments)
        domain = _own_domain(config, arguments)
        selector = arguments.selector or _next_selector(config, domain)
        key, path = signing.make(config, domain, selector, kind, arguments.bits)
        hand_over(config, str(path.parent.parent))
        print(f"The key is in {path}. Publish this record:\n")
        print(zone_lines(selector, domain, key))
        print(f"\nWhen the DNS has it, `filterd dkim rotate {domain}` puts it to work.")
        return OK
    selector = signing.check_selector(arguments.selector or _fresh(time.gmtime().tm_year, ()))
    domain = _domain(arguments)
    if not domain:
        raise CliError("which domain? filterd dkim keygen --domain NAME --out FILE", USAGE)
    domain = signing.check_domain(domain)
    try:
        key = generate(kind, arguments.bits)
        handle = os.open(arguments.out, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except KeyProblem as problem:
        raise CliError(str(problem), USAGE) from None
    except OSError as error:
        raise CliError(f"{arguments.out}: {error.strerror}", USAGE) from None
    with open(handle, "wb") as file:
        file.write(key.pem())
    print(zone_lines(selector, domain, key))
    return OK


def rotate(arguments: argparse.Namespace) -> int:
    from filterd import signing

    config = load_config(arguments)
    domain = _own_domain(config, arguments)
    if any(one.name.lower() == domain and one.dkim is not None for one in config.domain):
        raise CliError(
            f"the configuration names the key of {domain} (dkim = ...): change it there, or take that line out",
            FOUND,
        )
    kind = arguments.algorithm.partition("-")[0]
    keys = [(one, signing.read_key(one.path)) for one in signing.stored(config, domain)]
    newest = next((at for at in range(len(keys) - 1, -1, -1) if keys[at][1].kind == kind), None)
    if newest is None or keys[newest][0].signs:
        return keygen(argparse.Namespace(**{**vars(arguments), "out": ""}))
    stored, key = keys[newest]
    if not arguments.force:
        state = asyncio.run(published(resolver(arguments), stored.selector, domain, key))
        if state != "published":
            print(f"{stored.selector}._domainkey.{domain}: {state}. Publish this record, then come again:\n")
            print(zone_lines(stored.selector, domain, key))
            return TRY_AGAIN
    old = [one.selector for one, other in keys if one.signs and other.kind == kind]
    others = [one.selector for one, other in keys if one.signs and other.kind != kind]
    signing.activate(config, domain, [stored.selector, *others])
    hand_over(config, str(stored.path.parent.parent))
    print(f"{stored.selector} signs for {domain} from the next start or reload (SIGHUP) on.")
    if old:
        print(
            f"Leave the DNS record of {', '.join(old)} for a week: mail on its way is still checked with it."
        )
    return OK


def _next_selector(config: Config, domain: str) -> str:
    from filterd import signing

    used = [one.selector for one in signing.stored(config, domain)]
    return _fresh(time.gmtime().tm_year, used)


def _fresh(year: int, used: tuple[str, ...] | list[str]) -> str:
    for letter in "abcdefghijklmnopqrstuvwxyz":
        if f"{year}{letter}" not in used:
            return f"{year}{letter}"
    raise CliError("all letters of this year are used: name one with --selector", FOUND)


def _domain(arguments: argparse.Namespace) -> str:
    return str(arguments.domain_ or arguments.domain).lower().rstrip(".")


def _own_domain(config: Config, arguments: argparse.Namespace) -> str:
    ours = [one.name.lower() for one in config.domain]
    domain = _domain(arguments) or (ours[0] if len(ours) == 1 else "")
    if domain not in ours:
        what = f"{domain} is not a [[domain]] of the configuration" if domain else "which domain?"
        raise CliError(f"{what}; there are: {', '.join(ours)}", USAGE)
    return domain


# -- looking -----------------------------------------------------------------------------------------------------------


def zone_lines(selector: str, domain: str, key: PrivateKey) -> str:
    """The record as it stands in a zone file, in strings of at most 255 octets."""
    record = key.record()
    strings = " ".join(f'"{record[at : at + STRING]}"' for at in range(0, len(record), STRING))
    return f"{selector}._domainkey.{domain}. IN TXT ( {strings} )"


async def published(asked: Resolver, selector: str, domain: str, key: PrivateKey) -> str:
    """ "published", or what is wrong."""
    from pipeline.dkim.keys import parse_record
    from pipeline.ports import DnsStatus

    answer = await asked.query(f"{selector}._domainkey.{domain}", "TXT")
    if answer.status is DnsStatus.TEMPORARY:
        return f"the DNS does not answer ({answer.reason})"
    if not answer.records:
        return "not in the DNS"
    ours = parse_record(key.record())
    wanted = key.record().partition("p=")[2]
    for record in answer.records:
        found = parse_record(record)
        if not isinstance(found, str) and wanted in "".join(record.split()):
            return "published"
        if isinstance(found, str) and isinstance(ours, str):
            return found
    return "another key is in the DNS" if len(answer.records) == 1 else "several records, none is this key"


def show(arguments: argparse.Namespace) -> int:
    from filterd import signing

    if arguments.key:
        key = signing.read_key(arguments.key)
        print(key.record())
        return OK
    config = load_config(arguments)
    wanted = _domain(arguments)
    rows: list[dict[str, str]] = []
    asked = None if arguments.offline else resolver(arguments)
    for domain, selector, path, state in _known(config):
        if wanted and domain != wanted:
            continue
        key = signing.read_key(path)
        dns = asyncio.run(published(asked, selector, domain, key)) if asked is not None else ""
        rows.append(
            {
                "domain": domain,
                "selector": selector,
                "algorithm": key.algorithm,
                "bits": str(key.bits),
                "state": state,
                "dns": dns,
                "file": str(path),
                "record": key.record(),
            }
        )
        if asked is not None:
            asked = resolver(arguments)  # each asyncio.run has a loop of its own
    if arguments.json:
        print_json(rows)
        return OK
    if not rows:
        print("No keys. `filterd dkim keygen DOMAIN` makes one.")
        return FOUND
    for row in rows:
        print(
            f"{row['domain']}  {row['selector']}  {row['algorithm']} {row['bits']} bits  {row['state']}  {row['dns']}"
        )
        print(f"  {row['file']}")
        print(f"  {row['selector']}._domainkey.{row['domain']} TXT {row['record']}")
    return OK


def _known(config: Config) -> list[tuple[str, str, Path, str]]:
    """(domain, selector, file, state) of every key."""
    from filterd import signing

    out: list[tuple[str, str, Path, str]] = []
    for section in config.domain:
        domain = section.name.lower()
        if section.dkim is not None:
            out.append((domain, section.dkim.selector, Path(section.dkim.key), "signs (configuration)"))
        for one in signing.stored(config, domain):
            signs = one.signs and section.dkim is None
            out.append((domain, one.selector, one.path, "signs" if signs else "does not sign"))
    if config.dkim.key_table:
        for domain, selector, file in signing.table_files(config):
            out.append((domain, selector, Path(file), "by the tables"))
    return out


# -- signing -----------------------------------------------------------------------------------------------------------


def sign(arguments: argparse.Namespace) -> int:
    from filterd import signing
    from pipeline.adapters import dkimpy
    from pipeline.checks import crlf

    original = sys.stdin.buffer.read()
    message = crlf(original)
    out = b""
    try:
        for key in _keys(arguments, message):
            if arguments.algorithm and key.key.algorithm != arguments.algorithm:
                raise CliError(f"the key is for {key.key.algorithm}, not {arguments.algorithm}", USAGE)
            form = arguments.canonicalization
            out += dkimpy.sign(message, key.domain, key.selector, key.key, canonicalization=form)
    except dkimpy.SigningError as error:
        raise CliError(f"not signed: {error}", FOUND) from None
    except signing.SigningProblem as problem:
        raise CliError(str(problem), USAGE) from None
    if not out:
        raise CliError("no key is for the author of this message", FOUND)
    if message is not original and message != original:
        out = out.replace(b"\r\n", b"\n")  # as the message came
    sys.stdout.buffer.write(out + original)
    sys.stdout.buffer.flush()
    return OK


def _keys(arguments: argparse.Namespace, message: bytes) -> list[SigningKey]:
    from filterd import signing
    from pipeline.dkim.keyring import SigningKey

    if arguments.signing_table or arguments.key_table:
        return signing.read_tables(arguments.key_table, arguments.signing_table).keys_of(message)
    if not (arguments.key and arguments.domain and arguments.selector):
        raise CliError("needs --key, --domain and --selector, or --key-table and --signing-table", USAGE)
    domain = signing.check_domain(arguments.domain)
    selector = signing.check_selector(arguments.selector)
    return [SigningKey(domain, selector, signing.read_key(arguments.key))]
