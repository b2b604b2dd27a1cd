"""The client's conversation: scripted replies, what must never be said, and our client against our own server core."""

from __future__ import annotations

import base64
from collections.abc import Mapping

import pytest

from filterd.proto import smtp_events as events
from filterd.proto.smtp import SmtpCore
from filterd.proto.smtp_limits import SmtpConfig
from filterd.queue.dialogue import Conversation, Mail, Refused, Say, Talk, Upgrade, stuffed
from filterd.queue.replies import RemoteReply, ReplyReader, features_of
from pipeline.envelope import Profile
from pipeline.reply import Reply

TEXT = b"Subject: hello\r\n\r\n.a dot\r\nend\r\n"


def reply(line: str) -> RemoteReply:
    code, _, text = line.partition(" ")
    return RemoteReply(int(code), tuple(text.split("|")))


def play(steps: Talk, *answers: str) -> list[bytes]:
    """Run ``steps`` against answers (one string a reply, ``|`` between lines); what was said, TLS as b"<TLS>"."""
    said: list[bytes] = []
    script = list(answers)
    try:
        step = next(steps)
        while True:
            if isinstance(step, Upgrade):
                said.append(b"<TLS>")
                step = steps.send([])
                continue
            if step.data:
                said.append(step.data)
            given = [reply(script.pop(0)) for _ in range(step.replies)]
            step = steps.send(given)
    except StopIteration:
        assert not script, f"not asked for: {script}"
        return said


def ready(*features: str, lmtp: bool = False) -> Conversation:
    talk = Conversation("us.example", lmtp=lmtp)
    talk.features = features_of(RemoteReply(250, ("them.example", *features)))
    return talk


def mail(*recipients: str, data: bytes = TEXT, sender: str = "a@us.example", **params: str) -> Mail:
    return Mail(sender, recipients, data, [params] * len(recipients))


# -- opening ---------------------------------------------------------------------------------------------------
def test_opening_with_tls_forgets_what_was_announced_in_clear() -> None:
    talk = Conversation("us.example")
    said = play(
        talk.open(), "220 hello", "250 them|STARTTLS|SIZE 10", "220 go", "250 them|PIPELINING|AUTH PLAIN"
    )
    assert said == [b"EHLO us.example\r\n", b"STARTTLS\r\n", b"<TLS>", b"EHLO us.example\r\n"]
    assert talk.secure and talk.features == {"PIPELINING": "", "AUTH": "PLAIN"}


def test_starttls_refused_goes_on_in_clear() -> None:
    talk = Conversation("us.example")
    play(talk.open(), "220 hello", "250 them|STARTTLS", "454 no certificate today")
    assert not talk.secure and not talk.tls_begun


def test_old_server_gets_helo_and_nothing_is_believed_of_ehlo() -> None:
    talk = Conversation("us.example")
    said = play(talk.open(), "220 hello", "502 what?|PIPELINING", "250 them")
    assert said[-1] == b"HELO us.example\r\n" and talk.features == {}


@pytest.mark.parametrize(
    "answers", [["554 no mail here"], ["220 hi", "421 busy"], ["220 hi", "550 no", "550 no"], ["250 what"]]
)
def test_refused_openings(answers: list[str]) -> None:
    with pytest.raises(Refused):
        play(Conversation("us.example").open(), *answers)


def test_lmtp_says_lhlo_and_never_helo() -> None:
    talk = Conversation("us.example", lmtp=True)
    with pytest.raises(Refused):
        play(talk.open(), "220 hi", "500 no")
    assert play(Conversation("us.example", lmtp=True).open(), "220 hi", "250 them")[0].startswith(b"LHLO ")


def test_no_password_without_tls() -> None:
    talk = Conversation("us.example", login=("ann", "secret"))
    with pytest.raises(Refused, match="without TLS"):
        play(talk.open(), "220 hi", "250 them|AUTH PLAIN")


