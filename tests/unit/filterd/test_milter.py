"""filterd as a filter: filterd/milter.py, milter_packets.py, milter_sieve.py. The MTA here applies what it is told."""

from __future__ import annotations

import asyncio
import ipaddress
from collections.abc import Sequence
from pathlib import Path

import pytest

from filterd.explain.text import explain
from filterd.milter import UNCERTAIN, MilterReception, MilterReceptionSettings, address, arguments, restored
from filterd.milter_sieve import Screen
from filterd.milter_srs import MilterSrs
from filterd.outgoing import Departure
from filterd.proto.milter import WANTED, Judge
from pipeline import edits
from pipeline.adapters.crypto import generate
from pipeline.adapters.dkimpy import sign
from pipeline.dkim.verify import Verification
from pipeline.envelope import Profile
from pipeline.planner import UNSAYABLE
from pipeline.registry import StageContext
from pipeline.reply import Reply
from pipeline.runner import Runner
from pipeline.srs import Original, Rewritten, Srs
from pipeline.stage import Stage
from pipeline.stages.dkim import DkimSettings, DkimStage
from pipeline.stages.privacy import PrivacySettings
from pipeline.transaction import Transaction
from pipeline.verdict import AuthResult, Disposition, EnvelopeEdit, HeaderEdit, Verdict
from pipeline.wire import milter
from pipeline.wire.milter import (
    Actions,
    AddRecipient,
    Bare,
    ChangeFrom,
    ChangeHeader,
    Connect,
    DeleteRecipient,
    InsertHeader,
    Modification,
    Packet,
    Quarantine,
    ReplaceBody,
    ReplyCode,
)
from pipeline.wire.milter_message import FilteredMessage, from_message
from pipeline.zone import Zone, ZoneResolver
from rules.mail.header import scan
from tests.house import FixedStage, ListTraces, TestClock, TestIds

HOST = "mx.here.example"
MAIL = b"From: a@away.example\r\nSubject: Hi\r\nX-Mailer: Secret\r\n\r\nbody\r\n"
KEY = generate("rsa", 1024)


def judge(data: bytes = MAIL, exact: bool = True, actions: Actions = WANTED, to: Sequence[bytes] = (b"<ann@here.example>",),
          ip: bytes = b"192.0.2.1", **macros: str) -> Judge:  # fmt: skip
    block = scan(data)
    fields = [(one.name, from_message(block.value(one))) for one in block.fields]
    if not exact:
        fields = [(name, value.removeprefix(b" ")) for name, value in fields]
    return Judge(
        Connect(b"mx.away.example", b"4", 25, ip),
        "mx.away.example",
        (b"<a@away.example>", b"SIZE=100"),
        [(one,) for one in to],
        fields,
        data[block.body_start :],
        dict(macros),
        exact,
        False,
        actions,
    )


class Traces(ListTraces):
    def __init__(self) -> None:
        super().__init__()
        self.aliases: list[tuple[str, str]] = []

    def alias(self, name: str, trace_id: str) -> None:
        self.aliases.append((name, trace_id))


class Lab:
    """A MilterReception; ``ask`` gives the packets, ``mail`` what the MTA is left with."""

    def __init__(
        self,
        *verdicts: Verdict,
        stages: Sequence[Stage] = (),
        leaving: Sequence[Verdict] = (),
        script: Path | None = None,
        internal: Sequence[str] = (),
    ) -> None:
        self.clock = TestClock()
        self.traces = Traces()
        departure = Departure(
            Runner([FixedStage(one) for one in leaving], self.clock),
            PrivacySettings(),
            None,
            frozenset({"here.example"}),
            lambda message, domain: sign(message, domain, "s1", KEY) if domain == "here.example" else b"",
            lambda message, sender, account, reply: b"",
        )
        settings = MilterReceptionSettings(
            HOST, HOST, frozenset({HOST}), internal=[ipaddress.ip_network(one) for one in internal]
        )
        runner = Runner([*stages, *(FixedStage(one) for one in verdicts)], self.clock)
        screen = Screen([script], HOST, self.clock) if script else None
        self.reception = MilterReception(
            settings, runner, departure, self.traces, self.clock, TestIds(), screen  # type: ignore[arg-type]
        )  # fmt: skip

    def ask(self, message: Judge) -> list[Packet]:
        return list(asyncio.run(self.reception.judge(message)))

    def mail(self, message: Judge) -> bytes:
        """The message after the changes, as an MTA does them."""
        packets = self.ask(message)
        assert packets[-1] is Bare.CONTINUE, packets
        data = restored(message)
        left = FilteredMessage(scan(data))
        left.apply([one for one in packets if isinstance(one, Modification)], message.exact)
        body = b"".join(one.data for one in packets if isinstance(one, ReplaceBody))
        out = edits.apply(data, left.edits())
        return out[: scan(out).body_start] + body if body else out


