"""Dovecot: dovecot.conf with what it includes, or `doveconf -n`; 2.3's names, and 2.4's where they differ.

A setting's name here is the path of its sections: "service imap-login/inet_listener imap/port". Passwords and mail stay where
they are: accounts that a passwd-file names are listed, `filterd store adopt dovecot` takes Maildirs over.
"""

from __future__ import annotations

import glob
import ipaddress
import os
import re
from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType

from filterd.config.takeover.draft import Draft, Line, socket_text

MAX_DEPTH = 10
MAX_FILE = 4 << 20
Values = dict[str, tuple[str, Line]]
_DOORS = {
    "imap-login/imap": ("imap", 143), "imap-login/imaps": ("imaps", 993), "pop3-login/pop3": ("pop3", 110),
    "pop3-login/pop3s": ("pop3s", 995), "managesieve-login/sieve": ("sieve", 4190), "lmtp/lmtp": ("lmtp", 24),
    "submission-login/submission": ("submission", 587), "submission-login/submissions": ("submissions", 465),
}  # fmt: skip
_PROTOCOL_OF = {
    "imap": "imap",
    "imaps": "imap",
    "pop3": "pop3",
    "pop3s": "pop3",
    "sieve": "sieve",
    "submission": "submission",
}
_HOUSE = re.compile(
    r"(base_dir|state_dir|log_path|info_log_path|debug_log_path|syslog_facility|log_timestamp|login_log_.*|mail_debug|verbose_ssl"
    r"|auth_verbose.*|auth_debug.*|mail_log_.*|mail_(uid|gid|privileged_group|access_groups|plugins|fsync|max_lock_timeout)"
    r"|first_valid_.*|last_valid_.*|valid_chroot_dirs|dict(/.*)?|mmap_disable|dotlock_use_excl|mailbox_list_index.*|maildir_.*"
    r"|mbox_.*|mdbox_.*|stats_.*|metric .*|import_environment|instance_name|libexec_dir|default_.*|shutdown_clients"
    r"|dovecot_(config|storage)_version|config_cache_size|login_trusted_networks|auth_cache_.*|auth_worker.*|doveadm_.*"
    r"|rawlog_.*|service (anvil|auth|auth-worker|config|dict|director|dns-client|dns_client|doveadm|imap|imap-hibernate|indexer.*"
    r"|ipc|log|managesieve|old-stats|pop3|replicator|aggregator|ssl-params|stats|submission|welcome)/.*"
    r"|service (imap|pop3|managesieve|submission)-login/(process.*|service_count|client_limit|vsz_limit|chroot|user|restart.*)"
    r"|service lmtp/(process.*|service_count|client_limit|vsz_limit|user|executable|idle_kill))"
)
_SAME = MappingProxyType(
    {
        "disable_plaintext_auth": "passwords are taken over TLS only", "auth_allow_cleartext": "passwords are taken over TLS only",
        "ssl_prefer_server_ciphers": "ciphers are those of the system's OpenSSL", "ssl_dh": "elliptic curves are used",
        "ssl_server_dh_file": "elliptic curves are used", "ssl_cipher_list": "ciphers are those of the system's OpenSSL",
        "ssl_cipher_suites": "ciphers are those of the system's OpenSSL", "ssl_curve_list": "those of the system's OpenSSL",
        "ssl_client_ca_dir": "the system's authorities are trusted", "ssl_client_ca_file": "see queue.tls_ca",
        "auth_mechanisms": "PLAIN, LOGIN and SCRAM are offered (auth.scram)", "auth_username_chars": "checked with the account",
        "auth_username_format": "people log in with their whole address", "lda_mailbox_autocreate": "fileinto :create makes them",
        "lda_mailbox_autosubscribe": "what a script makes is subscribed to", "imap_capability": "made from what runs",
        "login_greeting": "the greeting says no more than it must", "imap_client_workarounds": "no workarounds are needed",
        "pop3_client_workarounds": "no workarounds are needed", "lmtp_save_to_detail_mailbox": "a script may do it (subaddress)",
        "plugin/sieve": "each account has its scripts; put them there with `filterd sieve put`",
        "plugin/sieve_dir": "each account has its scripts; put them there with `filterd sieve put`",
        "plugin/sieve_extensions": "every extension is there (`filterd sieve check`)",
        "plugin/sieve_plugins": "every extension is there (`filterd sieve check`)",
        "plugin/sieve_global_extensions": "the administrator's scripts may use all of them",
        "plugin/quota": "each account has a quota (accounts.quota)", "mail_attribute_dict": "METADATA is kept with the index",
        "imap_idle_notify_interval": "IDLE is kept alive", "protocols": "told with the doors (listen)",
        "listen": "told with the doors (listen)", "ssl_key": "told with ssl_cert", "ssl_server_key_file": "told with ssl_cert",
        "passdb/driver": "accounts are filterd's own", "userdb/driver": "accounts are filterd's own",
        "managesieve_sieve_capability": "made from what runs", "managesieve_notify_capability": "made from what runs",
        "recipient_delimiter": "told with accounts.subaddress", "plugin/recipient_delimiter": "told with accounts.subaddress",
        "haproxy_timeout": "bounded", "auth_realms": "people log in with their whole address",
    }
)  # fmt: skip


