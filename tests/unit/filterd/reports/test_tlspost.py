"""TLS reports to https: addresses: whom we ask, redirects, what waits, what is given up."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import json
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from filterd.net.https import is_public
from filterd.queue.base import Outgoing
from filterd.queue.tlsdemand import Policy, Session, TlsResult
from filterd.reports import days, tlspost, tlsrpt_data
from filterd.reports.aggregate import Reporter
from filterd.reports.tlspost import MAX_REDIRECTS, Answer, Poster, PostFailed, Url, url_of
from filterd.reports.tlsrpt import TlsReporting, wanted_urls
from pipeline.zone import Zone, ZoneResolver
from tests.queuelab import HandClock, KeptSpool

DAY = 86_400.0
RECORD = '"v=TLSRPTv1; rua=mailto:tls@x.example,https://r.x.example/v1?a=b"'


@pytest.mark.parametrize(
    ("text", "url"),
    [
        ("https://r.x.example", "https://r.x.example/"),
        ("https://r.x.example/v1/t?a=b%2Cc#f", "https://r.x.example/v1/t?a=b%2Cc"),
        ("HTTPS://R.X.example:8443/x", "https://r.x.example:8443/x"),
        ("https://r.x.example.:443/", "https://r.x.example/"),
        ("http://r.x.example/", None),
        ("https://user@r.x.example/", None),
        ("https://user:pw@r.x.example/", None),
        ("https://@r.x.example/", None),
        ("https:///path", None),
        ("https://r.x.example:x/", None),
        ("https://r.x.example:99999/", None),
        ("https://r.x.example:0/", None),
        ("https://192.0.2.1/", None),
        ("https://[::1]/", None),
        ("https://2130706433/", None),
        ("https://localhost/", None),
        ("https://r.x.example/a b", None),
        ("https://r.x.example/\r\nX: y", None),
        ("https://r.x.example/ü", None),
        ("https://r.x.example/" + "a" * 2000, None),
        ("mailto:a@x.example", None),
        ("", None),
    ],
)
def test_which_addresses_are_asked(text: str, url: str | None) -> None:
    found = url_of(text)
    assert (str(found) if found is not None else None) == url
    assert found is None or url_of(str(found)) == found


@pytest.mark.parametrize(
    ("records", "found"),
    [
        (("v=TLSRPTv1;rua=mailto:a@x.example,https://r.x.example/t",), ["https://r.x.example/t"]),
        (("v=TLSRPTv1;rua=https://r.x.example/t,https://r.x.example/t",), ["https://r.x.example/t"]),
        (("v=TLSRPTv1;rua=" + ",".join(f"https://r{n}.x.example/" for n in range(9)),),
         [f"https://r{n}.x.example/" for n in range(5)]),
        (("v=TLSRPTv1;rua=" + ",".join(f"mailto:a{n}@x.example" for n in range(4))
          + ",https://a.x.example/,https://b.x.example/",), ["https://a.x.example/"]),
        (("v=TLSRPTv1;rua=https://a.x.example/", "v=TLSRPTv1;rua=https://b.x.example/"), []),
        (("v=TLSRPTv1",), []),
    ],
)  # fmt: skip
def test_who_wants_them(records: tuple[str, ...], found: list[str]) -> None:
    assert [str(url) for url in wanted_urls(records)] == found


@pytest.mark.parametrize("address", ["127.0.0.1", "10.1.2.3", "192.168.0.1", "172.16.0.1", "169.254.169.254", "0.0.0.0",
    "100.64.0.1", "224.0.0.1", "255.255.255.255", "::1", "::", "fe80::1", "fd00::1", "ff02::1", "::ffff:127.0.0.1",
    "::ffff:10.0.0.1", "64:ff9b::7f00:1", "2002:7f00:1::", "192.0.2.1", "2001:db8::1", "no address", ""])  # fmt: skip
def test_addresses_that_are_not_asked(address: str) -> None:
    assert not is_public(address)


@pytest.mark.parametrize("address", ["9.9.9.9", "2620:fe::fe", "64:ff9b::909:909"])
def test_addresses_that_are(address: str) -> None:
    assert is_public(address)


@dataclass
class Web:
    """Other people's web servers: answers by URL, in order, the last one again and again."""

    answers: dict[str, list[Answer | Exception]] = field(default_factory=dict)
    asked: list[tuple[str, tuple[str, ...], bytes]] = field(default_factory=list)

    def request(self, url: Url, addresses: Sequence[str], data: bytes) -> Answer:
        self.asked.append((str(url), tuple(addresses), data))
        found = self.answers.get(str(url)) or [Answer(404)]
        answer = found.pop(0) if len(found) > 1 else found[0]
        if isinstance(answer, Exception):
            raise answer
        return answer