def test_the_stages_fields_go_on_top_and_forged_ones_go() -> None:
    verdict = Verdict(
        "spf",
        authres=(AuthResult("spf", "pass"),),
        edits=(
            HeaderEdit("remove", "X-Spam-Flag"),
            HeaderEdit("add", "X-Spam-Flag", "YES"),
            HeaderEdit("add", "X-B", "b"),
        ),
    )
    lab = Lab(verdict)
    forged = (
        b"X-Spam-Flag: NO\r\nAuthentication-Results: mx.here.example; spf=fail\r\nx-spam-flag: no\r\n"
        b"Authentication-Results: other.example; spf=fail\r\nX-Filterd-Trace: 00000-00000\r\n"
    )
    left = lab.mail(judge(forged + MAIL))
    (trace,) = lab.traces.all
    expected = (
        f"X-Spam-Flag: YES\r\nX-B: b\r\nX-Filterd-Trace: {trace.id}\r\nAuthentication-Results: {HOST}; spf=pass\r\n"
        "Authentication-Results: other.example; spf=fail\r\n"
    )
    assert left == expected.encode() + MAIL
    assert (trace.profile, trace.outcome, trace.client_ip, trace.helo) == (
        "milter", "accepted", "192.0.2.1", "mx.away.example",
    )  # fmt: skip
    assert [one.stage for one in trace.spans][-1] == "spf"
    assert "Handed back to the MTA" in explain(trace)


@pytest.mark.parametrize("exact", [True, False])
def test_values_keep_or_get_their_blank(exact: bool) -> None:
    lab = Lab(Verdict("x", edits=(HeaderEdit("add", "X-A", "v"),)))
    packets = lab.ask(judge(exact=exact))
    (value,) = [one.value for one in packets if isinstance(one, InsertHeader) and one.name == b"X-A"]
    assert value == (b" v" if exact else b"v")
    assert b"X-A: v\r\n" in lab.mail(judge(exact=exact))


@pytest.mark.parametrize(
    ("verdict", "packet", "outcome"),
    [
        (Verdict("c", Disposition.REJECT, reply=Reply(550, "5.7.1", "No\nnever")),
         ReplyCode(b"550-5.7.1 No\r\n550 5.7.1 never"), "rejected"),
        (Verdict("c", Disposition.TEMPFAIL, reply=Reply(451, "4.3.0", "later")), ReplyCode(b"451 4.3.0 later"), "deferred"),
        (Verdict("c", Disposition.DISCARD, summary="gone"), Bare.DISCARD, "discarded"),
    ],
)  # fmt: skip
def test_refusals(verdict: Verdict, packet: Packet, outcome: str) -> None:
    lab = Lab(verdict)
    assert lab.ask(judge()) == [packet]
    assert lab.traces.all[0].outcome == outcome


def test_quarantine_is_the_mtas_hold_queue_or_a_mark() -> None:
    lab = Lab(Verdict("spamassassin", Disposition.QUARANTINE, "spam", "9.0 of 5"))
    assert Quarantine(b"spamassassin: 9.0 of 5") in lab.ask(judge())
    assert lab.traces.all[0].outcome == "quarantined"
    packets = lab.ask(judge(actions=WANTED & ~Actions.QUARANTINE))
    assert any(isinstance(one, InsertHeader) and one.name == b"X-Filterd-Quarantine" for one in packets)


def test_what_was_not_negotiated_is_left_out_and_noted() -> None:
    verdict = Verdict(
        "m",
        edits=(HeaderEdit("add", "X", "y"), HeaderEdit("remove", "Subject")),
        body=b"new",
        envelope=EnvelopeEdit(("x@y",), ("z@y",), "c@y"),
    )
    lab = Lab(verdict)
    assert lab.ask(judge(actions=Actions.NONE)) == [Bare.CONTINUE]
    notes = [one.summary for one in lab.traces.all[0].spans if one.result == "note"]
    assert len(notes) == 6 and all(one.startswith("not negotiated") for one in notes)


