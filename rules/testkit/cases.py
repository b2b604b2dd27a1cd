"""Rule tests for people: a folder of mails and a file that says what is to become of each.

    FOLDER/expect.toml      what is expected
    FOLDER/*.eml            the mails
    FOLDER/*.sieve          the script, when expect.toml does not name another and no other is given

``expect.toml`` has general keys, then one table a case:

    script = "../main.sieve"             # beside this file; left out: the one *.sieve of the folder
    to = "ann@example.org"               # for all cases; each case may say otherwise
    mailboxes = ["Work", "Lists"]        # those that exist; left out: every mailbox exists
    remember = true                      # duplicate and vacation remember from case to case, in their order

    ["invoice.eml"]                      # the name of a mail, or any name with message = "invoice.eml"
    filed = ["Work"]                     # exactly these mailboxes (INBOX: it is kept)
    flags = ["\\\\Seen"]                   # of what is filed
    redirected = ["boss@example.org"]

What a case may say is in ``KEYS``. ``run_folder`` gives the outcome of each case; ``failures`` is the same as an
activation gate wants it: texts, none when the script may go live. Nothing is stored or sent.
"""

from __future__ import annotations

import difflib
import json
import os
import re
import tomllib
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime

from rules.actions import (
    Discard,
    FileInto,
    Keep,
    Notify,
    Redirect,
    Reject,
    Remember,
    RunResult,
    TraceStep,
    Vacation,
)
from rules.compiler import CompiledScript, compile_script
from rules.errors import ScriptErrors, render
from rules.host import ScriptEnvelope
from rules.interpreter import run
from rules.limits import DEFAULT, Limits
from rules.mail.message import Message
from rules.result import is_inbox
from rules.simplehost import SimpleHost
from rules.testkit.bench import derive
from rules.testkit.show import action_text, step_text

EXPECT = "expect.toml"
MAX_FILE = 64 << 20
KEYS: Mapping[str, str] = {
    "message": "the mail's file, when the case is not named after it",
    "from": 'envelope sender, "" = null; left out: from the mail',
    "to": "envelope recipient; left out: from the mail",
    "orig_to": "the address first asked for",
    "auth": "log-in name of the sender's client",
    "now": "the moment, a TOML date and time; left out: 2026-01-01T00:00:00Z",
    "own": "further addresses of the owner",
    "mailboxes": "mailboxes that exist; left out: every one does",
    "special_use": 'mailbox to special use, { Spam = "\\\\Junk" }',
    "lists": 'lists of extlists, { friends = ["a@b"] }',
    "environment": 'environment items, { remote-ip = "192.0.2.1" }',
    "spam": "[score, threshold] of the spam check; left out: not checked",
    "virus": "0 to 5; left out: not checked",
    "filed": 'mailboxes the mail is stored in, all of them; "INBOX" = kept',
    "flags": "IMAP flags of what is filed: a list, or a table by mailbox",
    "redirected": "addresses it is sent on to, all of them",
    "rejected": "true, false, or a piece of the reason",
    "discarded": "true: nothing is stored, sent or refused",
    "answered": "vacation: true, false, or a piece of the subject or text",
    "notified": "addresses (or methods) notified, all of them",
    "error": "true, or a piece of the text: the script fails at this mail",
    "header": 'fields of what is stored or sent on, { Subject = "..." }; "" = absent',
    "lines": "script lines that must have taken part: an action, or a test that was true",
}
_GENERAL = ("script", "remember")
_ADDRESSES = ("filed", "redirected", "notified", "mailboxes", "own")
_BARE = re.compile(rb"(?<!\r)\n|\r(?!\n)")


class ExpectError(Exception):
    """``expect.toml`` or the folder is not usable; the text says what and where."""


@dataclass(slots=True)
class Case:
    """One case: its name, its mail, and what it says."""

    name: str
    path: str
    says: dict[str, object]