def entries(path: str, text: str, depth: int = 0, prefix: str = "") -> Iterator[tuple[str, str, Line]]:
    """(path of sections and name, value, line); files that are included in their place."""
    sections: list[str] = [prefix] if prefix else []
    pending = ""
    for number, raw in enumerate(text.split("\n"), 1):
        bare = pending + _without_comment(raw)
        if bare.endswith("\\"):
            pending = bare[:-1].rstrip() + " "
            continue
        pending = ""
        if not bare:
            continue
        line = Line(path, number, bare)
        include = re.match(r"!include(_try)?\s+(.+)", bare)
        if include:
            yield from _included(line, include[2].strip("\"'"), bool(include[1]), depth, "/".join(sections))
        elif bare == "}":
            if sections:
                sections.pop()
        elif re.fullmatch(r"[^=]+\{\s*\}?|[^={}]+\{.*", bare) and not re.match(r"[\w/]+\s*=", bare):
            name, _, rest = bare.partition("{")
            name = re.sub(r"\s+", " ", name.strip()).replace('"', "")
            inner = rest.strip()
            if inner.endswith("}"):  # all in one line
                key, sign, value = inner[:-1].partition("=")
                if sign:
                    yield "/".join([*sections, name, key.strip()]), value.strip().strip("\"'"), line
            else:
                sections.append(name)
        else:
            key, sign, value = bare.partition("=")
            if not sign:
                yield "/".join([*sections, "(no setting)"]), "", line
                continue
            yield "/".join([*sections, key.strip()]), value.strip().strip("\"'"), line


def _without_comment(raw: str) -> str:
    bare = raw.strip()
    if bare.startswith("#"):
        return ""
    return re.sub(r"\s#.*$", "", bare).strip() if not re.search(r"=\s*# hidden", bare) else bare


def _included(
    line: Line, pattern: str, lenient: bool, depth: int, prefix: str
) -> Iterator[tuple[str, str, Line]]:
    full = os.path.join(os.path.dirname(line.file), pattern)
    found = sorted(glob.glob(full))
    if (not found and not lenient) or depth >= MAX_DEPTH:
        yield "(include)", f"{full} is not there", line
    for name in found:
        try:
            with open(name, encoding="utf-8", errors="replace") as stream:
                text = stream.read(MAX_FILE)
        except OSError as error:
            yield "(include)", f"{name} cannot be read: {error.strerror}", line
            continue
        yield from entries(name, text, depth + 1, prefix)