def test_body_and_envelope_changes_of_other_filters_are_handed_on() -> None:
    lab = Lab(Verdict("milters", body=b"new\r\n", envelope=EnvelopeEdit(("x@y",), ("z@y",), "")))
    packets = lab.ask(judge())
    assert [one for one in packets if not isinstance(one, InsertHeader)] == [
        ReplaceBody(b"new\r\n"), AddRecipient(b"<x@y>"), DeleteRecipient(b"<z@y>"), ChangeFrom(b"<>"), Bare.CONTINUE,
    ]  # fmt: skip


def test_who_goes_is_named_as_the_mta_wrote_him() -> None:
    """Postfix and Sendmail compare octets; a filter that we asked may have folded the case."""
    lab = Lab(Verdict("milters", envelope=EnvelopeEdit((), ("ANN@HERE.example", "z@y"))))
    packets = lab.ask(judge(to=(b"<Ann@Here.example>", b"<bob@here.example>")))
    assert [one.address for one in packets if isinstance(one, DeleteRecipient)] == [
        b"<Ann@Here.example>",
        b"<z@y>",
    ]


def test_placed_edits_end_in_their_place() -> None:
    own = (
        HeaderEdit("remove", "Subject", place=2),
        HeaderEdit("add", "Subject", raw=b"Subject: New\r\n", place=2),
        HeaderEdit("add", "X-End", raw=b"X-End: 1\r\n", place=4),
        HeaderEdit("add", "X-One", raw=b"X-One: 1\r\n", place=3),
        HeaderEdit("add", "X-Two", raw=b"X-Two: 2\r\n", place=3),
    )
    left = Lab(Verdict("milters", edits=own)).mail(judge())
    end = left.index(b"From:")
    assert left[end:] == (
        b"From: a@away.example\r\nSubject: New\r\nX-One: 1\r\nX-Two: 2\r\nX-Mailer: Secret\r\nX-End: 1\r\n\r\nbody\r\n"
    )


def test_a_call_to_ourselves_is_let_through() -> None:
    lab = Lab(Verdict("c", Disposition.REJECT))
    assert lab.ask(judge(filterd_hop=f"other.example {HOST}")) == [Bare.ACCEPT]
    assert isinstance(lab.ask(judge(filterd_hop="other.example"))[0], ReplyCode)


def test_too_large_and_loops_are_refused() -> None:
    lab, message = Lab(), judge()
    message.oversize = True
    assert lab.ask(message) == [milter.reply_code(Reply(552, "5.3.4", "The message is too large"))]
    (refused,) = lab.ask(judge(b"Received: x\r\n" * 51 + MAIL))
    assert isinstance(refused, ReplyCode) and refused.text.startswith(b"554 5.4.6")


def test_the_mtas_queue_id_finds_the_trace() -> None:
    lab = Lab()
    lab.ask(judge(i="4xyZ"))
    assert ("4XYZ", lab.traces.all[0].id) in lab.traces.aliases


# -- the client ------------------------------------------------------------------------------------------------------


class Spy(FixedStage):
    def __init__(self) -> None:
        super().__init__(Verdict("spy"))
        self.seen: list[Transaction] = []

    async def check(self, transaction: Transaction) -> Verdict:
        self.seen.append(transaction)
        return Verdict("spy")


def seen(message: Judge, **options: object) -> Transaction:
    spy = Spy()
    Lab(stages=[spy], **options).ask(message)  # type: ignore[arg-type]
    return spy.seen[0]


def test_client_facts() -> None:
    envelope = seen(judge(tls_version="TLSv1.3", cipher="AES")).envelope
    client = envelope.client
    assert (client.ip, client.port, client.helo, client.name) == (
        "192.0.2.1",
        25,
        "mx.away.example",
        "mx.away.example",
    )
    assert client.tls == "TLSv1.3 AES" and client.facts_trusted and envelope.profile is Profile.MILTER
    assert envelope.reverse_path == "a@away.example" and envelope.mail_params == {"SIZE": "100"}
    assert seen(judge(client_resolve="FORGED")).envelope.client.name == ""
    assert not seen(judge(ip=b"127.0.0.1")).envelope.client.facts_trusted
    assert seen(judge(ip=b"IPv6:2001:db8::1")).envelope.client.ip == "2001:db8::1"


