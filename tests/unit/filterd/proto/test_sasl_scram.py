"""SCRAM-SHA-256(-PLUS): RFC 7677's exchange, bindings, downgrades, hostile messages."""

from __future__ import annotations

import pytest

from filterd.accounts.directory import Account
from filterd.proto import sasl, sasl_keys
from filterd.proto.sasl import Challenge, Channel, Failed, Granted, Proof
from filterd.proto.sasl_keys import ScramKeys
from filterd.proto.sasl_offer import Mechanisms, chance
from filterd.proto.sasl_scram import Scram
from tests.saslclient import ScramClient

ANN = Account("ann@example.org")
BINDINGS = Channel({"tls-exporter": b"e" * 32, "tls-server-end-point": b"c" * 32})


class Source:
    def __init__(self, offered: bool = True) -> None:
        self.offered = offered
        self.keys = {
            "user": sasl_keys.derive("pencil", sasl_keys._decoded("W22ZaJ0SNY7soEsUEjb6gQ=="), 4096),
            "a,b=c": sasl_keys.derive("x", b"0" * 16, 4096),
            "jöe": sasl_keys.derive("x", b"0" * 16, 4096),
        }

    def scram(self, login: str) -> ScramKeys:
        return self.keys.get(login) or sasl_keys.made_up(b"secret", login)

    def scram_offered(self) -> bool:
        return self.offered


def nonce() -> bytes:
    return b"%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0"


def exchange(channel: Channel = sasl.NO_CHANNEL, *, bound: bool = False, plus: bool = False) -> Scram:
    return Scram(Source(), channel, nonce, bound=bound, plus_offered=plus)


def run(client: ScramClient, server: Scram) -> sasl.Step:
    """The evidence, or what went wrong."""
    step = server.start(client.first())
    if not isinstance(step, Challenge):
        return step
    return server.respond(client.final(step.data))


def test_rfc_7677_exchange() -> None:
    server = exchange()
    assert server.start(None) == Challenge(b"")
    assert server.respond(b"n,,n=user,r=rOprNGfwEbeRWgbNEkqO") == Challenge(
        b"r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096"
    )
    assert server.respond(
        b"c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,"
        b"p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ="
    ) == Proof("user", True)
    assert server.judged(ANN) == b"v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4="
    assert server.respond(b"") == Granted(ANN)


@pytest.mark.parametrize("login", ["user", "a,b=c", "jöe", "jo\u0308e", "nobody"])
@pytest.mark.parametrize("password", ["pencil", "x", "wrong"])
def test_proof(login: str, password: str) -> None:
    right = {"user": "pencil", "a,b=c": "x", "jöe": "x", "jo\u0308e": "x"}.get(login) == password
    step = run(ScramClient(login, password), exchange())
    assert isinstance(step, Proof) and step.good is right


def test_a_refused_proof_is_over() -> None:
    server = exchange()
    assert run(ScramClient("user", "wrong"), server) == Proof("user", False)
    assert server.judged(None) is None


def test_octets_after_the_signature_grant_nothing() -> None:
    client, server = ScramClient("user", "pencil"), exchange()
    assert run(client, server) == Proof("user", True)
    last = server.judged(ANN)
    assert last is not None and client.believes(last)
    assert isinstance(server.respond(b"x"), Failed)


@pytest.mark.parametrize("kind", ["tls-exporter", "tls-server-end-point"])
def test_channel_binding(kind: str) -> None:
    def step(data: bytes) -> sasl.Step:
        client = ScramClient("user", "pencil", f"p={kind},,", data)
        return run(client, exchange(BINDINGS, bound=True, plus=True))

    assert step(BINDINGS.bindings[kind]) == Proof("user", True)
    assert step(b"somebody between us") == Proof("user", False)
    assert step(b"") == Proof("user", False)


def test_downgrades_are_refused() -> None:
    def step(gs2: str, *, bound: bool, plus: bool, binding: bytes = b"") -> sasl.Step:
        channel = BINDINGS if plus else sasl.NO_CHANNEL
        return run(ScramClient("user", "pencil", gs2, binding), exchange(channel, bound=bound, plus=plus))

    assert isinstance(step("y,,", bound=False, plus=True), Failed), (
        "our offer of PLUS was taken out on the way"
    )
    assert step("y,,", bound=False, plus=False) == Proof("user", True)
    assert step("n,,", bound=False, plus=True) == Proof("user", True), "a client that cannot"
    for gs2 in ("n,,", "y,,"):
        assert isinstance(step(gs2, bound=True, plus=True), Failed)
    assert isinstance(step("p=tls-exporter,,", bound=False, plus=True, binding=b"e" * 32), Failed)
    assert isinstance(step("p=tls-unique,,", bound=True, plus=True), Failed), "a type we do not have here"