def read(draft: Draft, path: str, text: str) -> None:
    values: Values = {}
    boxes: list[tuple[str, str, Line]] = []
    for name, value, line in entries(path, text):
        if name in ("(include)", "(no setting)") or name.endswith("/(no setting)"):
            draft.left(line, value or "is no setting: NAME = VALUE")
            continue
        value = value.replace("$protocols", values.get("protocols", ("", line))[0]).strip()
        if name.startswith(("passdb", "userdb")):
            boxes.append((re.sub(r"^(passdb|userdb)( [^/]*)?/", r"\1/", name), value, line))
            continue
        if name in values:
            more = "adds to it" if name == "protocols" else "says it again, and the last one counts"
            draft.same(values[name][1], f"{line.place} {more}")
        values[name] = (value, line)
    taken = _doors(draft, values, path)
    taken |= _tls(draft, values)
    for name, (value, line) in values.items():
        if name in taken:
            continue
        handler = _HANDLERS.get(name)
        if handler is not None:
            handler(draft, line, value)
        elif name in _SAME:
            draft.same(line, _SAME[name])
        elif _HOUSE.fullmatch(name):
            draft.same(line, "a matter of Dovecot's own house")
        elif name.startswith(("namespace", "mailbox ")):
            _namespace(draft, line, name, value)
        elif name.startswith(("protocol ", "remote ", "local ", "local_name ")):
            _scoped(draft, line, name)
        elif re.match(
            r"(plugin/)?(imapsieve|fts|acl|zlib|mail_crypt|trash|expire|antispam|welcome|quota|push)", name
        ):
            draft.left(line, _plugin(name))
        else:
            draft.left(line, "filterd has nothing that is set like this")
    _accounts(draft, boxes)


# -- the doors ---------------------------------------------------------------------------------------------------------


def _doors(draft: Draft, values: Values, path: str) -> set[str]:
    """listen.*, as `protocols`, `listen` and the inet_listeners say. Returns the names that are told by it."""
    protocols, protocols_line = values.get(
        "protocols", ("imap pop3 lmtp", Line(path, 0, "protocols (default)"))
    )
    wanted = protocols.replace("$protocols", "imap pop3 lmtp").split()
    hosts = re.split(r"[\s,]+", values.get("listen", ("*, ::", protocols_line))[0])
    hosts = ["" if host == "*" else host for host in hosts if host]
    told: set[str] = set()
    tls = values.get("ssl", ("yes", protocols_line))[0] != "no"
    for where, (door, usual) in _DOORS.items():
        service, _, listener = where.partition("/")
        at = f"service {service}/inet_listener {listener}/"
        mine = {key[len(at) :]: values[key] for key in values if key.startswith(at)}
        told |= {f"{at}{key}" for key in mine if key in ("port", "address", "listen", "ssl", "haproxy")}
        protocol = _PROTOCOL_OF.get(door, door)
        if protocol not in wanted and f"{protocol}s" not in wanted:
            for _, line in mine.values():
                draft.same(line, f"{protocol} is not among the protocols")
            continue
        unused = ""
        if service == "lmtp" and "port" not in mine:
            unused = "no port: by its unix socket"
        elif door in ("imaps", "pop3s", "submissions") and not tls:
            unused = f"without TLS there is no listen.{door}"
        elif door == "submissions" and not mine:
            unused = "not there"
        if unused:
            for _, line in mine.values():
                draft.same(line, unused)
            continue
        port, line = mine.get("port", (str(usual), protocols_line))
        for key, (_, one) in mine.items():
            if key != "port":
                draft.same(one, f"told with listen.{door}")
        if port == "0" or not port.isdecimal():
            draft.same(line, f"no listen.{door}")
            continue
        addresses = mine.get("address", mine.get("listen", ("", line)))[0]
        places = _places(re.split(r"[\s,]+", addresses) if addresses else hosts, int(port))
        draft.add(line, f"listen.{door}", places)
        if mine.get("haproxy", ("no", line))[0] == "yes":
            draft.add(mine["haproxy"][1], "server.proxy_listeners", [door])
    for key, (value, line) in values.items():
        match = re.fullmatch(r"service lmtp/unix_listener ([^/].*|/.*?)(?:/(\w+))?", key)
        if match is None or not key.startswith("service lmtp/unix_listener "):
            continue
        told.add(key)
        rest = key.removeprefix("service lmtp/unix_listener ")
        place, option = rest.rpartition("/")[0], rest.rpartition("/")[2]
        if option not in ("mode", "user", "group", "path", "type"):
            draft.left(line, f"{option}: filterd has nothing that is set like this")
        elif "lmtp" in wanted and "postfix" not in draft.names and place.startswith("/"):
            draft.add(
                line,
                "listen.lmtp",
                [f"unix:{place}"],
                f"without {option} = {value}: only server.user may use it",
            )
        else:
            draft.same(
                line,
                "nobody else hands mail over"
                if "postfix" in draft.names
                else "a socket of Dovecot's own folder",
            )
    return told