@dataclass(slots=True)
class Folder:
    """A read folder."""

    path: str
    script: str  # its path, empty when none was found
    cases: list[Case]
    remember: bool = False
    unnamed: list[str] = field(default_factory=list)  # mails without a case


@dataclass(slots=True)
class Outcome:
    """What became of a case. ``failures`` is empty when it is as expected."""

    name: str
    failures: list[str]
    done: list[str] = field(default_factory=list)
    because: list[str] = field(default_factory=list)  # the trace of a case that failed


def read_folder(path: str) -> Folder:
    """Reads a folder's expectations. Raises ExpectError."""
    expect = os.path.join(path, EXPECT)
    try:
        with open(expect, "rb") as stream:
            data: dict[str, object] = tomllib.load(stream)
    except FileNotFoundError:
        data = {}
    except OSError as error:
        raise ExpectError(f"{expect}: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ExpectError(f"{expect}: {error}") from None
    general = {name: value for name, value in data.items() if not _is_case(name, value)}
    for name in general:
        _known(name, (*_GENERAL, *KEYS), expect, "")
    shared = {name: value for name, value in general.items() if name not in _GENERAL}
    cases: list[Case] = []
    for name, value in data.items():
        if name in general or not isinstance(value, dict):
            continue
        for key in value:
            _known(key, KEYS, expect, f" in [{json.dumps(name)}]")
        says = {**shared, **value}
        cases.append(Case(name, os.path.join(path, str(says.get("message", name))), says))
    mails = sorted(name for name in _names(path) if name.endswith(".eml"))
    used = {os.path.normpath(case.path) for case in cases}
    unnamed = [name for name in mails if os.path.normpath(os.path.join(path, name)) not in used]
    return Folder(path, _script_of(path, general), cases, bool(general.get("remember", False)), unnamed)


def _is_case(name: str, value: object) -> bool:
    return isinstance(value, dict) and name not in ("special_use", "lists", "environment", "header", "flags")


def _known(key: str, keys: Sequence[str] | Mapping[str, str], path: str, where: str) -> None:
    if key in keys:
        return
    near = difflib.get_close_matches(key, list(keys), 1, 0.6)
    cure = f'; did you mean "{near[0]}"?' if near else f"; known are {', '.join(keys)}"
    raise ExpectError(f'{path}: the key "{key}" is not known{where}{cure}')


def _names(path: str) -> list[str]:
    try:
        return os.listdir(path)
    except OSError as error:
        raise ExpectError(f"{path}: {error.strerror}") from None


def _script_of(path: str, general: Mapping[str, object]) -> str:
    named = general.get("script")
    if isinstance(named, str):
        return os.path.join(path, named)
    scripts = sorted(name for name in _names(path) if name.endswith(".sieve"))
    return os.path.join(path, scripts[0]) if len(scripts) == 1 else ""


def read_octets(path: str) -> bytes:
    """A file; raises ExpectError."""
    try:
        with open(path, "rb") as stream:
            return stream.read(MAX_FILE)
    except OSError as error:
        raise ExpectError(f"{path}: {error.strerror}") from None


def run_folder(
    folder: Folder,
    script_text: str | None = None,
    *,
    limits: Limits = DEFAULT,
    capabilities: Collection[str] | None = None,
    fetch: Callable[[str, str], str | None] | None = None,
) -> list[Outcome]:
    """Runs every case. Raises ExpectError, and ScriptErrors when the script does not compile.

    ``fetch`` finds the scripts to include that the folder does not have.
    """
    text = script_text
    if text is None:
        if not folder.script:
            raise ExpectError(f"{folder.path}: name the script, with script = ... in {EXPECT} or --script")
        text = read_octets(folder.script).decode("utf-8", "replace")
    name = _short(folder.script) or "script"
    compiled = compile_script(text, name=name, limits=limits, capabilities=capabilities)
    remembered: set[bytes] = set()
    outcomes: list[Outcome] = []
    for case in folder.cases:
        host = _host(case, folder)
        host.fetch = fetch
        if folder.remember:
            host.remembered = remembered
        outcomes.append(_run_case(case, compiled, host, limits))
    outcomes += [Outcome(name, [f"{EXPECT} says nothing about it"]) for name in folder.unnamed]
    return outcomes


def failures(
    folder_path: str,
    script_text: str,
    *,
    limits: Limits = DEFAULT,
    capabilities: Collection[str] | None = None,
    fetch: Callable[[str, str], str | None] | None = None,
) -> list[str]:
    """The activation gate: why this script must not go live, one text a failure; empty: it may. Never raises."""
    try:
        folder = read_folder(folder_path)
        outcomes = run_folder(folder, script_text, limits=limits, capabilities=capabilities, fetch=fetch)
    except ExpectError as error:
        return [str(error)]
    except ScriptErrors as error:
        return [f"line {one.line}: {one.message}" for one in error.errors]
    return [f"{outcome.name}: {text}" for outcome in outcomes for text in outcome.failures]


def _short(path: str) -> str:
    return os.path.basename(path).removesuffix(".sieve")


def _host(case: Case, folder: Folder) -> SimpleHost:
    says = case.says
    host = SimpleHost()
    moment = says.get("now")
    if isinstance(moment, datetime):
        host.moment = moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)
    boxes = _texts(says, "mailboxes")
    host.mailboxes = None if boxes is None else set(boxes)
    for name, use in _table(says, "special_use").items():
        host.special_uses[name] = {str(one) for one in use} if isinstance(use, list) else {str(use)}
    for name, members in _table(says, "lists").items():
        host.lists[name] = {str(one) for one in members} if isinstance(members, list) else {str(members)}
    host.items = {name: str(value) for name, value in _table(says, "environment").items()}
    spam = says.get("spam")
    if isinstance(spam, list) and len(spam) == 2:
        host.spam = (float(spam[0]), float(spam[1]))
    virus = says.get("virus")
    host.virus = virus if isinstance(virus, int) else None
    for name in _names(folder.path):
        if name.endswith(".sieve"):
            text = read_octets(os.path.join(folder.path, name)).decode("utf-8", "replace")
            host.scripts[("personal", name.removesuffix(".sieve"))] = text
    return host


