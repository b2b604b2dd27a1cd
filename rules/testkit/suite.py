"""vnd.dovecot.testsuite: the commands and tests of the test dialect.

Specification: SIEVE.md section 1. The extension is in no registry but the runner's (``registry``). A ``test``
block compiles to: begin, its commands, done; ``test_fail`` jumps behind the block. Everything works on the
``Bench`` that is the run's host.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

from rules.context import Run
from rules.errors import RunError, ScriptErrors
from rules.execute import execute
from rules.host import ScriptEnvelope
from rules.interpreter import run as run_chain
from rules.interpreter import start_script
from rules.match import Matcher, expand
from rules.registry import (
    CommandFn,
    CommandSpec,
    Extension,
    Kind,
    Namespace,
    Param,
    Registry,
    TagSpec,
    TestFn,
    TestSpec,
    default_registry,
)
from rules.testkit import deliver
from rules.testkit.bench import Bench, to_octets
from rules.testkit.closure import Closure

if TYPE_CHECKING:
    from rules.bound import Bound
    from rules.checker import Checker
    from rules.compiler import CompiledScript, Emitter

CAPABILITY = "vnd.dovecot.testsuite"
_NEEDS = (CAPABILITY,)
_OBJECTS = (
    *("message", "envelope.from", "envelope.to", "envelope.orig_to", "envelope.auth"),
    *("envelope.mail_param", "envelope.rcpt_param"),  # ours: "NAME=value", an ESMTP parameter
)
_MARK = "svtest"  # of the open test block, in Emitter.marks
_STATE = ("state",)


class TestFailed(RunError):
    """``test_fail`` outside of a test block."""

    __test__ = False


def bench_of(run: Run) -> Bench:
    """The simulated server of a run."""
    host = run.host
    assert isinstance(host, Bench)
    return host


# -- test blocks ---------------------------------------------------------------------------------------------


def _check_test(checker: Checker, bound: Bound) -> None:
    if _MARK in checker.scope.marks:
        message = "tests cannot be nested: test stands at the top level only"
        checker.error(bound.node.pos, "test-place", message, "close the block before it")


def _enter_test(checker: Checker, bound: Bound) -> Callable[[], None]:
    before = checker.scope.marks.get(_MARK)
    checker.scope.marks[_MARK] = True

    def leave() -> None:
        if before is None:
            checker.scope.marks.pop(_MARK, None)

    return leave


def _emit_test(emitter: Emitter, bound: Bound) -> None:
    behind = emitter.label()
    name = bound.text(0)

    def begin(run: Run) -> bool:
        bench_of(run).current = run.expand(name)
        run.loops.clear()
        return True

    def done(run: Run) -> None:
        bench = bench_of(run)
        bench.results.append((bench.current, None, bound.line))
        bench.current = ""

    emitter.call(bound, begin, behind)
    emitter.marks.setdefault(_MARK, []).append(behind)
    emitter.block(bound.block or ())
    emitter.marks[_MARK].pop()
    emitter.action(bound, done)
    emitter.here(behind)


def _emit_fail(emitter: Emitter, bound: Bound) -> None:
    reason = bound.text(0)
    inside = bool(emitter.marks.get(_MARK))

    def fail(run: Run) -> bool:
        bench = bench_of(run)
        text = run.expand(reason)
        if not inside:
            raise TestFailed(text)
        bench.results.append((bench.current, text, bound.line))
        bench.current = ""
        return False

    behind = emitter.marks[_MARK][-1] if inside else emitter.label()
    emitter.call(bound, fail, behind)
    if not inside:
        emitter.here(behind)


# -- what is under test --------------------------------------------------------------------------------------


def _check_set(checker: Checker, bound: Bound) -> None:
    name = bound.text(0)
    if isinstance(name, str) and name.lower() not in _OBJECTS:
        message = f'test_set: there is no object "{name[:60]}"'
        checker.error(checker.where(bound, 0), "test-object", message, f"one of {', '.join(_OBJECTS)}")


def _set(bound: Bound) -> CommandFn:
    name, value = str(bound.text(0)).lower(), bound.text(1)

    def act(run: Run) -> None:
        bench = bench_of(run)
        text = run.expand(value)
        old = run.envelope
        sender, to, original, auth = old.mail_from, old.rcpt_to, old.orig_to, old.auth
        match name:
            case "message":
                bench.set_message(run, to_octets(text))
                return
            case "envelope.from":
                sender = text
            case "envelope.to":
                to = original = text
            case "envelope.orig_to":
                original = text
            case "envelope.mail_param" | "envelope.rcpt_param":
                run.envelope = _with_parameter(old, text, mail=name == "envelope.mail_param")
                return
            case _:
                auth = text
        run.envelope = ScriptEnvelope(sender, to, original, auth, old.mail_params, old.rcpt_params)

    return act


def _with_parameter(envelope: ScriptEnvelope, text: str, *, mail: bool) -> ScriptEnvelope:
    name, _, value = text.partition("=")
    if mail:
        return replace(envelope, mail_params={**envelope.mail_params, name.upper(): value})
    return replace(envelope, rcpt_params={**envelope.rcpt_params, name.upper(): value})


def _take_message(run: Run, bound: Bound) -> str | None:
    """Makes a message of the outbox or of a mailbox the current one; the reason when there is none."""
    bench = bench_of(run)
    index = bound.number(0)
    box = bound.tag_text("folder") if bound.has("folder") else bound.tag_text("mailbox")
    if box is None:
        if index >= len(bench.outbox):
            return f"no outgoing message with index {index} found"
        sent = bench.outbox[index]
        envelope = ScriptEnvelope(
            sent.sender,
            sent.recipient,
            sent.recipient,
            mail_params=sent.mail_params,
            rcpt_params=sent.rcpt_params,
        )
        bench.set_message(run, sent.data, envelope)
        return None
    name = run.expand(box)
    if "\ufffd" in name:
        raise RunError("test_message: the mailbox name is not valid UTF-8")
    stored = bench.store.message(name, index)
    if stored is None:
        return f"no message with index {index} found in folder '{name}'"
    bench.set_message(run, stored.data)
    run.flags = stored.flags
    return None


def _check_message(checker: Checker, bound: Bound) -> None:
    if not any(bound.has(tag) for tag in ("smtp", "folder", "mailbox")):
        checker.error(bound.node.pos, "arguments", "test_message needs :smtp or :folder", "write :smtp 0")


def _emit_message(emitter: Emitter, bound: Bound) -> None:
    """The command: the test fails when there is no such message."""
    inside = bool(emitter.marks.get(_MARK))

    def fetch(run: Run) -> bool:
        bench = bench_of(run)
        why = _take_message(run, bound)
        if why is None:
            return True
        if not inside:
            raise TestFailed(why)
        bench.results.append((bench.current, why, bound.line))
        bench.current = ""
        return False

    behind = emitter.marks[_MARK][-1] if inside else emitter.label()
    emitter.call(bound, fetch, behind)
    if not inside:
        emitter.here(behind)


def _message_test(bound: Bound) -> TestFn:
    return lambda run: _take_message(run, bound) is None


def _print_message(bound: Bound) -> CommandFn:
    def act(run: Run) -> None:
        bench_of(run).printed.append((run.view.rendered() or run.message.data).decode("utf-8", "replace"))

    return act


# -- scripts -------------------------------------------------------------------------------------------------


def _log_compile(bench: Bench, failure: ScriptErrors) -> None:
    """Pigeonhole closes the list of errors with one that sums up, an entry of its own."""
    bench.errors.extend(error.message for error in failure.errors)
    kind = "parse" if failure.parse_failed else "validation"
    bench.errors.append(f"{kind} failed for script '{failure.name}'")


def _compiled(bench: Bench, path: str) -> CompiledScript | None:
    bench.errors.clear()
    try:
        script = bench.compile(path)
    except ScriptErrors as failure:
        _log_compile(bench, failure)
        return None
    if script is None:
        bench.errors.append(f"script file '{path}' not found")
        return None
    bench.errors.extend(Closure(bench.include, bench.limits()).errors(script))
    return None if bench.errors else script


def _compile(bound: Bound) -> TestFn:
    path = bound.text(0)

    def test(run: Run) -> bool:
        bench = bench_of(run)
        script = _compiled(bench, run.expand(path))
        if script is not None:
            bench.script = script
        return script is not None

    return test


def _run_script(bound: Bound) -> TestFn:
    appends = bound.has("append_result")

    def test(run: Run) -> bool:
        bench = bench_of(run)
        if bench.script is None:
            raise RunError("test_script_run: no script was compiled before")
        bench.errors.clear()
        inner = Run(run.message, run.envelope, bench, bench.limits(), trace=False)
        if appends and bench.inner is not None:
            inner.flags = bench.inner.flags
        if not appends:
            bench.reset_result(run)
        try:
            start_script(inner, bench.script)
            execute(inner, bench.script)
        except RunError as error:  # RFC 5228 2.10.6: what it did is not done, the message is kept
            bench.errors.append(str(error))
            return False
        if appends:
            deliver.append(run.result, inner.result)
            inner.result = run.result
        else:
            run.result = inner.result
        bench.inner = inner
        run.view = bench.view = inner.view
        return True

    return test


def _multiscript(bound: Bound) -> TestFn:
    paths = bound.texts(0)

    def test(run: Run) -> bool:
        bench = bench_of(run)
        scripts: list[CompiledScript] = []
        for path in expand(run, paths):
            script = _compiled(bench, path)
            if script is None:
                return False
            scripts.append(script)
        bench.reset_result(run)
        bench.errors.clear()
        outcome = run_chain(scripts, run.message, run.envelope, bench, limits=bench.limits(), trace=False)
        if outcome.error is not None:
            bench.errors.append(outcome.error)
        done = deliver.Performer(bench, run).perform(outcome.actions)
        return done and outcome.error is None

    return test


def _save(bound: Bound) -> CommandFn:
    def act(run: Run) -> None:
        bench = bench_of(run)
        if bench.script is None:
            raise RunError("test_binary_save: no script was compiled before")
        bench.binaries[run.expand(bound.text(0))] = bench.script

    return act


def _load(bound: Bound) -> CommandFn:
    def act(run: Run) -> None:
        bench = bench_of(run)
        name = run.expand(bound.text(0))
        if name not in bench.binaries:
            raise RunError(f'test_binary_load: nothing was saved as "{name}"')
        bench.script = bench.binaries[name]

    return act


# -- results -------------------------------------------------------------------------------------------------


def _matcher(bound: Bound) -> Matcher:
    """The match with the default comparator i;octet."""
    assert bound.match is not None and bound.comparator is not None
    comparator = bound.comparator
    if not bound.has("comparator"):
        comparator = default_registry().comparators["i;octet"]
    return bound.match.link(bound, comparator, bound.keys)


def _indexed(bound: Bound, values: list[str]) -> list[str]:
    index = bound.tag_number("index")
    if index is None:
        return values
    return [values[index - 1]] if 1 <= index <= len(values) else []


def _result_action(bound: Bound) -> TestFn:
    match = _matcher(bound)
    return lambda run: match(run, _indexed(bound, deliver.names(run.result)))


def _error(bound: Bound) -> TestFn:
    match = _matcher(bound)
    return lambda run: match(run, _indexed(bound, bench_of(run).errors))


def _execute_result(bound: Bound) -> TestFn:
    def test(run: Run) -> bool:
        bench = bench_of(run)
        bench.errors.clear()
        return deliver.execute(bench, run)

    return test


def _reset_result(bound: Bound) -> CommandFn:
    return lambda run: bench_of(run).reset(run)


def _print_result(bound: Bound) -> CommandFn:
    def act(run: Run) -> None:
        names = [f"  {number}: {name}" for number, name in enumerate(deliver.names(run.result), 1)]
        keep = "yes" if run.result.implicit_keep else "no"
        bench_of(run).printed.append("\n".join(["actions:", *names, f"implicit keep: {keep}"]))

    return act


# -- mailboxes and settings ----------------------------------------------------------------------------------


def _mailbox(bound: Bound) -> CommandFn:
    create = bound.name == "test_mailbox_create"

    def act(run: Run) -> None:
        store, name = bench_of(run).store, run.expand(bound.text(0))
        if create:
            store.create(name)
            use = bound.tag_text("specialuse")
            if use is not None:
                store.special_uses[run.expand(use).lower()] = store.name(name)
            known = bound.tag_text("mailboxid")
            if known is not None:
                store.ids[run.expand(known)] = store.name(name)
        elif not store.delete(name):
            raise RunError(f"test_mailbox_delete: there is no mailbox {name}")

    return act


def _config(bound: Bound) -> CommandFn:
    def act(run: Run) -> None:
        bench, name = bench_of(run), run.expand(bound.text(0))
        if bound.name == "test_config_set":
            bench.pending[name] = run.expand(bound.text(1))
        else:
            bench.pending.pop(name, None)

    return act


def _check_reload(checker: Checker, bound: Bound) -> None:
    name = bound.tag_text("extension")
    if isinstance(name, str) and not checker.available(name):
        message = f'test_config_reload: the extension "{name[:60]}" is not known'
        checker.error(checker.where_tag(bound, "extension"), "extension", message)


def _reload(bound: Bound) -> CommandFn:
    return lambda run: bench_of(run).reload(run)


def _metadata(bound: Bound) -> CommandFn:
    def act(run: Run) -> None:
        store = bench_of(run).store
        box = bound.tag_text("mailbox")
        mailbox = None if box is None else store.name(run.expand(box))
        store.annotations[(mailbox, run.expand(bound.text(0)).lower())] = run.expand(bound.text(1))

    return act


def _read_tst(run: Run, name: str) -> str:
    return bench_of(run).folder if name == "path" else ""


def _command(name: str, link: object, *params: Param, check: object = None) -> CommandSpec:
    return CommandSpec(name, _NEEDS, params, link=link, check=check)  # type: ignore[arg-type]  # one line a word below


_NAME, _VALUE = Param("name", Kind.STRING), Param("value", Kind.STRING)
_BOX = Param("mailbox", Kind.STRING)
_INDEX = Param("index", Kind.NUMBER)
_KEYS = Param("keys", Kind.STRINGS)
_SCRIPT = Param("script", Kind.STRING)
_MESSAGE = ("test_message",)

EXTENSION = Extension(
    CAPABILITY,
    _NEEDS,
    dialect="SIEVE.md section 1",
    default=False,
    commands=(
        CommandSpec(
            "test", _NEEDS, (_NAME,), block=True, check=_check_test, enter=_enter_test, emit=_emit_test
        ),
        CommandSpec("test_fail", _NEEDS, (Param("reason", Kind.STRING),), emit=_emit_fail),
        CommandSpec("test_message", _NEEDS, (_INDEX,), check=_check_message, emit=_emit_message),
        _command("test_set", _set, Param("object", Kind.STRING, constant=True), _VALUE, check=_check_set),
        _command("test_message_print", _print_message),
        _command("test_result_reset", _reset_result),
        _command("test_result_print", _print_result),
        _command("test_mailbox_create", _mailbox, _BOX),
        _command("test_mailbox_delete", _mailbox, _BOX),
        _command("test_config_set", _config, _NAME, _VALUE),
        _command("test_config_unset", _config, _NAME),
        _command("test_config_reload", _reload, check=_check_reload),
        _command("test_imap_metadata_set", _metadata, Param("annotation", Kind.STRING), _VALUE),
        _command("test_binary_save", _save, _NAME),
        _command("test_binary_load", _load, _NAME),
    ),
    tests=(
        TestSpec("test_message", _NEEDS, (_INDEX,), check=_check_message, link=_message_test, reads=_STATE),
        TestSpec("test_script_compile", _NEEDS, (_SCRIPT,), link=_compile, reads=_STATE),
        TestSpec("test_script_run", _NEEDS, link=_run_script, reads=_STATE),
        TestSpec(
            "test_multiscript", _NEEDS, (Param("scripts", Kind.STRINGS),), link=_multiscript, reads=_STATE
        ),
        TestSpec("test_result_action", _NEEDS, (_KEYS,), link=_result_action, matches=True, reads=_STATE),
        TestSpec("test_result_execute", _NEEDS, link=_execute_result, reads=_STATE),
        TestSpec("test_error", _NEEDS, (_KEYS,), link=_error, matches=True, reads=_STATE),
    ),
    tags=(
        TagSpec("smtp", _MESSAGE, group="where"),
        TagSpec("folder", _MESSAGE, kind=Kind.STRING, group="where"),
        TagSpec("mailbox", _MESSAGE, kind=Kind.STRING, group="where"),
        TagSpec("append_result", ("test_script_run",)),
        TagSpec("index", ("test_result_action", "test_error"), kind=Kind.NUMBER),
        TagSpec("extension", ("test_config_reload",), kind=Kind.STRING),
        TagSpec("mailbox", ("test_imap_metadata_set",), kind=Kind.STRING),
        # Ours: what a mailbox is for, and its id.
        TagSpec("specialuse", ("test_mailbox_create",), kind=Kind.STRING),
        TagSpec("mailboxid", ("test_mailbox_create",), kind=Kind.STRING),
    ),
    namespaces=(Namespace("tst", _read_tst, _NEEDS),),
)


def registry() -> Registry:
    """The engine's words and those of the test dialect."""
    return Registry((*default_registry().extensions, EXTENSION))
