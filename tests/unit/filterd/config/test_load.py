"""Every mistake of a configuration is found in one run, at its line and column, with a cure."""

from pathlib import Path

import pytest

from filterd.config.errors import ConfigErrors, render
from filterd.config.load import load, parse
from filterd.config.schema import STANDARD_DOORS, Config
from filterd.config.values import SocketAddress

GOOD = '[server]\nhostname = "mail.example.org"\n[[domain]]\nname = "example.org"\n'


def problems(text: str, environ: dict[str, str] | None = None) -> list[tuple[int, int, str, str, str]]:
    with pytest.raises(ConfigErrors) as caught:
        parse(text, "f.toml", environ)
    return [(one.line, one.column, one.kind, one.about, one.text) for one in caught.value.errors]


def test_the_smallest_file() -> None:
    config = parse(GOOD)
    assert config.server.hostname == "mail.example.org"
    assert [domain.name for domain in config.domain] == ["example.org"]
    assert config.limits.message_size == 50 << 20
    assert config.listen.smtp == STANDARD_DOORS["smtp"]
    assert not config.listen.milter and not config.warnings


def test_one_listener_named_means_only_that_one() -> None:
    config = parse(GOOD + '[listen]\nsmtp = ["127.0.0.1:0"]\n')
    assert config.listen.smtp == (SocketAddress("127.0.0.1", 0),)
    assert config.listen.imap == ()


# What the operator wrote after GOOD; line (5 = the first one), column, kind, and a word of the text.
SEEDED = [
    ('[stage.clamav]\nfuond = "reject"', 6, 1, "unknown key", 'did you mean "found"'),
    ('[stage.clamav]\nfound = "rejct"', 6, 9, "bad value", 'did you mean "reject"'),
    ("[stage.spam]\njunk_at = 5.0", 5, 1, "unknown key", "spamassassin"),
    ('[stage.spamassassin]\njunk_at = "5"', 6, 11, "wrong type", "number"),
    ("[stage.spamassassin]\nsure = 99.9", 6, 8, "bad value", "probability"),
    ("[stage.spamassassin]\njunk_at = 8.0\nreject_at = 5.0", 7, 13, "conflict", "Junk"),
    ('[pipeline]\nincoming = ["spf", "sieve", "clamav"]', 6, 12, "conflict", "X-Virus-Status"),
    ('[pipeline]\nincoming = ["spf", "privacy", "sieve"]', 6, 12, "conflict", "behind"),
    ('[pipeline]\nincoming = ["spf", "spf"]', 6, 12, "conflict", "twice"),
    ('[pipeline]\nincoming = ["spf", "sieev"]', 6, 12, "bad value", 'did you mean "sieve"'),
    ('[pipeline]\noutgoing = ["dkim-sign", "privacy"]', 6, 12, "conflict", "signature"),
    ("[pipeline]\ntime_budget = 25", 6, 15, "wrong type", "duration"),
    ('[pipeline]\ntime_budget = "25"', 6, 15, "bad value", "unit"),
    ('[limits]\nmessage_size = "50 MX"', 6, 16, "bad value", "MiB"),
    ("[limits]\nmessage_size = 0", 6, 16, "bad value", "nothing would get in"),
    ("[limits]\nconnections = { total = 10, per_up = 3 }", 6, 29, "unknown key", "per_ip"),
    ("[listen]\nsmtp = 25", 6, 8, "wrong type", "HOST:PORT"),
    ('[listen]\nsmtp = "25"', 6, 8, "bad value", "[::]:25"),
    ('[listen]\nsmpt = ["[::]:25"]', 6, 1, "unknown key", "smtp"),
    ('[listen]\nimap = "127.0.0.1:143"\nimaps = "127.0.0.1:143"', 7, 9, "conflict", "listen.imap"),
    ('[tls]\nmode = "off"\n[listen]\nimaps = "127.0.0.1:993"', 8, 9, "conflict", "TLS"),
    ('[tls]\nmode = "off"\n[quarantine]\nhttps = true', 8, 9, "conflict", "TLS"),
    ('[tls]\nmode = "acme"', 6, 8, "bad value", "self-signed"),
    ('[tls]\nmode = "files"', 5, 1, "missing key", "tls.mode"),
    ('[tls]\nmode = "files"\ncert = "none.pem"\nkey = "none.pem"', 7, 8, "no such file", ""),
    ('[[domain]]\nname = "example.org"', 6, 8, "conflict", "twice"),
    ('[[domain]]\nname = "exa mple.net"', 6, 8, "bad value", "host name"),
    ('[[domain]]\nnmae = "example.net"', 6, 1, "unknown key", "name"),
    ('[[domain]]\nname = "b.org"\ncatch_all = "ann"', 7, 13, "bad value", "address"),
    (
        '[[domain]]\nname = "b.org"\naliases = { a = "c@b.org", c = "a@b.org" }',
        7,
        17,
        "conflict",
        "back to itself",
    ),
    ("[accounts]\nqouta = 5", 6, 1, "unknown key", "quota"),
    ('[accounts]\nsubaddress = "+-"', 6, 14, "bad value", "one character"),
    ('[queue]\nrelay = "mail.example.org"', 6, 9, "bad value", "smtp://"),
    ("[queue]\nretry = []", 6, 9, "bad value", "pause"),
    ('[queue]\nretry = ["5m", "often"]', 6, 9, "bad value", "duration"),
    ('[dns]\nresolver = "1.1.1.1"', 6, 12, "bad value", "write"),
    ('recipients = ["ann"]', 5, 14, "conflict", "accounts"),
    (
        'relay = "lmtp://h.example"\nrecipients = ["a@other.example"]',
        6,
        14,
        "bad value",
        "is not an address of",
    ),
    ('relay = "lmtp://h.example"\nrecipients = ["file:/nowhere/at/all"]', 6, 14, "no such file", ""),
    ('[srs]\ndomain = "other.example"', 6, 10, "conflict", "[[domain]]"),
    ('[srs]\nsecrets = ["file:none"]', 6, 11, "bad value", "cannot read"),
    ('[store]\npath = "mail/%{user}"', 6, 8, "bad value", "%{domain}/%{user}"),
    ('[store]\nformat = "mdir"', 6, 10, "bad value", "maildir"),
    ('[server2]\nhostname = "x"', 5, 1, "unknown key", "server"),
    ("[stage.sieve.limits]\ncpu = 5", 6, 7, "wrong type", "duration"),
    ('[stage.sieve]\ndefault = "none.sieve"', 6, 11, "no such file", ""),
    ('[stage.privacy]\nstrip = ["From"]', 6, 9, "bad value", "cannot do without"),
    ('[server]\nxclient_trusted = ["10.0.0.0/33"]', 5, 0, "syntax", ""),
]