def _run_case(case: Case, compiled: CompiledScript, host: SimpleHost, limits: Limits) -> Outcome:
    try:
        message = Message(_BARE.sub(b"\r\n", read_octets(case.path)))
    except ExpectError as error:
        return Outcome(case.name, [str(error)])
    envelope = _envelope(case.says, message)
    host.addresses = [envelope.rcpt_to, envelope.orig_to, *(_texts(case.says, "own") or ())]
    result = run([compiled], message, envelope, host, limits=limits, merge=False)
    wrong = Judge(case.says, result, message).judge()
    for action in result.actions:
        if isinstance(action, Remember):
            host.remembered.add(action.key)
        elif isinstance(action, Vacation):
            host.remembered.add(action.memory_key)
    done = [text for action in result.actions if (text := action_text(action))] or ["nothing"]
    because = [step_text(step) for step in _telling(result.trace)] if wrong else []
    return Outcome(case.name, wrong, done, because)


def _telling(trace: Sequence[TraceStep]) -> list[TraceStep]:
    """The steps that explain an outcome: what was true, what was done; all when nothing was."""
    told = [step for step in trace if step.result is not False]
    return (told or list(trace))[-20:]


def _envelope(says: Mapping[str, object], message: Message) -> ScriptEnvelope:
    envelope = derive(message, str(says.get("auth", "")))
    sender, to, original = (says.get(name) for name in ("from", "to", "orig_to"))
    if isinstance(sender, str):
        envelope = replace(envelope, mail_from=sender)
    if isinstance(to, str):
        envelope = replace(envelope, rcpt_to=to, orig_to=to)
    if isinstance(original, str):
        envelope = replace(envelope, orig_to=original)
    return envelope