def _places(hosts: list[str], port: int) -> list[object]:
    hosts = ["" if host in ("*", "0.0.0.0") else host for host in hosts]
    if "" in hosts and ("::" in hosts or "[::]" in hosts):
        return [f":{port}"]
    return [
        f"[{host.strip('[]')}]:{port}" if ":" in host else f"{host or '0.0.0.0'}:{port}" for host in hosts
    ]


def _tls(draft: Draft, values: Values) -> set[str]:
    told = set()
    if "ssl" in values:
        value, line = values["ssl"]
        told.add("ssl")
        if value == "no":
            draft.set(line, "tls.mode", "off", "nobody can log in then, unless tls.allow_plaintext_login")
        else:
            draft.same(line, "log-ins need TLS")
    for cert, key in (("ssl_cert", "ssl_key"), ("ssl_server_cert_file", "ssl_server_key_file")):
        if cert not in values or values.get("ssl", ("yes", None))[0] == "no":
            continue
        told |= {cert, key} & set(values)
        text, line = values[cert]
        secret = values.get(key, ("", line))
        if "# hidden" in secret[0] or not secret[0]:
            note = "doveconf hides where the key is: the usual place beside the certificate is taken"
            file = text.lstrip("<")
            guess = re.sub(r"\.pem$", ".key", file)
            if not os.path.exists(guess):
                draft.left(
                    line,
                    "doveconf hides where the key is (doveconf -nP shows it): set tls.cert, tls.key, tls.mode",
                )
                if key in values:
                    draft.left(secret[1], "doveconf hides it (doveconf -nP shows it)")
                continue
            secret = (guess, secret[1])
        else:
            note = ""
        draft.set(line, "tls.cert", text.lstrip("<").strip())
        draft.set(secret[1], "tls.key", secret[0].lstrip("<").strip(), note)
        draft.set(line, "tls.mode", "files")
    return told


# -- single settings --------------------------------------------------------------------------------------------------------


def _min_protocol(draft: Draft, line: Line, value: str) -> None:
    if value in ("TLSv1.3", "TLSv1.2"):
        draft.set(line, "tls.min_version", value.removeprefix("TLSv"))
    else:
        draft.set(line, "tls.min_version", "1.2", f"older than 1.2 is not spoken; Dovecot said {value}")


def _location(draft: Draft, line: Line, value: str) -> None:
    kind = value.partition(":")[0]
    if kind == "maildir":
        draft.set(
            line,
            "store.format",
            "maildir",
            "mail is kept below server.data_dir: `filterd store adopt dovecot` takes it over",
        )
    elif kind == "mbox":
        draft.set(
            line,
            "store.format",
            "mbox",
            "`filterd help mbox`: store.mbox.inbox names the files that others deliver to",
        )
    else:
        draft.left(line, f"{kind or value}: stored as maildir here; copy the mail over by IMAP")


def _hostname(draft: Draft, line: Line, value: str) -> None:
    if value:
        draft.set(line, "server.hostname", value.lower())
    else:
        draft.same(line, "the machine's name")


def _number(key: str, note: str = "") -> Callable[[Draft, Line, str], None]:
    def handler(draft: Draft, line: Line, value: str) -> None:
        if value.isdecimal():
            draft.set(line, key, int(value), note)
        else:
            draft.left(line, f"{value} is no number")

    return handler


def _size(key: str) -> Callable[[Draft, Line, str], None]:
    def handler(draft: Draft, line: Line, value: str) -> None:
        match = re.fullmatch(r"(?:\*:storage=|.*:)?(\d+)\s*([kKmMgGtT]?)[iI]?[bB]?", value)
        if match is None:
            draft.left(line, f"{value} is no size that {key} can hold")
        elif match[1] == "0":
            draft.set(line, key, 0)
        else:
            unit = {"": "B", "k": "KiB", "m": "MiB", "g": "GiB", "t": "TiB"}[match[2].lower()]
            draft.set(line, key, f"{match[1]} {unit}")

    return handler


