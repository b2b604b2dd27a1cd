"""Other programs' files become a filterd.toml that `config check` takes, and no line of theirs is lost on the way."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path

import pytest

from filterd.__main__ import main
from filterd.cli.configimport import NAMES
from filterd.config import schema
from filterd.config.errors import Problem
from filterd.config.load import parse
from filterd.config.takeover import SOURCES, postfixdomains, postfixpolicy, postfixtls, take_over
from filterd.config.takeover.dovecot import entries
from filterd.config.takeover.draft import Draft, Fate, Line
from filterd.config.takeover.maddy import parse as maddy_nodes
from filterd.config.takeover.postfix import expanded, logical
from filterd.config.takeover.postfixmaps import next_hop
from filterd.config.takeover.render import Unusable

POSTFIX_NAMES = sorted({**postfixdomains.HANDLERS, **postfixpolicy.HANDLERS, **postfixtls.HANDLERS})
MAIN = """\
# a site with virtual domains behind a relay
smtpd_banner = $myhostname ESMTP
myhostname = mail.example.org
mydomain = example.org
myorigin = $mydomain
mydestination = $myhostname, localhost.$mydomain, localhost,
    # a comment in between
    ${mydomain}
virtual_mailbox_domains = example.net example.com
virtual_mailbox_maps = hash:{dir}/vmailbox
virtual_alias_maps = hash:{dir}/virtual, mysql:/etc/postfix/aliases.cf
virtual_transport = lmtp:unix:private/dovecot-lmtp
alias_maps = hash:{dir}/aliases
relay_domains = behind.example other.example
transport_maps = hash:{dir}/transport
relayhost = [smtp.provider.example]:587
smtp_sasl_auth_enable = yes
smtp_sasl_password_maps = hash:{dir}/sasl_passwd
smtp_tls_security_level = encrypt
smtp_tls_policy_maps = texthash:{dir}/tls_policy
smtpd_tls_cert_file = {dir}/cert.pem
smtpd_tls_key_file = {dir}/key.pem
smtpd_tls_mandatory_protocols = >=TLSv1.2
mynetworks = 127.0.0.0/8 [::1]/128 192.0.2.0/24
message_size_limit = 20480000
mailbox_size_limit = 0
recipient_delimiter = +
maximal_queue_lifetime = 2d
delay_warning_time = 4h
minimal_backoff_time = 5m
maximal_backoff_time = 1h
smtpd_recipient_restrictions = permit_mynetworks, permit_sasl_authenticated, reject_unauth_destination,
 reject_rbl_client zen.example.net=127.0.0.[2..11], reject_rhsbl_sender dbl.example.net,
 check_policy_service inet:127.0.0.1:10023, check_policy_service unix:private/policyd-spf,
 check_sender_access hash:/etc/postfix/senders, reject_unknown_sender_domain
smtpd_milters = inet:localhost:8891, unix:spamass/spamass.sock
non_smtpd_milters = $smtpd_milters
milter_default_action = accept
luser_relay = ann
smtp_bind_address = 192.0.2.7
header_checks = regexp:/etc/postfix/header_checks
content_filter = smtp-amavis:[127.0.0.1]:10024
nonsense_parameter = 1
this is no parameter
relayhost = [smtp.other.example]:587
"""
MASTER = """\
smtp      inet  n       -       y       -       -       smtpd
submission inet n       -       y       -       -       smtpd
  -o syslog_name=postfix/submission
  -o smtpd_tls_security_level=encrypt
  -o smtpd_sasl_auth_enable=yes
127.0.0.1:smtps     inet  n       -       y       -       -       smtpd
  -o smtpd_tls_wrappermode=yes
  -o smtpd_strange_option=yes
127.0.0.1:10025 inet n  -       y       -       -       smtpd
  -o content_filter=
pickup    unix  n       -       y       60      1       pickup
policyd-spf unix -      n       n       -       0       spawn
  user=policyd-spf argv=/usr/bin/policyd-spf