@pytest.mark.parametrize("offer", ["AUTH PLAIN LOGIN", "AUTH=PLAIN LOGIN", "AUTH CRAM-MD5 PLAIN"])
def test_login_plain(offer: str) -> None:
    talk = Conversation("us.example", login=("ann", "secret"))
    talk.secure = True
    said = play(talk.open(), "220 hi", f"250 them|{offer}", "235 welcome")
    assert said[-1] == b"AUTH PLAIN " + base64.b64encode(b"\0ann\0secret") + b"\r\n"


def test_login_login_and_its_refusal() -> None:
    talk = Conversation("us.example", login=("ann", "secret"))
    talk.secure = True
    said = play(talk.open(), "220 hi", "250 them|AUTH LOGIN", "334 VXNlcg", "334 UGFzcw", "235 ok")
    assert said[1:] == [b"AUTH LOGIN\r\n", b"YW5u\r\n", b"c2VjcmV0\r\n"]
    with pytest.raises(Refused):
        play(talk.open(), "220 hi", "250 them|AUTH LOGIN", "334 u", "535 no")


def test_passwords_are_not_shown() -> None:
    talk = Conversation("us.example", login=("ann", "secret"))
    talk.secure = True
    steps = talk.open()
    next(steps)
    steps.send([reply("220 hi")])
    step = steps.send([reply("250 them|AUTH PLAIN")])
    assert isinstance(step, Say) and b"AUTH" in step.data and "***" in step.show


# -- one message -----------------------------------------------------------------------------------------------
def test_pipelined_transaction_is_one_write_and_the_text() -> None:
    talk = ready("PIPELINING", "SIZE 1000", "8BITMIME", "DSN")
    letter = Mail(
        "a@us.example", ("b@x.example", "c@x.example"), TEXT,
        [{"RET": "HDRS", "ENVID": "QQ1", "NOTIFY": "NEVER", "ORCPT": "rfc822;b@x.example"}, {"NOTIFY": "FAILURE"}],
    )  # fmt: skip
    said = play(talk.send(letter), "250 ok", "250 ok", "250 ok", "354 go", "250 2.0.0 queued as 7")
    assert said[0].split(b"\r\n") == [
        b"MAIL FROM:<a@us.example> SIZE=%d RET=HDRS ENVID=QQ1" % len(TEXT),
        b"RCPT TO:<b@x.example> NOTIFY=NEVER ORCPT=rfc822;b@x.example",
        b"RCPT TO:<c@x.example> NOTIFY=FAILURE",
        b"DATA",
        b"",
    ]
    assert said[1] == b"Subject: hello\r\n\r\n..a dot\r\nend\r\n.\r\n"
    assert {a: r.code for a, r in letter.results.items()} == {"b@x.example": 250, "c@x.example": 250}
    assert letter.results["b@x.example"].text == "250 2.0.0 queued as 7"


FACTS = {
    "NAME": "mail.away.example",
    "ADDR": "203.0.113.5",
    "HELO": "a b",
    "PROTO": "ESMTP",
    "SOURCE": "REMOTE",
    "IDENT": "",
}


def test_xforward_goes_before_each_mail_with_what_is_wanted() -> None:
    talk = ready("PIPELINING", "XFORWARD NAME ADDR PROTO HELO SOURCE")
    letter = mail("b@x.example")
    letter.forward = FACTS
    said = play(talk.send(letter), "550 not from you", "250 ok", "450 4.2.2 full", "554 nobody")
    assert said[0].startswith(
        b"XFORWARD NAME=mail.away.example ADDR=203.0.113.5 PROTO=ESMTP HELO=a+20b SOURCE=REMOTE\r\nMAIL FROM:"
    )
    assert letter.results["b@x.example"].code == 450  # a refused XFORWARD is no refusal of the mail
    again = mail("c@x.example")
    again.forward = {"ADDR": "IPV6:2001:db8::1"}
    said = play(talk.send(again), "250 reset", "250 ok", "250 ok", "250 ok", "354 go", "250 ok")
    assert said[0].startswith(b"RSET\r\nXFORWARD ADDR=IPV6:2001:db8::1\r\nMAIL")
    assert again.results["c@x.example"].good