@pytest.mark.parametrize(("text", "line", "column", "kind", "word"), SEEDED)
def test_seeded_mistakes(text: str, line: int, column: int, kind: str, word: str) -> None:
    found = problems(GOOD + text + "\n")
    assert len(found) >= 1
    assert found[0][0] == line
    assert not column or found[0][1] == column
    assert found[0][2] == kind
    assert word in found[0][4]


@pytest.mark.parametrize("text", [one[0] for one in SEEDED if not one[0].startswith('[tls]\nmode = "files"')])
def test_one_mistake_is_told_once(text: str) -> None:
    assert len(problems(GOOD + text + "\n")) == 1


def test_all_mistakes_at_once_in_the_order_of_the_file() -> None:
    found = problems('[server]\nhostnme = "x.org"\nworkers = "many"\n[limits]\nrecipients = "5"\n')
    assert [(one[0], one[2]) for one in found] == [
        (1, "missing key"),  # [[domain]]
        (2, "unknown key"),  # and hostname is not called missing as well
        (3, "wrong type"),
        (5, "wrong type"),
    ]
    assert "domain" in found[0][3]


def test_a_key_in_the_wrong_table_is_told_where_it_belongs() -> None:
    assert "it belongs to server.hostname" in problems('hostname = "mail.example.org"\n' + GOOD)[0][4]


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("a = \n", 1),
        ('[server]\nhostname = "x\n', 2),
        ("[server\n", 1),
        ("a = 1\na = 2\n", 2),
        ('x = """', 1),
    ],
)
def test_syntax_errors_have_a_line(text: str, line: int) -> None:
    found = problems(text)
    assert [(one[0], one[2]) for one in found] == [(line, "syntax")]


def test_printed_as_place_kind_key_text() -> None:
    with pytest.raises(ConfigErrors) as caught:
        parse(GOOD + '[stage.clamav]\nfound = "rejct"\n', "filterd.toml")
    text = 'stage.clamav.found = "rejct"   one of: reject, quarantine, tag, discard   did you mean "reject"?'
    assert str(caught.value.errors[0]) == f"filterd.toml:6:9  bad value  {text}"
    assert render(caught.value.errors) == f"filterd.toml:6:9  bad value  {text}"


# -- files beside it, the environment, secrets -----------------------------------------------------------------------------


def write(folder: Path, files: dict[str, str]) -> str:
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, "utf-8")
    return str(folder / "filterd.toml")