spam      unix  -       n       n       -       -       pipe
  user=spamd argv=/usr/bin/spamc
"""
TABLES = {
    "vmailbox": "bob@example.net example.net/bob/\n# nobody\ncarl@example.com\n\texample.com/carl/\n@example.com all/\n",
    "aliases": "root: ann\n",
    "virtual": "info@example.net bob@example.net\n",
    "transport": "behind.example lmtp:inet:[192.0.2.9]:24\n.else.example smtp:[192.0.2.8]\nerr.example error:no\n"
    "plain.example smtp:gate.example\n",
    "sasl_passwd": "[smtp.other.example]:587 me@example.org:p@ss/word\n",
    "tls_policy": "bank.example secure match=.bank.example\nold.example fingerprint\nmay.example may\n",
    "cert.pem": "x",
    "key.pem": "x",
}
DOVECOT = """\
# 2.3.19.1 (9b53102964): /etc/dovecot/dovecot.conf
protocols = imap pop3 lmtp sieve
hostname = imap.example.org
auth_mechanisms = plain login
haproxy_trusted_networks = 192.0.2.1
mail_location = maildir:~/Maildir:LAYOUT=fs
mail_max_userip_connections = 50
namespace inbox {{
  inbox = yes
  location =
  mailbox Trash {{
    auto = subscribe
    special_use = \\Trash
  }}
  prefix = INBOX.
  separator = .
}}
namespace {{
  type = shared
  prefix = shared/%%u/
}}
passdb {{
  args = scheme=SHA512-CRYPT username_format=%u {dir}/users
  driver = passwd-file
}}
userdb {{
  driver = static
  args = uid=vmail gid=vmail home=/srv/mail/%d/%n
}}
plugin {{
  imapsieve_mailbox1_name = Junk
  quota = maildir:User quota
  quota_rule = *:storage=2G
  sieve = file:~/sieve;active=~/.dovecot.sieve
  sieve_before = {dir}/before.sieve
  sieve_max_redirects = 10
  sieve_max_script_size = 1M
  sieve_max_cpu_time = 30 secs
  sieve_pipe_bin_dir = /usr/lib/dovecot/sieve-pipe
}}
service imap-login {{
  inet_listener imap {{
    port = 0
  }}
  inet_listener imaps {{
    address = 192.0.2.2
    haproxy = yes
    port = 1993
  }}
}}
service lmtp {{
  unix_listener /var/spool/postfix/private/dovecot-lmtp {{
    group = postfix
    mode = 0600
  }}
}}
service imap-postlogin {{
  executable = script-login /x
}}
ssl_cert = <{dir}/cert.pem
ssl_key = <{dir}/key.pem
ssl_min_protocol = TLSv1.2
protocol imap {{
  mail_plugins = " imap_quota"
  imap_id_log = *
}}
local_name mail.example.net {{ ssl_cert = </etc/other.pem }}
"""
MADDY = """\
$(hostname) = mx1.example.org
$(primary_domain) = example.org
$(local_domains) = $(primary_domain) example.net