def test_xforward_lines_fit_and_nobody_is_told_who_does_not_ask() -> None:
    letter = mail("b@x.example", sender="")
    letter.forward = {
        "NAME": "n" * 250,
        "ADDR": "203.0.113.5",
        "HELO": "h" * 250,
        "IDENT": "i" * 500,
        "SOURCE": "",
    }
    talk = ready("XFORWARD NAME ADDR HELO IDENT SOURCE")
    said = play(talk.send(letter), "250 ok", "250 ok", "250 ok", "250 ok", "354 go", "250 ok")
    assert [line[:14] for line in said[:3]] == [b"XFORWARD NAME=", b"XFORWARD HELO=", b"MAIL FROM:<>\r\n"]
    assert all(len(line) <= 512 for line in said[:2]) and said[1].endswith(b" SOURCE=[UNAVAILABLE]\r\n")
    letter = mail("b@x.example")
    letter.forward = FACTS
    assert b"XFORWARD" not in b"".join(
        play(ready("PIPELINING").send(letter), "250 a", "250 b", "354 c", "250 d")
    )


def test_without_pipelining_one_command_at_a_time() -> None:
    letter = mail("b@x.example", "c@x.example")
    said = play(ready().send(letter), "250 ok", "550 5.1.1 who?", "250 ok", "354 go", "250 fine")
    assert [line[:4] for line in said[:4]] == [b"MAIL", b"RCPT", b"RCPT", b"DATA"]
    assert letter.results["b@x.example"].permanent and letter.results["c@x.example"].good


def test_each_recipient_has_its_own_end() -> None:
    letter = mail("b@x", "c@x", "d@x")
    play(
        ready("PIPELINING").send(letter),
        "250 ok",
        "450 4.2.2 full",
        "550 5.1.1 no",
        "250 ok",
        "354 go",
        "250 ok",
    )
    assert [letter.results[a].code for a in ("b@x", "c@x", "d@x")] == [450, 550, 250]


@pytest.mark.parametrize("odd", ["354 go ahead", "503 no recipients"])
def test_all_recipients_refused_and_data_pipelined(odd: str) -> None:
    """RFC 2920 3.1: 354 for nobody must be answered with an empty text, or both ends disagree for ever."""
    talk = ready("PIPELINING")
    letter = mail("b@x", "c@x")
    answers = ["250 ok", "550 no", "451 later", odd] + (
        ["554 no valid recipients"] if odd.startswith("354") else []
    )
    said = play(talk.send(letter), *answers)
    assert said[1:] == ([b".\r\n"] if odd.startswith("354") else [])
    assert [letter.results[a].code for a in ("b@x", "c@x")] == [550, 451]
    assert not letter.sent and not talk.broken
    again = mail("d@x")
    assert play(talk.send(again), "250 reset", "250 ok", "250 ok", "354 go", "250 ok")[0].startswith(
        b"RSET\r\nMAIL"
    )
    assert again.results["d@x"].good


def test_the_sender_is_refused_for_all() -> None:
    for features, rest in ((("PIPELINING",), ["503 no", "503 no", "503 no"]), ((), [])):
        letter = mail("b@x", "c@x")
        play(ready(*features).send(letter), "553 5.1.8 who are you", *rest)
        assert [r.code for r in letter.results.values()] == [553, 553]


def test_a_connection_that_breaks_leaves_the_unknown_open() -> None:
    letter = mail("b@x", "c@x")
    steps = ready("PIPELINING").send(letter)
    next(steps)
    steps.send([reply("250 ok"), reply("250 ok"), reply("550 no"), reply("354 go")])
    steps.close()
    assert letter.sent and list(letter.results) == ["c@x"]


def test_refused_at_data_and_at_the_end() -> None:
    letter = mail("b@x")
    play(ready("PIPELINING").send(letter), "250 ok", "250 ok", "451 4.3.0 not now")
    assert letter.results["b@x"].code == 451 and not letter.sent
    letter = mail("b@x")
    play(ready("PIPELINING").send(letter), "250 ok", "250 ok", "354 go", "554 5.7.1 spam")
    assert letter.results["b@x"].code == 554


