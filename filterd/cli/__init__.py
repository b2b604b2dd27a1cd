"""The command line: one module a command, listed here in the order of ``filterd --help``.

A command module has ``configure(parser)``, which adds its arguments, and ``run(arguments) -> int``, the exit code: 0 done,
1 something was found (errors in a script, nobody of that name), 2 used wrongly, 75 try again later. Its docstring's
paragraphs become the help; modules are imported only when their command is used, so ``filterd --help`` stays fast.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Command:
    name: str
    module: str
    help: str


COMMANDS: tuple[Command, ...] = (
    Command("demo", "filterd.cli.demo", "the whole program at work, offline, in a folder that goes away"),
    Command("serve", "filterd.cli.serve", "run the mail server in the foreground"),
    Command("milter", "filterd.cli.milter", "serve one door: the mail filter of another mail server"),
    Command("config", "filterd.cli.config", "check, show, explain and change the configuration"),
    Command("account", "filterd.cli.account", "add, list, show and remove accounts; change passwords"),
    Command("store", "filterd.cli.store", "take over the Maildir of another server, and give it back"),
    Command("explain", "filterd.cli.explain", "tell why a message went where it is"),
    Command("queue", "filterd.cli.queue", "what waits to leave, why, and what to do with it"),
    Command("quarantine", "filterd.cli.quarantine", "what was held back: look, release, drop"),
    Command("route", "filterd.cli.route", "where mail for an address goes, step by step"),
    Command("learn", "filterd.cli.learn", "teach what is spam and what is not; see what was learned"),
    Command("probe", "filterd.cli.probe", "see how mail for a domain would go, and how safely"),
    Command("check", "filterd.cli.check", "check one sender or message: SPF, DKIM, ARC, DMARC"),
    Command("dkim", "filterd.cli.dkim", "make, show and change signing keys; sign a message"),
    Command("dmarc", "filterd.cli.dmarc", "reports: what others saw of our mail, what we told them"),
    Command("sieve", "filterd.cli.sieve", "check and try filter scripts; store and activate them"),
    Command(
        "deliver", "filterd.cli.deliver", "deliver one message from standard input (for other mail servers)"
    ),
    Command("sendmail", "filterd.cli.sendmail", "send one message from standard input, as sendmail does"),
    Command("exec", "filterd.cli.exec", "run the administrator's programs for scripts, apart from the mail"),
    Command("help", "filterd.cli.manual", "print the manual, page by page"),
)


class CliError(Exception):
    """Ends the command with ``code``; the text is printed without a traceback."""

    def __init__(self, text: str, code: int = 2) -> None:
        super().__init__(text)
        self.text = text
        self.code = code


OK, FOUND, USAGE, TRY_AGAIN = 0, 1, 2, 75