def _seconds(key: str) -> Callable[[Draft, Line, str], None]:
    def handler(draft: Draft, line: Line, value: str) -> None:
        match = re.fullmatch(r"(\d+)\s*(s|secs?|m|mins?|h|hours?|d|days?|ms|msecs?)?", value)
        if match:
            unit = match[2] or "s"
            draft.set(line, key, f"{match[1]}{'ms' if unit.startswith('ms') else unit[0]}")
        else:
            draft.left(line, f"{value} is no time")

    return handler


def _script(key: str) -> Callable[[Draft, Line, str], None]:
    def handler(draft: Draft, line: Line, value: str) -> None:
        path = value.removeprefix("file:").split(";")[0]
        if "%" in path or path.startswith(("ldap:", "dict:", "~")):
            draft.left(line, f"{value}: a file of the administrator is named by its path")
        elif key.endswith("default"):
            draft.set(line, key, path)
        else:
            draft.add(
                line,
                key,
                [os.path.join(path, "*.sieve") if os.path.isdir(path) or path.endswith("/") else path],
            )

    return handler


def _networks(key: str) -> Callable[[Draft, Line, str], None]:
    def handler(draft: Draft, line: Line, value: str) -> None:
        listed = list(filter(None, re.split(r"[\s,]+", value)))
        if not listed:
            draft.same(line, "nobody")
        for word in listed:
            try:
                draft.add(line, key, [str(ipaddress.ip_network(word, strict=False))])
            except ValueError:
                draft.left(line, f"{word} is no network")

    return handler


def _relay(draft: Draft, line: Line, value: str) -> None:
    place = socket_text(value if ":" in value else f"{value}:25")
    if place is None or "postfix" in draft.names:
        draft.same(line, "our own submission hands mail to the queue")
    else:
        draft.set(line, "queue.relay", f"smtp://{place}", "people's mail goes on to this server")


def _delimiter(draft: Draft, line: Line, value: str) -> None:
    note = f"one character; Dovecot also takes {value[1:]}" if len(value) > 1 else ""
    draft.set(line, "accounts.subaddress", value[:1], note)


def _namespace(draft: Draft, line: Line, name: str, value: str) -> None:
    last = name.rpartition("/")[2]
    if "/mailbox " in f"/{name}":
        draft.same(
            line, "new accounts have Drafts, Sent, Junk, Trash and Archive; others are made by who uses them"
        )
    elif last in ("inbox", "type", "list", "subscriptions", "hidden", "location", "mail_path") and value in (
        "yes",
        "private",
        "",
    ):
        draft.same(line, "everybody has one namespace of his own")
    elif last == "separator" and value in (".", "/"):
        same = (
            "the separator is /" if value == "/" else "mail programs ask for the separator, which is / here"
        )
        draft.same(line, same)
    elif last == "prefix" and value in ("", "INBOX.", "INBOX/"):
        if value:
            draft.left(line, "folders have no INBOX prefix here: mail programs have to list them anew")
        else:
            draft.same(line, "no prefix")
    else:
        draft.left(
            line, "shared and public mailboxes: sharing.scope and sharing.public, `filterd help shared`"
        )


def _scoped(draft: Draft, line: Line, name: str) -> None:
    last = name.rpartition("/")[2]
    if last in (
        "mail_plugins",
        "mail_max_userip_connections",
        "mail_privileged_group",
        "postmaster_address",
        "passdb",
    ):
        draft.same(line, "what is built in needs no list")
    else:
        draft.left(line, "one configuration holds for all protocols and clients")


def _plugin(name: str) -> str:
    if "imapsieve" in name or "antispam" in name:
        return "moves into and out of Junk teach by themselves (stage.spamassassin.learn); other scripts: METADATA of the mailbox"
    if "fts" in name:
        return "SEARCH has an index of its own"
    if "acl" in name:
        return "rights are set by IMAP (ACL) or `filterd account share`; those that are there are not read"
    if "quota" in name:
        return "one quota for an account: accounts.quota, or `filterd account quota`"
    return "filterd has no such plugin"