@pytest.mark.parametrize("odd", ["250 thanks", "300 what"])
def test_an_odd_answer_is_never_a_delivery(odd: str) -> None:
    for answers in (["250 ok", "250 ok", odd], ["250 ok", "250 ok", "354 go", "354 more"]):
        talk = ready("PIPELINING")
        letter = mail("b@x")
        play(talk.send(letter), *answers)
        assert talk.broken and letter.results["b@x"].code == 451
    letter = mail("b@x")
    play(ready().send(letter), "250 ok", "354 not for you")
    assert not letter.results["b@x"].good


def test_lmtp_has_an_answer_for_each_accepted_recipient() -> None:
    letter = mail("b@x", "c@x", "d@x")
    play(
        ready("PIPELINING", lmtp=True).send(letter),
        "250 ok", "250 ok", "550 no", "250 ok", "354 go", "250 stored", "452 4.2.2 full",
    )  # fmt: skip
    assert [letter.results[a].code for a in ("b@x", "c@x", "d@x")] == [250, 550, 452]


def test_size_limit_is_honoured_before_anything_is_said() -> None:
    letter = mail("b@x", data=b"x" * 100)
    assert play(ready("SIZE 50").send(letter)) == []
    assert letter.results["b@x"].code == 552
    play(ready("SIZE 0").send(again := mail("b@x")), "250 ok", "250 ok", "354 go", "250 ok")
    assert again.results["b@x"].good


def test_eight_bit_text() -> None:
    letter = mail("b@x", data="Subject: x\r\n\r\nGrüße\r\n".encode())
    assert (
        b" BODY=8BITMIME\r\n" in play(ready("8BITMIME").send(letter), "250 o", "250 o", "354 g", "250 o")[0]
    )
    letter = mail("b@x", data="Subject: x\r\n\r\nGrüße\r\n".encode())
    assert b"BODY" not in play(ready().send(letter), "250 o", "250 o", "354 g", "250 o")[0]


# -- SMTPUTF8 --------------------------------------------------------------------------------------------------
def test_international_addresses_need_smtputf8_each_for_itself() -> None:
    letter = mail("jöe@x.example", "ann@x.example")
    said = play(ready("PIPELINING").send(letter), "250 o", "250 o", "354 g", "250 o")
    assert (
        letter.results["jöe@x.example"].text.startswith("550 5.6.7") and letter.results["ann@x.example"].good
    )
    assert "jöe".encode() not in said[0]
    letter = mail("jöe@x.example")
    assert (
        b" SMTPUTF8\r\nRCPT TO:<j\xc3\xb6e@"
        in play(ready("PIPELINING", "SMTPUTF8").send(letter), "250 o", "250 o", "354 g", "250 o")[0]
    )


def test_an_international_domain_alone_goes_as_a_label() -> None:
    said = play(ready("PIPELINING").send(mail("ann@bücher.example")), "250 o", "250 o", "354 g", "250 o")
    assert b"RCPT TO:<ann@xn--bcher-kva.example>\r\n" in said[0]


def test_international_header_is_not_sent_to_a_host_that_cannot() -> None:
    letter = mail("b@x", data="Subject: Grüße\r\n\r\nx\r\n".encode(), SMTPUTF8="")
    assert play(ready("8BITMIME").send(letter)) == []
    assert letter.results["b@x"].text.startswith("550 5.6.9")


# -- nothing gets in -------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "address",
    [
        "b@x>\r\nRCPT TO:<evil@x", "b@x\nDATA", "b c@x", "b@x> NOTIFY=NEVER", "<b@x", "b\\@x", "b\0@x", '"b"c"@x', "",
        "x" * 600 + "@x",
    ],
)  # fmt: skip
def test_addresses_that_could_end_a_command(address: str) -> None:
    letter = mail(address)
    assert play(ready("PIPELINING").send(letter)) == []
    assert letter.results[address].permanent
    sender = Mail(address, ("b@x",), TEXT, [{}])
    if address:
        assert play(ready("PIPELINING").send(sender)) == []