def test_conf_d_is_merged(tmp_path: Path) -> None:
    more = '[limits]\nrecipients = 7\n[[domain]]\nname = "two.example"\n[server]\nhostname = "mail.example.org"\n'
    path = write(tmp_path, {"filterd.toml": GOOD, "conf.d/10-more.toml": more, "conf.d/ignored.txt": "x"})
    config = load(path, {})
    assert config.limits.recipients == 7
    assert [domain.name for domain in config.domain] == ["example.org", "two.example"]
    assert config.origins["limits.recipients"].endswith("10-more.toml:2")
    assert config.origins["domain[1].name"].endswith("10-more.toml:4")


def test_conflicts_between_files_name_both_places(tmp_path: Path) -> None:
    path = write(tmp_path, {"filterd.toml": GOOD, "conf.d/x.toml": '[server]\nhostname = "b.example.org"\n'})
    with pytest.raises(ConfigErrors) as caught:
        load(path, {})
    (problem,) = caught.value.errors
    assert (problem.line, problem.column, problem.kind) == (2, 1, "conflict")
    assert problem.file.endswith("x.toml") and "filterd.toml:2:1" in problem.text


def test_mistakes_of_a_second_file_point_into_it(tmp_path: Path) -> None:
    more = '\n[[domain]]\nname = "two.example"\ncatch_al = "x@y.z"\n'
    path = write(tmp_path, {"filterd.toml": GOOD, "conf.d/x.toml": more})
    with pytest.raises(ConfigErrors) as caught:
        load(path, {})
    (problem,) = caught.value.errors
    assert problem.file.endswith("x.toml") and problem.line == 4


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigErrors) as caught:
        load(str(tmp_path / "none.toml"), {})
    assert caught.value.errors[0].kind == "no such file"


def test_a_file_that_is_not_utf8(tmp_path: Path) -> None:
    path = tmp_path / "filterd.toml"
    path.write_bytes(b"a = 1\nb = '\xff'\n")
    with pytest.raises(ConfigErrors) as caught:
        load(str(path), {})
    assert (caught.value.errors[0].line, caught.value.errors[0].column) == (2, 6)


def test_the_environment_wins() -> None:
    config = parse(
        GOOD + '[queue]\nmax_age = "1d"\n',
        environ={
            "FILTERD_QUEUE__MAX_AGE": "3d",
            "FILTERD_LISTEN__SMTP": "127.0.0.1:25, [::1]:25",
            "FILTERD_STAGE__CLAMAV__ENABLED": "false",
            "FILTERD_LIMITS__CONNECTIONS__TOTAL": "7",
            "FILTERD_SERVER__WORKERS": "auto",
            "FILTERD_CONFIG": "ignored",
            "OTHER__THING": "ignored",
        },
    )
    assert config.queue.max_age == 3 * 86400
    assert [str(one) for one in config.listen.smtp] == ["127.0.0.1:25", "[::1]:25"]
    assert config.stage.clamav.enabled == "off"
    assert (config.limits.connections.total, config.server.workers) == (7, 0)
    assert config.origins["queue.max_age"] == "env FILTERD_QUEUE__MAX_AGE"


@pytest.mark.parametrize(
    ("name", "value", "kind"),
    [
        ("FILTERD_QUEUE__MAX_AG", "3d", "unknown key"),
        ("FILTERD_QUEUE__MAX_AGE", "3", "bad value"),
        ("FILTERD_DOMAIN__NAME", "x.org", "bad value"),
        ("FILTERD_SERVER__WORKERS", "x", "wrong type"),
    ],
)
def test_mistakes_in_the_environment(name: str, value: str, kind: str) -> None:
    with pytest.raises(ConfigErrors) as caught:
        parse(GOOD, environ={name: value})
    assert [(one.file, one.kind) for one in caught.value.errors] == [(f"env {name}", kind)]


def test_secrets_are_fetched_and_never_shown(tmp_path: Path) -> None:
    text = GOOD + '[srs]\nsecrets = ["file:s/srs", "env:OLD", "in the file itself"]\n'
    text += '[queue]\nrelay = "smtp://me:env:RELAY@mail.example.net:587"\n'
    path = write(tmp_path, {"filterd.toml": text, "s/srs": "from a file, long enough\n"})
    config = load(path, {"OLD": "from the environment", "RELAY": "pw"})
    assert config.srs.secrets == ("from a file, long enough", "from the environment", "in the file itself")
    assert config.queue.relay is not None and config.queue.relay.password == "pw"
    with pytest.raises(ConfigErrors) as caught:
        load(path, {"RELAY": "pw"})
    assert "itself" not in str(caught.value) and "pw" not in str(caught.value)