def _accounts(draft: Draft, boxes: list[tuple[str, str, Line]]) -> None:
    for name, value, line in boxes:
        match = re.search(r"(?:^|[\s=])(/[^\s%]+)\s*$", value) if "args" in name or "path" in name else None
        if match is None:
            if name.endswith("/driver") and value not in ("passwd-file", "static", "prefetch"):
                draft.left(line, f"{value}: accounts are filterd's own; make them with `filterd account add`")
            else:
                draft.same(line, "accounts are filterd's own")
            continue
        people = _people(match[1])
        fresh = [one for one in people if one not in draft.accounts]
        draft.accounts += fresh
        for domain in {one.rpartition("@")[2] for one in people if "@" in one}:
            draft.domain(domain)
        if people:
            draft.left(
                line,
                f"{len(people)} accounts of {match[1]} are listed at the end; their passwords are to be set anew",
            )
        else:
            draft.left(
                line, f"{match[1]}: no accounts could be read there; make them with `filterd account add`"
            )


def _people(path: str) -> list[str]:
    try:
        with open(path, encoding="utf-8", errors="replace") as stream:
            names = [row.split(":")[0].strip() for row in stream.read(MAX_FILE).split("\n")]
    except OSError:
        return []
    return [name.lower() for name in names if re.fullmatch(r"[^\s#@]+@[\w.-]+", name)]


_HANDLERS: Mapping[str, Callable[[Draft, Line, str], None]] = MappingProxyType(
    {
        "ssl_min_protocol": _min_protocol,
        "ssl_ca": lambda draft, line, value: draft.left(line, "people's certificates: see tls.client_ca"),
        "mail_location": _location,
        "mail_driver": _location,
        "mail_path": lambda draft, line, value: draft.same(line, "mail is kept below server.data_dir"),
        "mail_home": lambda draft, line, value: draft.same(line, "mail is kept below server.data_dir"),
        "hostname": _hostname,
        "postmaster_address": lambda draft, line, value: draft.same(line, "reports come from postmaster of the first domain"),
        "mail_max_userip_connections": lambda draft, line, value: draft.left(
            line, "limits.connections.per_ip counts every door of an address together"
        ),
        "haproxy_trusted_networks": _networks("server.proxy_trusted"),
        "submission_relay_host": _relay,
        "submission_max_mail_size": _size("limits.message_size"),
        "recipient_delimiter": _delimiter,
        "plugin/recipient_delimiter": _delimiter,
        "quota_max_mail_size": _size("limits.message_size"),
        "plugin/quota_rule": _size("accounts.quota"),
        "quota_storage_size": _size("accounts.quota"),
        "plugin/sieve_before": _script("stage.sieve.before"),
        **{f"plugin/sieve_before{number}": _script("stage.sieve.before") for number in range(2, 10)},
        "plugin/sieve_after": _script("stage.sieve.after"),
        **{f"plugin/sieve_after{number}": _script("stage.sieve.after") for number in range(2, 10)},
        "plugin/sieve_default": _script("stage.sieve.default"),
        "plugin/sieve_global_path": _script("stage.sieve.default"),
        "plugin/sieve_max_redirects": _number("stage.sieve.limits.redirects"),
        "plugin/sieve_max_actions": _number("stage.sieve.limits.actions"),
        "plugin/sieve_quota_max_scripts": _number("stage.sieve.limits.scripts"),
        "plugin/sieve_max_script_size": _size("stage.sieve.limits.script"),
        "plugin/sieve_max_cpu_time": _seconds("stage.sieve.limits.cpu"),
        **{
            f"plugin/sieve_{kind}_bin_dir": lambda draft, line, value: draft.left(
                line, "programs run by a service of their own: exec.socket and exec.directory, `filterd help sieve`"
            )
            for kind in ("pipe", "filter", "execute")
        },
    }
)  # fmt: skip
