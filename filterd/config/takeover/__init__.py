"""Taking over the configuration of other mail programs: a registry of who can be read, and the way from files to a filterd.toml.

A reader gets the text of one file and tells a ``Draft`` what each line means (draft.py has the rule). Readers know text only;
nothing of the other program is run or changed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from filterd.config import schema
from filterd.config.errors import Problem
from filterd.config.takeover import dovecot, maddy, opendkim, postfix
from filterd.config.takeover.draft import Draft, Line, Setting
from filterd.config.takeover.render import Unusable, finished


@dataclass(frozen=True, slots=True)
class Source:
    """A program that can be taken over: ``read(draft, path, text)``; cli/configimport.py has where its file is in Debian."""

    name: str
    read: Callable[[Draft, str, str], None]


SOURCES: tuple[Source, ...] = (
    Source("postfix", postfix.read),
    Source("dovecot", dovecot.read),
    Source("opendkim", opendkim.read_opendkim),
    Source("opendmarc", opendkim.read_opendmarc),
    Source("postsrsd", opendkim.read_postsrsd),
    Source("maddy", maddy.read),
)


def source(name: str) -> Source | None:
    return next((one for one in SOURCES if one.name == name), None)


def take_over(
    texts: Sequence[tuple[str, str, str]],
    path: str,
    unusable: Callable[[schema.Config, str], tuple[Problem, ...]],
    hostname: str = "",
    domains: Sequence[str] = (),
) -> tuple[str, Draft]:
    """(filterd.toml, what became of each line) of (program, path, text), in that order: who comes first wins.

    ``hostname`` and ``domains`` come from the person who asks. Raises Unusable when these are missing."""
    draft = Draft(names=tuple(name for name, _, _ in texts))
    asked = Line("", 0, "")
    if hostname:
        draft.settings["server.hostname"] = Setting(hostname.lower(), asked)
    for domain in domains:
        if draft.domain(domain) is None:
            raise Unusable(f'"{domain}" is not a domain')
    draft.asked = tuple(draft.domains())
    for name, file, text in texts:
        one = source(name)
        assert one is not None
        one.read(draft, file, text)
    if "server.hostname" not in draft.settings:
        raise Unusable("these files do not say how the server is called; add: --hostname mail.example.org")
    if not draft.domains():
        raise Unusable("these files name no domain whose mail is ours; add: --domain example.org")
    return finished(draft, path, unusable), draft