@pytest.mark.parametrize(
    ("text", "ip"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("IPv6:::ffff:192.0.2.1", "192.0.2.1"),
        ("fe80::1%eth0", "fe80::1"),
        ("nonsense", None),
    ],
)
def test_addresses(text: str, ip: str | None) -> None:
    assert address(text) == ip


def test_what_a_value_says_stays_in_its_field() -> None:
    message = judge()
    message.fields = [(b"A", b" 1\n\t2\r\n 3"), (b"B", b" x\rEvil: 1"), (b"C", b" y\nEvil: 2")]
    data = restored(message)
    assert data.startswith(b"A: 1\r\n\t2\r\n 3\r\nB: x\rEvil: 1\r\nC: y\r\n\tEvil: 2\r\n\r\n")
    assert [one.lname for one in scan(data).fields] == [b"a", b"b", b"c"]


def test_octets_that_are_no_text(tmp_path: Path) -> None:
    from filterd.explain.traces import TraceReader, TraceWriter

    message = judge(MAIL.replace(b"Hi", b"\xff\xfe"), to=(b"<\xff@here.example>",), i="Q1")
    message.mail = (b"<\xfe@x>",)
    lab, writer = Lab(), TraceWriter(tmp_path / "traces.db", 1000.0)
    lab.reception._traces = writer
    assert lab.ask(message)[-1] is Bare.CONTINUE
    writer.close()
    reader = TraceReader(tmp_path / "traces.db")
    found = reader.by_queue_id("Q1")
    assert found is not None and found.reverse_path == "?@x"
    reader.close()


def test_arguments() -> None:
    assert arguments((b"<a b@c>", b"size=1", b"SMTPUTF8")) == ("a b@c", {"SIZE": "1", "SMTPUTF8": ""})
    assert arguments((b"<>",)) == ("", {}) and arguments(()) == ("", {})
    assert arguments((b"a@b",)) == ("a@b", {})


# -- authenticated mail ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["login", "internal"])
def test_mail_of_our_people_is_cleaned_and_signed(how: str) -> None:
    lab = Lab(Verdict("spf", Disposition.REJECT), internal=["192.0.2.0/24"] if how == "internal" else [])
    data = MAIL.replace(b"a@away.example", b"ann@here.example").replace(
        b"Subject", b"X-Filterd-Trace: x\r\nSubject"
    )
    left = lab.mail(judge(data, auth_authen="ann") if how == "login" else judge(data))
    assert b"Secret" not in left and b"X-Filterd" not in left and b"Authentication-Results" not in left
    zone, block = Zone(), scan(left)
    zone.add("s1._domainkey.here.example", "TXT", KEY.record())
    verification = Verification(block, lab.clock.time())
    for name in verification.wanted():
        verification.give(name, zone.lookup(name, "TXT"))
    assert verification.needs_body()
    verification.feed(left[block.body_start :])
    assert [one.result for one in verification.results()] == ["pass"]


def test_the_outgoing_list_decides_over_our_peoples_mail() -> None:
    lab = Lab(leaving=[Verdict("clamav", Disposition.REJECT, reply=Reply(550, "5.7.1", "virus"))])
    assert lab.ask(judge(auth_authen="ann")) == [ReplyCode(b"550 5.7.1 virus")]


# -- uncertain bytes -------------------------------------------------------------------------------------------------


def dkim_result(data: bytes, exact: bool) -> tuple[str, str]:
    zone = Zone()
    zone.add("s1._domainkey.here.example", "TXT", KEY.record())
    context = StageContext(TestClock(), TestIds(), ZoneResolver(zone), HOST, HOST)
    lab = Lab(stages=[DkimStage(DkimSettings(), context)])
    lab.ask(judge(data, exact))
    (span,) = [one for one in lab.traces.all[0].spans if one.stage == "dkim"]
    return span.result, span.summary


def test_a_broken_signature_over_uncertain_bytes_is_no_failure() -> None:
    data = MAIL.replace(b"a@away.example", b"ann@here.example").replace(b"Subject: ", b"Subject:  \t")
    simple = sign(data, "here.example", "s1", KEY, canonicalization="simple/simple") + data
    relaxed = sign(data, "here.example", "s1", KEY) + data
    assert dkim_result(simple, True)[0] == dkim_result(relaxed, True)[0] == "pass"
    assert dkim_result(relaxed, False)[0] == "pass"
    broken = simple.replace(b"Hi", b"Ho")
    assert dkim_result(broken, True)[0] == "fail"
    result, summary = dkim_result(broken, False)
    assert result == "temperror" and summary.startswith(UNCERTAIN)