def test_relative_paths_start_at_the_file(tmp_path: Path) -> None:
    (tmp_path / "c.pem").write_text("x")
    text = '[tls]\nmode = "files"\ncert = "c.pem"\nkey = "c.pem"\n[listen]\nlmtp = "unix:run/lmtp"\n'
    path = write(tmp_path, {"filterd.toml": GOOD.replace("[[", 'data_dir = "data"\n[[') + text})
    config = load(path, {})
    assert config.server.data_dir == str(tmp_path / "data")
    assert config.tls.cert == str(tmp_path / "c.pem")
    assert config.listen.lmtp[0].path == str(tmp_path / "run/lmtp")


def test_proxy_listeners_are_listeners() -> None:
    text = '[server]\nhostname = "m.example"\nproxy_listeners = ["imaps", "127.0.0.1:9"]\n[[domain]]\nname = "a.example"\n'
    found = problems(text)
    assert [(one[0], one[2], one[3]) for one in found] == [
        (3, "bad value", 'server.proxy_listeners has "127.0.0.1:9"'),
        (3, "missing key", "server.proxy_trusted"),
    ]
    text = text.replace('"127.0.0.1:9"]', '"127.0.0.1:9"]\nproxy_trusted = "10.0.0.5"')
    config = parse(text + '[listen]\nimaps = "[::]:993"\nsmtp = ["[::]:25", "127.0.0.1:9"]\n')
    assert config.server.proxy_trusted == ("10.0.0.5/32",)


def test_a_relayed_domain(tmp_path: Path) -> None:
    more = 'relay = "lmtp:unix:run/lmtp"\n'
    config = load(write(tmp_path, {"filterd.toml": GOOD + more}), {})
    assert config.domain[0].relay is not None and config.domain[0].relay.path == f"{tmp_path}/run/lmtp"
    assert [one.about for one in config.warnings] == ["domain.relay of example.org"]
    files = {"filterd.toml": GOOD + more + 'recipients = ["bob", "file:people"]\n', "people": "ann\n"}
    config = load(write(tmp_path, files), {})
    assert config.domain[0].recipients == ("bob", f"file:{tmp_path}/people") and not config.warnings


def test_doors_that_believe_or_tell_everybody_belong_on_this_machine() -> None:
    near = parse(GOOD + '[listen]\nmetrics = ["127.0.0.1:9425"]\nmilter = ["unix:/run/x"]\n')
    assert not near.warnings
    far = parse(GOOD + '[listen]\nmetrics = ["0.0.0.0:9425"]\nmilter = ["[::]:8891"]\n')
    assert [(one.line, one.about) for one in far.warnings] == [
        (7, "listen.milter = [::]:8891"),
        (6, "listen.metrics = 0.0.0.0:9425"),
    ]


def test_an_alias_may_name_itself() -> None:
    config = parse(GOOD + 'aliases = { ann = ["ann@example.org", "bob@example.net"] }\n')
    assert config.domain[0].aliases["ann"] == ("ann@example.org", "bob@example.net")


def test_a_config_is_a_value() -> None:
    assert parse(GOOD) == parse(GOOD)
    assert isinstance(parse(GOOD), Config)


@pytest.mark.parametrize("table", ["srs", "batv"])
def test_a_short_secret_is_warned_of(table: str) -> None:
    config = parse(GOOD + f'[{table}]\nsecrets = ["long enough for all of them", "short"]\n')
    assert [one.about for one in config.warnings] == [f"{table}.secrets"]
    assert not parse(GOOD + f'[{table}]\nsecrets = ["long enough for all of them"]\n').warnings


def test_the_quarantines_keys_are_checked() -> None:
    config = parse(GOOD + '[quarantine]\nbase_url = "https://mail.example.org/"\n')
    assert any("listen.web" in problem.text for problem in config.warnings)
    bad = '[quarantine]\ndigest_hour = 24\nbase_url = "mail.example.org"\nkeep = "1m"\njunk = ["sieve", "clam"]\n'
    with pytest.raises(ConfigErrors) as caught:
        parse(GOOD + bad)
    found = {problem.about.partition(" ")[0] for problem in caught.value.errors}
    assert {"quarantine.digest_hour", "quarantine.base_url", "quarantine.keep"} <= found and len(found) == 4


def test_domains_without_a_good_name_are_not_the_same_domain() -> None:
    text = '[server]\nhostname = "mail.example.org"\n[[domain]]\nname = "no name"\n[[domain]]\nnmae = "b.example"\n'
    assert [kind for _, _, kind, _, _ in problems(text)] == ["bad value", "unknown key"]