def test_quoted_local_parts_are_fine() -> None:
    said = play(ready("PIPELINING").send(mail('"a b>\\""@x')), "250 o", "250 o", "354 g", "250 o")
    assert b'RCPT TO:<"a b>\\""@x>\r\n' in said[0]


def test_parameters_that_could_end_a_command_are_left_out() -> None:
    talk = ready("PIPELINING", "DSN", "DELIVERBY")
    letter = mail("b@x", ENVID="a\r\nb", ORCPT="rfc822;a b", NOTIFY="NEVER", BY="1;R\n")
    said = play(talk.send(letter), "250 o", "250 o", "354 g", "250 o")
    assert said[0] == b"MAIL FROM:<a@us.example>\r\nRCPT TO:<b@x> NOTIFY=NEVER\r\nDATA\r\n"


@pytest.mark.parametrize(
    ("data", "wire"),
    [
        (b"", b".\r\n"),
        (b".", b"..\r\n.\r\n"),
        (b"a\n.\nb", b"a\r\n..\r\nb\r\n.\r\n"),
        (b"a\r.\rb", b"a\r\n..\r\nb\r\n.\r\n"),
        (b"a\n.\r\nb\r\n", b"a\r\n..\r\nb\r\n.\r\n"),
        (b"a\r\n\r\n", b"a\r\n\r\n.\r\n"),
        (b"..\r\n", b"...\r\n.\r\n"),
    ],
)
def test_stuffed(data: bytes, wire: bytes) -> None:
    assert stuffed(data) == wire


# -- replies ---------------------------------------------------------------------------------------------------
STREAM = b"220-one\r\n220 two\r\n250\r\n250-a\n250 b\n354 go\r\n"


def test_replies_whole_and_byte_by_byte() -> None:
    whole = ReplyReader().feed(STREAM)
    assert [(r.code, r.lines) for r in whole] == [
        (220, ("one", "two")), (250, ("",)), (250, ("a", "b")), (354, ("go",)),
    ]  # fmt: skip
    reader = ReplyReader()
    assert [r for at in range(len(STREAM)) for r in reader.feed(STREAM[at : at + 1])] == whole
    assert not reader.pending


@pytest.mark.parametrize(
    "junk", [b"HTTP/1.1 400\r\n", b"25 ok\r\n", b"250-a\r\n251 b\r\n", b"600 x\r\n", b"\r\n", b"250+x\r\n"]
)
def test_what_is_no_reply(junk: bytes) -> None:
    with pytest.raises(ValueError, match="not a reply"):
        ReplyReader().feed(junk)


@pytest.mark.parametrize(
    "flood", [b"250-x\r\n" * 300, b"250 " + b"x" * 70_000, b"250-" + b"y" * 700 + b"\r\n"]
)
def test_endless_replies(flood: bytes) -> None:
    with pytest.raises(ValueError, match="endless"):
        ReplyReader().feed(flood * 100)


def test_enhanced_codes_and_control_characters() -> None:
    assert reply("550 5.1.1 who").enhanced == "5.1.1"
    assert reply("550 no 5.1.1").enhanced == "" and reply("550 5.1.1.1 x").enhanced == ""
    assert ReplyReader().feed(b"550 a\x1b[31m\0b\r\n")[0].lines == (" a [31m b".strip(),)