tls file {dir}/cert.pem {dir}/key.pem
auth.pass_table local_authdb {{
    table sql_table {{
        driver sqlite3
        dsn credentials.db
    }}
}}
hostname $(hostname)
smtp tcp://0.0.0.0:25 {{
    limits {{
        all rate 20 1s
    }}
    dmarc yes
    check {{
        require_mx_record
        dkim
        spf
    }}
    default_destination {{
        reject 550 5.1.1 "User doesn't exist"
    }}
}}
submission tls://0.0.0.0:465 tcp://0.0.0.0:587 {{
    auth &local_authdb
}}
target.remote outbound_delivery {{
    limits {{
        destination rate 20 1s
    }}
    mx_auth {{
        dane
    }}
}}
imap tls://0.0.0.0:993 tcp://0.0.0.0:143 {{
    auth &local_authdb
    storage &local_mailboxes
}}
openmetrics tcp://127.0.0.1:9749 {{ }}
"""


def nothing(_: schema.Config, __: str) -> tuple[Problem, ...]:
    return ()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, text in TABLES.items():
        (tmp_path / name).write_text(text)
    (tmp_path / "users").write_text("ann@example.org:{SHA512-CRYPT}x:::\nbob@example.net:{PLAIN}y\n")
    (tmp_path / "before.sieve").write_text("keep;\n")
    (tmp_path / "main.cf").write_text(MAIN.replace("{dir}", str(tmp_path)))
    (tmp_path / "master.cf").write_text(MASTER)
    (tmp_path / "dovecot.conf").write_text(DOVECOT.format(dir=tmp_path))
    (tmp_path / "maddy.conf").write_text(MADDY.format(dir=tmp_path))
    return tmp_path


def take(folder: Path, *names: tuple[str, str]) -> tuple[schema.Config, Draft, str]:
    texts = [(name, str(folder / file), (folder / file).read_text()) for name, file in names]
    text, draft = take_over(texts, str(folder / "filterd.toml"), nothing)
    return parse(text, str(folder / "filterd.toml")), draft, text


def why(draft: Draft, word: str) -> list[tuple[Fate, str]]:
    return [(one.fate, one.why) for one in draft.outcomes if word in one.line.text]


def test_a_whole_postfix(folder: Path) -> None:
    config, draft, text = take(folder, ("postfix", "main.cf"))
    domains = {one.name: one for one in config.domain}
    assert set(domains) == {"mail.example.org", "example.org", "example.net", "example.com", "behind.example"}
    assert config.server.hostname == "mail.example.org"
    assert domains["example.org"].alias_files == (f"hash:{folder}/virtual", f"aliases:{folder}/aliases")
    assert domains["example.net"].alias_files == (f"hash:{folder}/virtual",)
    assert domains["example.org"].catch_all == "ann@example.org" and not domains["example.net"].catch_all
    assert str(domains["example.net"].relay) == "lmtp:unix:/var/spool/postfix/private/dovecot-lmtp"
    assert (
        domains["example.org"].relay is None and str(domains["behind.example"].relay) == "lmtp://192.0.2.9:24"
    )
    relay = config.queue.relay
    assert relay is not None and (relay.host, relay.port, relay.user, relay.password) == (
        "smtp.other.example", 587, "me@example.org", "p@ss/word",
    )  # fmt: skip
    assert [(one.recipients, str(one.via)) for one in config.queue.route] == [
        ((".else.example",), "smtp://192.0.2.8:25"),
        (("plain.example",), "smtp://gate.example:25"),
    ]
    assert config.queue.tls == "secure"
    assert [(one.domain, one.tls, one.names) for one in config.queue.tls_policy] == [
        ("bank.example", "secure", (".bank.example",)),
        ("may.example", "opportunistic", ()),
    ]
    assert config.tls.mode == "files" and config.tls.cert == str(folder / "cert.pem")
    assert config.server.relay_trusted == ("192.0.2.0/24",)
    assert (config.limits.message_size, config.accounts.quota) == (20480000, 0)
    assert config.queue.retry == (300.0, 600.0, 1200.0, 2400.0, 3600.0) and config.queue.max_age == 2 * 86400
    assert config.stage.dnsbl.lists == ("zen.example.net=1:127.0.0.2-11", "domain:dbl.example.net=1")
    assert (
        config.stage.greylist.enabled
        and config.stage.spf.fail == "reject"
        and config.stage.dnsbl.reject_at == 1
    )
    assert [(one.name, str(one.socket), one.on_error) for one in config.stage.milters] == [
        ("milter1", "localhost:8891", "accept"),
        ("spamass", "unix:/var/spool/postfix/spamass/spamass.sock", "accept"),
    ]
    assert [str(one) for one in config.listen.smtp] == [":25"] and [
        str(one) for one in config.listen.submissions
    ] == ["127.0.0.1:465"]
    assert config.queue.bind == ("192.0.2.7",) and not config.listen.imaps
    assert draft.accounts == ["bob@example.net", "carl@example.com"] and "#   bob@example.net" in text
    for word, reason in (
        ("mysql:", "no file that can be read"), ("check_sender_access", "Sieve script"), ("header_checks", "nothing"),
        ("content_filter = ", "nothing that is set"), ("nonsense", "nothing that is set"), ("this is no", "NAME = VALUE"),
        ("err.example", "no next hop"), ("old.example", "no like"), ("relay_domains", "other.example is relayed by MX"),
        ("127.0.0.1:10025", "hops"), ("policyd-spf unix", "policy service"), ("spam      unix", "piped"),
    ):  # fmt: skip
        assert any(fate is Fate.LEFT and reason in told for fate, told in why(draft, word)), word
    assert (Fate.SAME, f"{folder}/main.cf:45 sets relayhost again, and the last one counts") in why(
        draft, "provider"
    )


def test_a_domain_that_was_asked_for_stays_though_postfix_only_relays_it(folder: Path) -> None:
    texts = [("postfix", str(folder / "main.cf"), (folder / "main.cf").read_text())]
    text, draft = take_over(
        texts, str(folder / "filterd.toml"), nothing, domains=("Other.example", "behind.example")
    )
    domains = {one.name: one for one in parse(text, str(folder / "filterd.toml")).domain}
    assert domains["other.example"].relay is None
    assert str(domains["behind.example"].relay) == "lmtp://192.0.2.9:24"
    assert any(
        "other.example is relayed by MX there; its mail is kept" in told
        for _, told in why(draft, "relay_domains")
    )


def test_postfix_and_dovecot_together_are_one_server(folder: Path) -> None:
    config, draft, _ = take(folder, ("postfix", "main.cf"), ("dovecot", "dovecot.conf"))
    assert all(one.relay is None for one in config.domain if one.name != "behind.example")
    assert not config.listen.lmtp and config.listen.imaps and config.server.hostname == "mail.example.org"
    assert any(
        fate is Fate.LEFT and "is 'mail.example.org' already" in told
        for fate, told in why(draft, "hostname = imap")
    )


def test_a_whole_dovecot(folder: Path) -> None:
    config, draft, _ = take(folder, ("dovecot", "dovecot.conf"))
    assert {one.name for one in config.domain} == {"example.org", "example.net"}
    assert not config.listen.imap and [str(one) for one in config.listen.imaps] == ["192.0.2.2:1993"]
    assert [str(one) for one in config.listen.lmtp] == ["unix:/var/spool/postfix/private/dovecot-lmtp"]
    assert config.server.proxy_listeners == ("imaps",) and config.server.proxy_trusted == ("192.0.2.1/32",)
    assert config.accounts.quota == 2 << 30 and config.stage.sieve.limits.script == 1 << 20
    assert config.stage.sieve.limits.redirects == 10 and config.stage.sieve.limits.cpu == 30
    assert config.stage.sieve.before == (str(folder / "before.sieve"),) and config.tls.key == str(
        folder / "key.pem"
    )
    assert draft.accounts == ["ann@example.org", "bob@example.net"]
    for word in (
        "imapsieve",
        "type = shared",
        "prefix = INBOX.",
        "imap_id_log",
        "script-login",
        "sieve_pipe_bin_dir",
        "other.pem",
    ):
        assert any(fate is Fate.LEFT for fate, _ in why(draft, word)), word


def test_a_whole_maddy(folder: Path) -> None:
    config, draft, _ = take(folder, ("maddy", "maddy.conf"))
    assert config.server.hostname == "mx1.example.org" and [one.name for one in config.domain] == [
        "example.org",
        "example.net",
    ]
    assert [str(one) for one in config.listen.submissions] == ["0.0.0.0:465"] and config.tls.mode == "files"
    assert [str(one) for one in config.listen.imap] == ["0.0.0.0:143"]
    for word in ("require_mx_record", "openmetrics", "destination rate"):
        assert any(fate is Fate.LEFT for fate, _ in why(draft, word)), word


def test_opendkim_opendmarc_and_postsrsd(tmp_path: Path) -> None:
    (tmp_path / "key.table").write_text("")
    texts = [
        (
            "opendkim",
            "/x/opendkim.conf",
            f"Syslog yes\nMode sv # both\nDomain example.org,example.net\nSelector 2026\nKeyFile {tmp_path}/key.table\n"
            "Socket inet:8891@localhost\nCanonicalization simple/simple\nInternalHosts 192.0.2.0/24, mail.example.org\n"
            "MinimumKeyBits 2048\nAuthservID mail.example.org\nNameservers 192.0.2.53\nOversignHeaders From\nOdd 1\n",
        ),
        ("opendmarc", "/x/opendmarc.conf", "RejectFailures false\nTrustedAuthservIDs HOSTNAME, mx.example.org\nStrange x\n"),
        ("postsrsd", "/x/postsrsd", f"SRS_DOMAIN=example.org\nSRS_SECRET={tmp_path}/key.table\nSRS_SEPARATOR==\n"
         "SRS_EXCLUDE_DOMAINS=a.example\n"),
    ]  # fmt: skip
    (tmp_path / "key.table").write_text("a secret that is long enough")
    text, draft = take_over(texts, str(tmp_path / "f.toml"), nothing, "mail.example.org")
    config = parse(text, str(tmp_path / "f.toml"))
    assert [(one.name, one.dkim and one.dkim.selector) for one in config.domain] == [
        ("example.org", "2026"),
        ("example.net", "2026"),
    ]
    assert config.stage.dkim.min_rsa_bits == 2048 and str(config.listen.milter[0]) == "localhost:8891"
    assert config.stage.dmarc.reject == "note" and config.pipeline.trusted_authserv == ("mx.example.org",)
    assert config.srs.domain == "example.org" and config.srs.secrets == ("a secret that is long enough",)
    assert config.milter.internal == ("192.0.2.0/24",) and [str(one) for one in config.dns.resolver] == [
        "192.0.2.53:53"
    ]
    left = [one.line.text.split()[0] for one in draft.outcomes if one.fate is Fate.LEFT]
    assert left == ["Canonicalization", "InternalHosts", "Odd", "Strange"]


@pytest.mark.parametrize(
    ("name", "file"), [("postfix", "main.cf"), ("dovecot", "dovecot.conf"), ("maddy", "maddy.conf")]
)
def test_no_line_is_lost(folder: Path, name: str, file: str) -> None:
    _, draft, _ = take(folder, (name, file))
    told = {(one.line.file, one.line.number) for one in draft.outcomes}
    path, text = str(folder / file), (folder / file).read_text()
    if name == "postfix":
        lines = {(path, line.number) for line in logical(text, path)}
        lines |= {(str(folder / "master.cf"), line.number) for line in logical(MASTER, path)}
    elif name == "dovecot":
        lines = {(line.file, line.number) for _, _, line in entries(path, text)}
    else:
        lines = {(path, number) for number, line in enumerate(text.split("\n"), 1) if line.strip(" }\t{")}
        assert maddy_nodes(path, text)
    assert lines <= told


def test_what_the_check_refuses_stays_as_a_comment(tmp_path: Path) -> None:
    text = "myhostname = mail.example.org\nmydestination = example.org\nsmtpd_tls_cert_file = /nowhere/cert.pem\n"
    text += "smtpd_upstream_proxy_protocol = haproxy\nvirtual_alias_maps = hash:/nowhere/virtual\n"
    out, draft = take_over([("postfix", "/x/main.cf", text)], str(tmp_path / "f.toml"), nothing)
    config = parse(out, str(tmp_path / "f.toml"))
    assert (
        config.tls == schema.Tls() and not config.server.proxy_listeners and not config.domain[0].alias_files
    )
    for word in (
        '# cert = "/nowhere/cert.pem"   # left out: no such file',
        "# mode = ",
        "# proxy_listeners = ",
        "# alias_files = ",
    ):
        assert word in out
    assert sum(one.fate is Fate.LEFT for one in draft.outcomes) == 5
    assert not any(one.fate is Fate.TAKEN and "tls." in one.why for one in draft.outcomes)


def test_a_hostile_line_stays_in_its_comment(tmp_path: Path) -> None:
    text = 'myhostname = mail.example.org\nmydestination = example.org\nodd = "x"\x0bevil = 1 \u2028[server]\r\x1b[2J\n'
    out, _ = take_over([("postfix", "/x/main.cf", text)], str(tmp_path / "f.toml"), nothing)
    assert tomllib.loads(out)["server"] == {"hostname": "mail.example.org"}
    assert "\x1b" not in out and "\x0b" not in out


def test_what_is_missing_is_asked_for() -> None:
    with pytest.raises(Unusable, match="--hostname"):
        take_over([("dovecot", "/x", "protocols = imap\n")], "f.toml", nothing)
    with pytest.raises(Unusable, match="--domain"):
        take_over([("dovecot", "/x", "hostname = a.example\n")], "f.toml", nothing)
    with pytest.raises(Unusable, match="not a domain"):
        take_over([("dovecot", "/x", "hostname = a.example\n")], "f.toml", nothing, domains=["a b"])


@pytest.mark.parametrize(
    ("text", "hop"),
    [
        ("[h.example]:587", "smtp://h.example:587"), ("smtp:[h.example]", "smtp://h.example:25"),
        ("h.example", "smtp://h.example:25"),
        ("lmtp:unix:/run/x", "lmtp:unix:/run/x"), ("lmtp:inet:h.example:24", "lmtp://h.example:24"), ("error:x", None),
        ("relay:[192.0.2.1]:submission", "smtp://192.0.2.1:587"), ("discard:", None),
        ("[IPv6:2001:db8::1]", "smtp://[2001:db8::1]:25"),
        ("smtps:[h.example]:smtps", "smtp://h.example:465"), ("maildrop:", None), ("local:", None),
    ],
)  # fmt: skip
def test_next_hops(text: str, hop: str | None) -> None:
    found = next_hop(text)
    assert (found and found[0]) == hop


def test_postfix_values_are_expanded() -> None:
    text = "a = 1\nb = $a ${a} $(a) $$a ${a?yes} ${none?yes} ${none:no} ${a:no}\nloop = $loop\n"
    values = {
        line.text.partition(" = ")[0]: (line.text.partition(" = ")[2], line) for line in logical(text, "x")
    }
    assert expanded(values, "$b") == "1 1 1 $a yes  no 1" and expanded(values, "$loop") == ""


@pytest.mark.parametrize("name", [one.name for one in SOURCES])
@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "}\n}\n",
        "=\n= =\n",
        "a {\n b {\n",
        "\0\x80\n x\n",
        "!include /nowhere\n",
        "$($($(",
        "a = ${b\n",
    ],
)
def test_broken_files_break_nothing(name: str, text: str, tmp_path: Path) -> None:
    out, _ = take_over(
        [(name, str(tmp_path / "x"), text)], str(tmp_path / "f.toml"), nothing, "a.example", ["b.example"]
    )
    assert parse(out).domain[0].name == "b.example"


def test_the_command(folder: Path, capsys) -> None:
    words = ["config", "import", "postfix", str(folder / "main.cf"), "dovecot", str(folder / "dovecot.conf")]
    assert main([*words, "--json"]) == 1
    out = json.loads(capsys.readouterr().out)
    assert {row["fate"] for row in out["lines"]} == {"taken", "noted", "same", "left"} and out["accounts"]
    target = folder / "new.toml"
    assert main([*words, "-o", str(target), "--report"]) == 1
    err = capsys.readouterr().err
    assert "nothing to do:" in err and "is written" in err and "config check` remarks:" in err
    assert target.stat().st_mode & 0o777 == 0o600
    assert main(["config", "check", "-c", str(target)]) == 0
    capsys.readouterr()
    assert main([*words, "-o", str(target)]) == 2
    assert "is there already" in capsys.readouterr().err
    assert main(["config", "import", "postfx"]) == 2
    assert 'did you mean "postfix"?' in capsys.readouterr().err
    assert main(["config", "import", "maddy", str(folder / "none.conf")]) == 2
    assert "is the path right?" in capsys.readouterr().err


def test_the_names_are_those_of_the_registry() -> None:
    assert list(NAMES) == [one.name for one in SOURCES]


def test_passwords_of_the_files_are_not_told(tmp_path: Path) -> None:
    text = "hostname = m.example\nsubmission_relay_password = hunter2\nplugin {\n  x_secret = hunter2\n}\n"
    out, draft = take_over(
        [("dovecot", "/x/dovecot.conf", text)], str(tmp_path / "f.toml"), nothing, domains=["a.example"]
    )
    assert "hunter2" not in out and "submission_relay_password = (secret)" in out
    assert not any("hunter2" in one.line.shown for one in draft.outcomes)
    line = Line("/x/main.cf", 1, "relayhost = a")
    two = Draft()
    two.set(line, "queue.relay", "smtp://me:hunter2@a.example:25")
    two.set(line, "queue.relay", "smtp://b.example:25")
    assert two.outcomes[-1].fate is Fate.LEFT and "hunter2" not in two.outcomes[-1].why


@pytest.mark.parametrize(
    ("program", "text"),
    [
        *(
            ("postfix", "\n".join(f"{name} = {value}" for name in POSTFIX_NAMES))
            for value in ("", "hash:/nowhere", "lmtp:unix:private/x")
        ),
        *(("dovecot", f"ssl = no\nservice imap-login/inet_listener imaps/{key} = 993") for key in ("port", "ssl")),
        ("dovecot", "service lmtp/inet_listener lmtp/address = 127.0.0.1"),
        ("dovecot", "haproxy_trusted_networks ="),
        ("maddy", "smtp {\n max_message_size 1M\n}"),
        ("maddy", "hostname mx.example.org {\n odd 1\n}"),
    ],
)  # fmt: skip
def test_lines_that_lead_to_nothing_are_told(tmp_path: Path, program: str, text: str) -> None:
    asked = ("mail.example.org", ["example.org"])
    _, draft = take_over([(program, "/x/file", text + "\n")], str(tmp_path / "f.toml"), nothing, *asked)
    told = {one.line.number for one in draft.outcomes if one.line.file == "/x/file"}
    assert told >= {number for number, line in enumerate(text.split("\n"), 1) if line != "}"}


def test_entries_that_are_odd_do_not_spoil_the_rest(tmp_path: Path) -> None:
    (tmp_path / "odd").write_text(
        "empty.example\nfar.example smtp:[no/host]:25\nok.example smtp:[192.0.2.8]:25\n"
    )
    (tmp_path / "tls").write_text("empty.example\nok.example secure\n")
    text = f"transport_maps = hash:{tmp_path}/odd\nsmtp_tls_policy_maps = hash:{tmp_path}/tls\n"
    asked = ("mail.example.org", ["example.org"])
    out, draft = take_over([("postfix", "/x/file", text)], str(tmp_path / "f.toml"), nothing, *asked)
    config = parse(out, str(tmp_path / "f.toml"))
    assert [one.recipients for one in config.queue.route] == [("ok.example",)]
    assert [one.domain for one in config.queue.tls_policy] == ["ok.example"]
    assert '# recipients = ["far.example"]   # left out' in out
    assert {one.line.number for one in draft.outcomes if one.line.file == f"{tmp_path}/odd"} == {1, 2, 3}
    assert any(one.fate is Fate.LEFT for one in draft.outcomes if one.line.text.startswith("empty.example"))