# -- the administrator's scripts -------------------------------------------------------------------------------------


def scripted(tmp_path: Path, text: str, *verdicts: Verdict) -> Lab:
    path = tmp_path / "policy.sieve"
    path.write_text(text)
    return Lab(*verdicts, script=path)


TWO = (b"<ann@here.example>", b"<bob@here.example>")


def test_scripts_reject_discard_and_redirect(tmp_path: Path) -> None:
    (refused,) = scripted(tmp_path, 'require "reject"; reject "No";').ask(judge())
    assert refused == ReplyCode(b"550 5.7.1 No")
    assert scripted(tmp_path, "discard;").ask(judge()) == [Bare.DISCARD]
    lab = scripted(tmp_path, 'redirect "new@x.example";')
    packets = lab.ask(judge())
    assert AddRecipient(b"<new@x.example>") in packets and DeleteRecipient(b"<ann@here.example>") in packets
    packets = scripted(tmp_path, 'require "copy"; redirect :copy "new@x.example";').ask(judge())
    assert AddRecipient(b"<new@x.example>") in packets
    assert not any(isinstance(one, DeleteRecipient) for one in packets)


def test_scripts_see_each_recipient_and_the_stages_fields(tmp_path: Path) -> None:
    text = (
        'require ["envelope", "reject"];\n'
        'if envelope :is "to" "bob@here.example" { discard; stop; }\nif header "X-Spam-Flag" "YES" { redirect "spam@x.example"; }'
    )
    verdict = Verdict("spamassassin", edits=(HeaderEdit("add", "X-Spam-Flag", "YES"),))
    packets = scripted(tmp_path, text, verdict).ask(judge(to=TWO))
    gone = {one.address for one in packets if isinstance(one, DeleteRecipient)}
    assert gone == set(TWO) and AddRecipient(b"<spam@x.example>") in packets


def test_a_reject_for_some_keeps_the_mail(tmp_path: Path) -> None:
    text = 'require ["envelope", "reject"]; if envelope :is "to" "bob@here.example" { reject "No"; }'
    packets = scripted(tmp_path, text).ask(judge(to=TWO))
    assert packets[-1] is Bare.CONTINUE and not any(isinstance(one, DeleteRecipient) for one in packets)


def test_scripts_edit_the_header(tmp_path: Path) -> None:
    text = 'require "editheader"; addheader "X-Top" "1"; addheader :last "X-End" "2"; deleteheader "Subject";'
    lab = scripted(tmp_path, text, Verdict("x", edits=(HeaderEdit("add", "X-Stage", "s"),)))
    left = lab.mail(judge())
    names = [one.lname for one in scan(left).fields]
    assert names == [b"x-top", b"x-stage", b"x-filterd-trace", b"from", b"x-mailer", b"x-end"]
    assert left.endswith(b"\r\n\r\nbody\r\n")


def test_odd_fields_survive_an_edited_header(tmp_path: Path) -> None:
    text = 'require "editheader"; addheader "X-Top" "1"; deleteheader "X-Mailer";'
    odd = b"From x y\r\nX: a\rb\r\nY:\r\n" + MAIL
    left = scripted(tmp_path, text).mail(judge(odd))
    assert b"X: a\rb\r\n" in left and left.startswith(b"X-Top: 1\r\n")


def test_a_script_that_does_not_fit_is_not_run(tmp_path: Path) -> None:
    assert scripted(tmp_path, 'require "fileinto"; fileinto "Junk";').ask(judge())[-1] is Bare.CONTINUE
    assert scripted(tmp_path, "no sieve").ask(judge())[-1] is Bare.CONTINUE


def test_a_script_edited_into_an_error_leaves_the_last_good_one(tmp_path: Path) -> None:
    lab = scripted(tmp_path, "discard;")
    assert lab.ask(judge()) == [Bare.DISCARD]
    script = tmp_path / "policy.sieve"
    for bad in ('require "fileinto"; fileinto "Junk";', "discard; nonsense"):
        script.write_text(bad)
        assert lab.ask(judge()) == [Bare.DISCARD]
    script.unlink()
    assert lab.ask(judge()) == [Bare.DISCARD]
    script.write_text("keep;  # again")
    assert lab.ask(judge())[-1] is Bare.CONTINUE