# -- our client and our server -----------------------------------------------------------------------------------
class Loop:
    """The server core on the other end of a generator."""

    def __init__(self, answers: Mapping[str, Reply], profile: Profile = Profile.MX) -> None:
        self.core = SmtpCore(SmtpConfig("them.example", profile))
        self.answers = answers
        self.texts: list[tuple[str, list[str], bytes]] = []
        self.sender = ""
        self.recipients: list[str] = []

    def serve(self) -> None:
        while (event := self.core.next_event()) is not None:
            match event:
                case events.Connected() | events.Helo():
                    self.core.reply(None)
                case events.Mail():
                    self.sender, self.recipients = event.reverse_path, []
                    self.core.reply(Reply(250, "2.1.0", "ok"))
                case events.Rcpt():
                    answer = self.answers.get(event.forward_path, Reply(250, "2.1.5", "ok"))
                    if answer.code < 300:
                        self.recipients.append(event.forward_path)
                    self.core.reply(answer)
                case events.Text():
                    self.texts.append((self.sender, self.recipients, event.data))
                    done = Reply(250, "2.0.0", "taken")
                    self.core.reply(
                        *[done] * event.recipients
                    ) if self.core.config.profile is Profile.LMTP else self.core.reply(done)

    def drive(self, steps: Talk, octets: int) -> None:
        reader = ReplyReader()
        waiting: list[RemoteReply] = []
        try:
            step = next(steps)
            while True:
                assert isinstance(step, Say)
                for at in range(0, len(step.data), octets):
                    self.core.receive_data(step.data[at : at + octets])
                    self.serve()
                self.serve()
                waiting += reader.feed(self.core.data_to_send())
                assert len(waiting) >= step.replies, (step, waiting)
                answer, waiting = waiting[: step.replies], waiting[step.replies :]
                step = steps.send(answer)
        except StopIteration:
            assert not waiting


@pytest.mark.parametrize("profile", [Profile.MX, Profile.LMTP])
@pytest.mark.parametrize("octets", [1, 7, 100_000])
def test_core_against_core(profile: Profile, octets: int) -> None:
    other = Loop(
        {"no@x.example": Reply(550, "5.1.1", "who"), "later@x.example": Reply(450, "4.2.1", "wait")}, profile
    )
    talk = Conversation("us.example", lmtp=profile is Profile.LMTP)
    other.drive(talk.open(), octets)
    assert {"PIPELINING", "DSN", "8BITMIME"} <= set(talk.features)
    first = mail(
        "b@x.example",
        "no@x.example",
        "later@x.example",
        "c@x.example",
        data=b".\r\n..\r\nbody\n.\nx",
        NOTIFY="NEVER",
    )
    other.drive(talk.send(first), octets)
    assert [first.results[a].code for a in first.recipients] == [250, 550, 450, 250]
    nobody = mail("no@x.example")
    other.drive(talk.send(nobody), octets)
    assert nobody.results["no@x.example"].code == 550
    second = mail("d@x.example", sender="")
    other.drive(talk.send(second), octets)
    assert other.texts == [
        ("a@us.example", ["b@x.example", "c@x.example"], b".\r\n..\r\nbody\r\n.\r\nx\r\n"),
        ("", ["d@x.example"], TEXT),
    ]
    other.drive(talk.quit(), octets)


# -- REQUIRETLS (RFC 8689) ---------------------------------------------------------------------------------------
def test_requiretls_goes_on_to_a_proven_host_that_knows_it() -> None:
    talk = ready("REQUIRETLS")
    talk.secure = talk.proven = True
    letter = mail("b@x.example", REQUIRETLS="")
    said = play(talk.send(letter), "250 ok", "250 ok", "354 go", "250 ok")
    assert said[0] == b"MAIL FROM:<a@us.example> REQUIRETLS\r\n" and letter.results["b@x.example"].good


@pytest.mark.parametrize(
    ("features", "proven", "why"), [(("REQUIRETLS",), False, "who"), (("SIZE",), True, "know it")]
)
def test_requiretls_goes_back_rather_than_on(features: tuple[str, ...], proven: bool, why: str) -> None:
    talk = ready(*features)
    talk.secure, talk.proven = True, proven
    letter = mail("b@x.example", REQUIRETLS="")
    assert play(talk.send(letter)) == []
    answer = letter.results["b@x.example"]
    assert (answer.code, answer.enhanced) == (550, "5.7.30") and why in answer.text


def test_a_notification_about_such_mail_goes_all_the_same() -> None:
    talk = ready("SIZE")
    letter = mail("a@us.example", sender="", REQUIRETLS="")
    said = play(talk.send(letter), "250 ok", "250 ok", "354 go", "250 ok")
    assert b"REQUIRETLS" not in said[0] and letter.results["a@us.example"].good