def _table(says: Mapping[str, object], name: str) -> Mapping[str, object]:
    value = says.get(name)
    return value if isinstance(value, dict) else {}


def _texts(says: Mapping[str, object], name: str) -> list[str] | None:
    value = says.get(name)
    if value is None:
        return None
    return [str(one) for one in value] if isinstance(value, list) else [str(value)]


class Judge:
    """Compares one run with what was expected; the first letter of each text is small, there is no dot."""

    def __init__(self, says: Mapping[str, object], result: RunResult, message: Message) -> None:
        self.says = says
        self.result = result
        self.message = message
        self.wrong: list[str] = []

    def judge(self) -> list[str]:
        """Every difference."""
        actions = self.result.actions
        if self.result.error is not None and not self.says.get("error"):
            self.wrong.append(f"the script failed: {self.result.error}")
        self._set("filed", sorted(_mailbox(one) for one in actions if isinstance(one, Keep | FileInto)))
        self._set("redirected", sorted(one.address.lower() for one in actions if isinstance(one, Redirect)))
        notified = [one.recipients or (one.method,) for one in actions if isinstance(one, Notify)]
        self._set("notified", sorted(address.lower() for group in notified for address in group))
        rejects = [one.reason for one in actions if isinstance(one, Reject)]
        self._word("rejected", rejects, "refused")
        answers = [f"{one.subject}\n{one.body}" for one in actions if isinstance(one, Vacation)]
        self._word("answered", answers, "answered")
        self._word("error", [self.result.error] if self.result.error is not None else [], "failing")
        if "discarded" in self.says:
            ends = [one for one in actions if not isinstance(one, Discard | Remember)]
            self._same("discarded", self.says["discarded"], not ends)
        self._flags()
        self._headers()
        self._lines()
        return self.wrong

    def _same(self, key: str, expected: object, got: object) -> None:
        if expected != got:
            self.wrong.append(f"{key}: expected {_shown(expected)}, got {_shown(got)}")

    def _set(self, key: str, got: list[str]) -> None:
        wanted = _texts(self.says, key)
        if wanted is None:
            return
        fold = (lambda text: "INBOX" if is_inbox(text) else text) if key == "filed" else str.lower
        self._same(key, sorted(map(fold, wanted)), got)

    def _word(self, key: str, got: Sequence[str], word: str) -> None:
        wanted = self.says.get(key)
        if isinstance(wanted, bool):
            if wanted != bool(got):
                said = f": {_shown(got[0])}" if got else ""
                self.wrong.append(f"{key}: it is {'not ' if wanted else ''}{word}{said}")
        elif isinstance(wanted, str):
            if not any(wanted.lower() in text.lower() for text in got):
                self.wrong.append(f"{key}: expected {_shown(wanted)} in {_shown(list(got))}")

    def _flags(self) -> None:
        wanted = self.says.get("flags")
        if wanted is None:
            return
        stores = {_mailbox(one): one.flags for one in self.result.actions if isinstance(one, Keep | FileInto)}
        if not isinstance(wanted, dict):
            wanted = dict.fromkeys(stores, wanted)
        for mailbox, flags in wanted.items():
            expected = sorted(str(flag).lower() for flag in (flags if isinstance(flags, list) else [flags]))
            got = sorted(flag.lower() for flag in stores.get(mailbox, ()))
            self._same(f"flags in {mailbox}", expected, got)

    def _headers(self) -> None:
        for action in self.result.actions:
            if not isinstance(action, Keep | FileInto | Redirect):
                continue
            final = self.message if action.message is None else Message(action.message)
            for name, wanted in _table(self.says, "header").items():
                lname = name.lower().encode("utf-8", "replace")
                present = final.first(lname) is not None
                got = final.text(lname) if present else ""
                if got != str(wanted) or (present and wanted == ""):
                    self.wrong.append(f"header {name}: expected {_shown(wanted)}, got {_shown(got)}")
            return

    def _lines(self) -> None:
        wanted = self.says.get("lines")
        taken = {step.line for step in self.result.trace if step.result is not False}
        for line in wanted if isinstance(wanted, list) else ([] if wanted is None else [wanted]):
            if line not in taken:
                self.wrong.append(f"lines: line {line} did not take part")


