"""combine is a monoid: any grouping gives the same decision."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.reply import Reply
from pipeline.verdict import AuthResult, Disposition, HeaderEdit, Verdict, combine

short = st.sampled_from(["", "a", "b", "c"])
replies = st.none() | st.builds(Reply, st.sampled_from([250, 451, 550]), st.just("5.7.1"), short)
verdicts = st.builds(
    Verdict,
    stage=st.sampled_from(["spf", "dkim", "clamav"]),
    disposition=st.sampled_from(Disposition),
    result=short,
    summary=short,
    reply=replies,
    evidence=st.dictionaries(short, short, max_size=2),
    authres=st.lists(st.builds(AuthResult, short, short), max_size=2).map(tuple),
    edits=st.lists(st.builds(HeaderEdit, st.just("add"), short, short), max_size=2).map(tuple),
    tags=st.dictionaries(short, short, max_size=3),
    recipients=st.dictionaries(short, st.builds(Reply, st.just(550), st.just(""), short), max_size=2),
)
many = st.lists(verdicts, max_size=6)


@settings(deadline=None)
@given(many, many, many)
def test_associative(a: list[Verdict], b: list[Verdict], c: list[Verdict]) -> None:
    whole = combine([*a, *b, *c])
    assert combine([combine([*a, *b]), combine(c)]) == whole
    assert combine([combine(a), combine([*b, *c])]) == whole
    assert combine([combine(a), combine(b), combine(c)]) == whole


@settings(deadline=None)
@given(many)
def test_identity(a: list[Verdict]) -> None:
    nothing = Verdict("")
    assert combine([]) == nothing
    assert combine([nothing, *a]) == combine(a) == combine([*a, nothing]) == combine([combine(a)])


@settings(deadline=None)
@given(many)
def test_the_strongest_wins_and_the_first_of_them_speaks(a: list[Verdict]) -> None:
    whole = combine(a)
    assert whole.disposition == max((one.disposition for one in a), default=Disposition.CONTINUE)
    if whole.disposition > Disposition.CONTINUE:
        speaker = next(one for one in a if one.disposition == whole.disposition)
        assert (whole.stage, whole.reply, whole.result) == (speaker.stage, speaker.reply, speaker.result)
    assert whole.edits == tuple(edit for one in a for edit in one.edits)
    assert whole.authres == tuple(result for one in a for result in one.authres)


@settings(deadline=None)
@given(many)
def test_the_first_entry_of_a_key_wins(a: list[Verdict]) -> None:
    whole = combine(a)
    for one in reversed(a):
        for key in one.tags:
            first = next(other for other in a if key in other.tags)
            assert whole.tags[key] == first.tags[key]
    assert set(whole.recipients) == {key for one in a for key in one.recipients}


def test_accept_never_silences_a_refusal() -> None:
    accept = Verdict("list", Disposition.ACCEPT)
    reject = Verdict("clamav", Disposition.REJECT, reply=Reply(550, "5.7.1", "virus"))
    assert combine([accept, reject]) == combine([reject, accept]) == replace(reject)
