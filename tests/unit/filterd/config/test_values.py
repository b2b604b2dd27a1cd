"""How people write sizes, durations, addresses and names."""

import pytest

from filterd.config import values
from filterd.config.values import BadValue, Kind, Relay, SocketAddress, read


@pytest.mark.parametrize(
    ("text", "octets"),
    [
        ("50 MiB", 50 << 20),
        ("1kb", 1000),
        ("64 KiB", 65536),
        ("0", 0),
        ("1.5 GiB", 3 << 29),
        ("7 B", 7),
        ("2G", 2 << 30),
    ],
)
def test_sizes(text: str, octets: int) -> None:
    assert values.size(text) == octets


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("25s", 25),
        ("200ms", 0.2),
        ("1h 30m", 5400),
        ("5d", 432000),
        ("2w", 1209600),
        ("5 min", 300),
        ("0s", 0),
    ],
)
def test_durations(text: str, seconds: float) -> None:
    assert values.duration(text) == pytest.approx(seconds)


@pytest.mark.parametrize("text", ["", "25", "s", "5 parsecs", "-3s", "3s and a bit", "1h30"])
def test_bad_durations(text: str) -> None:
    with pytest.raises(BadValue):
        values.duration(text)


@pytest.mark.parametrize("text", ["", "MiB", "5 MX", "-1", "1e3", "0x10"])
def test_bad_sizes(text: str) -> None:
    with pytest.raises(BadValue):
        values.size(text)


@pytest.mark.parametrize("seconds", [0, 0.2, 1, 25, 90, 300, 3600, 86400, 604800, 5 * 86400])
def test_durations_are_shown_as_they_are_read(seconds: float) -> None:
    assert values.duration(values.show_duration(seconds)) == pytest.approx(seconds)


@pytest.mark.parametrize("octets", [0, 1, 1000, 1024, 50 << 20, 5 << 30, (1 << 20) + 1])
def test_sizes_are_shown_as_they_are_read(octets: int) -> None:
    assert values.size(values.show_size(octets)) == octets


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("127.0.0.1:2525", SocketAddress("127.0.0.1", 2525)),
        ("[::]:25", SocketAddress("::", 25)),
        ("[::1]:0", SocketAddress("::1", 0)),
        (":25", SocketAddress("", 25)),
        ("*:25", SocketAddress("", 25)),
        ("localhost:143", SocketAddress("localhost", 143)),
        ("unix:/run/x", SocketAddress(path="/run/x")),
        ("local:/run/x", SocketAddress(path="/run/x")),
        ("/run/x", SocketAddress(path="/run/x")),
        ("fd:smtp", SocketAddress(name="smtp")),
        ("inet:783@127.0.0.1", SocketAddress("127.0.0.1", 783)),
        ("inet:127.0.0.1:783", SocketAddress("127.0.0.1", 783)),
        ("inet6:783@::1", SocketAddress("::1", 783)),
    ],
)
def test_socket_addresses(text: str, address: SocketAddress) -> None:
    assert values.socket_address(text) == address
    assert values.socket_address(str(address)) == address


@pytest.mark.parametrize(
    "text", ["", "25", "host", "host:port", "host:70000", "a b:25", "unix:", "::1:25:x", "host:-1"]
)
def test_bad_socket_addresses(text: str) -> None:
    with pytest.raises(BadValue):
        values.socket_address(text)


def test_a_port_alone_gets_the_right_hint() -> None:
    with pytest.raises(BadValue, match=r'"\[::\]:25"'):
        values.socket_address("25")


@pytest.mark.parametrize(
    "text", ["exa mple.org", "", "-a.org", "a..b", "x" * 64 + ".org", "a/b", "ex@mple.org"]
)
def test_bad_host_names(text: str) -> None:
    with pytest.raises(BadValue):
        values.host_name(text)


def test_host_names_become_a_labels_in_lower_case() -> None:
    assert values.host_name("Mail.Example.ORG.") == "mail.example.org"
    assert values.host_name("bücher.example") == "xn--bcher-kva.example"