def test_scripts_hold_a_message(tmp_path: Path) -> None:
    text = 'require ["vnd.filterd.quarantine", "envelope"]; if envelope "to" "bob@here.example" { quarantine "odd one"; }'
    packets = scripted(tmp_path, text).ask(judge(to=TWO))
    assert [one.reason for one in packets if isinstance(one, Quarantine)] == [b"sieve: odd one"]
    assert not any(isinstance(one, DeleteRecipient) for one in packets)
    without = scripted(tmp_path, text).mail(judge(to=TWO, actions=Actions.ADDHDRS | Actions.CHGHDRS))
    assert b"X-Filterd-Quarantine: sieve: odd one\r\n" in without


def rewriting(tmp_path: Path, text: str = "keep;") -> tuple[Lab, Srs]:
    lab = scripted(tmp_path, text)
    srs = Srs("here.example", [b"secret"], lab.clock, ("also.example",))
    lab.reception.srs = MilterSrs(srs, frozenset({"here.example", "also.example"}), lab.clock)
    return lab, srs


def senders(packets: Sequence[Packet]) -> list[bytes]:
    return [one.address for one in packets if isinstance(one, ChangeFrom)]


def test_srs_only_when_nobody_is_here(tmp_path: Path) -> None:
    lab, srs = rewriting(tmp_path)
    (sender,) = senders(lab.ask(judge(to=(b"<x@far.example>", b"<y@farther.example>"))))
    assert srs.reverse(sender.decode().strip("<>")) == Original("a@away.example")
    assert [one.result for one in lab.traces.all[0].spans if one.stage == "srs"] == ["rewritten"]
    for near in (b"<x@HERE.example>", b"<x@also.example>", b"<postmaster>"):
        assert not senders(lab.ask(judge(to=(b"<x@far.example>", near))))
    assert not senders(scripted(tmp_path, "keep;").ask(judge(to=(b"<x@far.example>",))))  # not asked for
    away = 'redirect "x@far.example";'
    assert senders(rewriting(tmp_path, away)[0].ask(judge(to=(b"<x@here.example>",))))
    here = 'redirect "x@here.example";'
    assert not senders(rewriting(tmp_path, here)[0].ask(judge(to=(b"<x@far.example>",))))


def test_a_bounce_finds_its_way_back(tmp_path: Path) -> None:
    lab, srs = rewriting(tmp_path)
    made = srs.forward("sender@far.example")
    assert isinstance(made, Rewritten)
    forged = "SRS0=AAAA=AA=far.example=x@here.example"
    bounce = judge(to=(f"<{made.address}>".encode(), f"<{forged}>".encode()))
    bounce.mail = (b"<>",)
    packets = lab.ask(bounce)
    assert [one.address for one in packets if isinstance(one, AddRecipient)] == [b"<sender@far.example>"]
    assert [one.address for one in packets if isinstance(one, DeleteRecipient)] == [
        f"<{made.address}>".encode()
    ]
    assert not senders(packets)
    foreign = judge(to=(f"<{made.address}>".encode(),))  # no bounce: nothing is an open relay
    assert not [one for one in lab.ask(foreign) if isinstance(one, AddRecipient)]


def test_removals_come_last_first() -> None:
    lab = Lab(Verdict("x", edits=(HeaderEdit("remove", "X-A"),)))
    packets = lab.ask(judge(b"X-A: 1\r\nx-a: 2\r\nX-A: 3\r\n" + MAIL))
    assert [one.index for one in packets if isinstance(one, ChangeHeader)] == [3, 2, 1]


def test_a_reason_is_said_as_at_our_own_door(tmp_path: Path) -> None:
    """UTF-8 only for who asked for it, lines that fit a reply."""
    lab = scripted(tmp_path, 'require "reject"; reject "täglich";')
    assert lab.ask(judge()) == [milter.reply_code(Reply(550, "5.7.1", UNSAYABLE))]
    long = scripted(tmp_path, f'require "reject"; reject "{"word " * 500}";')
    (reply,) = long.ask(judge())
    assert isinstance(reply, ReplyCode) and len(reply.text) < 512
    stage = Lab(Verdict("x", Disposition.REJECT, reply=Reply(550, "5.7.1", "größer")))
    assert stage.ask(judge()) == [ReplyCode(b"550 5.7.1 gr??er")]
    lab = scripted(tmp_path, 'require "reject"; reject "täglich";')
    asked = judge()
    asked.mail = (b"<a@away.example>", b"SMTPUTF8")
    assert lab.ask(asked) == [ReplyCode("550 5.7.1 täglich".encode())]
