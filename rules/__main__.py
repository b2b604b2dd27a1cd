"""python -m rules: the Sieve language at the command line, without a mail server.

    python -m rules check FILE...                 every error and warning, with line, column and cure
    python -m rules lint FILE...                  the same; warnings count as errors
    python -m rules fmt [--check] FILE...         lay scripts out in one way, in place (- = standard input)
    python -m rules run SCRIPT MESSAGE            what a script would do with a mail; nothing is done
    python -m rules test DIR [--script FILE] [--write]    the mails of a folder against its expect.toml
    python -m rules svtest FILE...                test scripts in Pigeonhole's test dialect
    python -m rules capabilities                  the capability strings

Exit code: 0 fine, 1 errors or failures were found, 2 a file cannot be used.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from datetime import UTC, datetime

from rules.compiler import CompiledScript, compile_script
from rules.errors import ScriptErrors, render
from rules.fmt import format_script
from rules.interpreter import run
from rules.mail.message import Message
from rules.registry import capabilities
from rules.simplehost import SimpleHost
from rules.testkit import cases, runner
from rules.testkit.bench import derive, to_octets
from rules.testkit.show import result_lines


def _read(path: str) -> str:
    if path == "-":
        return sys.stdin.read()
    with open(path, "rb") as stream:
        return stream.read().decode("utf-8", "replace")


def _compiled(path: str, text: str) -> CompiledScript | None:
    """The script; None, and its errors printed, when it does not compile."""
    try:
        return compile_script(text, name=path.rpartition("/")[2].removesuffix(".sieve"))
    except ScriptErrors as failure:
        print(render(failure.errors, text, path), end="")
        return None


def _check(arguments: argparse.Namespace) -> int:
    bad = 0
    for path in arguments.files:
        text = _read(path)
        script = _compiled(path, text)
        if script is None:
            bad += 1
            continue
        print(render(script.warnings, text, path, kind="warning"), end="")
        if script.warnings and arguments.action == "lint":
            bad += 1
        elif not script.warnings:
            print(f"{path} is fine")
    return int(bad > 0)


def _format(arguments: argparse.Namespace) -> int:
    code = 0
    for path in arguments.files:
        text = _read(path)
        try:
            new = format_script(text)
        except ScriptErrors as failure:
            print(render(failure.errors, text, path), end="", file=sys.stderr)
            code = 1
            continue
        if arguments.check:
            if new != text:
                print(f"{path} would be changed")
                code = 1
        elif path == "-":
            sys.stdout.write(new)
        elif new != text:
            with open(path, "w", encoding="utf-8", newline="") as stream:
                stream.write(new)
            print(f"{path} was formatted")
    return code


def _run(arguments: argparse.Namespace) -> int:
    text = _read(arguments.script)
    script = _compiled(arguments.script, text)
    if script is None:
        return 1
    message = Message(to_octets(_read(arguments.message)))
    envelope = derive(message, "")
    host = SimpleHost(datetime.now(UTC).astimezone(), addresses=(envelope.rcpt_to,))
    result = run([script], message, envelope, host, merge=False)
    print("\n".join(result_lines(result)))
    return int(result.error is not None)


def _test(arguments: argparse.Namespace) -> int:
    code = 0
    for folder in arguments.folders:
        report, found = cases.run_and_show(folder, arguments.script, write=arguments.write)
        sys.stdout.write(report)
        code = max(code, found)
    return code


def _svtest(arguments: argparse.Namespace) -> int:
    return runner.run_files(arguments.files, moment=datetime.now(UTC).astimezone())


def _capabilities(arguments: argparse.Namespace) -> int:
    print("\n".join(capabilities()))
    return 0


def parser() -> argparse.ArgumentParser:
    """The command line."""
    top = argparse.ArgumentParser(
        prog="python -m rules", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    actions = top.add_subparsers(dest="action", metavar="ACTION", required=True)

    def add(name: str, act: Callable[[argparse.Namespace], int], words: str) -> argparse.ArgumentParser:
        one = actions.add_parser(name, help=words)
        one.set_defaults(act=act)
        return one

    for name, words in (("check", "errors and warnings"), ("lint", "errors and warnings; both fail")):
        add(name, _check, words).add_argument("files", nargs="+", metavar="FILE")
    layout = add("fmt", _format, "lay scripts out in one way")
    layout.add_argument("--check", action="store_true", help="change nothing; exit 1 when something would be")
    layout.add_argument("files", nargs="+", metavar="FILE")
    one = add("run", _run, "one script on one mail")
    one.add_argument("script", metavar="SCRIPT")
    one.add_argument("message", metavar="MESSAGE")
    test = add("test", _test, "a folder of mails against its expect.toml")
    configure_test(test)
    add("svtest", _svtest, "test scripts (svtest)").add_argument("files", nargs="+", metavar="FILE")
    add("capabilities", _capabilities, "the capability strings")
    return top


def configure_test(test: argparse.ArgumentParser) -> None:
    """The arguments of ``test``; its help explains the file."""
    test.formatter_class = argparse.RawDescriptionHelpFormatter
    keys = "\n".join(f"  {name:12s} {words}" for name, words in cases.KEYS.items())
    test.epilog = f"{(cases.__doc__ or '').partition('What a case')[0]}Keys of a case:\n{keys}"
    test.add_argument("folders", nargs="+", metavar="DIR")
    test.add_argument("--script", metavar="FILE", help="test this script instead of the folder's")
    test.add_argument(
        "--write", action="store_true", help="add what happens now, for mails without an expectation"
    )


def main(words: Sequence[str] | None = None) -> int:
    """Runs one command; the exit code."""
    arguments = parser().parse_args(words)
    try:
        return int(arguments.act(arguments))
    except OSError as error:
        print(f"{error.filename}: {error.strerror}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