def test_the_header_that_was_sent_is_the_one_that_is_bound() -> None:
    client, server = ScramClient("user", "pencil", "n,,"), exchange()
    step = server.start(client.first())
    assert isinstance(step, Challenge)
    client.gs2 = "y,,"
    assert server.respond(client.final(step.data)) == Proof("user", False)


def test_authorization_identity() -> None:
    assert run(ScramClient("user", "pencil", "n,a=user,"), exchange()) == Proof("user", True)
    assert run(ScramClient("user", "pencil", "n,a=,"), exchange()) == Proof("user", True), "as gsasl sends it"
    assert isinstance(run(ScramClient("user", "pencil", "n,a=root,"), exchange()), Failed)


@pytest.mark.parametrize(
    "message",
    [
        b"", b"n", b"n,,", b"n,,n=user", b"n,,n=,r=x", b"n,,n=user,r=", b"n,,m=1,n=user,r=x", b"x,,n=user,r=x",
        b"n,,n=us\0er,r=x", b"n,,n=us=er,r=x", b"n,,n=us=2Der,r=x", b"n,,n=\xff,r=x", b"p=,,n=user,r=x", b"n,,r=x,n=user",
        b"n,,n=user,r=a b", b"n,,n=user,r=" + b"x" * 257, b"n,,n=" + b"u" * 600 + b",r=x", b"n,,n=user,r=x,junk", b"n" * 5000,
    ],
)  # fmt: skip
def test_malformed_first_message(message: bytes) -> None:
    assert isinstance(exchange().start(message), Failed)


@pytest.mark.parametrize(
    "message",
    [
        b"", b"c=biws", b"p=AAAA", b"c=!,r=x,p=AAAA", b"c=biws,r=x", b"c=biws,p=AAAA", b"c=biws,r=x,p=A", b"c=biws,r=x,p=",
        b"c=biws,r=x,p=AAAA,z=1", b"e=other-error",
    ],
)  # fmt: skip
def test_malformed_last_message(message: bytes) -> None:
    server = exchange()
    assert isinstance(server.start(b"n,,n=user,r=x"), Challenge)
    assert isinstance(server.respond(message), Failed)


def test_another_nonce_is_no_proof() -> None:
    client, server = ScramClient("user", "pencil"), exchange()
    step = server.start(client.first())
    assert isinstance(step, Challenge)
    replayed = client.final(step.data.replace(b"%hv", b"%hw"))
    assert server.respond(replayed) == Proof("user", False)


def test_extensions_at_the_end_are_read_over() -> None:
    assert isinstance(exchange().start(b"n,,n=user,r=x,z=ext"), Challenge)


def test_nonces_differ() -> None:
    assert chance() != chance() and len(chance()) == 24 and b"," not in chance()


def test_offer() -> None:
    offer = Mechanisms(Source())
    assert offer.names(sasl.NO_CHANNEL, True) == ("PLAIN", "LOGIN", "SCRAM-SHA-256")
    assert "SCRAM-SHA-256-PLUS" not in offer.names(BINDINGS, True), "mutt would choose it and fail"
    assert isinstance(offer.begin("SCRAM-SHA-256-PLUS", BINDINGS, True), Scram), "who asks for it gets it"
    assert Mechanisms(Source(), announce_plus=True).names(BINDINGS, True)[-1] == "SCRAM-SHA-256-PLUS"
    unannounced = offer.begin("SCRAM-SHA-256", BINDINGS, True)
    announced = Mechanisms(Source(), announce_plus=True).begin("SCRAM-SHA-256", BINDINGS, True)
    assert isinstance(unannounced, Scram) and isinstance(announced, Scram)
    flag_y = ScramClient("user", "pencil", "y,,")
    assert run(flag_y, unannounced) == Proof("user", True) and isinstance(run(flag_y, announced), Failed)
    assert offer.names(sasl.NO_CHANNEL, False) == ()
    assert offer.begin("scram-sha-256", sasl.NO_CHANNEL, False) is sasl.WireFault.NEEDS_TLS
    assert offer.begin("SCRAM-SHA-256-PLUS", sasl.NO_CHANNEL, True) is sasl.WireFault.UNKNOWN_MECHANISM
    assert offer.begin("GSSAPI", sasl.NO_CHANNEL, True) is sasl.WireFault.UNKNOWN_MECHANISM
    assert isinstance(offer.begin("scram-sha-256", sasl.NO_CHANNEL, True), Scram)
    clear = Mechanisms(Source(), scram_in_clear=True)
    assert clear.names(sasl.NO_CHANNEL, False) == ("SCRAM-SHA-256",)
    assert clear.begin("PLAIN", sasl.NO_CHANNEL, False) is sasl.WireFault.NEEDS_TLS
    assert Mechanisms(Source(offered=False)).names(BINDINGS, True) == sasl.MECHANISMS
