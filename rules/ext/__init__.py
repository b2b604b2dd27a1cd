"""The extensions of the language: one file each, one line each in ``EXTENSIONS``.

To add a capability, write ``rules/ext/NAME.py`` with a value ``EXTENSION = Extension(...)`` and add it here.
The order below is the order of the announced capability strings. What an Extension brings (all in
``rules/registry.py``):

    CommandSpec(name, needs, params, check=, link=)          an action: ``link(bound)`` returns ``act(run) -> None | step``
    CommandSpec(name, ..., block=True, emit=)                a control structure: ``emit(emitter, bound)`` writes steps
    TestSpec(name, needs, params, check=, link=)             a test: ``link(bound)`` returns ``test(run) -> bool``
    TestSpec(..., matches=True, part=True)                   takes match types and comparators (keys last), address parts
    TagSpec(name, on=("fileinto",), needs, kind, ...)        a tag of other words: ``amend`` for actions; ``fields``, ``pick``
                                                             and ``turn`` for tests on header fields; ``on=(MATCHING,)``: all
    MatchSpec, ComparatorSpec, PartSpec, Namespace           a match type, comparator, address part, variable namespace

``needs`` lists capabilities of which any one allows the word. ``check(checker, bound)`` runs at compile time;
it uses ``checker.error(pos, code, message, cure)``, ``checker.warn``, ``checker.where(bound, parameter,
item)``, ``checker.where_tag(bound, tag)``, ``checker.has(capability)``. ``bound`` gives the arguments:
``text(i)``, ``texts(i)``, ``number(i)``, ``given(i)``, ``has(tag)``, ``tag_text(tag)``, ``tag_texts(tag)``,
``tag_number(tag)``. A text may be a Template: expand it with ``run.expand(text)`` or ``match.expand(run,
texts)``; ``link_match(bound)`` makes the matcher, called as ``match(run, values)``.

A function that runs gets the ``Run`` (``rules/context.py``): ``run.view`` (the message as edited so far),
``run.envelope``, ``run.host``, ``run.result.add(action)`` and ``run.result.cancel_keep()``,
``run.variables``, ``run.flags``, ``run.limits``, ``run.setting(name, default)``, ``run.get(StateKey)`` for
its own state, ``run.place(bound)``. It leaves what it saw in ``run.seen`` and what it looked for in
``run.key``: the interpreter writes the trace from them. It raises RunError to fail the run (the message is
then kept). A command that changes neither message nor envelope says ``keeps_message=True``, else rules around
it are not merged; a test that changes something, or must be evaluated each time, says ``reads=("state",)``.
"""

from __future__ import annotations

from rules.ext import (
    actions,
    age,
    attachment,
    base,
    body,
    comparators,
    control,
    copy,
    date,
    duplicate,
    editheader,
    enclose,
    encoded_character,
    enotify,
    envelope,
    envelope_dsn,
    environment,
    extlists,
    extracttext,
    fcc,
    foreverypart,
    header_block,
    ihave,
    imap4flags,
    imapsieve,
    include,
    index,
    list_storage,
    mailbox,
    mailboxid,
    metadata,
    mime,
    regex,
    reject,
    relational,
    replace,
    score,
    spamtest,
    special_use,
    subaddress,
    vacation,
    variables,
    vnd_debug,
    vnd_environment,
    vnd_execute,
    vnd_filter,
    vnd_pipe,
    vnd_quarantine,
    vnd_report,
)
from rules.registry import Extension

EXTENSIONS: tuple[Extension, ...] = (
    control.EXTENSION,
    base.EXTENSION,
    actions.EXTENSION,
    envelope.EXTENSION,
    encoded_character.EXTENSION,
    reject.EXTENSION,
    variables.EXTENSION,
    vacation.EXTENSION,
    relational.EXTENSION,
    comparators.EXTENSION,
    imap4flags.EXTENSION,
    subaddress.EXTENSION,
    copy.EXTENSION,
    body.EXTENSION,
    date.EXTENSION,
    index.EXTENSION,
    environment.EXTENSION,
    ihave.EXTENSION,
    duplicate.EXTENSION,
    editheader.EXTENSION,
    include.EXTENSION,
    enotify.EXTENSION,
    spamtest.EXTENSION,
    mailbox.EXTENSION,
    metadata.EXTENSION,
    special_use.EXTENSION,
    mailboxid.EXTENSION,
    fcc.EXTENSION,
    extlists.EXTENSION,
    envelope_dsn.EXTENSION,
    regex.EXTENSION,
    imapsieve.EXTENSION,
    mime.EXTENSION,
    foreverypart.EXTENSION,
    extracttext.EXTENSION,
    replace.EXTENSION,
    enclose.EXTENSION,
    header_block.EXTENSION,
    score.EXTENSION,
    age.EXTENSION,
    attachment.EXTENSION,
    list_storage.EXTENSION,
    vnd_debug.EXTENSION,
    vnd_environment.EXTENSION,
    vnd_report.EXTENSION,
    vnd_pipe.EXTENSION,
    vnd_filter.EXTENSION,
    vnd_execute.EXTENSION,
    vnd_quarantine.EXTENSION,
)