@pytest.mark.parametrize(
    ("text", "relay"),
    [
        ("", None),
        ("smtp://mail.example.org:2525", Relay("mail.example.org", 2525)),
        ("smtp://127.0.0.1", Relay("127.0.0.1", 25)),
        ("smtp://[::1]:26", Relay("::1", 26)),
        (
            "smtp://ann%40example.org:s3cret@mail.example.org:587",
            Relay("mail.example.org", 587, "ann@example.org", "s3cret"),
        ),
        ("lmtp://127.0.0.1", Relay("127.0.0.1", 24, lmtp=True)),
        ("lmtp://[::1]:2424", Relay("::1", 2424, lmtp=True)),
        ("lmtp:unix:/run/dovecot/lmtp", Relay("localhost", 0, lmtp=True, path="/run/dovecot/lmtp")),
        ("smtp:unix:/run/filter", Relay("localhost", 0, path="/run/filter")),
    ],
)
def test_relays(text: str, relay: Relay | None) -> None:
    assert values.relay(text) == relay
    if relay is not None and not relay.password:
        assert values.relay(str(relay)) == relay


@pytest.mark.parametrize(
    "text",
    [
        "mail.example.org:25",
        "http://x:25",
        "smtp://",
        "smtp://user@host:25",
        "smtp://:25",
        "lmtp:",
        "lmtp:unix:",
        "lmtp://me:pw@x:24",
        "lmtp:/x",
    ],
)
def test_bad_relays(text: str) -> None:
    with pytest.raises(BadValue):
        values.relay(text)


@pytest.mark.parametrize(
    ("kind", "raw"),
    [
        (Kind.TEXT, 5),
        (Kind.FLAG, "true"),
        (Kind.FLAG, 1),
        (Kind.COUNT, "5"),
        (Kind.COUNT, True),
        (Kind.NUMBER, "5"),
        (Kind.SIZE, 1.5),
        (Kind.DURATION, 25),
        (Kind.LISTEN, 25),
        (Kind.LISTEN, [25]),
        (Kind.WORKERS, "many"),
        (Kind.ALIASES, ["a"]),
        (Kind.TEXTS, {"a": 1}),
    ],
)
def test_wrong_types_say_so(kind: Kind, raw: object) -> None:
    with pytest.raises(BadValue) as caught:
        read(kind, raw)
    assert caught.value.kind == "wrong type"


def test_one_entry_needs_no_brackets() -> None:
    assert read(Kind.LISTEN, "127.0.0.1:25") == read(Kind.LISTEN, ["127.0.0.1:25"])
    assert read(Kind.LISTEN, []) == ()


def test_switches() -> None:
    assert [read(Kind.SWITCH, raw) for raw in (True, False, "auto", "on", "OFF")] == [
        "on",
        "off",
        "auto",
        "on",
        "off",
    ]


def test_nearest_knows_typos_and_beginnings() -> None:
    assert values.nearest("junk_att", ["junk_at", "found"]) == 'did you mean "junk_at"?'
    assert values.nearest("spam", ["spf", "spamassassin"]) == 'did you mean "spamassassin"?'
    assert values.nearest("zzz", ["spf"]) == ""


def test_networks() -> None:
    assert read(Kind.NETWORKS, ["localhost", "10.1.2.3/8", "::1"]) == (
        "127.0.0.0/8",
        "::1/128",
        "10.0.0.0/8",
        "::1/128",
    )
    with pytest.raises(BadValue):
        read(Kind.NETWORKS, "mail.example.org")


@pytest.mark.parametrize(
    ("kind", "raw", "words"),
    [
        (Kind.NETWORKS, ["10.0.0.0/99", "::1", 7], ('"10.0.0.0/99" is not', "not a number")),
        (Kind.LISTEN, ["127.0.0.1:25", "127.0.0.1", "a b:25"], ("write ", '"a b" is not a host name')),
        (Kind.ALIASES, {"a@b": "x@y.example", "c": ["d", "e f"]}, ('"a@b"', '"d" is not', '"e f" is not')),
        (Kind.SOURCES, ["127.0.0.1", "x", "y"], ('"x"', '"y"')),
    ],
)
def test_all_that_is_wrong_in_a_list_is_told(kind: Kind, raw: object, words: tuple[str, ...]) -> None:
    with pytest.raises(BadValue) as caught:
        read(kind, raw)
    assert all(word in str(caught.value) for word in words), str(caught.value)


def test_two_misspelt_choices_are_both_told() -> None:
    with pytest.raises(BadValue) as caught:
        read(Kind.CHOICES, ["spff", "dkim", "dkimm"], ("spf", "dkim"))
    assert '"spf"' in str(caught.value) and '"dkim"' in str(caught.value)


def test_half_a_bracket_is_cured_without_a_third() -> None:
    with pytest.raises(BadValue, match=r'"\[::1\]:110"'):
        read(Kind.LISTEN, ["[::1:110"])