def zone() -> Zone:
    return Zone.parse(
        "r.x.example A 9.9.9.9\nr.x.example AAAA 2620:fe::fe\nother.x.example A 9.9.9.10\n"
        "inside.x.example A 127.0.0.1\nmixed.x.example A 10.0.0.1\nmixed.x.example A 9.9.9.9\nlater.x.example A SERVFAIL\n"
    )


def post(web: Web, text: str) -> str:
    url = url_of(text)
    assert url is not None
    return asyncio.run(Poster(ZoneResolver(zone()), web.request).post(url, b"data"))


def test_taken() -> None:
    web = Web({"https://r.x.example/v1": [Answer(201)]})
    assert post(web, "https://r.x.example/v1") == "taken by r.x.example (201)"
    assert web.asked == [("https://r.x.example/v1", ("9.9.9.9", "2620:fe::fe"), b"data")]


@pytest.mark.parametrize("status", [301, 302, 307, 308])
def test_redirects_are_followed_with_the_report(status: int) -> None:
    web = Web({
        "https://r.x.example/v1": [Answer(status, "/v2")],
        "https://r.x.example/v2": [Answer(status, "https://other.x.example:444/in")],
        "https://other.x.example:444/in": [Answer(200)],
    })  # fmt: skip
    assert "other.x.example" in post(web, "https://r.x.example/v1")
    assert [one[2] for one in web.asked] == [b"data"] * 3 and web.asked[2][1] == ("9.9.9.10",)


@pytest.mark.parametrize(
    ("answer", "why", "final"),
    [
        (Answer(500), "answers 500", False),
        (Answer(429), "answers 429", False),
        (Answer(404), "answers 404", False),
        (Answer(413), "answers 413", True),
        (Answer(400), "answers 400", True),
        (Answer(304), "answers 304", False),
        (Answer(307), "where no report goes", False),
        (Answer(307, "http://r.x.example/"), "where no report goes", False),
        (Answer(307, "https://127.0.0.1/"), "where no report goes", False),
        (Answer(307, "https://inside.x.example/"), "no public address: 127.0.0.1", False),
        (Answer(307, "https://absent.x.example/"), "has no address", False),
        (Answer(307, "/v1"), f"more than {MAX_REDIRECTS}", False),
        (PostFailed("the certificate of r.x.example: expired"), "certificate", False),
    ],
)
def test_not_taken(answer: Answer | Exception, why: str, final: bool) -> None:
    web = Web({"https://r.x.example/v1": [answer]})
    with pytest.raises(PostFailed, match=why) as caught:
        post(web, "https://r.x.example/v1")
    assert caught.value.final is final
    assert len(web.asked) <= MAX_REDIRECTS + 1


def test_only_public_addresses_are_given() -> None:
    web = Web({"https://mixed.x.example/": [Answer(200)]})
    post(web, "https://mixed.x.example/")
    assert web.asked[0][1] == ("9.9.9.9",)
    for host in ("inside", "later"):
        with pytest.raises(PostFailed):
            post(web, f"https://{host}.x.example/")
    assert len(web.asked) == 1


# -- day by day ---------------------------------------------------------------------------------------------


@dataclass
class Lab:
    path: Path
    record: str = RECORD
    clock: HandClock = field(default_factory=HandClock)
    web: Web = field(default_factory=Web)
    spool: KeptSpool = field(default_factory=KeptSpool)
    request: Callable[[Url, Sequence[str], bytes], Answer] | None = None

    def see(self) -> None:
        policy = Policy("sts", "x.example", (), (), "")
        seen = Session(policy, TlsResult.EXPIRED, "mx.x.example", "192.0.2.1", "old")
        with contextlib.closing(tlsrpt_data.connect(self.path)) as db:
            tlsrpt_data.count(db, [(days.day_of(self.clock.now), seen)])
        self.clock.now += DAY

    def reporting(self) -> TlsReporting:
        names = zone()
        names.add("_smtp._tls.x.example", "TXT", self.record)
        resolver = ZoneResolver(names)
        poster = Poster(resolver, self.request or self.web.request)
        who = Reporter("Us", "postmaster@us.example", "mail.us.example")
        return TlsReporting(self.path, who, resolver, self.spool, lambda *_: b"", self.clock, poster.post)

    def send(self) -> list[str]:
        return [told.result for told in asyncio.run(self.reporting().send_due())]

    def waiting(self) -> list[tlspost.Waiting]:
        with contextlib.closing(days.connect(self.path, TlsReporting.seen)) as db:
            return tlspost.due(db, 1e12)

    def told(self) -> list[str]:
        with contextlib.closing(days.connect(self.path, TlsReporting.seen)) as db:
            return [one[3] for one in days.sent(db)]