def _mailbox(action: Keep | FileInto) -> str:
    return "INBOX" if isinstance(action, Keep) or is_inbox(action.mailbox) else action.mailbox


def _shown(value: object) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 200 else text[:199] + "\N{HORIZONTAL ELLIPSIS}"


def snapshot(folder: Folder, script_text: str | None = None) -> str:
    """TOML tables for the mails that have no case yet, saying what the script does with them now."""
    cases = [Case(name, os.path.join(folder.path, name), {}) for name in folder.unnamed]
    text = script_text
    if text is None:
        text = read_octets(folder.script).decode("utf-8", "replace")
    compiled = compile_script(text, name=_short(folder.script) or "script")
    out: list[str] = []
    for case in cases:
        message = Message(_BARE.sub(b"\r\n", read_octets(case.path)))
        envelope = derive(message, "")
        host = _host(case, folder)
        host.addresses = [envelope.rcpt_to]
        result = run([compiled], message, envelope, host, merge=False)
        out.append(f"\n[{json.dumps(case.name)}]\n" + "".join(_observed(result)))
    return "".join(out)


def _observed(result: RunResult) -> list[str]:
    actions = result.actions
    lines = [
        f"filed = {json.dumps(sorted(_mailbox(one) for one in actions if isinstance(one, Keep | FileInto)))}\n"
    ]
    sent = sorted(one.address.lower() for one in actions if isinstance(one, Redirect))
    if sent:
        lines.append(f"redirected = {json.dumps(sent)}\n")
    for kind, name in ((Reject, "rejected"), (Vacation, "answered")):
        if any(isinstance(one, kind) for one in actions):
            lines.append(f"{name} = true\n")
    if result.error is not None:
        lines.append("error = true\n")
    return lines


def show_folder(folder: Folder, outcomes: Sequence[Outcome]) -> str:
    """The report for people."""
    out: list[str] = []
    for outcome in outcomes:
        if not outcome.failures:
            out.append(f"ok    {outcome.name}: {'; '.join(outcome.done)}")
            continue
        out.append(f"FAIL  {outcome.name}: {'; '.join(outcome.done) or 'not run'}")
        out += [f"      {text}" for text in outcome.failures]
        out += [f"      | {text}" for text in outcome.because]
    failed = sum(bool(outcome.failures) for outcome in outcomes)
    out.append(f"{folder.path}: {len(outcomes) - failed} of {len(outcomes)} as expected")
    return "\n".join(out) + "\n"


def run_and_show(path: str, script: str | None = None, *, write: bool = False) -> tuple[str, int]:
    """The command: (report, exit code). 0: all as expected; 1: not; 2: folder or expectations are not usable."""
    try:
        folder = read_folder(path)
        text = None if script is None else read_octets(script).decode("utf-8", "replace")
        if script is not None:
            folder.script = script
        if write and folder.unnamed:
            new = snapshot(folder, text)
            with open(os.path.join(path, EXPECT), "a", encoding="utf-8") as stream:
                stream.write(new)
            folder = replace(read_folder(path), script=folder.script)
        outcomes = run_folder(folder, text)
    except ExpectError as error:
        return f"{error}\n", 2
    except ScriptErrors as error:
        source = text if text is not None else read_octets(folder.script).decode("utf-8", "replace")
        return render(error.errors, source, folder.script), 1
    if not outcomes:
        return f"{path}: there are no mails (*.eml)\n", 2
    return show_folder(folder, outcomes), int(any(outcome.failures for outcome in outcomes))
