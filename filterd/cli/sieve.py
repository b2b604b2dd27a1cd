"""Check and try filter scripts; list, store, activate and remove those of an account.

Examples:
  filterd sieve check main.sieve                          every error, with line, column and cure
  filterd sieve check --profile milter admin.sieve        is it fit for the mail of another server?
  filterd sieve run --script main.sieve --message a.eml   what it would do; nothing is done
  filterd sieve test mails/                               the mails of a folder against its expect.toml
  filterd sieve put ann@example.org main.sieve --activate            in the server's own files
  filterd sieve tests ann@example.org --put mails/        a script must pass them to become active
  filterd sieve list --server mail.example.org --user ann@example.org --password-stdin

`put`, `list`, `get`, `activate` and `rm` work on the files of the server (-c FILE, the account as first word) or,
with --server, as a ManageSieve client.

See also: filterd account --help, filterd explain --help
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from filterd.cli import FOUND, OK, TRY_AGAIN, USAGE, CliError, sieve_gate, sieve_test
from filterd.cli.options import add_config, add_json, load_config, print_json, read_password
from filterd.cli.sieve_run import (
    Cache,
    Request,
    answer,
    compiled_script,
    error_as_json,
    read_script,
    request_of,
    script_name,
)
from filterd.ports import SystemClock
from rules.compiler import CompiledScript, compile_script
from rules.errors import ScriptErrors, render

MANAGESIEVE_PORT = 4190  # RFC 5804 1.8
OWN_CERTIFICATE = ("tls", "self-signed.crt")  # below data_dir


class Scripts(Protocol):
    """What both the files and the client can do."""

    def list(self) -> list[tuple[str, bool]]: ...
    def get(self, name: str) -> str: ...
    def put(self, name: str, text: str) -> None: ...
    def activate(self, name: str) -> None: ...
    def delete(self, name: str) -> None: ...
    def close(self) -> None: ...


def configure(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    check = actions.add_parser("check", help="look for errors; exit 1 when there are any")
    check.add_argument("files", nargs="+", metavar="FILE")
    check.add_argument(
        "--profile",
        choices=("delivery", "milter"),
        default="delivery",
        help="milter: scripts over the mail of another server, which file and answer nothing",
    )
    add_json(check)
    run_one = actions.add_parser("run", help="run one script on one message and print what it would do")
    _configure_run(run_one)
    sieve_test.configure(actions)
    for name, help_text in (
        ("put", "store a script (refused when it has errors)"),
        ("list", "the scripts, the active one marked"),
        ("get", "print a script"),
        ("activate", "make a script the active one; without NAME, none is"),
        ("rm", "remove a script"),
        ("tests", "the account's rule tests: a script that fails one is not made active"),
    ):
        _configure_stored(actions.add_parser(name, help=help_text), name)


def _configure_run(parser: argparse.ArgumentParser) -> None:
    for option, help_text in (
        ("--script", "the script"),
        ("--message", "the message (default: standard input)"),
        ("--orig-to", "the address first asked for"),
        ("--from", 'the envelope sender, "" = null (default: from the message)'),
        ("--to", "the envelope recipient (default: from the message)"),
        ("--auth", "the login name of the client"),
        ("--state", "a folder that keeps the memory of duplicate and vacation between runs"),
        ("--personal", "the folder of scripts for include :personal"),
        ("--global", "the folder of scripts for include :global"),
        ("--mailboxes", "names of mailboxes that exist, with commas"),
        ("--config", "a file with a JSON object of settings"),
        ("--batch", "a file with one request (a JSON object) a line, - = standard input; one answer a line"),
    ):
        parser.add_argument(option, metavar=option.strip("-").upper(), help=help_text)
    add_json(parser)


def _configure_stored(parser: argparse.ArgumentParser, action: str) -> None:
    rest = {"put": "FILE", "list": "", "tests": ""}.get(action, "NAME")
    parser.add_argument("words", nargs="*", metavar="ARGUMENT", help=f"[ACCOUNT] {rest}".rstrip())
    parser.add_argument("--local", action="store_true", help="use the server's files (this is the default)")
    parser.add_argument("--server", metavar="HOST[:PORT]", help="ask this ManageSieve server instead")
    parser.add_argument("--user", metavar="ADDRESS", help="log-in name at the server")
    parser.add_argument("--password-stdin", action="store_true", help="read the password from standard input")
    parser.add_argument(
        "--ca", default="", metavar="FILE", help="trust this certificate (PEM); with -c, the server's own"
    )
    if action == "tests":
        sieve_gate.configure(parser)
    if action == "put":
        parser.add_argument("--name", help="the script's name (default: that of the file)")
        parser.add_argument("--activate", action="store_true", help="and make it the active one")
    add_config(parser)
    add_json(parser)


def run(arguments: argparse.Namespace) -> int:
    if arguments.action == "check":
        return check(arguments)
    if arguments.action == "run":
        return batch(arguments.batch) if arguments.batch else run_one(arguments)
    if arguments.action in ("test", "svtest"):
        return (sieve_test.test if arguments.action == "test" else sieve_test.svtest)(arguments)
    return stored(arguments)


# -- without a server ----------------------------------------------------------------------------------------------------


def check(arguments: argparse.Namespace) -> int:
    cache: Cache = {}
    bad = 0
    report: list[dict[str, object]] = []
    for path in arguments.files:
        text = _read(path)
        name = script_name(path)
        compiled = (
            _for_milter(text, name) if arguments.profile == "milter" else compiled_script(text, name, cache)
        )
        errors = compiled.errors if isinstance(compiled, ScriptErrors) else []
        warnings = [] if isinstance(compiled, ScriptErrors) else compiled.warnings
        bad += bool(errors)
        if arguments.json:
            found = {
                "errors": [error_as_json(e) for e in errors],
                "warnings": [error_as_json(w) for w in warnings],
            }
            report.append({"file": path, **found})
            continue
        print(render(errors, text, path), end="")
        print(render(warnings, text, path, kind="warning"), end="")
        if errors:
            print(f"{path}: {len(errors)} error{'s' if len(errors) > 1 else ''}")
        else:
            print(f"{path} is fine" + (f", {len(warnings)} warning(s)" if warnings else ""))
    if arguments.json:
        print_json(report)
    return FOUND if bad else OK


def _for_milter(text: str, name: str) -> CompiledScript | ScriptErrors:
    from filterd.milter_profile import compile_for_milter

    try:
        return compile_for_milter(text, name)
    except ScriptErrors as errors:
        return errors


def run_one(arguments: argparse.Namespace) -> int:
    if not arguments.script:
        raise CliError("name the script with --script FILE (or many requests with --batch FILE)")
    fields = {name: value for name, value in vars(arguments).items() if value is not None}
    try:
        if arguments.message in (None, "-"):
            fields["message_text"] = sys.stdin.buffer.read().decode("utf-8", "surrogateescape")
            fields.pop("message", None)
        request = request_of(fields)
    except OSError as error:
        raise CliError(f"{error.filename}: {error.strerror}") from None
    except ValueError as error:
        raise CliError(str(error)) from None
    found = answer(request, {}, SystemClock().time())
    if arguments.json:
        json.dump(found, sys.stdout)
        print()
    else:
        _print_answer(found, request)
    return FOUND if "compile_errors" in found else OK


def _print_answer(found: dict[str, object], request: Request) -> None:
    compiled = compiled_script(request.script, request.name, {})
    if isinstance(compiled, ScriptErrors):
        print(render(compiled.errors, request.script, request.name), end="")
        return
    trace, actions = found["trace"], found["actions"]
    assert isinstance(trace, list) and isinstance(actions, list)
    for step in trace:
        outcome = {True: "  true ", False: "  false"}.get(step["result"], "=>     ")
        detail = " ".join(json.dumps(step[key], ensure_ascii=False) for key in ("value", "key") if step[key])
        print(f"{step['script']}:{step['line']:<4} {outcome} {step['test']} {detail}".rstrip())
    if "runtime_error" in found:
        print(f"error: {found['runtime_error']} (the message is kept)")
    for action in actions:
        shown = {key: value for key, value in action.items() if key not in ("type", "message") and value}
        print(f"{action['type']}: " + ", ".join(f"{key} {value}" for key, value in shown.items()))
    if not actions:
        print("discard: nothing is stored or sent")


def batch(path: str) -> int:
    """One answer a line, in order, flushed at once; a bad request answers ``{"error": ...}`` and the rest goes on."""
    cache: Cache = {}
    clock = SystemClock()
    stream = sys.stdin if path == "-" else open(path, encoding="utf-8", errors="surrogateescape")
    with stream:
        for line in stream:
            if not line.strip():
                continue
            found: dict[str, object]
            try:
                fields = json.loads(line)
                if not isinstance(fields, dict):
                    raise ValueError("a request is one JSON object")
                found = answer(request_of(fields), cache, clock.time())
                if "id" in fields:
                    found = {"id": fields["id"], **found}
            except (ValueError, OSError) as error:
                found = {"error": str(error)}
            print(json.dumps(found), flush=True)
    return OK


def _read(path: str) -> str:
    try:
        return sys.stdin.read() if path == "-" else read_script(path)
    except OSError as error:
        raise CliError(f"{path}: {error.strerror}", USAGE) from None


# -- stored scripts ------------------------------------------------------------------------------------------------------


def stored(arguments: argparse.Namespace) -> int:
    from filterd.accounts.scripts_base import ScriptStoreError

    words = list(arguments.words)
    scripts = _remote(arguments) if arguments.server else _local(arguments, words)
    actions: dict[str, Callable[[argparse.Namespace, Scripts, list[str]], int]] = {
        "put": put,
        "list": listing,
        "get": get,
        "activate": activate,
        "rm": remove,
        "tests": tests,
    }
    try:
        return actions[arguments.action](arguments, scripts, words)
    except ScriptStoreError as error:
        raise CliError(f"{error.text}" + (f" ({error.code})" if error.code else ""), FOUND) from None
    except Exception as error:
        if not arguments.server or not hasattr(error, "temporary"):
            raise
        raise CliError(str(error), TRY_AGAIN if error.temporary else FOUND) from None
    finally:
        scripts.close()


def put(arguments: argparse.Namespace, scripts: Scripts, words: list[str]) -> int:
    path = _word(words, "the script's FILE")
    text = _read(path)
    name = arguments.name or script_name(path)
    if isinstance(scripts, _LocalScripts):  # the server checks what a client sends
        try:
            compile_script(text, name=name, capabilities=scripts.service.capabilities())
        except ScriptErrors as errors:
            print(render(errors.errors, text, path), end="", file=sys.stderr)
            raise CliError(f"{path} has errors; it was not stored", FOUND) from None
    scripts.put(name, text)
    if arguments.activate:
        scripts.activate(name)
    if arguments.json:
        print_json({"name": name, "active": bool(arguments.activate)})
    else:
        print(f'stored "{name}"' + (", active" if arguments.activate else ""))
    return OK


def listing(arguments: argparse.Namespace, scripts: Scripts, words: list[str]) -> int:
    found = scripts.list()
    if arguments.json:
        print_json([{"name": name, "active": active} for name, active in found])
        return OK
    for name, active in found:
        print(f"{'*' if active else ' '} {name}")
    if not found:
        print("no scripts")
    return OK


def get(arguments: argparse.Namespace, scripts: Scripts, words: list[str]) -> int:
    sys.stdout.buffer.write(scripts.get(_word(words, "the script's NAME")).encode("utf-8", "surrogateescape"))
    return OK


def activate(arguments: argparse.Namespace, scripts: Scripts, words: list[str]) -> int:
    name = words.pop(0) if words else ""
    scripts.activate(name)
    print(f'"{name}" is active' if name else "no script is active")
    return OK


def remove(arguments: argparse.Namespace, scripts: Scripts, words: list[str]) -> int:
    name = _word(words, "the script's NAME")
    scripts.delete(name)
    print(f'removed "{name}"')
    return OK


def tests(arguments: argparse.Namespace, scripts: Scripts, words: list[str]) -> int:
    if not isinstance(scripts, _LocalScripts):
        raise CliError("the tests are files of the server: leave --server out")
    return sieve_gate.act(arguments, scripts.tests, scripts.account, scripts.service)


def _word(words: list[str], what: str) -> str:
    if not words:
        raise CliError(f"{what} is missing")
    return words.pop(0)


def _remote(arguments: argparse.Namespace) -> Scripts:
    from filterd.cli.managesieve_client import RemoteError, RemoteScripts, Server

    host, separator, port = arguments.server.rpartition(":")
    if not separator or not port.isdecimal():
        host, port = arguments.server, str(MANAGESIEVE_PORT)
    if not arguments.user:
        raise CliError("--server needs --user ADDRESS")
    password = read_password(True)
    assert password is not None
    try:
        return RemoteScripts(
            Server(host.strip("[]"), int(port), arguments.user, password, _trusted(arguments))
        )
    except RemoteError as error:
        raise CliError(str(error), TRY_AGAIN if error.temporary else FOUND) from None


def _trusted(arguments: argparse.Namespace) -> str:
    """The certificate to trust: --ca, or with -c the one this server signed for itself."""
    if arguments.ca or not arguments.config:
        return str(arguments.ca)
    own = os.path.join(load_config(arguments).server.data_dir, *OWN_CERTIFICATE)
    return own if os.path.exists(own) else ""


class _LocalScripts:
    """The account's files; what root writes belongs to the server's user."""

    def __init__(self, arguments: argparse.Namespace, account: str) -> None:
        from filterd import execclient
        from filterd.accounts.database import AccountDatabase
        from filterd.accounts.names import fold
        from filterd.accounts.places import account_folder, database_path, scripts_of, tests_of
        from filterd.scripts import ScriptService
        from filterd.store.durable import RealDisk

        self._config = load_config(arguments)
        database = AccountDatabase(database_path(self._config), SystemClock())
        try:
            if fold(account) not in database.records():
                raise CliError(f"there is no account {account}; `filterd account list` shows all", FOUND)
        finally:
            database.close()
        self._folder = account_folder(self._config, fold(account))
        self.account = fold(account)
        self.tests = tests_of(self._config, self.account)
        files = scripts_of(self._config, self.account, RealDisk())
        self.service = ScriptService(
            lambda _: files,
            global_dir=Path(self._config.server.data_dir) / "sieve" / "global",
            tests_of=lambda _: self.tests,
            # Words of programs are offered where their service runs, as the server does it.
            more=execclient.CAPABILITIES if execclient.reachable(self._config.exec.socket) else (),
        )
        self._store = self.service.of(self.account)

    def list(self) -> list[tuple[str, bool]]:
        return [(info.name, info.active) for info in self._store.list()]

    def get(self, name: str) -> str:
        return self._store.get(name)

    def put(self, name: str, text: str) -> None:
        self._store.put(name, text)

    def activate(self, name: str) -> None:
        self._store.activate(name)

    def delete(self, name: str) -> None:
        self._store.delete(name)

    def close(self) -> None:
        from filterd.accounts.scripts import ACTIVE, FOLDER
        from filterd.cli.ownership import hand_over

        hand_over(self._config, os.path.join(self._folder, FOLDER), os.path.join(self._folder, ACTIVE))


def _local(arguments: argparse.Namespace, words: list[str]) -> Scripts:
    return _LocalScripts(arguments, _word(words, "the ACCOUNT"))