URL = "https://r.x.example/v1?a=b"


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    found = Lab(tmp_path / "tls.db")
    found.see()
    return found


def test_both_ways_and_once(lab: Lab) -> None:
    lab.web.answers[URL] = [Answer(200)]
    told = lab.send()
    assert told == [f"queued for tls@x.example; to be sent to {URL}", "taken by r.x.example (200)"]
    assert lab.send() == [] and len(lab.web.asked) == 1 and len(lab.spool.taken) == 1
    sent: Outgoing = next(iter(lab.spool.taken.values()))
    report = json.loads(gzip.decompress(lab.web.asked[0][2]))
    assert report["report-id"] in sent.data.decode() and report["policies"][0]["failure-details"]
    assert lab.told() == ["; ".join(told)] and not lab.waiting()


def test_only_https(lab: Lab) -> None:
    lab.record = f'"v=TLSRPTv1; rua={URL}"'
    lab.web.answers[URL] = [Answer(200)]
    assert lab.send()[0] == f"to be sent to {URL}" and not lab.spool.taken


def test_tried_again_in_the_next_round_and_taken_then(lab: Lab) -> None:
    lab.web.answers[URL] = [Answer(503), PostFailed("r.x.example: too slow"), Answer(200)]
    assert lab.send()[1] == f"{URL}: r.x.example answers 503"
    first = lab.web.asked[0][2]
    assert lab.send() == []  # not at once
    for _ in range(2):
        lab.clock.now += 3600
        lab.send()
    assert not lab.waiting() and len(lab.web.asked) == 3 and lab.web.asked[2][2] == first
    assert lab.told()[0].endswith("taken by r.x.example (200)") and len(lab.spool.taken) == 1


def test_given_up_after_a_day(lab: Lab) -> None:
    lab.web.answers[URL] = [Answer(503)]
    rounds = 0
    lab.send()
    while lab.waiting():
        lab.clock.now += 3600
        lab.send()
        rounds += 1
    assert rounds == 24 and 5 <= len(lab.web.asked) <= 10
    assert f"given up: {URL}: r.x.example answers 503" in lab.told()[0]
    assert lab.send() == []


def test_given_up_at_once_when_the_report_is_refused(lab: Lab) -> None:
    lab.web.answers[URL] = [Answer(413)]
    assert "given up" in lab.send()[1] and not lab.waiting()


def test_one_that_fails_holds_up_nobody(lab: Lab) -> None:
    others = ",".join(f"https://r.x.example/{n}" for n in range(3))
    lab.record = f'"v=TLSRPTv1; rua=https://absent.x.example/,{others}"'
    lab.web.answers = {f"https://r.x.example/{n}": [Answer(200)] for n in range(3)}
    lab.send()
    assert [one.url for one in lab.waiting()] == ["https://absent.x.example/"]


def test_our_own_mistake_holds_up_nobody(lab: Lab) -> None:
    lab.record = '"v=TLSRPTv1; rua=https://r.x.example/0,https://r.x.example/1"'
    lab.web.answers = {"https://r.x.example/0": [ZeroDivisionError()], "https://r.x.example/1": [Answer(200)]}
    assert any("internal error" in told for told in lab.send())
    assert [one.url for one in lab.waiting()] == ["https://r.x.example/0"]


def test_told_to_stop_nobody_waits_for_a_slow_server(lab: Lab) -> None:
    hangs, asked = threading.Event(), threading.Event()

    def slow(url: Url, addresses: Sequence[str], data: bytes) -> Answer:
        asked.set()
        hangs.wait(60)
        return Answer(200)

    lab.request = slow

    async def story() -> None:
        stop = asyncio.Event()
        task = asyncio.create_task(lab.reporting().run(stop))
        await asyncio.to_thread(asked.wait, 30)
        stop.set()
        await asyncio.wait_for(task, 30)

    asyncio.run(story())
    assert len(lab.waiting()) == 1
    hangs.set()


def test_a_crash_between_mail_and_mark_loses_no_post(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    lab.web.answers[URL] = [Answer(200)]

    def dies(*_: object) -> None:
        raise OSError("killed")

    with monkeypatch.context() as patch:
        patch.setattr(days, "mark", dies)
        with pytest.raises(OSError, match="killed"):
            lab.send()
    assert not lab.waiting() and not lab.web.asked
    lab.send()
    assert len(lab.web.asked) == 1 and len(lab.spool.taken) == 1  # one key
